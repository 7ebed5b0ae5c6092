"""Keys: who a bearer token speaks for."""

import hashlib

import pytest
from sqlalchemy import text, update

from app.accounts import keys, service
from app.accounts.models import ApiKey
from app.database import transaction
from app.errors import Unauthenticated

pytestmark = pytest.mark.usefixtures("clean")


def make_key() -> tuple[str, str]:
    with transaction() as session:
        account = service.create_account(session, "customer")
        key, secret = keys.create_key(session, account.id, "test")
        return key.id, secret


def test_only_the_hash_of_a_secret_is_kept():
    key_id, secret = make_key()
    with transaction() as session:
        key = session.get_one(ApiKey, key_id)
        assert key.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
        assert secret.startswith(key.prefix)
        assert len(secret) > len(key.prefix) + 30


def test_a_revoked_key_speaks_for_nobody():
    key_id, secret = make_key()
    with transaction() as session:
        assert keys.authenticate(session, secret).id == key_id
    with transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=text("now()")))
    with transaction() as session, pytest.raises(Unauthenticated):
        keys.authenticate(session, secret)


def test_a_long_request_does_not_hold_up_others_with_the_same_key():
    _, secret = make_key()
    with transaction() as uploading:
        keys.authenticate(uploading, secret)
        with transaction() as polling:
            polling.execute(text("SET LOCAL lock_timeout = '2s'"))
            keys.authenticate(polling, secret)
    with transaction() as session:
        assert keys.authenticate(session, secret).last_used_at is not None


def test_the_first_admin_is_made_once():
    with transaction() as session:
        secret = service.bootstrap_admin(session)
    assert secret is not None
    with transaction() as session:
        assert service.bootstrap_admin(session) is None
        assert "admin" in keys.authenticate(session, secret).scopes
