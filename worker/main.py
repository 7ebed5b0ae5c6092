"""Celery's entry to the worker: `celery -A worker.main worker -Q train,generate …`."""

import logging
from typing import Any

from celery.signals import setup_logging, worker_process_init, worker_shutting_down

from app.broker import celery_app
from app.catalog import load_catalog
from app.content.rules import load as load_content_rules
from app.database import get_engine
from app.logs import configure_logs
from app.settings import get_settings
from worker import tasks
from worker.drain import start_draining

log = logging.getLogger(__name__)

__all__ = ["celery_app", "tasks"]


# One that cannot be used stops the worker here, not at its first job.
load_catalog(get_settings().catalog_path)
load_content_rules()


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    configure_logs(get_settings().log_level)


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    # A connection opened in the parent must not be shared with the child.
    get_engine().dispose(close=False)


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    log.info("stopping: no more jobs are claimed, the running one saves its work")
    start_draining()
