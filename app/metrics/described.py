"""Metrics with what they mean: made here, so that the docs list every one that there is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

# Each would be told a second time, as the time at which it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

Kind = Literal["counter", "gauge", "histogram"]
# What a metric is by the values of its labels.
Values = dict[tuple[str, ...], float]
# From a cached answer to a client that waits; beyond a minute nobody waits.
ANSWER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# From a thumbnail to a training of two days.
WORK_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 14_400, 86_400)


@dataclass(frozen=True)
class Described:
    """One metric, as the docs tell of it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Read:
    """A metric whose values are looked up when somebody asks."""

    described: Described

    def of(self, values: Values) -> Metric:
        """Its values by those of its labels."""
        told = self.described
        family: CounterMetricFamily | GaugeMetricFamily
        if told.kind == "counter":
            family = CounterMetricFamily(told.name, told.help, labels=told.labels)
        else:
            family = GaugeMetricFamily(told.name, told.help, labels=told.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


class Group:
    """The metrics of one source; `registry` tells their values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []

    def counter(self, name: str, help_: str, labels: Sequence[str] = ()) -> Counter:
        """What only grows, until its process ends."""
        self._describe(name, "counter", help_, labels)
        return Counter(name, help_, labels, registry=self.registry)

    def gauge(self, name: str, help_: str, labels: Sequence[str] = ()) -> Gauge:
        """What goes up and down."""
        self._describe(name, "gauge", help_, labels)
        return Gauge(name, help_, labels, registry=self.registry)

    def histogram(
        self, name: str, help_: str, labels: Sequence[str] = (), *, buckets: Iterable[float]
    ) -> Histogram:
        """How often a value was under each of these."""
        self._describe(name, "histogram", help_, labels)
        return Histogram(
            name, help_, labels, registry=self.registry, buckets=tuple(map(float, buckets))
        )

    def read(self, name: str, kind: Kind, help_: str, labels: Sequence[str] = ()) -> Read:
        """One that a collector of the registry looks up."""
        return Read(self._describe(name, kind, help_, labels))

    def _describe(self, name: str, kind: Kind, help_: str, labels: Sequence[str]) -> Described:
        described = Described(name, kind, tuple(labels), help_)
        self.described.append(described)
        return described
