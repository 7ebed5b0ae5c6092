// A LoRA from elsewhere: looked at first, then kept, with what the check of its file found.

import { headers, newKey } from "./api.js";
import { toast } from "./dialogs.js";

const form = document.getElementById("lora-upload");
const out = form.querySelector("output");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter;
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  const isLook = button.value === "look";
  try {
    await upload(isLook);
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
});

async function upload(isLook) {
  const body = new FormData();
  for (const [name, value] of new FormData(form)) {
    if (value === "" || (isLook && !["file", "base_model"].includes(name))) continue;
    body.append(name, value);
  }
  const answer = await fetch(isLook ? "/v1/loras/inspect" : "/v1/loras", {
    method: "POST",
    headers: headers(isLook ? {} : { "Idempotency-Key": newKey() }),
    body,
  });
  const told = await answer.json();
  if (!answer.ok) {
    out.replaceChildren(note("bad", [told.detail, ...told.errors.map((one) => one.detail)]));
    return;
  }
  if (isLook) {
    out.replaceChildren(note(told.usable ? "good" : "bad", reportOf(told)));
    return;
  }
  if (answer.status === 200) toast("You have this very file already");
  location.href = `/loras/${told.id}`;
}

function reportOf(told) {
  const lines = [told.usable ? "This file can be used." : "This file cannot be used."];
  lines.push(...told.problems.map((one) => one.detail));
  const parts = [told.kinds.join(", "), told.layout && `${told.layout} layout`, told.rank && `rank ${told.rank}`];
  lines.push(parts.filter(Boolean).join(" · "));
  if (told.family) lines.push(`Made for ${told.family.title}.`);
  lines.push(`${told.matched} of ${told.modules} modules have a place in the base model.`);
  return lines;
}

function note(kind, lines) {
  const box = document.createElement("div");
  box.className = `note ${kind}`;
  for (const text of new Set(lines.filter(Boolean))) {
    box.append(Object.assign(document.createElement("p"), { textContent: text }));
  }
  return box;
}
