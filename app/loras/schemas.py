"""LoRAs on the wire."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database import JsonObject
from app.web.text import PlainText


class LoraRead(BaseModel):
    id: str
    object: Literal["lora"] = "lora"
    name: str
    description: str
    trigger_word: str | None
    default_weight: float
    base_model: str
    architecture: str
    source: Literal["training", "upload"]
    training: str | None
    checkpoint: str | None
    rank: int
    alpha: float
    sha256: str
    bytes: int
    file_metadata: JsonObject
    created_at: datetime


class LoraPatch(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText = Field(default="", min_length=1, max_length=200)
    description: PlainText = Field(default="", max_length=5000)
    default_weight: float = Field(default=1.0, ge=-2, le=2)
    trigger_word: PlainText | None = Field(default=None, max_length=100)
