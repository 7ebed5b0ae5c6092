// Pictures, captions, folders and archives onto a dataset, with the progress of each file.

import { headers, refresh } from "./api.js";
import { toast } from "./dialogs.js";
import { bytes } from "./times.js";

const AT_ONCE = 2;
const BATCH_FILES = 40;
const BATCH_BYTES = 64 * 1024 * 1024;

const drop = document.getElementById("drop");
const list = drop.querySelector(".files");
const summary = drop.querySelector("[data-summary]");
const limit = Number(drop.dataset.maxBytes);
const most = Number(drop.dataset.maxFiles);
const rows = new Map();

drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const loose = [...event.dataTransfer.files];
  upload(entries.length ? (await Promise.all(entries.map(filesOf))).flat() : loose.map(named));
});
for (const input of drop.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    upload([...input.files].map(named));
    input.value = "";
  });
}

/** A file with the path it has in its folder: `10_name/` there means something. */
function named(file) {
  return { file, path: file.webkitRelativePath || file.name };
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    return [{ file, path: entry.fullPath.slice(1) }];
  }
  const reader = entry.createReader();
  const inside = [];
  // A folder tells a hundred entries at a time.
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(filesOf))).flat();
}

/** Requests of a good size. A picture and its caption go together, and so does what a dataset.toml speaks of. */
function batches(files) {
  const isArchive = ({ path }) => /\.(zip|tar|tar\.gz|tgz)$/i.test(path);
  const archives = files.filter(isArchive).map((one) => [one]);
  const rest = files.filter((one) => !isArchive(one));
  if (rest.some(({ path }) => /\.toml$/i.test(path))) return rest.length ? [...archives, rest] : archives;
  const stems = Map.groupBy(rest, ({ path }) => path.replace(/\.[^./]*$/, ""));
  const found = [];
  let batch = [];
  let size = 0;
  for (const group of stems.values()) {
    const adds = group.reduce((sum, { file }) => sum + file.size, 0);
    if (batch.length && (batch.length + group.length > Math.min(BATCH_FILES, most) || size + adds > BATCH_BYTES)) {
      found.push(batch);
      batch = [];
      size = 0;
    }
    batch.push(...group);
    size += adds;
  }
  if (batch.length) found.push(batch);
  return [...archives, ...found];
}

async function upload(files) {
  files = files.filter(({ path }) => !/(^|\/)(\.|__MACOSX)/.test(path));
  if (!files.length) return toast("There was no file in that", true);
  list.replaceChildren();
  rows.clear();
  files.forEach(addRow);
  const waiting = batches(files);
  const count = { accepted: 0, rejected: 0, duplicates: 0 };
  const worker = async () => {
    for (let batch = waiting.shift(); batch; batch = waiting.shift()) await sendBatch(batch, count);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const twice = count.duplicates ? `, ${count.duplicates} of them were there already` : "";
  summary.textContent = `${count.accepted} accepted${twice}, ${count.rejected} rejected.`;
  await refresh("#pictures", "#report", "#about", "#working");
}

function addRow({ file, path }) {
  const row = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = `${path} (${bytes(file.size)})`;
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", path);
  row.append(name, bar);
  list.append(row);
  rows.set(path, { row, bar });
}

function say(path, text, isBad) {
  const known = rows.get(path) || rows.get([...rows.keys()].find((one) => one.endsWith(`/${path}`)));
  const line = document.createElement("span");
  line.className = isBad ? "why" : "soft";
  line.textContent = text;
  if (known) {
    known.row.append(line);
    return;
  }
  const row = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = path;
  row.append(name, line);
  list.append(row);
}

async function sendBatch(batch, count) {
  const size = batch.reduce((sum, { file }) => sum + file.size, 0);
  if (size > limit) {
    count.rejected += batch.length;
    const why = `${bytes(size)}: a browser sends at most ${bytes(limit)} at once. Larger archives go straight to storage, over the API.`;
    batch.forEach(({ path }) => say(path, why, true));
    return;
  }
  const form = new FormData();
  for (const { file, path } of batch) form.append("files", file, path);
  const { status, told } = await post(form, (loaded) => {
    let before = 0;
    for (const { file, path } of batch) {
      rows.get(path).bar.value = file.size ? Math.min(1, Math.max(0, (loaded - before) / file.size)) : 1;
      before += file.size;
    }
  });
  if (status !== 201) {
    count.rejected += batch.length;
    const why = told.detail || "The service cannot be reached. Drop the files once more.";
    const fields = new Map((told.errors || []).map((one) => [one.pointer, one.detail]));
    batch.forEach(({ path }) => say(path, fields.get(path) || why, true));
    return;
  }
  count.accepted += told.accepted;
  count.rejected += told.rejected;
  count.duplicates += told.data.filter((one) => one.duplicate).length;
  for (const one of told.data) {
    if (one.status === "rejected") say(one.filename, one.reason, true);
    for (const line of one.not_honoured) say(one.filename, line, false);
  }
}

function post(form, progressed) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("POST", drop.dataset.address);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => progressed(event.loaded);
    request.onload = () => {
      let told = {};
      try {
        told = JSON.parse(request.responseText);
      } catch {
        // A proxy's own page: its status says enough.
      }
      done({ status: request.status, told });
    };
    request.onerror = () => done({ status: 0, told: {} });
    request.send(form);
  });
}
