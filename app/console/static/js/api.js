// Requests to the API with the browser's session: the same routes, limits and errors as any client's.

const token = document.querySelector('meta[name="csrf-token"]').content;

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
  try {
    answer = await fetch(path, {
      method,
      headers: headers(more),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Problem(0, { detail: "The service cannot be reached. Is this machine online?" });
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
  const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
  if (answer.redirected || !answer.ok) return location.reload();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const select of selectors) {
    const [old, fresh] = [document.querySelector(select), page.querySelector(select)];
    if (!old || !fresh) continue;
    old.replaceWith(fresh);
    window.htmx.process(fresh);
    fresh.dispatchEvent(new CustomEvent("arrived", { bubbles: true }));
  }
}
