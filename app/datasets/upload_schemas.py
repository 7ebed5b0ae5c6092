"""Archives that come in parts, on the wire."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.datasets.schemas import UploadedFile
from app.jobs.schemas import JobErrorRead
from app.web.text import PlainText

# Not words of jobs: an upload is none, though one unpacks it.
UploadStatus = Literal["receiving", "unpacking", "kept", "refused", "aborted", "expired"]


class UploadCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filename: PlainText = Field(min_length=1, max_length=255)
    size: int = Field(ge=1, description="Bytes of the whole archive")
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Of the whole archive; checked before anything of it is kept",
    )


class PartRead(BaseModel):
    """One part. `url` takes it by PUT; null once it has arrived, when `etag` is what storage says.

    Every part has the same size but the last.
    """

    number: int
    size: int
    etag: str | None
    url: str | None


class PartSent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, le=10_000)
    etag: str = Field(min_length=1, max_length=200)


class UploadComplete(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: list[PartSent] | None = Field(
        default=None,
        max_length=10_000,
        description="What storage has answered for each part; without it, whatever it has counts",
    )


class ArchiveUploadRead(BaseModel):
    """`receiving` takes parts; `unpacking` is the worker's; `kept` or `refused` is the end."""

    id: str
    object: Literal["upload"] = "upload"
    dataset: str
    filename: str
    size: int
    sha256: str | None
    status: UploadStatus
    part_size: int
    # While it is `receiving`; ask again for fresh addresses.
    parts: list[PartRead]
    # The job that unpacks it, under /v1/jobs; null until it was completed.
    ingest: str | None
    error: JobErrorRead | None
    # What became of each file; null until it was unpacked.
    files: list[UploadedFile] | None
    accepted: int | None
    rejected: int | None
    created_at: datetime
    expires_at: datetime
