"""A real browser over the whole service, and everything that can be wrong in it collected."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from app.accounts import keys
from app.accounts import service as accounts
from app.database import transaction
from tests.e2e.conftest import Service, service, watching
from tests.serving import serving

__all__ = ["service", "watching"]

# Debian's, which CI installs; Playwright's own builds would be another download.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 30_000


@dataclass
class Visitor:
    """Somebody with a browser, and what the browser complained of."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the console."""
        self.page.goto(self.address + path)

    def sign_in(self, secret: str) -> None:
        """Sign in through the form."""
        self.go("/sign-in")
        self.page.get_by_label("API key").fill(secret)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(self.address + "/")

    def hear(self, message: ConsoleMessage) -> None:
        """Keep what a developer would see in red; a refused policy is among it."""
        if message.type in ("error", "warning"):
            self.complaints.append(f"{self.page.url}: {message.text}")


@pytest.fixture(scope="package")
def address(service: Service) -> Iterator[str]:  # noqa: ARG001 (its servers)
    """Where the console is served."""
    with serving() as served:
        yield served


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser; without one these tests fail, as they would show nothing."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert path, f"none of {BROWSERS} is installed: apt-get install chromium"
    with sync_playwright() as playwright:
        # Its sandbox needs another user than root, which containers often lack.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(context: BrowserContext, address: str) -> Visitor:
    """A new tab."""
    context.set_default_timeout(TIMEOUT_MS)
    visitor = Visitor(context.new_page(), address)
    visitor.page.on("console", visitor.hear)
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    return visitor


@pytest.fixture(scope="package")
def customer_key(service: Service) -> str:
    """The key of the customer whom the service's client is."""
    return str(service.client.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture(scope="package")
def operator_key(service: Service) -> str:  # noqa: ARG001 (its tables)
    """An operator's key."""
    with transaction() as session:
        account = accounts.create_account(session, "operators", "admin")
        return keys.create_key(session, account.id, "browser", keys.ALL_SCOPES)[1]


@pytest.fixture(scope="package")
def newcomer_key(service: Service) -> str:  # noqa: ARG001 (its tables)
    """The key of a customer who has nothing yet."""
    with transaction() as session:
        account = accounts.create_account(session, "newcomer")
        return keys.create_key(session, account.id, "browser")[1]


@pytest.fixture(scope="package")
def customer(chromium: Browser, address: str, newcomer_key: str) -> Iterator[Visitor]:
    """A newcomer who has signed in; in the end nothing may have been complained of."""
    yield from _signed_in(chromium, address, newcomer_key)


@pytest.fixture(scope="package")
def operator(chromium: Browser, address: str, operator_key: str) -> Iterator[Visitor]:
    """An operator who has signed in."""
    yield from _signed_in(chromium, address, operator_key)


def _signed_in(chromium: Browser, address: str, secret: str) -> Iterator[Visitor]:
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        visitor = visit(context, address)
        visitor.sign_in(secret)
        yield visitor


@pytest.fixture(scope="package")
def ink_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ink style's pictures and captions as an archive."""
    from tests.e2e.conftest import EXAMPLES

    made = shutil.make_archive(
        str(tmp_path_factory.mktemp("zip") / "ink-style"), "zip", EXAMPLES / "ink-style"
    )
    return Path(made)
