"""create_app(): routers, middleware and error handlers put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app import health, tracing
from app.accounts import key_routes as api_keys
from app.accounts import usage_routes as usage
from app.admin import account_routes as admin_accounts
from app.admin import audit_routes as admin_audit
from app.admin import job_routes as admin_jobs
from app.admin import worker_routes as admin_workers
from app.async_redis import close_async_redis
from app.catalog import load_catalog
from app.comparisons import routes as comparisons
from app.console.routers import add_console
from app.content.rules import load as load_content_rules
from app.datasets import routes as datasets
from app.datasets import upload_routes as dataset_uploads
from app.generations import routes as generations
from app.jobs import doorbell
from app.jobs import routes as jobs
from app.logs import configure_logs
from app.loras import routes as loras
from app.loras import tool_routes as lora_tools
from app.metrics import routes as metrics
from app.openai_images import routes as openai_images
from app.settings import get_settings
from app.storage import get_store
from app.tracing import configure_tracing
from app.trainings import routes as trainings
from app.web.etags import ETags
from app.web.methods import Methods
from app.web.middleware import BodyLimit, RequestContext
from app.web.openapi import DescribedApi, operation_id
from app.web.plain import PlainRequests
from app.web.prefer import PreferWait
from app.web.problems import add_error_handlers
from app.web.rate_limit import RateLimit
from app.webhooks import routes as webhooks

# Asked every few seconds by machines.
UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    # One thread for each connection of the pool: a request never waits for one while it has the
    # other.
    anyio.to_thread.current_default_thread_limiter().total_tokens = (
        get_settings().database_pool_size
    )
    # Made once, not by each of the first requests at the same time.
    get_store()
    yield
    await run_in_threadpool(tracing.flush)
    await doorbell.close()
    await close_async_redis()


def create_app() -> FastAPI:
    """The ASGI application, for `uvicorn --factory`."""
    settings = get_settings()
    configure_logs(settings.log_level)
    configure_tracing("lorawright-api")
    # One that cannot be used is told now, not at the first request.
    load_catalog(settings.catalog_path)
    load_content_rules()
    app = DescribedApi(
        title="Lorawright",
        version="0.1.0",
        summary="From a folder of pictures to an SDXL LoRA, and from LoRAs to pictures.",
        lifespan=_lifespan,
        generate_unique_id_function=operation_id,
        telemetry={
            "tracer_provider": tracing.provider(),
            "tracing": tracing.provider() is not None,
            # What goes on within a request is our services' matter, and its figures Prometheus'.
            "operation_spans": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
            "exclude": lambda scope: scope.get("path") in UNTRACED,
        },
    )
    add_error_handlers(app)
    app.add_middleware(ETags)
    app.add_middleware(PreferWait)
    app.add_middleware(Methods)
    app.add_middleware(PlainRequests)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(RateLimit, settings=settings)
    app.add_middleware(RequestContext)
    for module in (
        usage,
        api_keys,
        datasets,
        dataset_uploads,
        trainings,
        loras,
        lora_tools,
        generations,
        comparisons,
        openai_images,
        jobs,
        webhooks,
        admin_accounts,
        admin_audit,
        admin_jobs,
        admin_workers,
    ):
        for router in module.routers:
            app.include_router(router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    add_console(app)
    return app
