"""Celery's entry to the worker: `celery -A worker.main worker -Q train,generate …`."""

import logging
from typing import Any

from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)

from app.broker import celery_app
from app.catalog import load_catalog
from app.content.rules import load as load_content_rules
from app.database import get_engine
from app.settings import get_settings
from app.tracing import configure_tracing, shut_down
from worker import metrics, tasks
from worker.drain import start_draining
from worker.presence import Presence

log = logging.getLogger(__name__)

__all__ = ["celery_app", "tasks"]


# One that cannot be used stops the worker here, not at its first job.
load_catalog(get_settings().catalog_path)
load_content_rules()


# Of this process, once it is a child that runs jobs.
_presence: list[Presence] = []


@worker_init.connect
def _check(**_: Any) -> None:
    metrics.check_port()


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    # A connection opened in the parent must not be shared with the child.
    get_engine().dispose(close=False)
    configure_tracing("lorawright-worker")
    metrics.serve()
    _presence.append(Presence())
    _presence[0].begin()


@worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    for presence in _presence:
        presence.end()
    shut_down()


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    log.info("stopping: no more jobs are claimed, the running one saves its work")
    start_draining()
