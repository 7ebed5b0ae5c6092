"""Writes that outlast a restart of Postgres: a job's hours are not given up for its seconds."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.database import transaction
from app.settings import get_settings

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
# What SQLAlchemy raises when a connection cannot be had or breaks.
AWAY = (OperationalError, InterfaceError)

Result = TypeVar("Result")


def patiently(write: Callable[[Session], Result]) -> Result:
    """Call `write` with a transaction; again and again while Postgres is away.

    It may be called more than once, and its first commit may have been the one whose answer was
    lost: what it writes must be under the fence, and the same each time.

    Raises:
        OperationalError, InterfaceError: Postgres was away for a whole lease, so that another may
            have the job.
    """
    ends = time.monotonic() + get_settings().lease_seconds
    while True:
        try:
            with transaction() as session:
                return write(session)
        except AWAY as error:
            if time.monotonic() > ends:
                raise
            log.warning("Postgres is away, trying again: %s", type(error).__name__)
            time.sleep(AGAIN_SECONDS)
