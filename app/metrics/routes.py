"""GET /metrics, for Prometheus: not for everybody, though it names no customer."""

import hmac
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.errors import Unauthenticated
from app.metrics.api import API
from app.metrics.work import WORK
from app.settings import get_settings

router = APIRouter(tags=["health"])
# Who sends these speaks for another, whose address the peer's is not.
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def may_read(request: Request) -> None:
    """Let pass who has the token, or comes straight from an allowed network.

    Raises:
        Unauthenticated: neither is so.
    """
    settings = get_settings()
    if settings.metrics_token is not None:
        told = request.headers.get("authorization", "").encode()
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}".encode()
        if hmac.compare_digest(told, wanted):
            return
    if not _is_near(request, settings.metrics_networks):
        raise Unauthenticated(
            "Metrics are for who sends LORAWRIGHT_METRICS_TOKEN as a bearer token, or comes from "
            "one of LORAWRIGHT_METRICS_NETWORKS without a proxy between"
        )


def _is_near(request: Request, networks: tuple[str, ...]) -> bool:
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    return any(address in ip_network(network) for network in networks)


class _All(Collector):
    def collect(self) -> Iterator[Metric]:
        for group in (API, WORK):
            yield from group.registry.collect()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, _: Annotated[None, Depends(may_read)]) -> Response:
    """Everything this process knows, in the format that is asked for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_All()), headers={"Content-Type": content_type})
