"""API keys over HTTP: an account's own."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Request

from app.accounts import keys, quotas
from app.accounts.key_schemas import ApiKeyCreate, ApiKeyMade, ApiKeyRead, ApiKeyRotate
from app.accounts.keys import CUSTOMER_SCOPES
from app.accounts.models import ApiKey
from app.errors import ScopeMissing
from app.web.dependencies import ManagingKey, PageAfter, PageLimit, SessionDep
from app.web.once import OnceRoute, keep_without_secret
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/api-keys", tags=["account"], route_class=OnceRoute)
routers = [router]


@router.post("", status_code=201)
def create_api_key(
    body: ApiKeyCreate, own: ManagingKey, session: SessionDep, request: Request
) -> ApiKeyMade:
    """Make a key. Its secret is shown in this answer and never again."""
    if beyond := [scope for scope in body.scopes if scope not in _givable(own)]:
        raise ScopeMissing(f"This key has the scopes {own.scopes} and cannot give {beyond}")
    quotas.take(session, own.account_id, api_keys=1)
    scopes = tuple(scope for scope in keys.ALL_SCOPES if scope in body.scopes)
    key, secret = keys.create_key(session, own.account_id, body.name, scopes, body.expires_at)
    session.refresh(key)
    return made(request, key, secret)


@router.get("")
def list_api_keys(
    own: ManagingKey, session: SessionDep, limit: PageLimit = 20, after: PageAfter = None
) -> Page[ApiKeyRead]:
    """The account's keys, newest first; those that no longer work are listed too."""
    rows = keys.list_newest(session, own.account_id, limit=limit + 1, after=after)
    return page_of(rows, limit, _read)


@router.get("/{key_id}")
def get_api_key(key_id: str, own: ManagingKey, session: SessionDep) -> ApiKeyRead:
    """One key, without its secret."""
    return _read(keys.get(session, own.account_id, key_id))


@router.post("/{key_id}/rotate")
def rotate_api_key(
    key_id: str,
    own: ManagingKey,
    session: SessionDep,
    request: Request,
    body: Annotated[ApiKeyRotate | None, Body()] = None,
) -> ApiKeyMade:
    """Give a key a new secret; the one before works on for `overlap_seconds`."""
    key = keys.get(session, own.account_id, key_id, to_change=True)
    _check_not_above(own, key)
    overlap = timedelta(seconds=(body or ApiKeyRotate()).overlap_seconds)
    return made(request, key, keys.rotate(session, key, overlap))


@router.delete("/{key_id}", status_code=204)
def revoke_api_key(key_id: str, own: ManagingKey, session: SessionDep) -> None:
    """Let a key work no more, from the next request on; it may be the one that asks."""
    key = keys.get(session, own.account_id, key_id, to_change=True)
    _check_not_above(own, key)
    keys.revoke(session, key)


def _givable(own: ApiKey) -> set[str]:
    return set(own.scopes) | (set(CUSTOMER_SCOPES) if "admin" in own.scopes else set())


def _check_not_above(own: ApiKey, key: ApiKey) -> None:
    """A new secret of a key is that key: nobody gets scopes by it that he does not have."""
    if beyond := [scope for scope in key.scopes if scope not in _givable(own)]:
        raise ScopeMissing(f"This key has the scopes {own.scopes}; {key.id} has {beyond} besides")


def made(request: Request, key: ApiKey, secret: str) -> ApiKeyMade:
    """The answer that shows a secret, which is not kept with it."""
    answer = ApiKeyMade(**_read(key).model_dump(), secret=secret)
    keep_without_secret(request, answer)
    return answer


def _read(key: ApiKey) -> ApiKeyRead:
    return ApiKeyRead.model_validate(key, from_attributes=True)
