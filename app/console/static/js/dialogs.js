// Words to the reader: passing ones, questions, and secrets that are shown once.

export function toast(text, isBad = false) {
  const place = document.getElementById("toasts");
  const one = document.createElement("p");
  one.className = isBad ? "toast bad" : "toast";
  one.textContent = text;
  place.append(one);
  setTimeout(() => one.remove(), isBad ? 12000 : 5000);
}

/** Whether the reader agrees. */
export function ask(question, yes) {
  const dialog = document.getElementById("ask");
  dialog.querySelector("[data-question]").textContent = question;
  dialog.querySelector("[value=yes]").textContent = yes || "Yes";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}

/** Show what will never be shown again, until the reader has put it away. */
export function tellSecret(secret) {
  const dialog = document.getElementById("secret");
  dialog.querySelector("code").textContent = secret;
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", done, { once: true }));
}

export async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  toast(`${what} copied`);
}
