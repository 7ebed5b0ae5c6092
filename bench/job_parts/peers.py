"""What ours is measured beside: a bare Celery task, a bare FastAPI route that inserts a row, and a
bare queue in one table.
"""

import os
import time
from typing import Annotated, Any

import redis
from celery import Celery
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import Column, MetaData, String, Table, insert, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.database import get_engine, new_id
from app.web.dependencies import get_session

QUEUE = "bench-bare"
STARTED = "bench:started"

bare = Celery("bench-bare", broker=os.environ.get("LORAWRIGHT_REDIS_URL"))
bare.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    task_default_queue=QUEUE,
    worker_hijack_root_logger=False,
)


@bare.task(name="bench.note_start")
def note_start(token: str) -> None:
    """Tell when this task began, by the clock of this machine."""
    client = redis.Redis.from_url(os.environ["LORAWRIGHT_REDIS_URL"])
    client.lpush(f"{STARTED}:{token}", repr(time.time()))


rows = Table(
    "bench_rows", MetaData(), Column("id", String, primary_key=True), Column("body", JSONB)
)


class Body(BaseModel):
    """Any request."""

    prompt: str
    width: int
    height: int
    steps: int


def create_bare_app() -> FastAPI:
    """One route that puts its body into one row, in a transaction of its own."""
    rows.metadata.create_all(get_engine())
    app = FastAPI()

    @app.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/rows", status_code=201)
    def create(
        body: Body, session: Annotated[Session, Depends(get_session, scope="function")]
    ) -> dict[str, Any]:
        row = {"id": new_id("row"), "body": body.model_dump()}
        session.execute(insert(rows).values(row))
        return row

    return app


_TAKE_OLDEST = text("""
    UPDATE bench_queue SET status = 'running'
    WHERE id = (SELECT id FROM bench_queue WHERE status = 'queued' ORDER BY id LIMIT 1
                FOR UPDATE SKIP LOCKED)
    RETURNING id
""")


def fill_bare_queue(jobs: int) -> None:
    """A queue that knows no accounts, limits, events or leases, with so many rows waiting."""
    with get_engine().begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS bench_queue"))
        connection.execute(text("CREATE TABLE bench_queue (id bigint PRIMARY KEY, status text)"))
        queued = "INSERT INTO bench_queue SELECT n, 'queued' FROM generate_series(1, :jobs) AS n"
        connection.execute(text(queued), {"jobs": jobs})
        connection.execute(text("CREATE INDEX ON bench_queue (id) WHERE status = 'queued'"))
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE bench_queue"))


def claim_bare(session: Session) -> int:
    """Take its oldest row."""
    taken: int = session.scalar(_TAKE_OLDEST)
    return taken
