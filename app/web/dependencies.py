"""What routes ask for: a session, the calling account, a page of a list."""

from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.accounts.models import Account, ApiKey
from app.accounts.service import Scope
from app.database import transaction
from app.errors import ScopeMissing, Unauthenticated
from app.storage import ObjectStore, get_store

_bearer = HTTPBearer(auto_error=False, description="An API key, `lw_live_…`")


def get_session() -> Iterator[Session]:
    """One transaction a request, committed when the route returns."""
    with transaction() as session:
        yield session


# With the default scope FastAPI would commit after the answer has left.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
StoreDep = Annotated[ObjectStore, Depends(get_store)]


Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def current_key(session: SessionDep, credentials: Credentials) -> ApiKey:
    """The key of the Authorization header."""
    if credentials is None:
        raise Unauthenticated("Send an API key: Authorization: Bearer lw_live_…")
    return accounts.authenticate(session, credentials.credentials)


def scoped(scope: Scope) -> Callable[[ApiKey], Account]:
    """A dependency that yields the account, if its key has the scope (admin has all)."""

    def account(key: Annotated[ApiKey, Depends(current_key)]) -> Account:
        if scope not in key.scopes and "admin" not in key.scopes:
            raise ScopeMissing(f"This key has the scopes {key.scopes}; {scope} is needed")
        return key.account

    return account


def any_account(key: Annotated[ApiKey, Depends(current_key)]) -> Account:
    """The account of any valid key."""
    return key.account


def brief(scope: Scope) -> Callable[[HTTPAuthorizationCredentials | None], str]:
    """A dependency that yields the account's id, looked up in a transaction of its own.

    For routes that wait, or receive for long: the session of the others would hold its connection
    all the while.
    """

    def account_id(credentials: Credentials) -> str:
        with transaction() as session:
            return scoped(scope)(current_key(session, credentials)).id

    return account_id


BriefAccountId = Annotated[str, Depends(brief("generations"))]
BriefDatasetsAccountId = Annotated[str, Depends(brief("datasets"))]
AnyAccount = Annotated[Account, Depends(any_account)]
DatasetsAccount = Annotated[Account, Depends(scoped("datasets"))]
TrainingsAccount = Annotated[Account, Depends(scoped("trainings"))]
GenerationsAccount = Annotated[Account, Depends(scoped("generations"))]


def request_id(request: Request) -> str:
    """The id that every log line of this request carries."""
    return str(request.state.request_id)


RequestId = Annotated[str, Depends(request_id)]
PageLimit = Annotated[int, Query(ge=1, le=100, description="Most items of a page")]
PageAfter = Annotated[str | None, Query(description="The id to go on after", max_length=60)]
