"""Ask for known vulnerabilities of every locked package, and fail where there is one.

    python tools/audit.py

Run with a Python that has pip-audit (tools/supply_chain.txt); `make audit` does. It needs a service
that knows vulnerabilities. Where none answers, that is said and is no failure: a build without a
way out must be possible. pip-audit alone is not enough for this: a mirror that only has files
answers 404 to each question, which it counts as nothing found.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
# Together they hold every package of every image; torch without CUDA is in no database.
LOCKS = ("api.txt", "worker-cuda.txt", "build.txt")
# How pip-audit's last words tell that it could not ask.
AWAY = ("ConnectionError", "Connection", "timed out", "Max retries", "HTTPError", "ServiceError")


@dataclass
class Answer:
    """What is known of one lock's packages."""

    asked: int = 0
    skipped: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def read(report: dict[str, Any]) -> Answer:
    """What pip-audit's JSON report says."""
    answer = Answer()
    for package in report["dependencies"]:
        told = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            answer.skipped.append(told)
            continue
        answer.asked += 1
        for found in package["vulns"]:
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            names = " ".join([found["id"], *found.get("aliases", [])])
            answer.findings.append(f"{told}: {names}; fixed in {fixed}")
    return answer


def audit(lock: Path) -> Answer | None:
    """The answer for one lock, or None when the service cannot be reached.

    Raises:
        SystemExit: pip-audit failed in another way; its own words are passed on.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            *[sys.executable, "-m", "pip_audit", "--requirement", str(lock)],
            *["--require-hashes", "--disable-pip", "--progress-spinner", "off"],
            *["--format", "json", "--output", str(report)],
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if report.exists() and report.stat().st_size:
            return read(json.loads(report.read_text()))
        if any(word in ended.stderr for word in AWAY):
            return None
        sys.exit(f"pip-audit ended with {ended.returncode}:\n{ended.stderr}")


def verdict(answers: dict[str, Answer | None]) -> tuple[str, int]:
    """What to say of all locks, and the status to end with."""
    known = {name: answer for name, answer in answers.items() if answer is not None}
    findings = sorted({each for answer in known.values() for each in answer.findings})
    if findings:
        return "\n".join(["Known vulnerabilities:", *findings]), 1
    if not any(answer.asked for answer in known.values()):
        return "NOT AUDITED: no service that knows vulnerabilities could be reached.", 0
    lines = []
    for name, answer in answers.items():
        if answer is None:
            lines.append(f"{name}: NOT AUDITED, the service could not be reached")
            continue
        lines.append(f"{name}: nothing known against {answer.asked} packages")
        if answer.skipped:
            lines.append(f"{name}: nobody could be asked about {', '.join(answer.skipped)}")
    return "\n".join(lines), 0


def main() -> None:
    """Audit every lock; end with 1 where a package has a known vulnerability."""
    text, status = verdict({name: audit(REPOSITORY / "deploy" / "locks" / name) for name in LOCKS})
    print(text)
    sys.exit(status)


if __name__ == "__main__":
    main()
