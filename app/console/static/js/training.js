// A training's curves, drawn from its metrics and carried on by its events.

import { refresh, send } from "./api.js";
import { follow } from "./live.js";

const place = document.getElementById("curves");
const id = place.dataset.training;
const rows = new Map();
let chart;

/** An average over the last steps, so that the trend can be seen in the noise. */
function smooth(values) {
  let held = null;
  return values.map((value) => {
    if (value === null) return null;
    held = held === null ? value : held * 0.95 + value * 0.05;
    return held;
  });
}

function columns() {
  const steps = [...rows.keys()].sort((a, b) => a - b);
  const of = (name) => steps.map((step) => rows.get(step)[name] ?? null);
  const loss = of("loss");
  return [steps, loss, smooth(loss), of("validation_loss"), of("base_validation_loss")];
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw() {
  if (!rows.size) return;
  place.querySelector("[data-none]").hidden = true;
  const data = columns();
  const last = rows.get(data[0].at(-1));
  place.querySelector("[data-last]").textContent = words(last);
  if (chart) return chart.setData(data);
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
  const line = (label, stroke, more = {}) => ({ label, stroke, width: 2, spanGaps: true, ...more });
  const width = () => place.querySelector(".plot").clientWidth;
  chart = new window.uPlot(
    {
      width: width(),
      height: 260,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: "step" }, { ...axis, size: 60 }],
      series: [
        { label: "step" },
        line("loss", colour("--line"), { width: 1 }),
        line("loss, smoothed", colour("--run")),
        line("validation", colour("--good"), { points: { show: true, size: 7 } }),
        line("the base's validation", colour("--wait"), { dash: [6, 4] }),
      ],
    },
    data,
    place.querySelector(".plot"),
  );
  new ResizeObserver(() => chart.setSize({ width: width(), height: 260 })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
}

function words(row) {
  const parts = [`step ${row.step}`];
  if (row.loss !== null) parts.push(`loss ${row.loss.toPrecision(3)}`);
  if (row.lr !== null) parts.push(`learning rate ${row.lr.toExponential(1)}`);
  if (row.images_per_second) parts.push(`${row.images_per_second.toPrecision(3)} pictures a second`);
  return parts.join(" · ");
}

function keep(found) {
  for (const row of found) rows.set(row.step, { ...rows.get(row.step), ...row });
}

async function load() {
  let after = -1;
  for (;;) {
    const told = await send("GET", `/v1/trainings/${id}/metrics?after=${after}&limit=10000`);
    keep(told.data);
    if (!told.has_more) break;
    after = told.next;
  }
  draw();
}

function note(message) {
  const line = document.createElement("li");
  line.textContent = message;
  document.querySelector("#log ol").append(line);
  document.querySelector("#log [data-empty]")?.remove();
}

document.addEventListener("job", ({ detail: { type, told } }) => {
  if (type === "metrics") {
    keep(told.metrics);
    draw();
  }
  if (type === "log") note(told.message);
  if (type === "checkpoint") refresh("#checkpoints");
});

// A training that had ended before the page came is followed by nobody: its log is read when it is
// asked for.
const log = document.querySelector("#log[data-events-once] details");
log?.addEventListener(
  "toggle",
  () => follow(log.closest("#log").dataset.eventsOnce, (type, told) => type === "log" && note(told.message)),
  { once: true },
);

load();
