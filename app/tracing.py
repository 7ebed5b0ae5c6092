"""Traces: a request and the job it makes are one, sent over OTLP where an endpoint is set.

Everything is set as OpenTelemetry says: `OTEL_EXPORTER_OTLP_ENDPOINT` turns it on, its other
variables say how. Without an endpoint, or without the packages of `lorawright[tracing]`, spans are
not made, and what would make them does nothing.
"""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_MILLISECONDS = 3000
_W3C = TraceContextTextMapPropagator()
_NOTHING = trace.NoOpTracer()


class _State:
    """Of this process; a child begins anew, as the thread that sends is not forked."""

    provider: "TracerProvider | None" = None
    tracer: trace.Tracer = _NOTHING


def configure_tracing(service: str, environ: Mapping[str, str] = os.environ) -> None:
    """Make spans from now on, if an endpoint is set.

    For the whole process: an API that was made in it before is traced no more.

    Args:
        service: this process as traces name it, unless `OTEL_SERVICE_NAME` does.
    """
    shut_down()
    if not any(environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.error(
            "no traces, though an endpoint is set: pip install 'lorawright[tracing]'; %s", error
        )
        return
    named = {"service.name": environ.get("OTEL_SERVICE_NAME") or service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _State.provider, _State.tracer = provider, provider.get_tracer("lorawright")


def provider() -> "TracerProvider | None":
    """What makes this process's spans; None while there are none."""
    return _State.provider


def tracer() -> trace.Tracer:
    """Makes spans, or does as if."""
    return _State.tracer


def flush() -> None:
    """Send what has been made so far."""
    if _State.provider is not None:
        _State.provider.force_flush(FLUSH_MILLISECONDS)


def shut_down() -> None:
    """Send what is left, and make no more spans."""
    if _State.provider is not None:
        _State.provider.shutdown()
    _State.provider, _State.tracer = None, _NOTHING


def current_traceparent() -> str | None:
    """The span that this code runs in, for whoever goes on from it; None without one."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent")


def context_of(traceparent: str | None) -> Context:
    """Where to go on from; a trace of its own where there is nothing to."""
    return _W3C.extract({} if traceparent is None else {"traceparent": traceparent}, Context())
