"""The Grafana dashboard, laid out by rows of panels; `tools.make_docs` writes it.

What every API process tells alike (queues, jobs, webhooks) is read with `max by`, which counts it
once; what each process counts for itself is summed.
"""

import json
from dataclasses import dataclass
from typing import Any

WIDTH = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${source}"}
API = 'job=~"$api"'
WORKER = 'job=~"$worker"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: an expression, and the legend of what it finds.
        unit: as Grafana names it.
        kind: `timeseries` or `stat`.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    note: str = ""


def _quantile(share: float, name: str, by: str = "", where: str = WORKER) -> str:
    sums = (
        f"sum by (le{', ' + by if by else ''}) (rate({name}_bucket{{{where}}}[$__rate_interval]))"
    )
    return f"histogram_quantile({share}, {sums})"


def _rate(name: str, by: str, where: str) -> str:
    return f"sum by ({by}) (rate({name}{{{where}}}[$__rate_interval]))"


def _known(name: str, by: str) -> str:
    """What all API processes tell alike."""
    return f"max by ({by}) ({name}{{{API}}})"


def _ended(name: str, by: str) -> str:
    """How fast one of their counters grows, each once."""
    labels = "kind, outcome, code" if name == "lorawright_jobs_ended_total" else "kind"
    return f"sum by ({by}) (max by ({labels}) (rate({name}{{{API}}}[$__rate_interval])))"


def _each(name: str) -> str:
    """What a job of each kind has of something, on average."""
    return f"{_ended(name, 'kind')} / {_ended('lorawright_jobs_ended_total', 'kind')}"


_BUSIEST = f"topk(10, {_rate('lorawright_http_requests_total', 'method, route', API)})"
_ERRORS = (
    "sum by (kind, code) (max by (kind, code) "
    f'(increase(lorawright_jobs_ended_total{{{API}, outcome="failed"}}[1h])))'
)
_BANK = "lorawright_worker_bank_loads_total"
_HIT = WORKER + ', result="hit"'
_HITS = f"{_rate(_BANK, 'job', _HIT)} / {_rate(_BANK, 'job', WORKER)}"
_GPU_MEMORY = (
    f"lorawright_gpu_memory_used_bytes{{{WORKER}}} / lorawright_gpu_memory_bytes{{{WORKER}}}"
)
_CHORES = f"sum by (chore) (increase(lorawright_sweep_failures_total{{{WORKER}}}[1h]))"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            Panel(
                "Jobs waiting",
                ((f"sum({_known('lorawright_queue_waiting_jobs', 'queue')})", ""),),
                width=4,
                kind="stat",
            ),
            Panel(
                "Jobs running",
                ((f"sum({_known('lorawright_queue_running_jobs', 'queue')})", ""),),
                width=4,
                kind="stat",
            ),
            Panel(
                "Since the last sweep",
                ((f"min(lorawright_sweep_age_seconds{{{API}}})", ""),),
                "s",
                4,
                "stat",
            ),
            Panel(
                "Answering",
                ((f"min by (dependency) (lorawright_dependency_up{{{API}}})", "{{dependency}}"),),
                width=6,
                kind="stat",
                note="1: it does.",
            ),
            Panel(
                "Versions",
                (("count by (version) (lorawright_build_info)", "{{version}}"),),
                width=6,
                kind="stat",
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Requests a second, by status",
                ((_rate("lorawright_http_requests_total", "status", API), "{{status}}"),),
                "reqps",
            ),
            Panel(
                "Requests a second, by route",
                ((_BUSIEST, "{{method}} {{route}}"),),
                "reqps",
            ),
            Panel(
                "Until the answer begins",
                tuple(
                    (_quantile(share, "lorawright_http_request_seconds", where=API), f"{share:.0%}")
                    for share in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "In flight",
                (
                    (f"sum(lorawright_http_requests_in_flight{{{API}}})", "requests"),
                    (f"sum(lorawright_event_streams_open{{{API}}})", "event streams"),
                ),
            ),
            Panel(
                "Connections to Postgres",
                (
                    (f"lorawright_database_connections_in_use{{{API}}}", "{{instance}}"),
                    (f"max(lorawright_database_connections_max{{{API}}})", "each may have"),
                ),
            ),
            Panel(
                "Refused for their number",
                (
                    (
                        f"sum(rate(lorawright_http_rate_limited_total{{{API}}}[$__rate_interval]))",
                        "429",
                    ),
                ),
                "reqps",
            ),
        ),
    ),
    (
        "Queues",
        (
            Panel("Waiting", ((_known("lorawright_queue_waiting_jobs", "queue"), "{{queue}}"),)),
            Panel(
                "Longest wait",
                ((_known("lorawright_queue_oldest_seconds", "queue"), "{{queue}}"),),
                "s",
            ),
            Panel(
                "Work that waits",
                ((_known("lorawright_queue_seconds", "queue"), "{{queue}}"),),
                "s",
                note="Seconds of one worker: the signal to scale by.",
            ),
            Panel("Running", ((_known("lorawright_queue_running_jobs", "queue"), "{{queue}}"),)),
            Panel(
                "Workers", ((_known("lorawright_workers", "queue, state"), "{{queue}}, {{state}}"),)
            ),
            Panel(
                "Wait of jobs that ended",
                ((_each("lorawright_jobs_wait_seconds_total"), "{{kind}}"),),
                "s",
                note="On average, from submission to first start.",
            ),
        ),
    ),
    (
        "Jobs",
        (
            Panel(
                "Ended a minute, by kind",
                ((f"60 * {_ended('lorawright_jobs_ended_total', 'kind')}", "{{kind}}"),),
            ),
            Panel(
                "Ended a minute, by outcome",
                ((f"60 * {_ended('lorawright_jobs_ended_total', 'outcome')}", "{{outcome}}"),),
            ),
            Panel(
                "Failed within the hour, by error",
                ((_ERRORS, "{{kind}}: {{code}}"),),
            ),
            Panel(
                "GPU seconds a second",
                ((_ended("lorawright_jobs_gpu_seconds_total", "kind"), "{{kind}}"),),
                note="Of jobs as they end: a training of an hour shows at its end.",
            ),
            Panel(
                "Seconds of a job",
                ((_each("lorawright_jobs_run_seconds_total"), "{{kind}}"),),
                "s",
                note="On average, from first start to end.",
            ),
            Panel(
                "Attempts a minute, by outcome",
                (
                    (
                        f"60 * {_rate('lorawright_worker_jobs_total', 'outcome', WORKER)}",
                        "{{outcome}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Workers",
        (
            Panel(
                "GPU at work",
                ((f"lorawright_gpu_utilisation_ratio{{{WORKER}}}", "{{instance}} {{gpu}}"),),
                "percentunit",
            ),
            Panel(
                "GPU memory in use",
                ((_GPU_MEMORY, "{{instance}} {{gpu}}"),),
                "percentunit",
            ),
            Panel(
                "Memory and disk",
                (
                    (f"process_resident_memory_bytes{{{WORKER}}}", "{{instance}} memory"),
                    (f"lorawright_worker_disk_free_bytes{{{WORKER}}}", "{{instance}} free disk"),
                    (f"min(lorawright_worker_disk_bytes{{{WORKER}}})", "smallest disk"),
                ),
                "bytes",
            ),
            Panel(
                "Training: pictures a second",
                ((f"lorawright_training_images_per_second{{{WORKER}}}", "{{instance}}"),),
            ),
            Panel(
                "Training: seconds of a step",
                tuple(
                    (_quantile(share, "lorawright_training_step_seconds"), f"{share:.0%}")
                    for share in (0.5, 0.95)
                ),
                "s",
            ),
            Panel(
                "Training: steps and pictures a second",
                (
                    (_rate("lorawright_training_steps_total", "job", WORKER), "steps"),
                    (_rate("lorawright_training_images_total", "job", WORKER), "pictures"),
                ),
            ),
            Panel(
                "Training: memory",
                ((f"lorawright_training_memory_bytes{{{WORKER}}}", "{{instance}}"),),
                "bytes",
            ),
            Panel(
                "Drawing: pictures and steps a second",
                (
                    (_rate("lorawright_worker_pictures_total", "job", WORKER), "pictures"),
                    (_rate("lorawright_worker_denoise_steps_total", "job", WORKER), "steps"),
                ),
            ),
            Panel(
                "Drawing: pictures of a batch",
                tuple(
                    (_quantile(share, "lorawright_worker_batch_pictures"), f"{share:.0%}")
                    for share in (0.5, 0.95)
                ),
            ),
            Panel(
                "Drawing: the parts of it",
                (
                    (
                        _quantile(
                            0.5,
                            "lorawright_worker_stage_seconds",
                            "stage",
                            f'{WORKER}, kind="generation"',
                        ),
                        "{{stage}}",
                    ),
                ),
                "s",
                note="The median of each.",
            ),
            Panel(
                "Adapter bank: asked and had",
                ((_HITS, "hits"),),
                "percentunit",
            ),
            Panel(
                "From claim to first step",
                ((_quantile(0.5, "lorawright_worker_first_step_seconds", "kind"), "{{kind}}"),),
                "s",
            ),
            Panel(
                "Seconds of an attempt",
                ((_quantile(0.95, "lorawright_worker_job_seconds", "kind"), "{{kind}} 95%"),),
                "s",
            ),
            Panel(
                "Leases renewed a minute",
                (
                    (
                        f"60 * {_rate('lorawright_lease_renewals_total', 'result', WORKER)}",
                        "{{result}}",
                    ),
                ),
            ),
            Panel(
                "Taken back, and chores that failed",
                (
                    (
                        f"increase(lorawright_leases_expired_total{{{WORKER}}}[1h])",
                        "leases expired",
                    ),
                    (
                        _CHORES,
                        "{{chore}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Webhooks",
        (
            Panel(
                "On their way",
                (
                    (f"max(lorawright_webhooks_pending{{{API}}})", "pending"),
                    (f"max(lorawright_webhooks_failing{{{API}}})", "tried often"),
                ),
            ),
            Panel(
                "Overdue",
                ((f"max(lorawright_webhooks_overdue_seconds{{{API}}})", "the longest"),),
                "s",
            ),
            Panel(
                "Tried a minute",
                (
                    (
                        f"60 * {_rate('lorawright_webhook_attempts_total', 'outcome', WORKER)}",
                        "{{outcome}}",
                    ),
                    (
                        f"max(lorawright_webhook_endpoints_disabled{{{API}}})",
                        "endpoints switched off",
                    ),
                ),
            ),
        ),
    ),
)


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in row:
            if left + panel.width > WIDTH:
                left, top = 0, top + HEIGHT
            place = {"h": HEIGHT, "w": panel.width, "x": left, "y": top}
            panels.append(_panel(panel, len(panels) + 1, place))
            left += panel.width
        top += HEIGHT
    document = {
        "title": "Lorawright",
        "uid": "lorawright",
        "description": "docs/monitoring.md says what is shown here.",
        "tags": ["lorawright"],
        "timezone": "browser",
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "schemaVersion": 39,
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _jobs("api", "API", "lorawright_dependency_up"),
                _jobs("worker", "Workers", "lorawright_worker_disk_bytes"),
            ]
        },
        "panels": panels,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _jobs(name: str, label: str, metric: str) -> dict[str, Any]:
    """A choice among the jobs of Prometheus that tell a metric."""
    query = f"label_values({metric}, job)"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }
