// What every page does: forms, live jobs, times.

import "./forms.js";
import { copy } from "./dialogs.js";
import { startAll } from "./live.js";
import { say } from "./times.js";

function arrive(root) {
  say(root);
  startAll(root);
}

arrive(document);
setInterval(() => say(document), 20000);
document.body.addEventListener("htmx:load", (event) => arrive(event.detail.elt));
document.body.addEventListener("arrived", (event) => arrive(event.target));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(document.querySelector(button.dataset.copy).textContent.trim(), "Text");
  const opener = event.target.closest("[data-open]");
  if (opener) document.querySelector(opener.dataset.open).showModal();
  event.target.closest("[data-close]")?.closest("dialog").close();
});
