"""The figures of a run, as a table for people and as JSON."""

import json
from pathlib import Path

from tests.faults.campaign import Findings


def table(findings: Findings) -> str:
    """What was done, where it was killed, and what was violated."""
    lines = [f"{name:<44}{value:>8}" for name, value in findings.figures.items()]
    lines += ["", "killed at"]
    lines += [f"  {point:<42}{count:>8}" for point, count in findings.kills.items()]
    lines += ["", "stopped within, seconds"]
    lines += [f"  {stage:<42}{seconds:>8.1f}" for stage, seconds in findings.stops.items()]
    lines += ["", "violations"]
    for sentence, found in findings.violations.items():
        lines.append(f"  {sentence:<52}{len(found):>4}")
        lines += [f"      {each}" for each in found]
    return "\n".join(lines)


def write_json(findings: Findings, path: Path) -> None:
    """Everything, for a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "figures": findings.figures,
        "kills": findings.kills,
        "stops": findings.stops,
        "violations": findings.violations,
    }
    path.write_text(json.dumps(told, indent=2) + "\n")
