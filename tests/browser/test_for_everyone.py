"""Every page in both themes and at both widths: usable by everyone, and nothing hidden sideways."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from app.database import transaction
from app.datasets.models import Dataset
from tests.browser.conftest import visit
from tests.browser.test_operator import failed_generation
from tests.e2e.conftest import Service

STUDIO = [
    "/",
    "/datasets",
    "/datasets/{dataset}",
    "/trainings",
    "/trainings/new?dataset={dataset}",
    "/trainings/{training}",
    "/loras",
    "/loras/{lora}",
    "/playground?lora={lora}",
    "/comparisons",
    "/comparisons/{comparison}",
    "/account",
    "/account/webhooks/{webhook}",
    "/account/webhooks/{webhook}/deliveries/{delivery}",
    "/nowhere",
]
CONTROL = [
    "/control",
    "/control/jobs",
    "/control/jobs/{failed}",
    "/control/accounts",
    "/control/accounts/{account}",
    "/control/audit",
]
DIALOGS = {
    "/datasets": ["#new"],
    "/datasets/{dataset}": ["#captions", "#edit"],
    "/loras": ["#upload"],
    "/account": ["#new-key", "#new-hook"],
    "/control/accounts/{account}": ["#new-key", "#suspend"],
}
LOOKS = [
    pytest.param("light", 1600, id="light-wide"),
    pytest.param("dark", 360, id="dark-narrow"),
    pytest.param("light", 360, id="light-narrow"),
    pytest.param("dark", 1600, id="dark-wide"),
]
Ids = dict[str, str]


@pytest.fixture(scope="module")
def ids(service: Service) -> Ids:
    """One of everything."""
    dataset = service.upload_example("ink-style", "inkstyle")
    params = {"max_steps": 20, "save_every_n_epochs": 1}
    body = {"dataset": dataset, "name": "ink", "params": params, "sample_prompts": ["red heart"]}
    training = service.post("/v1/trainings", body)["id"]
    lora = service.succeed(f"/v1/trainings/{training}")["lora"]
    with transaction() as session:
        account = session.get_one(Dataset, dataset).account_id
    grid = {"prompt": "red heart", "axes": [{"name": "seed", "values": [1, 2]}]}
    comparison = service.post("/v1/comparisons", grid)["id"]
    service.succeed(f"/v1/comparisons/{comparison}")
    hook = service.post("/v1/webhooks", {"url": "https://93.184.215.14/", "events": ["*"]})["id"]
    return {
        "account": account,
        "dataset": dataset,
        "training": training,
        "lora": lora,
        "comparison": comparison,
        "webhook": hook,
        "delivery": service.post(f"/v1/webhooks/{hook}/test")["id"],
        "failed": failed_generation(service),
    }


@pytest.mark.parametrize(("theme", "width"), LOOKS)
@pytest.mark.parametrize("role", ["customer", "operator"])
def test_every_page_is_for_everyone(
    request: pytest.FixtureRequest,
    chromium: Browser,
    address: str,
    ids: Ids,
    role: str,
    theme: str,
    width: int,
    subtests: pytest.Subtests,
) -> None:
    viewport = {"width": width, "height": 900}
    with chromium.new_context(viewport=viewport, color_scheme=theme) as context:
        visitor = visit(context, address)
        if role == "customer":
            visitor.go("/sign-in")
            check(visitor.page, "/sign-in", width)
        visitor.sign_in(request.getfixturevalue(f"{role}_key"))
        for path in STUDIO if role == "customer" else CONTROL:
            with subtests.test(path):
                visitor.go(path.format(**ids))
                check(visitor.page, path, width)
                for dialog in DIALOGS.get(path, ()):
                    visitor.page.locator(f'[data-open="{dialog}"]').first.click()
                    check(visitor.page, f"{path} {dialog}", width)
                    visitor.page.keyboard.press("Escape")
        # That one page is not there is what it is for.
        assert [each for each in visitor.complaints if "/nowhere" not in each] == []


def check(page: Page, path: str, width: int) -> None:
    """No violation that axe-core calls serious or worse, and no scrolling sideways."""
    # For as long as nothing is loading; events and polls would never be.
    page.wait_for_load_state("load")
    found = Axe().run(page).response["violations"]
    grave = [
        {"rule": one["id"], "where": [node["html"][:200] for node in one["nodes"][:3]]}
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert grave == [], f"{path}: {json.dumps(grave, indent=1)}"
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"{path} is {wide} px wide"
