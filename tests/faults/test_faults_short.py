"""The short form of the fault suite: each fault about once, in about a minute."""

import pytest

from tests.faults.campaign import run
from tests.faults.harness.work import Work
from tests.faults.plans import short_plan
from tests.faults.report import table


# About a minute; other work on the machine makes it longer, and must not fail it.
@pytest.mark.timeout(600)
def test_no_job_is_lost_whatever_is_killed(work: Work):
    said: list[str] = []
    findings = run(short_plan(), work, said.append)
    assert findings.sound, "\n".join([*said, table(findings)])
