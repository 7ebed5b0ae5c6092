"""Comparisons on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database import JsonObject
from app.generations.schemas import GenerationCreate
from app.jobs.schemas import JobRead
from app.web.text import PlainText

AxisName = Literal[
    "weight",
    "checkpoint",
    "lora",
    "prompt",
    "negative_prompt",
    "seed",
    "guidance_scale",
    "steps",
    "scheduler",
]


class Axis(BaseModel):
    """What differs from row to row, or from column to column.

    A value of `checkpoint` (`ckpt_…`) or `lora` (an id or name) is applied besides the request's
    own LoRAs; null there is none. `weight` is of the LoRA that `lora` names, which the request or
    another axis brings; without it, of all of them.
    """

    model_config = ConfigDict(extra="forbid")

    name: AxisName
    values: Annotated[list[Any], Field(min_length=1, max_length=100)]
    lora: PlainText | None = Field(default=None, max_length=200)


class ComparisonCreate(GenerationCreate):
    """A generation with axes: every combination of their values is one picture.

    The first axis runs down the sheet and the second across; others part it into blocks. Without
    an axis of seeds all pictures have one seed.
    """

    num_images: Literal[1] = 1
    previews: Literal[0] = 0
    axes: Annotated[list[Axis], Field(min_length=1, max_length=4)]


class ComparisonImage(BaseModel):
    """One cell: `labels` says its value on each axis."""

    index: int
    labels: list[str]
    # Null once it has expired.
    url: str | None
    seed: int
    width: int
    height: int
    format: str
    bytes: int
    sha256: str
    receipt: JsonObject


class ComparisonRead(JobRead):
    base_model: str
    # Until when its pictures are kept; null: until it is deleted.
    expires_at: datetime | None
    request: JsonObject
    axes: list[JsonObject]
    cells: int
    images: list[ComparisonImage]
    sheet_url: str | None
