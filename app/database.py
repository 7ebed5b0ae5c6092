"""Engine, session, Base, and the two things every row needs: an id and a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import uuid6
from sqlalchemy import DateTime, Engine, MetaData, create_engine, event, func, make_url
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from app.isolation import restrict
from app.settings import get_settings

JsonObject = dict[str, Any]


class Base(DeclarativeBase):
    """Parent of every table. Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a class attribute)
        datetime: DateTime(timezone=True),
        JsonObject: JSONB,
        list[JsonObject]: JSONB,
        list[str]: JSONB,
    }


class CreatedAt:
    """Mixin: the time a row was inserted, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


def new_id(prefix: str) -> str:
    """A typed, time-sortable id: `prefix_` and a UUIDv7 in 32 hex digits."""
    return f"{prefix}_{uuid6.uuid7().hex}"


def utc_now() -> datetime:
    """The process's clock; rows that race are compared by the database's instead."""
    return datetime.now(UTC)


# A peer that answers nothing for so long is gone, though nobody has said so: a machine without
# power, a cable that was pulled. Shorter than a lease, or its worker would wait beyond it.
GONE_SECONDS = 25
_PROBES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


@cache
def get_engine() -> Engine:
    """The process's engine: one pool, checked connections, so a restarted Postgres heals."""
    settings = get_settings()
    url = make_url(settings.database_url)
    arguments: dict[str, Any] = {
        "connect_timeout": 5,
        "application_name": "lorawright",
        "tcp_user_timeout": GONE_SECONDS * 1000,
        **_PROBES,
    }
    # Postgres looks for us in the same way: a row that a vanished worker has locked would stay
    # locked for hours otherwise, and the sweep of its job with it.
    if "options" not in url.query:
        arguments["options"] = " ".join(f"-c tcp_{name}={value}" for name, value in _PROBES.items())
    return create_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args=arguments,
    )


@cache
def _session_factory() -> sessionmaker[Session]:
    factory = sessionmaker(get_engine(), expire_on_commit=False)
    event.listen(factory, "do_orm_execute", restrict)
    return factory


def new_session() -> Session:
    """A session that the caller commits and closes."""
    return _session_factory()()


@contextmanager
def transaction() -> Iterator[Session]:
    """One transaction: committed at the end of the block, rolled back on any exception."""
    with new_session() as session, session.begin():
        yield session
