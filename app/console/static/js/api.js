// Requests to the API with the browser's session: the same routes, limits and errors as any client's.

const token = document.querySelector('meta[name="csrf-token"]').content;

// How often something was changed from here: a page that was asked for before is out of date.
let changes = 0;

/** What the API answered instead of a success; `fields` are its wrong values. */
export class Problem extends Error {
  constructor(status, told) {
    super(told.detail || told.title || `The service answered ${status}`);
    this.status = status;
    this.code = told.code;
    this.fields = told.errors || [];
  }
}

export function headers(more = {}) {
  return { "X-CSRF-Token": token, Accept: "application/json", ...more };
}

/** Send JSON; a `key` makes sure that a second click does not do it twice. */
export async function send(method, path, body, key) {
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  if (key) more["Idempotency-Key"] = key;
  let answer;
  changes += method !== "GET";
  try {
    answer = await fetch(path, {
      method,
      headers: headers(more),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Problem(0, { detail: "The service cannot be reached. Is this machine online?" });
  } finally {
    changes += method !== "GET";
  }
  if (answer.status === 204) return null;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) location.href = `/sign-in?next=${encodeURIComponent(location.pathname)}`;
  if (!answer.ok) throw new Problem(answer.status, told);
  return told;
}

export const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Ask for this page anew, once, and put parts of it in place. */
export async function refresh(...selectors) {
  const seen = changes;
  const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
  if (answer.redirected || !answer.ok) return location.reload();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (changes !== seen) return refresh(...selectors);
  for (const select of selectors) {
    const [old, fresh] = [document.querySelector(select), page.querySelector(select)];
    if (!old || !fresh) continue;
    const held = old.contains(document.activeElement) ? document.activeElement : null;
    // What somebody is writing is not taken from under their hands.
    if (held?.matches("textarea, input:not([type=checkbox])")) {
      held.addEventListener("focusout", () => setTimeout(() => refresh(select), 500), { once: true });
      continue;
    }
    // What the reader has ticked meanwhile stays ticked.
    const ticked = new Set([...old.querySelectorAll("input[type=checkbox]:checked")].map((one) => one.value));
    fresh.querySelectorAll("input[type=checkbox]").forEach((one) => (one.checked ||= ticked.has(one.value)));
    old.replaceWith(fresh);
    if (held?.dataset.image) fresh.querySelector(`[data-image="${CSS.escape(held.dataset.image)}"]`)?.focus();
    window.htmx.process(fresh);
    fresh.dispatchEvent(new CustomEvent("arrived", { bubbles: true }));
  }
}
