"""Everything that can go wrong in the user's words, and the status each becomes on the wire.

LorawrightError
├── RequestError                  the request cannot be done as it stands
│   ├── Unauthenticated           no key, or one that is unknown or revoked
│   │   └── ApiKeyExpired         the key's time is over
│   ├── ScopeMissing              the key may not do this
│   ├── CsrfTokenMissing          a session's cookie without the token of its pages
│   ├── AccountSuspended          an operator has suspended the account
│   ├── QuotaExceeded             the account has used up what it may have
│   ├── NotFound                  no such object in this account
│   ├── OutputExpired             it was kept for a while, which is over
│   ├── Conflict                  the object's state forbids it
│   │   ├── UploadIncomplete      parts of an upload have not arrived
│   │   └── IdempotencyKeyInFlight  the first request with this key is being answered
│   ├── RateLimited               more requests than the account may make
│   ├── PreconditionFailed        it is no longer as the client knows it
│   ├── TooLarge                  a body or file over its limit
│   ├── FormUnreadable            a multipart body that cannot be taken apart
│   ├── UnsupportedMediaType      a body of another kind than the route takes
│   └── Invalid                   a value is wrong; `problems` says which
│       ├── IdempotencyKeyReused  another request came with the same key
│       ├── PromptRefused         a rule of the operator's forbids the prompt
│       ├── DatasetEmpty          nothing to caption or train on
│       ├── UploadRejected        not one file of an upload was usable
│       ├── ArchiveUnsafe         an archive that tricks or bombs
│       ├── TooManyLoras          more LoRAs than can be applied together
│       ├── LoraIncompatible      a LoRA made for another architecture
│       ├── LoraFileRefused       an uploaded LoRA file that cannot be used; its code says why
│       └── ConversionFailed      a LoRA that cannot be had in a layout; its code says why
├── ServiceUnavailable            a server we need is away; try again
│   ├── StorageUnavailable
│   ├── DatabaseUnavailable
│   ├── Overloaded                more requests at once than are answered in time
│   └── ConversionPending         a file that is still being made
└── JobError                      a running job ends as failed with this code
    ├── JobInputMissing
    ├── ArchiveDamaged            an archive in storage is not the one that was told
    ├── TrainingFailed
    ├── LoraToolFailed
    └── LeaseLost                 not a failure: another worker has the job now
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One wrong value: a JSON pointer into the body (or a file's name) and what would work."""

    pointer: str
    detail: str
    code: str = "invalid"


class LorawrightError(Exception):
    """Root of the tree. `code` is stable and documented; `detail` is for a person."""

    code = "internal"
    title = "Something went wrong"
    retryable = False

    def __init__(self, detail: str, problems: list[FieldProblem] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = problems or []


class RequestError(LorawrightError):
    code = "invalid_request"
    title = "The request cannot be done"


class Unauthenticated(RequestError):
    code = "unauthenticated"
    title = "A valid API key is needed"


class ApiKeyExpired(Unauthenticated):
    code = "api_key_expired"
    title = "The API key has expired"


class AccountSuspended(RequestError):
    code = "account_suspended"
    title = "The account is suspended"


class ScopeMissing(RequestError):
    code = "scope_missing"
    title = "The API key lacks a scope"


class CsrfTokenMissing(RequestError):
    code = "csrf_token_missing"
    title = "The request did not come from one of our pages"


class QuotaExceeded(RequestError):
    code = "quota_exceeded"
    title = "A quota is used up"


class NotFound(RequestError):
    code = "not_found"
    title = "No such object"


class OutputExpired(RequestError):
    code = "output_expired"
    title = "It is no longer kept"


class Conflict(RequestError):
    code = "conflict"
    title = "The object's state forbids it"


class UploadIncomplete(Conflict):
    code = "upload_incomplete"
    title = "Parts of the upload are missing"


class IdempotencyKeyInFlight(Conflict):
    code = "idempotency_key_in_flight"
    title = "The first request is being answered"
    retryable = True


class RateLimited(RequestError):
    code = "rate_limited"
    title = "Too many requests"
    retryable = True


class PreconditionFailed(RequestError):
    code = "precondition_failed"
    title = "The object was changed meanwhile"


class TooLarge(RequestError):
    code = "too_large"
    title = "Over a size limit"


class FormUnreadable(RequestError):
    code = "form_unreadable"
    title = "The form cannot be read"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    title = "Another kind of body is needed"


class Invalid(RequestError):
    code = "invalid_request"
    title = "The request has invalid values"


class IdempotencyKeyReused(Invalid):
    code = "idempotency_key_reused"
    title = "The key belongs to another request"


class PromptRefused(Invalid):
    code = "prompt_refused"
    title = "The prompt is refused"


class DatasetEmpty(Invalid):
    code = "dataset_empty"
    title = "The dataset has no usable images"


class UploadRejected(Invalid):
    code = "upload_rejected"
    title = "No file of the upload was usable"


class ArchiveUnsafe(Invalid):
    code = "archive_unsafe"
    title = "The archive is refused"


class TooManyLoras(Invalid):
    code = "too_many_loras"
    title = "Too many LoRAs"


class LoraIncompatible(Invalid):
    code = "lora_incompatible"
    title = "The LoRA does not fit the base model"


class LoraFileRefused(Invalid):
    code = "lora_file_invalid"
    title = "The LoRA file is refused"

    def __init__(self, detail: str, code: str = "lora_file_invalid") -> None:
        super().__init__(detail)
        self.code = code


class ConversionFailed(Invalid):
    code = "lora_layout_unsupported"
    title = "The LoRA cannot be had in this layout"

    def __init__(
        self, detail: str, code: str = "lora_layout_unsupported", *, retryable: bool = False
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


class ServiceUnavailable(LorawrightError):
    code = "service_unavailable"
    title = "A server is away"
    retryable = True


class StorageUnavailable(ServiceUnavailable):
    code = "storage_unavailable"
    title = "Object storage is away"


class DatabaseUnavailable(ServiceUnavailable):
    code = "database_unavailable"
    title = "The database is away"


class Overloaded(ServiceUnavailable):
    code = "overloaded"
    title = "Too many requests at once"


class ConversionPending(ServiceUnavailable):
    code = "lora_conversion_pending"
    title = "The file is being made"


class JobError(LorawrightError):
    code = "job_failed"
    title = "The job failed"


class JobInputMissing(JobError):
    code = "input_missing"
    title = "An input of the job is gone"


class ArchiveDamaged(JobError):
    code = "archive_damaged"
    title = "The archive is not the one that was told"


class TrainingFailed(JobError):
    code = "training_failed"
    title = "The training failed"

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


class LoraToolFailed(JobError):
    code = "lora_tool_failed"
    title = "The LoRA tool failed"

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


class LeaseLost(JobError):
    code = "lease_lost"
    title = "Another worker has the job"


# The wire's view: the first class of an error's own line of descent that stands here.
STATUS_OF: dict[type[LorawrightError], int] = {
    Unauthenticated: 401,
    ScopeMissing: 403,
    CsrfTokenMissing: 403,
    AccountSuspended: 403,
    QuotaExceeded: 403,
    NotFound: 404,
    Conflict: 409,
    OutputExpired: 410,
    PreconditionFailed: 412,
    TooLarge: 413,
    RateLimited: 429,
    UnsupportedMediaType: 415,
    Invalid: 422,
    ServiceUnavailable: 503,
    RequestError: 400,
    LorawrightError: 500,
}


def status_of(error: LorawrightError) -> int:
    """The HTTP status of an error: its class's, or its nearest ancestor's."""
    return next(STATUS_OF[cls] for cls in type(error).__mro__ if cls in STATUS_OF)
