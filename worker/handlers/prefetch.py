"""While one batch is drawn, the LoRAs of the next requests are fetched and parsed."""

import logging
import threading

from sqlalchemy import select

from app.database import transaction
from app.errors import LorawrightError
from app.generations.models import Generation
from app.jobs import claiming
from worker.handlers.lora_cache import fetch_lora
from worker.ml.inference.bank import AdapterBank
from worker.ml.inference.errors import InferenceError

log = logging.getLogger(__name__)

# How many waiting jobs to look at: about one batch.
LOOK_AHEAD = 8


class Prefetch:
    """A thread that runs beside the drawing and is waited for at the end of the `with` block."""

    def __init__(self, bank: AdapterBank, base_model: str) -> None:
        self._bank = bank
        self._base_model = base_model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # A download under way goes on, and is there for whoever needs it.
        self._thread.join(timeout=0.5)

    def _run(self) -> None:
        try:
            with transaction() as session:
                waiting = claiming.waiting_jobs(session, "generate", LOOK_AHEAD)
                rows = session.execute(
                    select(Generation.id, Generation.loras).where(
                        Generation.id.in_(waiting), Generation.base_model == self._base_model
                    )
                ).all()
            loras = {row.id: row.loras for row in rows}
            for job_id in waiting:
                for lora in loras.get(job_id, []):
                    if self._stop.is_set():
                        return
                    self._bank.load(fetch_lora(lora), lora["sha256"])
        except (LorawrightError, InferenceError) as error:
            # The request itself will meet the same error, and tells its customer.
            log.info("not fetched ahead: %s", error)
        except Exception as error:  # a help that fails must not be more than a line in the log
            log.warning("fetching ahead failed", exc_info=error)
