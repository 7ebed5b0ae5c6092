// Two pictures beside each other, with what differs between their settings.

import { toast } from "./dialogs.js";

let first = null;

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-beside]");
  if (!button) return;
  const chosen = { url: button.dataset.beside, request: JSON.parse(button.dataset.request) };
  if (!first) {
    first = chosen;
    toast("Choose the picture to compare it with");
    return;
  }
  show(first, chosen);
  first = null;
});

function show(one, other) {
  const dialog = document.getElementById("side-by-side");
  const names = [...new Set([...Object.keys(one.request), ...Object.keys(other.request)])].filter(
    (name) => JSON.stringify(one.request[name]) !== JSON.stringify(other.request[name]),
  );
  const figures = [one, other].map(({ url, request }) => {
    const figure = document.createElement("figure");
    const image = Object.assign(document.createElement("img"), { src: url, alt: request.prompt });
    const words = names.map((name) => `${name}: ${said(request[name])}`).join("\n");
    const caption = Object.assign(document.createElement("figcaption"), { textContent: words || "The same settings" });
    figure.append(image, caption);
    return figure;
  });
  dialog.querySelector(".pair").replaceChildren(...figures);
  dialog.showModal();
}

function said(value) {
  if (Array.isArray(value)) return value.map((one) => `${one.lora} at ${said(one.weight)}`).join(", ") || "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
