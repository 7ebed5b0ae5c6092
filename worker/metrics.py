"""What one worker process counts, and the port at which Prometheus asks it."""

import errno
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator

from prometheus_client import ProcessCollector, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.metrics.described import WORK_SECONDS, Group, Values
from app.settings import get_settings
from worker import gpu

log = logging.getLogger(__name__)

# A child that is replaced may still have the port for a moment.
PORT_SECONDS = 30.0
AGAIN_SECONDS = 0.5
STEP_SECONDS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 100)

WORKER = Group()
JOBS = WORKER.counter(
    "lorawright_worker_jobs_total",
    "Attempts that came to an end here, by `outcome`: `succeeded`, `failed`, `canceled`, `retried` "
    "(failed, and queued again), `released` (given back by a stopping worker) or `lost`; `code` is "
    "that of the error.",
    ["kind", "outcome", "code"],
)
JOB_SECONDS = WORKER.histogram(
    "lorawright_worker_job_seconds",
    "From the claim of a job to the end of the attempt.",
    ["kind"],
    buckets=WORK_SECONDS,
)
STAGE_SECONDS = WORKER.histogram(
    "lorawright_worker_stage_seconds",
    "Parts of the work. Of a training: `download`, `load`, `prepare`, `checkpoint`, `upload`, "
    "`publish`. Of a generation: `download`, `load` (the base model), `prompt`, `switch` (to the "
    "LoRAs), `denoise`, `decode`, `upload`, `publish`.",
    ["kind", "stage"],
    buckets=WORK_SECONDS,
)
FIRST_STEP_SECONDS = WORKER.histogram(
    "lorawright_worker_first_step_seconds",
    "From the claim to the first step of training, denoising or captioning.",
    ["kind"],
    buckets=WORK_SECONDS,
)
PICTURES = WORKER.counter("lorawright_worker_pictures_total", "Pictures drawn.")
DENOISE_STEPS = WORKER.counter(
    "lorawright_worker_denoise_steps_total",
    "Steps of pictures: one step of a batch of four counts four.",
)
BATCH_PICTURES = WORKER.histogram(
    "lorawright_worker_batch_pictures",
    "Pictures that were denoised together.",
    buckets=(1, 2, 3, 4, 6, 8, 16, 32),
)
BANK_LOADS = WORKER.counter(
    "lorawright_worker_bank_loads_total",
    "LoRAs asked of the adapter bank, by `result`: `hit`, or `parsed` from the file.",
    ["result"],
)
TRAINING_STEPS = WORKER.counter("lorawright_training_steps_total", "Steps trained.")
TRAINING_IMAGES = WORKER.counter("lorawright_training_images_total", "Pictures of these steps.")
TRAINING_STEP_SECONDS = WORKER.histogram(
    "lorawright_training_step_seconds", "What a training's step took.", buckets=STEP_SECONDS
)
TRAINING_SPEED = WORKER.gauge(
    "lorawright_training_images_per_second",
    "Of the training that runs, as it told last; 0 while none does.",
)
TRAINING_MEMORY = WORKER.gauge(
    "lorawright_training_memory_bytes",
    "Most memory that the running training has used: the device's, or on a CPU the process's.",
)
RENEWALS = WORKER.counter(
    "lorawright_lease_renewals_total",
    "Renewals of leases, by `result`: `in_time`, `late` (half a lease or more after the one "
    "before), `failed` (Postgres did not answer) or `lost` (the job is another's).",
    ["result"],
)
LEASES_EXPIRED = WORKER.counter(
    "lorawright_leases_expired_total", "Jobs that a sweep here took back from silent workers."
)
CHORES_FAILED = WORKER.counter(
    "lorawright_sweep_failures_total", "Chores of a sweep that failed.", ["chore"]
)
WEBHOOK_ATTEMPTS = WORKER.counter(
    "lorawright_webhook_attempts_total",
    "Deliveries tried here, by `outcome`: `delivered` or `failed`.",
    ["outcome"],
)
_DISK_FREE = WORKER.read(
    "lorawright_worker_disk_free_bytes",
    "gauge",
    "Free where the worker keeps jobs' files (`LORAWRIGHT_WORK_DIR`).",
)
_DISK = WORKER.read("lorawright_worker_disk_bytes", "gauge", "The size of that disk.")
_GPU_USED = WORKER.read(
    "lorawright_gpu_memory_used_bytes", "gauge", "Memory in use, by whatever process.", ["gpu"]
)
_GPU_MEMORY = WORKER.read("lorawright_gpu_memory_bytes", "gauge", "All of its memory.", ["gpu"])
_GPU_BUSY = WORKER.read(
    "lorawright_gpu_utilisation_ratio",
    "gauge",
    "The share of the last moments in which it computed something; needs `nvidia-ml-py`.",
    ["gpu"],
)


class _Machine(Collector):
    def collect(self) -> Iterator[Metric]:
        folder = get_settings().work_dir
        # It may not be there before the first job.
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        disk = shutil.disk_usage(folder)
        yield _DISK_FREE.of({(): disk.free})
        yield _DISK.of({(): disk.total})
        found = gpu.read()
        yield _GPU_USED.of({(one.name,): one.used_bytes for one in found})
        yield _GPU_MEMORY.of({(one.name,): one.bytes for one in found})
        busy: Values = {(one.name,): one.busy for one in found if one.busy is not None}
        yield _GPU_BUSY.of(busy)

    def describe(self) -> Iterator[Metric]:
        return iter(())


WORKER.registry.register(_Machine())
ProcessCollector(registry=WORKER.registry)


def check_port() -> None:
    """For a worker that is about to start, perhaps in place of one whose child still has the port.

    Raises:
        SystemExit: something else has the port, and keeps it.
    """
    settings = get_settings()
    ends = time.monotonic() + PORT_SECONDS
    while settings.metrics_port:
        family = socket.AF_INET6 if ":" in settings.metrics_host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.metrics_host, settings.metrics_port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > ends:
                    raise SystemExit(_taken(error)) from error
            else:
                return
        time.sleep(AGAIN_SECONDS)


def serve() -> None:
    """Serve this process's metrics, if a port is set; returns at once."""
    if get_settings().metrics_port:
        threading.Thread(target=_serve, name="metrics", daemon=True).start()


def _serve() -> None:
    settings = get_settings()
    ends = time.monotonic() + PORT_SECONDS
    while True:
        try:
            start_http_server(settings.metrics_port, settings.metrics_host, WORKER.registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > ends:
                # Jobs are worth more than figures of them.
                log.error(_taken(error))
                return
            time.sleep(AGAIN_SECONDS)
        else:
            return


def _taken(error: OSError) -> str:
    settings = get_settings()
    return (
        f"LORAWRIGHT_METRICS_PORT: {settings.metrics_host}:{settings.metrics_port} cannot be had "
        f"({error.strerror}). Each worker process needs a port of its own: give every worker of a "
        "machine another one, and start it with --concurrency 1"
    )
