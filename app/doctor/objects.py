"""Rows against objects: what is named and not there, what is there and not named."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import select

from app.database import transaction, utc_now
from app.doctor import rows
from app.doctor.findings import Finding, at_most, ok, problem, warning
from app.doctor.rows import Named
from app.errors import NotFound, StorageUnavailable
from app.retention import references
from app.retention import service as retention
from app.retention.models import DoomedObject
from app.settings import get_settings
from app.storage import ObjectStore, StoredObject, get_store

# Requests to storage at the same time; its client keeps twice as many connections.
THREADS = 16
WHAT_TO_DO = (
    "put it back from the bucket's backup or an older version of it; or else delete what shows it "
    "(docs/keeping.md)"
)


def objects(*, hashes: bool) -> Iterator[Finding]:
    """Compare both ways. Memory does not grow with the number of rows or objects.

    Args:
        hashes: also read every object whose row knows its SHA-256, whole.
    """
    try:
        yield from at_most(_rows_without_objects(get_store(), hashes=hashes))
        yield from at_most(_objects_without_rows(get_store()))
    except StorageUnavailable as error:
        yield problem(
            "objects", f"not looked through to the end: {error.detail}", "see what is said of s3"
        )


def _rows_without_objects(store: ObjectStore, *, hashes: bool) -> Iterator[Finding]:
    count = wrong = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for page in rows.pages():
            count += len(page)
            found = pool.map(lambda named: _look(store, named, hashes=hashes), page)
            bad = [finding for finding in found if finding is not None]
            # What was deleted meanwhile is missed by nobody.
            for finding in _still_needed(bad):
                wrong += 1
                yield finding
    if not wrong:
        how = "size and SHA-256" if hashes else "size"
        yield ok("objects", f"all {count} that rows name are there, by {how}")


def _look(store: ObjectStore, named: Named, *, hashes: bool) -> Finding | None:
    key, who = named.object_key, named.shown_by
    size = store.size(key)
    if size is None:
        return problem("objects.missing", f"{key} is missing: {who}", WHAT_TO_DO, key)
    if named.bytes is not None and size != named.bytes:
        text = f"{key} has {size} bytes, not {named.bytes}: {who}"
        return problem("objects.size", text, WHAT_TO_DO, key)
    if hashes and named.sha256 is not None:
        try:
            found = store.sha256(key)
        except NotFound:
            return problem("objects.missing", f"{key} is missing: {who}", WHAT_TO_DO, key)
        if found != named.sha256:
            text = f"{key} has the SHA-256 {found}, not {named.sha256}: {who}"
            return problem("objects.hash", text, WHAT_TO_DO, key)
    return None


def _still_needed(findings: Sequence[Finding]) -> Iterator[Finding]:
    by_account: dict[str | None, list[Finding]] = {}
    for finding in findings:
        assert finding.object_key is not None, "each is about an object"
        account_id = references.account_of(finding.object_key)
        by_account.setdefault(account_id, []).append(finding)
    for account_id, found in by_account.items():
        unneeded: list[str] = []
        if account_id is not None:
            keys = [finding.object_key for finding in found if finding.object_key is not None]
            with transaction() as session:
                unneeded = retention.sort_out(session, account_id, keys)[0]
        yield from (finding for finding in found if finding.object_key not in unneeded)


def _objects_without_rows(store: ObjectStore) -> Iterator[Finding]:
    settings = get_settings()
    newest = utc_now() - timedelta(seconds=settings.orphan_age_seconds)
    count = young = waiting = 0
    for page in store.pages("accounts/"):
        count += len(page)
        unneeded, doomed = _unneeded(page)
        waiting += len(doomed)
        for found in unneeded:
            if found.modified_at > newest:
                young += 1
            else:
                yield warning(
                    "objects.orphan",
                    f"{found.key} of {found.modified_at:%Y-%m-%d %H:%M} is named by no row",
                    "nothing: the sweep of orphans removes it (LORAWRIGHT_ORPHAN_SWEEP_SECONDS); "
                    "after a restore, stop beat if you still look for a newer dump",
                )
    yield ok(
        "objects.stored",
        f"{count} looked through; {young} without a row are younger than "
        f"{settings.orphan_age_seconds:g} s, {waiting} wait to be removed",
    )


def _unneeded(page: Sequence[StoredObject]) -> tuple[list[StoredObject], set[str]]:
    """Those that nothing needs, without and with those that the sweeper knows of already."""
    by_account: dict[str, list[str]] = {}
    for found in page:
        account_id = references.account_of(found.key)
        if account_id is not None:
            by_account.setdefault(account_id, []).append(found.key)
    unneeded: set[str] = set()
    with transaction() as session:
        for account_id, keys in by_account.items():
            unneeded |= set(retention.sort_out(session, account_id, keys)[0])
        doomed = set(
            session.scalars(
                select(DoomedObject.object_key).where(DoomedObject.object_key.in_(unneeded))
            )
        )
    return [found for found in page if found.key in unneeded - doomed], doomed
