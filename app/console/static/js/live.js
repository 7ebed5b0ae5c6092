// One job as it goes: [data-events] holds its stream's address, and places for what it says.

import { refresh } from "./api.js";
import { toast } from "./dialogs.js";
import { duration } from "./times.js";

const TYPES = ["status", "progress", "metrics", "sample", "checkpoint", "log"];
const ENDED = ["succeeded", "failed", "canceled"];

/** Follow a job's events, through lost connections, until it has ended. */
export function follow(address, heard) {
  const stream = new EventSource(address);
  for (const type of TYPES) {
    stream.addEventListener(type, (event) => {
      const told = JSON.parse(event.data);
      const ended = type === "status" && ENDED.includes(told.status);
      if (ended) stream.close();
      heard(type, told, ended);
    });
  }
  addEventListener("pagehide", () => stream.close());
  return stream;
}

/** Say a `progress` event in its places below an element. */
export function showProgress(root, told) {
  const bar = root.querySelector("progress");
  if (bar) bar.value = told.fraction;
  const words = [];
  if (told.stage) words.push(told.stage);
  if (told.total_steps) words.push(`step ${told.step} of ${told.total_steps}`);
  if (told.eta_s !== null && told.eta_s !== undefined) words.push(`about ${duration(told.eta_s)} left`);
  const place = root.querySelector("[data-stage]");
  if (place) place.textContent = words.join(" · ");
}

function start(element) {
  element.dataset.live = "on";
  follow(element.dataset.events, (type, told, ended) => {
    if (!element.isConnected) return;
    if (type === "progress") showProgress(element, told);
    const badge = element.querySelector("[data-status]");
    if (type === "status" && badge) {
      badge.textContent = told.status;
      badge.className = `badge ${told.status}`;
    }
    document.dispatchEvent(new CustomEvent("job", { detail: { type, told, ended } }));
    if (!ended) return;
    if (told.status === "failed") toast(told.error?.message || "The job failed", true);
    if (element.dataset.refresh) refresh(...element.dataset.refresh.split(" "));
  });
}

/** Begin to follow what is on the page, and what is put there later. */
export function startAll(root) {
  const found = [...root.querySelectorAll("[data-events]:not([data-live])")];
  if (root.matches?.("[data-events]:not([data-live])")) found.push(root);
  found.forEach(start);
}
