"""A small client of the REST API: public endpoints alone, and errors a person can read."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.cli.errors import CommandError
from app.cli.sse import ServerEvent, parse_events

ENDED = frozenset({"succeeded", "failed", "canceled"})
POLL_SECONDS = 0.5
# A stream that stays silent for so long is given up and opened again.
SILENCE_SECONDS = 60.0
# How long the server may take to check and store a file it has received.
CHECKED_SECONDS = 600.0
# How often a request is tried whose connection broke, or that was answered "try again".
ATTEMPTS = 5
# Errors after which a request surely has not arrived.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
RETRY_SECONDS = 0.5

Json = dict[str, Any]
# Told a job as the API shows it, again and again until it ends.
OnJob = Callable[[Json], None]


class ApiError(CommandError):
    """The server refused: a stable, documented `code`, and one line for a person."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class JobFailed(CommandError):
    """A job ended otherwise than `succeeded`."""


class Client:
    """One server, one key. Close it, or use it in a `with` block."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """No request is sent yet; `transport` is httpx's own unless a test gives another."""
        self.url = url.rstrip("/")
        self._reached = False
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(60, connect=5),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> Json:
        """An object under /v1."""
        return self._send(lambda: self._http.get(f"/v1{path}", params=params))

    def post(self, path: str, body: Json) -> Json:
        """Create something under /v1. Not sent again once it may have arrived."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._send(
            lambda: self._http.post(f"/v1{path}", json=body, headers=headers), again=NOT_SENT
        )

    def upload(self, path: str, files: Sequence[Path]) -> Json:
        """Send files as multipart parts named `files`."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def send() -> httpx.Response:
            opened = [(file.name, file.open("rb")) for file in files]
            try:
                return self._http.post(
                    f"/v1{path}", files=[("files", part) for part in opened], headers=headers
                )
            finally:
                for _, handle in opened:
                    handle.close()

        return self._send(send, again=NOT_SENT)

    def upload_one(self, path: str, file: Path, fields: Mapping[str, str]) -> Json:
        """Send one file as the part `file` of a form, and the form's other fields."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def send() -> httpx.Response:
            with file.open("rb") as handle:
                return self._http.post(
                    f"/v1{path}",
                    files={"file": (file.name, handle)},
                    data=dict(fields),
                    headers=headers,
                    timeout=httpx.Timeout(60, connect=5, read=CHECKED_SECONDS),
                )

        return self._send(send, again=NOT_SENT)

    def every(self, path: str, **params: str | int) -> Iterator[Json]:
        """Every item of a list, newest first, a page at a time."""
        after: dict[str, str | int] = {}
        while True:
            page = self.get(path, limit=100, **params, **after)
            yield from page["data"]
            if not page.get("has_more"):
                return
            after = {"after": page["next"]}

    def download(self, address: str, target: Path) -> None:
        """Save what a path of this server, or any http address, answers; `target` appears whole.

        A file that is still being made is asked for again.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._save(address, target)
                return
            except ApiError as error:
                if error.status != 503 or attempt == ATTEMPTS:
                    raise
            time.sleep(RETRY_SECONDS * 2**attempt)

    def _save(self, address: str, target: Path) -> None:
        partial = target.with_name(target.name + ".part")
        try:
            with self._open(address) as response, partial.open("wb") as file:
                self._raise_for_status(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
            partial.replace(target)
        except httpx.TransportError as error:
            raise CommandError(f"{target.name} could not be downloaded: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def follow(self, path: str, on_job: OnJob) -> Json:
        """Wait for the job at `path` to end, telling `on_job` of each change.

        Events make it prompt. Where the stream breaks it is taken up after the last event; where
        there is none, the job is asked for twice a second. Returns the job's last state.
        """
        job = self.get(path)
        on_job(job)
        last_id: str | None = None
        next_look = 0.0
        while job["status"] not in ENDED:
            try:
                for event in self._events(path, last_id):
                    last_id = event.id or last_id
                    due = event.type == "progress" and time.monotonic() >= next_look
                    if due or event.type == "status":
                        job = self.get(path)
                        on_job(job)
                        next_look = time.monotonic() + POLL_SECONDS
                        if job["status"] in ENDED:
                            break
            except (httpx.TransportError, ApiError):
                pass  # polling below tells the truth, whatever became of the stream
            if job["status"] not in ENDED:
                time.sleep(POLL_SECONDS)
                job = self.get(path)
                on_job(job)
        return job

    def wait(self, path: str, on_job: OnJob) -> Json:
        """`follow`, for a job that must succeed.

        Raises:
            JobFailed: it ended otherwise; the text carries the job's own error.
        """
        job = self.follow(path, on_job)
        if job["status"] != "succeeded":
            error = job.get("error") or {}
            said = f": {error['message']} ({error['code']})" if error else ""
            raise JobFailed(f"{job['id']} {job['status']}{said}")
        return job

    def _events(self, path: str, last_id: str | None) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(5, read=SILENCE_SECONDS)
        with self._http.stream(
            "GET", f"/v1{path}/events", headers=headers, timeout=timeout
        ) as response:
            self._raise_for_status(response)
            yield from parse_events(response.iter_lines())

    @contextmanager
    def _open(self, address: str) -> Iterator[httpx.Response]:
        """The answer, after at most one redirect. Only our own server is shown the key."""
        if address.startswith("/"):
            with self._http.stream("GET", address) as response:
                if not response.is_redirect:
                    yield response
                    return
                address = response.headers["Location"]
        with httpx.stream("GET", address, timeout=60) as response:
            yield response

    def _send(
        self,
        send: Callable[[], httpx.Response],
        again: tuple[type[httpx.TransportError], ...] = (httpx.TransportError,),
    ) -> Json:
        """Send, and send again after the errors of `again` or when told to come back."""
        for attempt in range(1, ATTEMPTS + 1):
            pause = RETRY_SECONDS * 2**attempt
            try:
                response = send()
                self._reached = True
                if response.status_code not in (429, 503) or attempt == ATTEMPTS:
                    break
                after = response.headers.get("Retry-After", "")
                pause = float(after) if after.isdigit() else pause
            except httpx.TransportError as error:
                # A server that has answered before is coming back; one that never did is not there.
                if attempt == ATTEMPTS or not self._reached or not isinstance(error, again):
                    raise CommandError(
                        f"{self.url} cannot be reached ({error}); is it running?"
                    ) from error
            time.sleep(min(pause, 30.0))
        self._raise_for_status(response)
        try:
            return dict(response.json())
        except ValueError as error:
            raise CommandError(f"{response.url} did not answer with a JSON object") from error

    def _raise_for_status(self, response: httpx.Response) -> None:
        if not response.is_success:
            response.read()
            raise api_error(response.status_code, response.text)


def api_error(status: int, body: str) -> ApiError:
    """A problem+json answer (or whatever else came) as one readable line."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "title" not in problem:
        return ApiError(status, "unknown", f"the server answered {status}: {body[:200].strip()}")
    code = str(problem.get("code", "unknown"))
    text = str(problem.get("detail") or problem["title"])
    wrong = "; ".join(
        f"{item.get('pointer', '?')}: {item.get('detail', '')}"
        for item in problem.get("errors") or []
        # Some details repeat their fields already.
        if isinstance(item, dict) and str(item.get("detail", "")) not in text
    )
    if wrong:
        text = f"{text}: {wrong}"
    return ApiError(status, code, f"{text} ({status} {code})")
