"""Every table at once, for whoever needs the whole schema: migrations, and workers' joins."""

from app.accounts import models as accounts
from app.audit import models as audit
from app.comparisons import models as comparisons
from app.database import Base
from app.datasets import models as datasets
from app.generations import models as generations
from app.idempotency import models as idempotency
from app.jobs import models as jobs
from app.loras import models as loras
from app.metrics import models as metrics
from app.retention import models as retention
from app.trainings import models as trainings
from app.webhooks import models as webhooks
from app.workers import models as workers

metadata = Base.metadata

__all__ = [
    "accounts",
    "audit",
    "comparisons",
    "datasets",
    "generations",
    "idempotency",
    "jobs",
    "loras",
    "metadata",
    "metrics",
    "retention",
    "trainings",
    "webhooks",
    "workers",
]
