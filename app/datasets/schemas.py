"""Datasets on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from app.database import JsonObject
from app.datasets.captions import DEFAULT_TEMPLATE
from app.datasets.models import CaptionSource, Overwrite
from app.datasets.report_schemas import DatasetReport
from app.jobs.requests import JobRequest
from app.jobs.schemas import JobRead
from app.trainings.params import Task
from app.web.text import PlainText

DatasetStatus = Literal["empty", "processing", "ready"]


def _one_word(value: str) -> str:
    if "," in value:
        raise ValueError("must not contain a comma: captions are split at commas")
    return value


TriggerWord = Annotated[PlainText, Field(min_length=1, max_length=100), AfterValidator(_one_word)]


class DatasetCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: PlainText = Field(min_length=1, max_length=200)
    task: Task
    trigger_word: TriggerWord
    caption_template: PlainText = Field(default=DEFAULT_TEMPLATE, min_length=1, max_length=500)


class DatasetPatch(BaseModel):
    """What is left out stays as it is. Captions that are there already stay too."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText | None = Field(default=None, min_length=1, max_length=200)
    trigger_word: TriggerWord | None = None
    caption_template: PlainText | None = Field(default=None, min_length=1, max_length=500)


class DatasetRead(BaseModel):
    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    task: Task
    trigger_word: str
    caption_template: str
    status: DatasetStatus
    image_count: int
    excluded_count: int
    captioned_count: int
    cover_url: str | None
    # Of one dataset, not in lists.
    report: DatasetReport | None = None
    created_at: datetime


class ImageRead(BaseModel):
    id: str
    object: Literal["image"] = "image"
    filename: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: str
    caption: str | None
    caption_source: CaptionSource | None
    repeats: int | None
    excluded: bool
    measures: JsonObject | None
    url: str
    thumbnail_url: str | None
    created_at: datetime


class ImagePatch(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    caption: PlainText | None = Field(default=None, min_length=1)
    repeats: int | None = Field(default=None, ge=1, le=1000)
    excluded: StrictBool | None = None


class CaptionsEdit(BaseModel):
    """Changes to captions that are there, in this order: replace, then prefix, then suffix."""

    model_config = ConfigDict(extra="forbid")

    # Replaced wherever it stands, in this very spelling.
    find: str | None = Field(default=None, min_length=1, max_length=500)
    replace: str = Field(default="", max_length=500)
    # Put in front, or at the end, of captions that do not have it there already.
    prefix: str = Field(default="", max_length=500)
    suffix: str = Field(default="", max_length=500)
    # The images to change; null: every one.
    images: list[str] | None = Field(default=None, min_length=1, max_length=5000)
    # Tell what would change, and change nothing.
    dry_run: StrictBool = False


class CaptionChange(BaseModel):
    image: str
    filename: str
    before: str
    # Null where nothing of it is left.
    after: str | None


class CaptionsEdited(BaseModel):
    changed: int
    unchanged: int
    # Images without a caption are left alone.
    without_caption: int
    dry_run: bool
    # The first hundred that change.
    changes: list[CaptionChange]


class UploadedFile(BaseModel):
    """What became of one file of an upload, or of one member of its archives."""

    filename: str
    status: Literal["accepted", "rejected"]
    code: str | None = None
    reason: str | None = None
    # Of a dataset.toml: what it says that an upload cannot do, and what would.
    not_honoured: list[str] = Field(default_factory=list)
    # The image it became, or was already.
    image: str | None = None
    duplicate: bool = False


class UploadRead(BaseModel):
    data: list[UploadedFile]
    accepted: int
    rejected: int
    dataset: DatasetRead
    # The job that measures the pictures and makes their thumbnails.
    ingest: str | None


class CaptioningCreate(JobRequest):
    overwrite: Overwrite = "missing"
    captioner: str | None = Field(default=None, max_length=64)


class CaptioningRead(JobRead):
    # Null once the dataset is deleted.
    dataset: str | None
    captioner: str
    overwrite: Overwrite
    images_captioned: int
