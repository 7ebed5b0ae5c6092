// The playground: a form into pictures, which come while they are drawn.

import { newKey, Problem, refresh, send } from "./api.js";
import { copy, toast } from "./dialogs.js";
import { bodyOf, clearProblems, showProblem } from "./forms.js";
import { asCurl, asPython } from "./snippets.js";
import { follow, showProgress } from "./live.js";
import "./side_by_side.js";

const PREVIEWS = 4;
const NUMBERS = ["weight", "seed", "guidance_scale", "steps"];

const form = document.getElementById("play");
const uses = document.getElementById("uses");
const result = document.getElementById("result");
const most = Number(uses.dataset.most);

/** The form as the body of POST /v1/generations. */
function request() {
  const body = bodyOf(form);
  for (const name of ["lock", "add", "axis"]) delete body[name];
  body.loras = [...uses.querySelectorAll(".lora-use")].map((one) => ({
    lora: one.dataset.lora,
    weight: Number(one.querySelector("input[type=number]").value),
  }));
  return body;
}

// --- LoRAs and their weights

const add = form.elements.add;
add.addEventListener("change", () => {
  const option = add.selectedOptions[0];
  if (option.value) addUse(option.value, Number(option.dataset.weight));
  add.value = "";
});

function addUse(lora, weight) {
  const option = [...add.options].find((one) => one.value === lora);
  if (uses.querySelectorAll(".lora-use").length >= most) {
    return toast(`At most ${most} LoRAs go together`, true);
  }
  const one = document.getElementById("use").content.firstElementChild.cloneNode(true);
  const name = option ? option.dataset.name : lora;
  one.dataset.lora = lora;
  one.querySelector("[data-name]").textContent = name;
  const [number, slider] = [one.querySelector("input[type=number]"), one.querySelector("input[type=range]")];
  number.setAttribute("aria-label", `Weight of ${name}`);
  slider.setAttribute("aria-label", `Weight of ${name}, as a slider`);
  one.querySelector("button").setAttribute("aria-label", `Leave ${name} out`);
  number.value = slider.value = weight;
  number.addEventListener("input", () => (slider.value = number.value));
  slider.addEventListener("input", () => (number.value = slider.value));
  one.querySelector("button").addEventListener("click", () => one.remove());
  uses.append(one);
  const trigger = option?.dataset.trigger;
  const hint = one.querySelector("[data-trigger]");
  hint.hidden = !trigger;
  hint.textContent = trigger ? `Its trigger word: ${trigger}` : "";
}

/** Put a request's settings into the form. */
function use(told) {
  form.reset();
  uses.replaceChildren();
  for (const field of form.elements) {
    const value = told[field.name];
    if (field.name && value !== undefined && value !== null && typeof value !== "object") field.value = value;
  }
  form.elements.lock.checked = told.seed !== undefined && told.seed !== null;
  for (const one of told.loras || []) {
    const weight = typeof one.weight === "object" ? (one.weight?.unet ?? 1) : one.weight;
    addUse(one.lora, weight ?? 1);
  }
  defaults();
  form.elements.prompt.focus();
}

/** A base model's own size, steps and guidance stand where nothing is said. */
function defaults() {
  const { dataset } = form.elements.base_model.selectedOptions[0];
  for (const [name, value] of [["width", dataset.side], ["height", dataset.side], ["steps", dataset.steps], ["guidance_scale", dataset.guidance]]) {
    form.elements[name].placeholder = value;
  }
  form.elements.scheduler.options[0].textContent = `The model's own: ${dataset.scheduler}`;
}

// --- drawing

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearProblems(form);
  const button = event.submitter;
  button.disabled = true;
  try {
    if (button.value === "grid") await grid();
    else await draw();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(form, error);
    result.querySelector("[data-say]").textContent = error.message;
  } finally {
    button.disabled = false;
  }
});

async function draw() {
  const body = request();
  if (!form.elements.lock.checked) delete body.seed;
  const made = await send("POST", "/v1/generations", { ...body, previews: PREVIEWS }, newKey());
  watch(made);
}

function watch(made) {
  begin(made);
  follow(`/v1/generations/${made.id}/events`, async (type, told, ended) => {
    if (result.dataset.job !== made.id) return;
    if (type === "progress") showProgress(result, told);
    if (type === "status") result.querySelector("[data-status]").textContent = told.status;
    if (type === "sample") preview(told.image);
    if (ended) await show(made.id);
  });
}

function begin(made) {
  result.dataset.job = made.id;
  result.querySelector("[data-say]").textContent = "";
  result.querySelector("[data-live]").hidden = false;
  result.querySelector("[data-status]").textContent = made.status;
  result.querySelector("[data-stage]").textContent = "";
  result.querySelector("progress").value = 0;
  const stop = result.querySelector("[data-cancel]");
  stop.onclick = () => send("POST", `/v1/generations/${made.id}/cancel`, {});
  result.querySelector(".pictures").replaceChildren();
}

function preview(address) {
  const list = result.querySelector(".pictures");
  const image = list.querySelector("[data-preview]") || document.createElement("img");
  image.dataset.preview = "on";
  image.alt = "The picture as far as it is drawn";
  image.src = address;
  if (!image.isConnected) list.append(Object.assign(document.createElement("li"), {})), list.lastElementChild.append(image);
}

async function show(id) {
  const made = await send("GET", `/v1/generations/${id}`);
  // One that somebody comes back to may be at work yet.
  if (made.ended_at === null) return watch(made);
  result.querySelector("[data-live]").hidden = true;
  const list = result.querySelector(".pictures");
  if (made.status !== "succeeded") {
    list.replaceChildren();
    result.querySelector("[data-say]").textContent = made.error?.message || `The generation was ${made.status}.`;
    return;
  }
  list.replaceChildren(...made.images.map((image) => picture(made, image)));
  if (form.elements.lock.checked) form.elements.seed.value = made.images[0].seed;
  const missing = made.loras.filter((one) => one.unmatched.length);
  result.querySelector("[data-say]").textContent = missing
    .map((one) => `${one.name}: ${one.matched} modules applied, ${one.unmatched.length} names have no place here.`)
    .join(" ");
  await refresh("#history");
}

function picture(made, image) {
  const item = document.getElementById("picture").content.firstElementChild.cloneNode(true);
  const shown = item.querySelector("img");
  shown.src = image.url;
  shown.alt = made.request.prompt;
  shown.width = image.width;
  shown.height = image.height;
  item.querySelector("[data-seed]").textContent = `seed ${image.seed}`;
  item.querySelector("a").href = image.url;
  item.querySelector("[data-keep-seed]").addEventListener("click", () => {
    form.elements.seed.value = image.seed;
    form.elements.lock.checked = true;
    toast(`Seed ${image.seed} is kept`);
  });
  const beside = item.querySelector("[data-beside]");
  beside.dataset.beside = image.url;
  beside.dataset.request = JSON.stringify(image.request);
  return item;
}

// --- the grid

async function grid() {
  const body = request();
  delete body.num_images;
  body.axes = [...form.querySelectorAll("[data-axis]")].flatMap((place) => {
    const name = place.querySelector("select").value;
    const lines = place.querySelector("textarea").value.split("\n").map((line) => line.trim()).filter(Boolean);
    return name && lines.length ? [{ name, values: NUMBERS.includes(name) ? lines.map(Number) : lines }] : [];
  });
  if (!body.axes.length) {
    throw new Problem(422, { detail: "A grid needs at least one axis with its values, one on each line." });
  }
  const made = await send("POST", "/v1/comparisons", body, newKey());
  location.href = `/comparisons/${made.id}`;
}

document.addEventListener("click", (event) => {
  const again = event.target.closest("[data-use]");
  if (again) use(JSON.parse(again.dataset.use));
  if (event.target.closest("[data-curl]")) copy(asCurl(request()), "curl command");
  if (event.target.closest("[data-python]")) copy(asPython(request()), "Python code");
});
form.elements.base_model.addEventListener("change", defaults);

if (form.dataset.start) use(JSON.parse(form.dataset.start));
else defaults();
if (form.dataset.again) show(form.dataset.again);
