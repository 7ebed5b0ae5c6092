"""A browser's session: a signed cookie that names the key somebody signed in with.

The cookie holds no secret: the key's id, and a mark of its secret, so that a revoked, expired or
rotated key ends every session made with it. Requests that change something also carry a token that
only the service's own pages know (OWASP's signed double-submit cookie).
"""

import logging
import secrets
from dataclasses import asdict, dataclass
from functools import cache

from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.errors import CsrfTokenMissing
from app.settings import get_settings

log = logging.getLogger(__name__)

COOKIE = "lorawright_session"
TOKEN_HEADER = "X-CSRF-Token"
TOKEN_FIELD = "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class BrowserSession:
    """One browser; `key_id` and `mark` are None until somebody has signed in."""

    nonce: str
    key_id: str | None = None
    mark: str | None = None

    @classmethod
    def new(cls, key_id: str | None = None, mark: str | None = None) -> "BrowserSession":
        """A session that has a token of its own: signing in changes it."""
        return cls(secrets.token_urlsafe(16), key_id, mark)

    @property
    def token(self) -> str:
        """What forms and scripts send along with whatever changes something."""
        return _token_signer().get_signature(self.nonce).decode()


def session_of(connection: HTTPConnection) -> BrowserSession | None:
    """The session of a request's cookie; None without one, or of one that is not ours or too old.

    Args:
        connection: the request.
    """
    told = connection.cookies.get(COOKIE)
    if told is None:
        return None
    try:
        fields = _serializer().loads(told, max_age=get_settings().console_session_seconds)
        return BrowserSession(**fields)
    except (BadSignature, TypeError):
        return None


def keep(response: Response, session: BrowserSession, *, secure: bool) -> None:
    """Have the browser keep a session.

    Args:
        secure: the page came over https, and so must every request with the cookie.
    """
    response.set_cookie(
        COOKIE,
        _serializer().dumps(asdict(session)),
        max_age=get_settings().console_session_seconds,
        httponly=True,
        secure=secure,
        # Strict would show the sign-in page to whoever follows a link from a mail or a chat.
        samesite="lax",
    )


def forget(response: Response) -> None:
    """Have the browser drop its session."""
    response.delete_cookie(COOKIE)


def check_token(session: BrowserSession, told: str | None) -> None:
    """Refuse what one of our own pages did not send.

    Raises:
        CsrfTokenMissing: no token, or another session's.
    """
    if told is None or not _token_signer().verify_signature(session.nonce, told):
        raise CsrfTokenMissing(
            "The request came with a session cookie, but without that session's token "
            f"({TOKEN_HEADER}); load the page again"
        )


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(_secrets(), salt="lorawright.session")


def _token_signer() -> Signer:
    return Signer(_secrets(), salt="lorawright.csrf")


@cache
def _secrets() -> list[str]:
    """What is accepted; the last of them signs."""
    settings = get_settings()
    signing = settings.session_secret
    if signing is None:
        log.warning(
            "LORAWRIGHT_SESSION_SECRET is not set: sign-ins last as long as this process, and "
            "several processes do not know each other's"
        )
        return [secrets.token_hex(32)]
    also = settings.session_secret_also_accepted
    return [*([also.get_secret_value()] if also else []), signing.get_secret_value()]
