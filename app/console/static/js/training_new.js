// What a training would take, told while its form is filled in.

import { Problem, send } from "./api.js";
import { bodyOf, clearProblems, showProblem } from "./forms.js";
import { bytes, duration } from "./times.js";

const form = document.getElementById("training");
const out = document.getElementById("forecast");
let asked = 0;
let timer;

form.elements.dataset.addEventListener("change", (event) => {
  location.href = `/trainings/new?dataset=${encodeURIComponent(event.target.value)}`;
});
form.addEventListener("input", later);
form.addEventListener("change", (event) => {
  if (["preset", "base_model"].includes(event.target.name)) showPreset();
});

function later() {
  clearTimeout(timer);
  timer = setTimeout(forecast, 400);
}

async function forecast() {
  const mine = ++asked;
  const wrong = form.querySelector("[name^='params.']:invalid");
  if (wrong) {
    out.querySelector("[data-wrong]").textContent = `${wrong.name.slice("params.".length)}: ${wrong.validationMessage}`;
    return;
  }
  const body = bodyOf(form);
  if (!body.dataset) return;
  body.name ||= "untitled";
  try {
    const told = await send("POST", "/v1/trainings?dry_run=true", body);
    if (mine !== asked) return;
    clearProblems(form);
    say("steps", told.steps.toLocaleString());
    say("time", duration(told.predicted_seconds));
    say("gpu", duration(told.gpu_seconds));
    say("memory", bytes(told.memory_bytes));
    say("queue", whenIn(told.queue));
    const list = out.querySelector("ul");
    list.replaceChildren(...told.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    list.hidden = !told.warnings.length;
    out.querySelector("[data-wrong]").textContent = "";
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (mine !== asked) return;
    const focused = document.activeElement;
    if (error.fields.length) showProblem(form, error);
    focused?.focus();
    out.querySelector("[data-wrong]").textContent = error.message;
  }
}

function whenIn({ position, eta_s: eta }) {
  if (!position && eta === 0) return "starts at once";
  const ahead = position ? `${position} jobs ahead` : "next";
  return eta === null ? ahead : `${ahead}, starts in about ${duration(eta)}`;
}

function say(name, text) {
  out.querySelector(`[data-${name}]`).textContent = text;
}

/** The preset's own values, as what stands in a field that is left empty. */
async function showPreset() {
  const preset = form.querySelector("[name=preset]:checked");
  // Not form.dataset: that is the field of this name.
  const count = form.getAttribute("data-images");
  const images = count ? `&images=${count}` : "";
  const told = await send("GET", `/v1/presets?base_model=${encodeURIComponent(form.elements.base_model.value)}${images}`);
  const { params } = told.data.find((one) => one.id === preset.value);
  for (const field of form.querySelectorAll("[name^='params.']")) {
    const value = params[field.name.slice("params.".length)];
    const text = value === null || value === undefined ? "none" : String(value);
    if (field.tagName === "SELECT") field.options[0].textContent = `Preset's: ${text}`;
    else field.placeholder = text;
  }
}

showPreset();
forecast();
