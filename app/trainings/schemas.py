"""Trainings on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.requests import JobRequest
from app.jobs.schemas import JobRead
from app.trainings.params import Task, TrainingParams
from app.web.text import PlainText

SamplePrompt = Annotated[PlainText, Field(min_length=1, max_length=1000)]


class TrainingCreate(JobRequest):
    dataset: str = Field(max_length=60)
    name: PlainText = Field(min_length=1, max_length=200)
    base_model: str | None = Field(default=None, max_length=64)
    # The dataset's task unless given.
    preset: Task | None = None
    # Only what differs from the preset.
    params: TrainingParams = TrainingParams()
    sample_prompts: list[SamplePrompt] = Field(default_factory=list, max_length=8)
    # A LoRA of this account, by id or name, to go on from instead of starting at nothing.
    from_lora: str | None = Field(default=None, min_length=1, max_length=200)


class TrainingRead(JobRead):
    name: str
    dataset: str | None
    base_model: str
    preset: str
    params: dict[str, Any]
    warnings: list[str]
    # The LoRA that it went on from.
    from_lora: str | None
    retry_of: str | None
    # The LoRA published when the training succeeded.
    lora: str | None


class MetricRead(BaseModel):
    step: int
    epoch: int
    loss: float | None
    validation_loss: float | None
    # Of the base alone on the same pictures.
    base_validation_loss: float | None
    # How far generic prompts moved: 0 is not at all, 1 as much as the prediction itself.
    prior_drift: float | None
    lr: float | None
    grad_norm: float | None
    images_per_second: float | None
    memory_bytes: int | None


class MetricsRead(BaseModel):
    data: list[MetricRead]
    has_more: bool
    # Pass it as `after` to go on.
    next: int | None


class SampleRead(BaseModel):
    prompt: str
    seed: int
    url: str


class CheckpointRead(BaseModel):
    id: str
    object: Literal["checkpoint"] = "checkpoint"
    epoch: int
    step: int
    validation_loss: float | None
    # Of the base alone on the same pictures.
    base_validation_loss: float | None
    # How far generic prompts moved: 0 is not at all, 1 as much as the prediction itself.
    prior_drift: float | None
    recommended: bool
    sha256: str
    bytes: int
    url: str
    samples: list[SampleRead]
    created_at: datetime


class CheckpointsRead(BaseModel):
    data: list[CheckpointRead]


class PublishCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: PlainText | None = Field(default=None, min_length=1, max_length=200)


class PresetRead(BaseModel):
    id: Task
    title: str
    images_from: int
    images_to: int | None
    base_model: str
    # So many images are what `num_repeats` and `epochs` are for; the fewer, the larger they are.
    images: int
    # How often a run shows each of them: `num_repeats` × `epochs`.
    passes: int
    params: TrainingParams


class PresetsRead(BaseModel):
    data: list[PresetRead]
