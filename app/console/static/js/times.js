// Times in the reader's own zone and language; what is less than a day old says how long ago.

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

export function say(root) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const at = new Date(one.dateTime);
    const seconds = Math.round((at - Date.now()) / 1000);
    one.title = exact.format(at);
    if (Math.abs(seconds) < 60) one.textContent = ago.format(seconds, "second");
    else if (Math.abs(seconds) < 3600) one.textContent = ago.format(Math.round(seconds / 60), "minute");
    else if (Math.abs(seconds) < 86400) one.textContent = ago.format(Math.round(seconds / 3600), "hour");
    else one.textContent = exact.format(at);
  }
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "not known yet";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "not known yet";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}
