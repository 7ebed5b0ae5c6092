"""What routes ask for: a session, the calling account, a page of a list."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated
from weakref import WeakKeyDictionary

import anyio
import structlog
from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.accounts import keys
from app.accounts.keys import CUSTOMER_SCOPES, Scope
from app.accounts.models import Account, ApiKey
from app.audit.service import Actor, act_as
from app.database import new_session, transaction
from app.errors import Overloaded, ScopeMissing, Unauthenticated
from app.isolation import act_for, act_for_everyone, acting_for
from app.settings import get_settings
from app.storage import ObjectStore, get_store
from app.web import browser
from app.web.once import once_of

# How long a request may wait for a transaction of its own.
PLACE_SECONDS = 10.0
# An id that could be: a prefix and 32 hex digits.
ID_PATTERN = r"^[a-z]{2,10}_[0-9a-f]{32}$"
_bearer = HTTPBearer(auto_error=False, description="An API key, `lw_live_…`")


async def get_session() -> AsyncIterator[Session]:
    """One transaction a request, committed when the route returns.

    A request waits here, without a thread, while as many others have a transaction as there may
    be: one that has a connection must never wait for a thread behind those that have none.

    Raises:
        Overloaded: it has waited too long.
    """
    places, request = _places(), object()
    try:
        with anyio.fail_after(PLACE_SECONDS):
            await places.acquire_on_behalf_of(request)
    except TimeoutError as error:
        raise Overloaded(
            f"Too many requests are being answered: none of {places.total_tokens} places was free "
            f"within {PLACE_SECONDS:.0f} s"
        ) from error
    try:
        with new_session() as session:
            try:
                yield session
            except BaseException:
                await run_in_threadpool(session.rollback)
                raise
            await run_in_threadpool(session.commit)
    finally:
        places.release_on_behalf_of(request)


def _places() -> anyio.CapacityLimiter:
    """Transactions that may be open at once in this event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _limiters:
        pool = get_settings().database_pool_size
        # What is left is for those who use a connection within one thread, such as streams.
        _limiters[loop] = anyio.CapacityLimiter(max(1, pool - max(1, pool // 5)))
    return _limiters[loop]


_limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = WeakKeyDictionary()


# With the default scope FastAPI would commit after the answer has left.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
StoreDep = Annotated[ObjectStore, Depends(get_store)]


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def current_key(request: Request, session: SessionDep, credentials: Credentials) -> ApiKey:
    """The key of the Authorization header, in the request's transaction."""
    return _authenticate(request, session, credentials, keeps=True)


def _authenticate(
    request: Request,
    session: Session,
    credentials: HTTPAuthorizationCredentials | None,
    *,
    keeps: bool,
) -> ApiKey:
    if credentials is not None:
        key = keys.authenticate(session, credentials.credentials)
    else:
        key = _signed_in(request, session)
    if (once := once_of(request)) is not None:
        # This runs in a thread: what it sets of the context is not the request's.
        with acting_for(key.account_id):
            once.begin(session, key.account_id, keeps=keeps)
    return key


def _signed_in(request: Request, session: Session) -> ApiKey:
    """The key that the browser's session was made with."""
    visit = browser.session_of(request)
    if visit is None or visit.key_id is None or visit.mark is None:
        raise Unauthenticated("Send an API key: Authorization: Bearer lw_live_…")
    if request.method not in browser.SAFE_METHODS:
        browser.check_token(visit, request.headers.get(browser.TOKEN_HEADER))
    return keys.of_session(session, visit.key_id, visit.mark)


def scoped(scope: Scope) -> Callable[[ApiKey], Awaitable[Account]]:
    """A dependency that yields the account, if its key has the scope (admin has all)."""

    # Async, as it waits for nothing: another hop to a thread would cost more than all it does.
    async def account(key: Annotated[ApiKey, Depends(current_key)]) -> Account:
        _check_scope(key, scope)
        return (await acting_key(key)).account

    return account


async def acting_key(key: Annotated[ApiKey, Depends(current_key)]) -> ApiKey:
    """Any valid key; from now on the request sees its account's rows, and acts in its name."""
    _act(key.account_id, key.id)
    return key


def _act(account_id: str, key_id: str) -> None:
    act_for(account_id)
    structlog.contextvars.bind_contextvars(account_id=account_id)
    act_as(Actor("api", account_id, key_id))


def _check_scope(key: ApiKey, scope: Scope) -> None:
    if scope not in key.scopes and "admin" not in key.scopes:
        raise ScopeMissing(f"This key has the scopes {key.scopes}; {scope} is needed")


async def any_account(key: Annotated[ApiKey, Depends(acting_key)]) -> Account:
    """The account of any valid key."""
    return key.account


async def managing_key(key: Annotated[ApiKey, Depends(acting_key)]) -> ApiKey:
    """The key, if it may manage the account's keys and webhooks: it may do everything else."""
    if "admin" not in key.scopes and not set(CUSTOMER_SCOPES) <= set(key.scopes):
        raise ScopeMissing(
            f"This key has the scopes {key.scopes}; keys and webhooks are managed with one that "
            f"has all of {list(CUSTOMER_SCOPES)}"
        )
    return key


async def managing_account(key: Annotated[ApiKey, Depends(managing_key)]) -> Account:
    """The account of a key that may manage its keys and webhooks."""
    return key.account


async def operator(key: Annotated[ApiKey, Depends(acting_key)]) -> ApiKey:
    """The key of an operator; from now on the request sees the rows of all accounts."""
    if "admin" not in key.scopes or key.account.role != "admin":
        raise ScopeMissing(
            f"This key has the scopes {key.scopes} and its account the role {key.account.role}; "
            "the scope admin and the role admin are needed"
        )
    act_for_everyone()
    return key


def brief(scope: Scope) -> Callable[[tuple[str, str]], Awaitable[str]]:
    """A dependency that yields the account's id, looked up in a transaction of its own.

    For routes that wait, or receive for long: the session of the others would hold its connection
    all the while.
    """

    def looked_up(request: Request, credentials: Credentials) -> tuple[str, str]:
        with transaction() as session:
            key = _authenticate(request, session, credentials, keeps=False)
            _check_scope(key, scope)
            return key.account_id, key.id

    async def account_id(found: Annotated[tuple[str, str], Depends(looked_up)]) -> str:
        _act(*found)
        return found[0]

    return account_id


BriefAccountId = Annotated[str, Depends(brief("generations"))]
BriefDatasetsAccountId = Annotated[str, Depends(brief("datasets"))]
ManagingKey = Annotated[ApiKey, Depends(managing_key)]
ManagingAccount = Annotated[Account, Depends(managing_account)]
Operator = Annotated[ApiKey, Depends(operator)]
AnyAccount = Annotated[Account, Depends(any_account)]
DatasetsAccount = Annotated[Account, Depends(scoped("datasets"))]
TrainingsAccount = Annotated[Account, Depends(scoped("trainings"))]
GenerationsAccount = Annotated[Account, Depends(scoped("generations"))]


async def request_id(request: Request) -> str:
    """The id that every log line of this request carries."""
    return str(request.state.request_id)


async def dry_run(
    request: Request,
    dry_run: Annotated[
        bool, Query(description="Check everything and tell what it would take, but make nothing")
    ] = False,
) -> bool:
    """Whether the request is only tried; then an `Idempotency-Key` stays free for the real one."""
    if dry_run:
        request.state.once = None
    return dry_run


# The first parameter of a route: it must be known before the account is.
DryRun = Annotated[bool, Depends(dry_run)]
RequestId = Annotated[str, Depends(request_id)]
PageLimit = Annotated[int, Query(ge=1, le=100, description="Most items of a page")]
PageAfter = Annotated[
    str | None,
    Query(description="The id to go on after: `next` of the page before", pattern=ID_PATTERN),
]
