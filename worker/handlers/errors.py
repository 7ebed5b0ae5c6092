"""What can go wrong between a job and the networks it needs."""

from app.errors import JobError


class ModelUnavailable(JobError):
    """A network cannot be loaded; a hub may only be away for a while."""

    retryable = True

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
