"""The short form of the fault suite: each fault about once, in about a minute."""

import pytest

from app.cli.embedded import EmbeddedServers
from tests.faults.plans import short_plan
from tests.faults.report import table
from tests.faults.session import disturbed


@pytest.mark.usefixtures("clean")
def test_no_job_is_lost_whatever_is_killed(servers: EmbeddedServers):
    said: list[str] = []
    findings = disturbed(servers, short_plan(), said.append)
    assert findings.sound, "\n".join([*said, table(findings)])
