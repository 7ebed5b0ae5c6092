"""Sends webhooks: one thread of a worker, many deliveries at once, beside whatever it else does."""

import asyncio
import logging
import ssl
import threading
import time
from collections import Counter

import httpx

from app.database import transaction
from app.settings import get_settings
from app.webhooks import sending, signing
from app.webhooks.addresses import AddressRefused, Target, check_url
from app.webhooks.sending import Outcome, Sending
from worker import metrics

log = logging.getLogger(__name__)

MOST_AT_ONCE = 50
# How soon what has become due is begun while others are under way.
LOOK_SECONDS = 0.5
# Of an answer, for whoever looks why a delivery failed.
ANSWER_BYTES = 1024
USER_AGENT = "Lorawright-Webhooks/1"


class Deliverer:
    """Sends what is due once it is rung for, and rests when nothing is left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rung = False
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """See to it that what is due now is sent; returns at once."""
        with self._lock:
            self._rung = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait until nothing is left to send."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._rung:
                    self._thread = None
                    return
                self._rung = False
            try:
                asyncio.run(_send_due())
            except Exception:  # the next ring tries again; the worker's jobs must not suffer
                log.warning("webhooks are not sent", exc_info=True)


async def _send_due() -> None:
    """Send until nothing is due or under way."""
    under_way: dict[asyncio.Task[Outcome], Sending] = {}
    verify = await asyncio.to_thread(_certificates)
    # Connections are not kept: one that was checked for one name must not serve another.
    limits = httpx.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        verify=verify, limits=limits, trust_env=False, follow_redirects=False, timeout=None
    ) as client:
        while True:
            each = Counter(one.endpoint_id for one in under_way.values())
            busy = {name for name, count in each.items() if count >= sending.MOST_AN_ENDPOINT}
            for one in await asyncio.to_thread(_claim, MOST_AT_ONCE - len(under_way), busy):
                under_way[asyncio.create_task(send(client, one))] = one
            if not under_way:
                return
            done, _ = await asyncio.wait(
                under_way, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                await asyncio.to_thread(_record, under_way.pop(task), task.result())


async def send(client: httpx.AsyncClient, one: Sending) -> Outcome:
    """One attempt, in no more than the time it may take."""
    began = time.monotonic()
    status, error, answer = None, None, ""
    limit = get_settings().webhook_timeout_seconds
    try:
        async with asyncio.timeout(limit):
            target = await asyncio.to_thread(check_url, one.url)
            status, answer = await _post(client, target, one)
            if 300 <= status < 400:
                error = "it answered with a redirect, which is not followed"
    except AddressRefused as refused:
        error = str(refused)
    except TimeoutError:
        error = f"no whole answer within {limit:g} s"
    except (httpx.HTTPError, ssl.SSLError, OSError) as failed:
        error = f"{type(failed).__name__}: {failed}"[:500]
    return Outcome(status, round((time.monotonic() - began) * 1000), error, answer)


async def _post(client: httpx.AsyncClient, target: Target, one: Sending) -> tuple[int, str]:
    """Connect to the address that was checked, and speak to the host that was meant."""
    body = one.body.encode()
    headers = {
        **signing.headers(one.id, int(time.time()), body, one.secrets),
        "host": target.authority,
        "content-type": "application/json",
        "user-agent": USER_AGENT,
    }
    address = f"[{target.address}]" if ":" in target.address else target.address
    async with client.stream(
        "POST",
        f"{target.scheme}://{address}:{target.port}{target.path}",
        content=body,
        headers=headers,
        # The name that the certificate must be for.
        extensions={"sni_hostname": target.host},
    ) as response:
        answer = b""
        async for chunk in response.aiter_raw():
            answer += chunk
            if len(answer) >= ANSWER_BYTES:
                break
    # Postgres holds no NUL.
    answer = answer[:ANSWER_BYTES].replace(b"\0", b"?")
    return response.status_code, answer.decode("utf-8", "replace")


def _certificates() -> ssl.SSLContext:
    file = get_settings().webhook_ca_file
    return ssl.create_default_context(cafile=None if file is None else str(file))


def _claim(most: int, busy: set[str]) -> list[Sending]:
    with transaction() as session:
        return sending.claim_due(session, most, busy)


def _record(one: Sending, outcome: Outcome) -> None:
    with transaction() as session:
        sending.record(session, one, outcome)
    metrics.WEBHOOK_ATTEMPTS.labels("delivered" if outcome.succeeded else "failed").inc()
    if not outcome.succeeded:
        log.info("webhook %s attempt %d: %s %s", one.id, one.attempt, outcome.status, outcome.error)


deliverer = Deliverer()
