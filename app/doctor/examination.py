"""Every check in turn, each finding as soon as it is known."""

from collections.abc import Iterator

from app import tables  # noqa: F401 (every table, so that foreign keys between them resolve)
from app.doctor.configuration import configuration
from app.doctor.findings import Finding
from app.doctor.objects import objects
from app.doctor.servers import broker, postgres, storage
from app.doctor.work import work


def examine(*, with_objects: bool, with_hashes: bool) -> Iterator[Finding]:
    """Look at servers, settings and work; at rows and objects where that is asked for.

    Args:
        with_objects: compare rows and objects by presence and size.
        with_hashes: and by SHA-256.
    """
    servers_are_well = True
    for check in (postgres, broker, storage):
        for finding in check():
            servers_are_well = servers_are_well and finding.level != "problem"
            yield finding
    yield from configuration()
    if not servers_are_well:
        # What rests on them would only say the same again, after long waits.
        return
    yield from work()
    if with_objects or with_hashes:
        yield from objects(hashes=with_hashes)
