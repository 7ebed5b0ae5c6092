// Captions edited where they stand, and what is done to many pictures at once.
// Keys on a caption: arrows go to the next one, Enter edits and saves, Esc leaves it as it was.

import { Problem, refresh, send } from "./api.js";
import { ask, toast } from "./dialogs.js";
import { bodyOf, clearProblems, showProblem } from "./forms.js";

const dataset = document.querySelector("[data-dataset]").dataset.dataset;
const base = `/v1/datasets/${dataset}`;
const AT_ONCE = 4;

const captions = () => [...document.querySelectorAll("#images .caption")];
const picked = () => [...document.querySelectorAll("#images .pick input:checked")].map((one) => one.value);

document.addEventListener("click", (event) => {
  const button = event.target.closest("#images .caption");
  if (button) edit(button);
});

document.addEventListener("keydown", (event) => {
  const button = event.target.closest?.("#images button.caption");
  if (!button) return;
  const all = captions();
  const columns = getComputedStyle(document.getElementById("images")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  all[all.indexOf(button) + step]?.focus();
});

function edit(button) {
  const before = button.classList.contains("none") ? "" : button.textContent;
  const field = document.createElement("textarea");
  field.value = before;
  field.setAttribute("aria-label", button.getAttribute("aria-label"));
  button.replaceWith(field);
  field.focus();
  let isDone = false;
  const close = (text) => {
    isDone = true;
    button.textContent = text || "No caption yet";
    button.classList.toggle("none", !text);
    field.replaceWith(button);
  };
  const save = async () => {
    const text = field.value.trim();
    if (isDone) return;
    if (text === before || !text) return close(before);
    isDone = true;
    try {
      const told = await send("PATCH", `${base}/images/${button.dataset.image}`, { caption: text });
      close(told.caption);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      isDone = false;
      toast(error.message, true);
      field.focus();
    }
  };
  field.addEventListener("keydown", async (event) => {
    if (event.key === "Escape") {
      close(before);
      button.focus();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      await save();
      button.focus();
    }
  });
  field.addEventListener("blur", save);
}

document.addEventListener("change", (event) => {
  if (event.target.id === "pick-all") {
    document.querySelectorAll("#images .pick input").forEach((one) => (one.checked = event.target.checked));
  }
  if (event.target.closest("#images .pick") || event.target.id === "pick-all") count();
});

document.addEventListener("arrived", count);

function count() {
  const place = document.getElementById("picked");
  if (!place) return;
  const number = picked().length;
  place.textContent = number ? `${number} selected` : "None selected";
  document.querySelectorAll("[data-many]").forEach((one) => (one.disabled = !number));
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-many]");
  if (!button) return;
  const ids = picked();
  const what = button.dataset.many;
  if (what === "delete" && !(await ask(`Delete ${ids.length} pictures for good?`, "Delete"))) return;
  button.setAttribute("aria-busy", "true");
  const failed = [];
  const left = [...ids];
  const worker = async () => {
    for (let id = left.shift(); id; id = left.shift()) {
      try {
        if (what === "delete") await send("DELETE", `${base}/images/${id}`);
        else await send("PATCH", `${base}/images/${id}`, { excluded: what === "exclude" });
      } catch (error) {
        failed.push(error.message);
      }
      document.getElementById("picked").textContent = `${ids.length - left.length} of ${ids.length}`;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (failed.length) toast(`${failed.length} of ${ids.length} failed: ${failed[0]}`, true);
  document.querySelectorAll("#pictures input:checked").forEach((one) => (one.checked = false));
  await refresh("#pictures", "#report", "#about");
});

const replace = document.getElementById("replace");
replace.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearProblems(replace);
  const isTry = event.submitter.value === "try";
  const ids = picked();
  const body = { ...bodyOf(replace), dry_run: isTry, ...(ids.length ? { images: ids } : {}) };
  const out = replace.querySelector("output");
  try {
    const told = await send("POST", `${base}/captions`, body);
    const [first] = told.changes;
    const example = first ? ` First: “${first.before}” → “${first.after ?? ""}”` : "";
    out.textContent = `${told.changed} captions ${isTry ? "would change" : "changed"}.${example}`;
    if (!isTry) await refresh("#pictures", "#report");
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(replace, error);
  }
});
