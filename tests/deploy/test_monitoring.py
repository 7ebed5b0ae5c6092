"""Dashboard and alerts ask for what is told, and say where to read what to do."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.metrics.api import API
from app.metrics.work import WORK
from app.settings import REPOSITORY
from worker.metrics import WORKER

DEPLOY = REPOSITORY / "deploy"
RULES = (DEPLOY / "prometheus" / "alerts.yml").read_text()
DASHBOARD = json.loads((DEPLOY / "grafana" / "lorawright.json").read_text())
PAGE = (REPOSITORY / "docs" / "monitoring.md").read_text()
# Of Prometheus itself, and of its library.
FOREIGN = {"up", "process_resident_memory_bytes"}


def exported() -> dict[str, set[str]]:
    """Every series that is told, with its labels."""
    series: dict[str, set[str]] = {name: {"instance", "job"} for name in FOREIGN}
    for one in (*API.described, *WORK.described, *WORKER.described):
        labels = {*one.labels, "instance", "job"}
        if one.kind == "histogram":
            series |= {f"{one.name}_{part}": labels for part in ("sum", "count")}
            series[f"{one.name}_bucket"] = labels | {"le"}
        else:
            series[one.name] = labels
    return series


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every query of dashboard and alerts."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = re.findall(r"^ +expr: (?:>-\n((?:(?: {10}).*\n)+)|(.+)\n)", RULES, re.M)
    told = [folded or plain for folded, plain in rules]
    assert len(told) == RULES.count("- alert:")
    return [*shown, *told]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:lorawright_\w+|process_\w+|up\b)", _without_strings(expression)))


def _without_strings(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def test_every_metric_that_is_asked_for_is_told() -> None:
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert len(asked) > 30
    assert sorted(asked - exported().keys()) == []
    variables = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    for variable in variables:
        [name] = names_in(variable["definition"])
        assert name in exported()


def test_every_metric_that_is_told_is_shown() -> None:
    shown = {name for expression in expressions() for name in names_in(expression)}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    described = {one.name for one in (*API.described, *WORK.described, *WORKER.described)}
    assert sorted(described - plain) == []


def test_every_label_that_is_asked_for_is_one_of_its_metric() -> None:
    for expression in expressions():
        for name, matchers in re.findall(r"(lorawright_\w+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)(?:=|!)", _without_strings(matchers)))
            assert labels <= exported()[name], expression
        known = set().union(*(exported()[name] for name in names_in(expression)))
        for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= known, expression


def test_the_dashboard_has_no_dead_panel() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    places = set()
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, f"{panel['title']} lies over another panel"
        places |= cells
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert names_in(target["expr"]), panel["title"]


def test_every_alert_says_where_to_read_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)
    runbooks = re.findall(r"runbook: docs/monitoring\.md#(\S+)", RULES)
    assert len(alerts) == len(runbooks) >= 12
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE, re.M)
    }
    assert sorted(set(runbooks) - headings) == []
    for alert in alerts:
        assert f"`{alert}`" in PAGE, f"docs/monitoring.md does not explain {alert}"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own tool, which CI has."""
    path = shutil.which("promtool")
    if path is None:
        assert not os.environ.get("CI"), "promtool is not installed, though this is CI"
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_prometheus_own_tool_has_no_complaint(promtool: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [promtool, *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$api": ".*", "$worker": ".*"}
    rules = []
    for number, expression in enumerate(expressions()):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        told = json.dumps(" ".join(expression.split()))
        rules.append(f"      - record: panel:{number}\n        expr: {told}")
    path = tmp_path / "queries.yml"
    path.write_text("groups:\n  - name: queries\n    rules:\n" + "\n".join(rules) + "\n")
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
