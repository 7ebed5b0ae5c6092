"""A thread of each process that runs jobs: it reports that it lives, and hears what is ordered."""

import logging
import sys
import threading
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.broker import WORK_QUEUES, celery_app, wake
from app.database import transaction, utc_now
from app.settings import get_settings
from app.workers import service
from app.workers.service import Report
from worker import alive
from worker.drain import obey
from worker.runner import worker_id

log = logging.getLogger(__name__)


class Presence:
    """Reports while its process lives."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._started_at = utc_now()
        self._queues = tuple(celery_app.amqp.queues.consume_from)
        self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)

    def begin(self) -> None:
        """Report from now on."""
        self._thread.start()

    def end(self) -> None:
        """Be gone in good order."""
        self._ended.set()
        with suppress(OSError):
            alive.end()
        with suppress(SQLAlchemyError), transaction() as session:
            service.leave(session, worker_id())

    def report(self) -> None:
        """Report once, and do as is ordered."""
        told = Report(
            id=worker_id(),
            queues=self._queues,
            version=version("lorawright"),
            started_at=self._started_at,
            **_gpu(),
        )
        with transaction() as session:
            order = service.report(session, told)
        if obey(order):
            # What it was rung for meanwhile it has let pass.
            for queue in self._queues:
                if queue in WORK_QUEUES:
                    wake(queue)

    def _beat(self) -> None:
        while not self._ended.is_set():
            # Said before Postgres is asked: that it is away is no reason to end a worker.
            with suppress(OSError):
                alive.beat()
            try:
                self.report()
            except SQLAlchemyError as error:
                # Jobs have their own leases; orders can wait until Postgres is back.
                log.warning("not reported: %s", error)
            self._ended.wait(get_settings().heartbeat_seconds)


def _gpu() -> dict[str, Any]:
    """The GPU in use; nothing is loaded or initialised to find out."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "device": torch.cuda.get_device_name(),
        "gpu_memory_bytes": total,
        "gpu_memory_free_bytes": free,
    }
