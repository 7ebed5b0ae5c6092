"""What belongs to the account itself: quotas, usage, keys, webhooks."""

from collections import defaultdict
from datetime import timedelta

from fastapi import APIRouter
from fastapi.responses import Response

from app.accounts import key_routes, usage_routes
from app.accounts.keys import CUSTOMER_SCOPES
from app.accounts.usage import today
from app.accounts.usage_schemas import UsageRead
from app.console.page import PageDep
from app.console.route import PageRoute
from app.web.dependencies import AnyAccount, ManagingKey, PageAfter, SessionDep
from app.webhooks import routes as webhooks
from app.webhooks.names import PATTERNS

router = APIRouter(route_class=PageRoute, include_in_schema=False)

DAYS = 30


@router.get("/account")
def account_page(
    page: PageDep, account: AnyAccount, own: ManagingKey, session: SessionDep
) -> Response:
    """Quotas, usage, keys and webhooks."""
    last = today()
    usage = usage_routes.get_usage(account, session, last - timedelta(days=DAYS - 1), last)
    return page.render(
        "account.html",
        read=usage_routes.get_account(account, session),
        usage=usage,
        days=usage_days(usage),
        keys=key_routes.list_api_keys(own, session, limit=100).data,
        own=own,
        scopes=own.scopes if "admin" in own.scopes else CUSTOMER_SCOPES,
        webhooks=webhooks.list_webhooks(account, session, limit=100).data,
        events=sorted(PATTERNS),
    )


@router.get("/account/webhooks/{webhook_id}")
def webhook_page(
    webhook_id: str,
    page: PageDep,
    account: AnyAccount,
    own: ManagingKey,  # noqa: ARG001 (webhooks are for keys that may manage them)
    session: SessionDep,
    after: PageAfter = None,
) -> Response:
    """One webhook and what was sent to it."""
    return page.render(
        "webhook.html",
        webhook=webhooks.get_webhook(webhook_id, account, session),
        deliveries=webhooks.list_deliveries(webhook_id, account, session, 20, after),
    )


@router.get("/account/webhooks/{webhook_id}/deliveries/{delivery_id}")
def delivery_page(
    webhook_id: str,
    delivery_id: str,
    page: PageDep,
    account: AnyAccount,
    own: ManagingKey,  # noqa: ARG001 (as above)
    session: SessionDep,
) -> Response:
    """One message, and what became of each attempt to send it."""
    return page.render(
        "delivery.html",
        webhook=webhooks.get_webhook(webhook_id, account, session),
        delivery=webhooks.get_delivery(webhook_id, delivery_id, account, session),
    )


def usage_days(usage: UsageRead) -> list[tuple[str, float, int]]:
    """Day, GPU seconds and pictures of each day of the range, those without any included."""
    seconds: defaultdict[str, float] = defaultdict(float)
    images: defaultdict[str, int] = defaultdict(int)
    for row in usage.data:
        seconds[row.day.isoformat()] += row.gpu_seconds
        images[row.day.isoformat()] += row.images
    count = (usage.last_day - usage.first_day).days + 1
    days = [(usage.first_day + timedelta(days=n)).isoformat() for n in range(count)]
    return [(day, seconds[day], images[day]) for day in days]
