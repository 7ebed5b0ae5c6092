"""Photograph every page of the console, from the data that `make demo` left.

`make up` in one terminal, after `make demo`; then `python -m tools.make_screenshots` in another.
The pictures go to docs/images/; they show what the demo made, whatever that is.
"""

import argparse
import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
WIDE, NARROW = 1280, 390
# How long events and curves may take to be there.
SETTLE_MS = 1500
# A long page is shown so far.
MOST_HEIGHT = 1500


def pages(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Name and address of each page."""

    def newest(kind: str) -> str:
        found: list[dict[str, Any]] = client.get(f"/v1/{kind}").raise_for_status().json()["data"]
        if not found:
            raise SystemExit(f"there are no {kind} yet: run `make demo` first")
        whole = [one for one in found if one.get("status", "ready") in ("ready", "succeeded")]
        return str(whole[0]["id"])

    dataset, lora = newest("datasets"), newest("loras")
    account = client.get("/v1/account").raise_for_status().json()["id"]
    webhook, delivery = make_webhook(client)
    yield from {
        "home": "/",
        "datasets": "/datasets",
        "dataset": f"/datasets/{dataset}",
        "training-new": f"/trainings/new?dataset={dataset}",
        "trainings": "/trainings",
        "training": f"/trainings/{newest('trainings')}",
        "loras": "/loras",
        "lora": f"/loras/{lora}",
        "playground": f"/playground?again={newest('generations')}",
        "grids": "/comparisons",
        "grid": f"/comparisons/{newest('comparisons')}",
        "account": "/account",
        "webhook": f"/account/webhooks/{webhook}",
        "delivery": f"/account/webhooks/{webhook}/deliveries/{delivery}",
        "control": "/control",
        "control-jobs": "/control/jobs",
        "control-job": f"/control/jobs/{newest('trainings')}",
        "control-accounts": "/control/accounts",
        "control-account": f"/control/accounts/{account}",
        "control-audit": "/control/audit",
        "not-found": "/nowhere",
    }.items()


def make_grid(client: httpx.Client) -> None:
    """The demo draws sheets of its own; the console's grid is of weights."""
    if client.get("/v1/comparisons").raise_for_status().json()["data"]:
        return
    lora = client.get("/v1/loras").raise_for_status().json()["data"][0]
    body = {
        "prompt": f"red apple, {lora['trigger_word']}",
        "base_model": lora["base_model"],
        "loras": [{"lora": lora["id"]}],
        "axes": [
            {"name": "weight", "values": [0, 0.5, 1]},
            {"name": "seed", "values": [1, 2, 3, 4]},
        ],
    }
    answer = client.post("/v1/comparisons", json=body, headers={"Prefer": "wait=60"})
    answer.raise_for_status()


def make_training(client: httpx.Client) -> None:
    """The demo's trainings draw no samples; this one does, on the demo's newest dataset."""
    name = "with samples"
    found = client.get("/v1/trainings").raise_for_status().json()["data"]
    if any(one["name"] == name for one in found):
        return
    dataset = client.get("/v1/datasets").raise_for_status().json()["data"][0]
    word = dataset["trigger_word"]
    body = {
        "dataset": dataset["id"],
        "name": name,
        "params": {"save_every_n_epochs": 4},
        "sample_prompts": [f"red apple, {word}", f"fox, {word}"],
    }
    made = client.post("/v1/trainings", json=body).raise_for_status().json()
    while client.get(f"/v1/trainings/{made['id']}").raise_for_status().json()["ended_at"] is None:
        time.sleep(1)


def make_webhook(client: httpx.Client) -> tuple[str, str]:
    """A webhook and a delivery, to an address (example.com) where nobody listens."""
    body = {"url": "https://93.184.215.14/lorawright", "events": ["training.succeeded"]}
    hooks = [
        one
        for one in client.get("/v1/webhooks").raise_for_status().json()["data"]
        if one["url"] == body["url"]
    ] or [client.post("/v1/webhooks", json=body).raise_for_status().json()]
    webhook = str(hooks[0]["id"])
    sent = client.get(f"/v1/webhooks/{webhook}/deliveries").raise_for_status().json()["data"]
    if not sent:
        sent = [client.post(f"/v1/webhooks/{webhook}/test").raise_for_status().json()]
    return webhook, str(sent[0]["id"])


def photograph(page: Page, name: str) -> None:
    """One picture of what is in the window now, as far down as the page goes."""
    page.wait_for_timeout(SETTLE_MS)
    height = page.evaluate("document.documentElement.scrollHeight")
    size = page.viewport_size or {"width": WIDE, "height": MOST_HEIGHT}
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, MOST_HEIGHT)}
    taken = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    path = IMAGES / f"console-{name}.webp"
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").save(path, quality=82, method=6)
    print(path.relative_to(ROOT))


def sign_in(browser: Browser, url: str, key: str, theme: str, width: int) -> Page:
    """A window of somebody who has signed in."""
    viewport = {"width": width, "height": 900}
    page = browser.new_context(viewport=viewport, color_scheme=theme).new_page()  # type: ignore[arg-type]
    page.goto(f"{url}/sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/")
    return page


def main() -> None:
    """Ask the stack of a folder for every page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".lorawright")
    state = json.loads((parser.parse_args().data_dir / "stack.json").read_text())
    url, key = state["url"], state["api_key"]
    with (
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=90
        ) as client,
        sync_playwright() as playwright,
    ):
        make_grid(client)
        make_training(client)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        found = dict(pages(client))
        page = browser.new_page(viewport={"width": WIDE, "height": 700})
        page.goto(f"{url}/sign-in")
        photograph(page, "sign-in")
        page = sign_in(browser, url, key, "light", WIDE)
        for name, address in found.items():
            page.goto(url + address)
            photograph(page, name)
        page = sign_in(browser, url, key, "dark", NARROW)
        for name in ("dataset", "training", "playground"):
            page.goto(url + found[name])
            photograph(page, f"{name}-narrow-dark")
        browser.close()


if __name__ == "__main__":
    main()
