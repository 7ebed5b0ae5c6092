// Forms and buttons that say in their HTML what they ask of the API:
//   data-send="POST /v1/datasets"   the request; a form's named fields are its JSON body
//   data-then="/datasets/{id}"      where to go then, with values of the answer; or
//                                   "reload", "secret", or parts to show anew: "#one #two"
//   data-confirm="Delete it?"       asked first

import { newKey, Problem, refresh, send } from "./api.js";
import { ask, tellSecret, toast } from "./dialogs.js";

// By element: the key of a request that has not been answered yet.
const keys = new WeakMap();

/** A data-… attribute. Not by `dataset`: a form's field of that name would stand in its place. */
const told = (element, name) => element.getAttribute(`data-${name}`);

/** A form's fields as JSON: `params.rank` nests, empty ones are left out. */
export function bodyOf(form) {
  const body = {};
  // An object that is sent as a whole: empty where none of its fields is filled in.
  const whole = told(form, "whole");
  if (whole) body[whole] = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || field.name === "csrf_token") continue;
    if (field.type === "radio" && !field.checked) continue;
    const value = valueOf(field);
    if (value !== undefined) put(body, field.name.split("."), value);
  }
  return body;
}

function valueOf(field) {
  const type = field.dataset.type;
  if (field.type === "checkbox") {
    if (type === "list") return field.checked ? [field.value] : undefined;
    return field.checked;
  }
  if (field.multiple) return [...field.selectedOptions].map((one) => one.value);
  const text = field.value.trim();
  if (text === "") return field.dataset.empty === "text" ? "" : undefined;
  if (type === "limit" && text === "none") return null;
  if (type === "number" || type === "limit") return Number(text);
  if (type === "boolean") return text === "true";
  if (type === "lines") return text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (type === "moment") return new Date(text).toISOString();
  return text;
}

function put(body, [name, ...rest], value) {
  if (rest.length) put((body[name] ??= {}), rest, value);
  else if (Array.isArray(value) && Array.isArray(body[name])) body[name].push(...value);
  else body[name] = value;
}

/** Say what is wrong beside the fields that it is about; true if each has its place. */
export function showProblem(form, problem) {
  clearProblems(form);
  let placed = problem.fields.length > 0;
  for (const { pointer, detail } of problem.fields) {
    const name = pointer.slice(1).replaceAll("/", ".");
    const field = [...form.elements].find((one) => one.name && (name === one.name || name.startsWith(`${one.name}.`)));
    if (!field) {
      placed = false;
      continue;
    }
    const line = document.createElement("p");
    line.className = "wrong";
    line.id = `wrong-${name}`;
    line.textContent = detail;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", line.id);
    field.closest("details")?.setAttribute("open", "");
    (field.closest("[data-field]") || field).after(line);
  }
  form.querySelector("[aria-invalid]")?.focus();
  if (!placed) toast(problem.message, true);
}

export function clearProblems(form) {
  form.querySelectorAll(".wrong:not([data-wrong])").forEach((one) => one.remove());
  form.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
}

/** Do what an element's data-… attributes say. */
async function run(element, body) {
  const [method, path] = told(element, "send").split(" ");
  const question = told(element, "confirm");
  if (question && !(await ask(question, told(element, "yes")))) return;
  if (method === "POST" && !keys.has(element)) keys.set(element, newKey());
  const answer = await send(method, path, body, keys.get(element));
  keys.delete(element);
  element.closest("dialog")?.close();
  if (answer?.secret) await tellSecret(answer.secret);
  if (told(element, "told")) toast(told(element, "told"));
  await then(told(element, "then") || "reload", answer);
}

async function then(next, answer) {
  if (next === "reload") location.reload();
  else if (next.startsWith("#")) await refresh(...next.split(" "));
  else if (next !== "stay") location.href = next.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer[name]));
}

async function busy(button, work) {
  if (button) {
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
  }
  try {
    await work();
  } finally {
    if (button) {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!told(form, "send")) return;
  event.preventDefault();
  const button = event.submitter;
  busy(button, async () => {
    clearProblems(form);
    try {
      await run(form, bodyOf(form));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // Another body is another request.
      keys.delete(form);
      showProblem(form, error);
    }
  });
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-send]");
  if (!button) return;
  event.preventDefault();
  busy(button, async () => {
    try {
      await run(button, button.dataset.body ? JSON.parse(button.dataset.body) : undefined);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      keys.delete(button);
      toast(error.message, true);
    }
  });
});
