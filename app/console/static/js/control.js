// Many jobs at once: what is ticked is canceled or tried again, and each is told of.

import { newKey, Problem, refresh, send } from "./api.js";
import { ask, toast } from "./dialogs.js";

const picked = () => [...document.querySelectorAll("#jobs tbody input:checked")].map((one) => one.value);

document.addEventListener("change", (event) => {
  if (event.target.id === "pick-all") {
    document.querySelectorAll("#jobs tbody input").forEach((one) => (one.checked = event.target.checked));
  }
  count();
});

function count() {
  const number = picked().length;
  document.querySelectorAll("[data-many]").forEach((one) => (one.disabled = !number));
  document.getElementById("picked").textContent = number ? `${number} selected` : "None selected";
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-many]");
  if (!button) return;
  const ids = picked();
  const what = button.dataset.many;
  if (what === "cancel" && !(await ask(`Cancel ${ids.length} jobs?`, "Cancel them"))) return;
  try {
    const told = await send("POST", `/v1/admin/jobs/${what}`, { ids }, newKey());
    const failed = told.data.filter((one) => one.error);
    toast(`${told.data.length - failed.length} done`);
    if (failed.length) toast(`${failed.length} not: ${failed[0].error.message}`, true);
    document.querySelectorAll("#jobs input:checked").forEach((one) => (one.checked = false));
    await refresh("#jobs");
    count();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    toast(error.message, true);
  }
});
