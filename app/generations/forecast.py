"""What a generation would take, and what is known of how its LoRAs fit, before it is made."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import JsonObject
from app.generations.freeze import Frozen
from app.generations.models import GeneratedImage, Generation
from app.generations.schemas import LoraReport
from app.isolation import ACROSS_ACCOUNTS
from app.jobs.forecast import Forecast, place, rate
from app.jobs.models import Job
from app.loras.models import Lora

# Pictures that are looked at, the newest first.
RECENT = 400


class GenerationForecast(Forecast):
    """With what the check of each LoRA's file found; null for a checkpoint's."""

    base_model: str
    loras: list[LoraReport]


def forecast(session: Session, account_id: str, frozen: Frozen) -> GenerationForecast:
    """What a frozen generation would take if it were queued now."""
    # Only what has been drawn has pictures, so that a long queue does not hide it.
    newest = (
        select(GeneratedImage.generation_id)
        .order_by(GeneratedImage.generation_id.desc())
        .limit(RECENT)
    )
    rows = session.execute(
        select(Generation.base_model, Generation.request, Job.gpu_seconds)
        .join(Job, Job.id == Generation.id)
        .where(Generation.id.in_(newest), Job.status == "succeeded"),
        # How long it takes does not depend on whose it is; nothing else of them is told.
        execution_options=ACROSS_ACCOUNTS,
    ).all()
    alike = [row for row in rows if row.base_model == frozen.base_model.id]
    per_unit = rate([(row.gpu_seconds, _work(row.request)) for row in alike])
    seconds = None if per_unit is None else round(per_unit * _work(frozen.request), 2)
    loras = [_report(session, use) for use in frozen.loras]
    return GenerationForecast(
        base_model=frozen.base_model.id,
        steps=frozen.request["steps"],
        predicted_seconds=seconds,
        gpu_seconds=seconds,
        # No worker measures it.
        memory_bytes=None,
        queue=place(session, account_id, "generate"),
        loras=loras,
        warnings=[
            f"{report.lora} ({report.name}) has {len(report.unmatched)} names without a place in "
            f"{frozen.base_model.id}"
            for report in loras
            if report.unmatched
        ],
    )


def _work(request: JsonObject) -> float:
    """Steps × pixels of all pictures, those of a second pass included."""
    pixels = request["width"] * request["height"]
    share = request["strength"] if request["init_image"] else 1.0
    work = request["steps"] * share * pixels
    if hires := request["hires"]:
        steps = (hires["steps"] or request["steps"]) * hires["strength"]
        work += steps * pixels * hires["scale"] ** 2
    return float(work * request["num_images"])


def _report(session: Session, use: JsonObject) -> LoraReport:
    lora = session.get(Lora, use["lora"])
    report = (lora.report if lora else None) or {}
    return LoraReport(
        lora=use["lora"],
        name=use["name"],
        weight=use["weight"],
        start=use["start"],
        end=use["end"],
        matched=report.get("matched"),
        unmatched=report.get("unmatched", {}).get("names", []),
    )
