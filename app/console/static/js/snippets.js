// A request as code that a program can begin with. The key is not in it: it stays out of histories.

export function asCurl(body) {
  const json = JSON.stringify(body).replaceAll("'", String.raw`'\''`);
  return [
    `curl ${location.origin}/v1/generations \\`,
    `  -H "Authorization: Bearer $LORAWRIGHT_API_KEY" -H "Content-Type: application/json" \\`,
    `  -H "Prefer: wait=60" -d '${json}'`,
  ].join("\n");
}

export function asPython(body) {
  const python = JSON.stringify(body, null, 4)
    .replace(/: true\b/g, ": True")
    .replace(/: false\b/g, ": False")
    .replace(/: null\b/g, ": None");
  return `import os

import httpx

answer = httpx.post(
    "${location.origin}/v1/generations",
    headers={"Authorization": f"Bearer {os.environ['LORAWRIGHT_API_KEY']}", "Prefer": "wait=60"},
    json=${python.replaceAll("\n", "\n    ")},
    timeout=90,
)
answer.raise_for_status()
for image in answer.json()["images"]:
    print(image["url"])
`;
}
