"""An operator's work: workers drained, failed jobs tried again, accounts made and suspended."""

import re

from playwright.sync_api import expect

from app.database import transaction
from app.jobs.models import Job
from tests.browser.conftest import Visitor
from tests.e2e.conftest import Service


def failed_generation(service: Service) -> str:
    """A job that has failed, as a worker that died would leave it."""
    job = service.post("/v1/generations", {"prompt": "a red apple", "seed": 3})
    service.succeed(f"/v1/generations/{job['id']}")
    with transaction() as session:
        row = session.get_one(Job, job["id"])
        row.status, row.error_code, row.error_message = "failed", "worker_lost", "No worker came"
        row.error_retryable = True
    return str(job["id"])


def test_a_worker_is_drained_and_works_again(operator: Visitor) -> None:
    page = operator.page
    operator.go("/control")
    expect(page.get_by_role("button", name="Drain")).to_have_count(2)
    worker = page.get_by_role("row").filter(has_text="generate").filter(has_text="idle")
    worker.get_by_role("button", name="Drain").click()
    resting = page.get_by_role("row").filter(has_text="resting")
    expect(resting).to_contain_text("told to rest")
    resting.get_by_role("button", name="Let").click()
    expect(page.get_by_role("button", name="Drain")).to_have_count(2)


def test_a_failed_job_is_found_by_its_reason_and_tried_again(
    service: Service, operator: Visitor
) -> None:
    page, job = operator.page, failed_generation(service)
    operator.go("/control")
    page.get_by_role("link", name="worker_lost").click()
    page.get_by_label(f"Select {job}").check()
    expect(page.locator("#picked")).to_have_text("1 selected")
    page.get_by_role("button", name="Try them again").click()
    expect(page.locator("#toasts")).to_contain_text("1 done")
    operator.go("/control/jobs?kind=generation")
    expect(page.locator("#jobs tbody tr")).not_to_have_count(1)
    page.get_by_role("link", name=job).click()
    expect(page.get_by_text("No worker came")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    page.wait_for_url(lambda url: "/control/jobs/gen_" in url and job not in url)


def test_an_account_is_made_and_suspended(operator: Visitor) -> None:
    page = operator.page
    operator.go("/control/accounts")
    page.get_by_role("button", name="New account").click()
    page.get_by_label("Name").fill("<script>new</script>")
    page.get_by_role("button", name="Make it").click()
    page.wait_for_url("**/control/accounts/acct_*")
    page.get_by_role("button", name="New key").click()
    page.locator("#new-key").get_by_label("Name").fill("first")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#secret code")).to_contain_text("lw_live_")
    page.get_by_role("button", name="I have kept it").click()
    expect(page.get_by_role("rowheader", name="first")).to_be_visible()
    page.get_by_role("textbox", name="datasets").fill("3")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_role("row", name=re.compile("^datasets"))).to_contain_text("3")
    page.get_by_role("button", name="Suspend").click()
    page.get_by_label("Reason").fill("unpaid")
    page.locator("#suspend").get_by_role("button", name="Suspend").click()
    expect(page.get_by_text("Suspended").first).to_contain_text("unpaid")
    operator.go("/control/audit?action=account.")
    expect(page.get_by_role("rowheader", name="account.suspend")).to_be_visible()


def test_nothing_was_complained_of(operator: Visitor) -> None:
    assert operator.complaints == []
