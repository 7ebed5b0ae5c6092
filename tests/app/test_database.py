"""Connections to Postgres: either side notices that the other is gone."""

from sqlalchemy import text

from app.database import GONE_SECONDS, get_engine
from app.settings import Settings


def test_postgres_notices_within_a_lease_that_a_worker_has_vanished(servers) -> None:  # noqa: ARG001
    with get_engine().connect() as connection:
        asked = {
            name: int(str(connection.scalar(text(f"SHOW tcp_keepalives_{name}"))))
            for name in ("idle", "interval", "count")
        }
    silent = asked["idle"] + asked["interval"] * asked["count"]
    assert asked["idle"] > 0, "probes are sent"
    assert silent <= GONE_SECONDS < Settings.model_fields["lease_seconds"].default
