"""A job's writes outlast a short absence of Postgres, and not a long one."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.settings import get_settings
from worker import patience
from worker.patience import patiently

pytestmark = pytest.mark.usefixtures("clean")

CUT = "SELECT pg_terminate_backend(pg_backend_pid())"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.0)


def test_a_write_whose_connection_is_cut_is_made_again():
    tries = []

    def write(session):
        tries.append(1)
        if len(tries) < 3:
            session.execute(text(CUT))
        return session.scalar(text("SELECT 7"))

    assert patiently(write) == 7
    assert len(tries) == 3


def test_it_gives_up_when_another_may_have_the_job(monkeypatch):
    short = get_settings().model_copy(update={"lease_seconds": 0.0})
    monkeypatch.setattr(patience, "get_settings", lambda: short)
    with pytest.raises(OperationalError):
        patiently(lambda session: session.execute(text(CUT)))


def test_an_error_of_its_own_is_not_tried_again():
    tries = []

    def write(_session):
        tries.append(1)
        raise LookupError

    with pytest.raises(LookupError):
        patiently(write)
    assert len(tries) == 1
