"""The dataset report on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from app.trainings.params import Task


class Finding(BaseModel):
    """One piece of advice. `code` is stable; `advice` is for a person."""

    code: str
    advice: str
    # The images it speaks of, the first hundred of `count`; empty where it speaks of all.
    images: list[str]
    count: int
    # Whether it rests on an estimate instead of a measurement.
    estimated: bool = False


class BucketCount(BaseModel):
    """How many images a run would show at this size, in pixels."""

    width: int
    height: int
    images: int


class StepsRead(BaseModel):
    """What the preset would make of these images. `passes`: how often it shows each."""

    total: int
    per_epoch: int
    epochs: int
    passes: float


class PredictionRead(BaseModel):
    """From `trainings` finished ones of the same base model and resolution; null without any."""

    seconds: float | None
    memory_bytes: int | None
    trainings: int


class DatasetReport(BaseModel):
    """What a trainer should know before paying for a GPU. Excluded images do not count."""

    object: Literal["dataset_report"] = "dataset_report"
    dataset: str
    images: int
    # Those that the ingest job has measured; the rest is judged by its size and caption alone.
    measured: int
    preset: Task
    base_model: str
    resolution: int
    # The range of images that the preset is made for; null: no upper end.
    images_from: int
    images_to: int | None
    buckets: list[BucketCount]
    steps: StepsRead | None = Field(description="Null where there is no image")
    predicted: PredictionRead | None
    findings: list[Finding]
