"""Workers, and the health of what they and the API need, for operators."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, StrictBool

from app import health
from app.web.dependencies import Operator, SessionDep
from app.web.once import OnceRoute
from app.workers import service
from app.workers.models import Order, Worker

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=OnceRoute)
routers = [router]


class WorkerDrain(BaseModel):
    """How a worker is to rest."""

    model_config = ConfigDict(extra="forbid")

    # Save and give back what runs, as a stop does, instead of bringing it to its end.
    hand_back: StrictBool = False


class WorkerRead(BaseModel):
    """One process that runs jobs."""

    id: str
    object: Literal["worker"] = "worker"
    # `silent`: not heard of for a lease, so what it held is another's.
    status: Literal["working", "idle", "resting", "silent"]
    order: Order | None
    queues: list[str]
    jobs: list[str]
    version: str
    started_at: datetime
    heartbeat_at: datetime
    device: str | None
    gpu_memory_bytes: int | None
    gpu_memory_free_bytes: int | None


class Workers(BaseModel):
    """All that are known."""

    data: list[WorkerRead]


class Health(BaseModel):
    """What every server that is needed answers: `ok`, or the name of what went wrong."""

    status: Literal["ok", "unavailable"]
    dependencies: dict[str, str]


@router.get("/workers")
def list_workers(_: Operator, session: SessionDep) -> Workers:
    """Every worker process, what it holds, and when it was last heard of."""
    held = service.held_jobs(session)
    found = service.everyone(session)
    return Workers(data=[_read(worker, held.get(worker.id, [])) for worker in found])


@router.post("/workers/{worker_id}/drain")
def drain_worker(
    worker_id: str, _: Operator, session: SessionDep, body: WorkerDrain | None = None
) -> WorkerRead:
    """Have a worker claim no more; it hears of it with its next heartbeat."""
    order: Order = "hand_back" if body is not None and body.hand_back else "hold"
    worker = service.give_order(session, worker_id, order)
    return _read(worker, service.held_jobs(session).get(worker_id, []))


@router.post("/workers/{worker_id}/resume")
def resume_worker(worker_id: str, _: Operator, session: SessionDep) -> WorkerRead:
    """Have a worker claim jobs again."""
    worker = service.give_order(session, worker_id, None)
    return _read(worker, service.held_jobs(session).get(worker_id, []))


@router.get("/health")
def get_health(_: Operator) -> Health:
    """Whether Postgres, Redis and storage answer this process."""
    return Health.model_validate(health.report())


def _read(worker: Worker, jobs: list[str]) -> WorkerRead:
    status: Literal["working", "idle", "resting", "silent"] = "working" if jobs else "idle"
    if service.is_silent(worker):
        status = "silent"
    elif worker.order is not None and not jobs:
        status = "resting"
    return WorkerRead(
        id=worker.id,
        status=status,
        order=worker.order,
        queues=worker.queues,
        jobs=jobs,
        version=worker.version,
        started_at=worker.started_at,
        heartbeat_at=worker.heartbeat_at,
        device=worker.device,
        gpu_memory_bytes=worker.gpu_memory_bytes,
        gpu_memory_free_bytes=worker.gpu_memory_free_bytes,
    )
