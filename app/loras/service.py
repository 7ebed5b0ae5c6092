"""The LoRA registry: publish, find, edit, download."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.catalog import load_catalog
from app.database import JsonObject, new_id
from app.errors import Conflict, NotFound
from app.loras.models import Lora, LoraFile
from app.loras.schemas import LoraPatch
from app.retention.service import doom
from app.settings import get_settings
from app.trainings.models import Checkpoint, Training

# Of an account's LoRAs, how many names an error for a name that nothing has tells.
NAMES_TOLD = 5


def publish(
    session: Session,
    account_id: str,
    training: Training,
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    report: JsonObject | None = None,
) -> Lora:
    """Make a training's checkpoint a LoRA of its account; its file must be stored already.

    Args:
        report: what the check of the file found, where it was at hand.
    """
    params: JsonObject = training.spec["params"]
    base_model = load_catalog(get_settings().catalog_path).base_model(training.base_model)
    if base_model is None:
        raise Conflict(f"The base model {training.base_model} is no longer offered")
    lora = Lora(
        id=new_id("lora"),
        account_id=account_id,
        name=name or training.name,
        trigger_word=training.spec["trigger_word"],
        base_model=training.base_model,
        architecture=base_model.architecture,
        source="training",
        training_id=training.id,
        checkpoint_id=checkpoint.id,
        rank=params["rank"],
        alpha=params["alpha"],
        object_key=checkpoint.object_key,
        sha256=checkpoint.sha256,
        bytes=checkpoint.bytes,
        file_metadata=checkpoint.file_metadata,
        report=report or {},
    )
    session.add(lora)
    session.flush()
    session.refresh(lora)
    return lora


def get(session: Session, account_id: str, lora_id: str) -> Lora:
    """A LoRA of this account.

    Raises:
        NotFound: no such LoRA in this account.
    """
    lora = session.scalar(select(Lora).where(Lora.id == lora_id, Lora.account_id == account_id))
    if lora is None:
        raise NotFound(f"No LoRA {lora_id}")
    return lora


def find(session: Session, account_id: str, reference: str) -> Lora:
    """A LoRA by its id, or by its name when only one has it.

    Raises:
        NotFound: nothing of that id or name in this account.
        Conflict: several LoRAs have that name.
    """
    if reference.startswith("lora_"):
        return get(session, account_id, reference)
    found = session.scalars(
        select(Lora).where(Lora.account_id == account_id, Lora.name == reference).limit(2)
    ).all()
    if not found:
        newest = list_newest(session, account_id, limit=NAMES_TOLD, after=None)
        names = ", ".join(repr(lora.name) for lora in newest)
        told = f"the newest are {names}" if names else "there is none yet"
        raise NotFound(f"No LoRA named {reference!r}; {told}")
    if len(found) > 1:
        raise Conflict(f"Several LoRAs are named {reference!r}; use an id")
    return found[0]


def list_newest(session: Session, account_id: str, *, limit: int, after: str | None) -> list[Lora]:
    """Up to `limit` LoRAs, newest first."""
    query = select(Lora).where(Lora.account_id == account_id)
    if after is not None:
        query = query.where(Lora.id < after)
    return list(session.scalars(query.order_by(Lora.id.desc()).limit(limit)))


def delete(session: Session, lora: Lora) -> None:
    """Delete a LoRA; its files go once no unfinished request needs them.

    The file of a checkpoint stays with its training.
    """
    files = session.scalars(select(LoraFile.object_key).where(LoraFile.lora_id == lora.id))
    doom(session, lora.account_id, [lora.object_key, *files])
    session.delete(lora)
    session.flush()
    changes = {"name": lora.name, "sha256": lora.sha256}
    audit.record(session, "lora.delete", lora.id, account_id=lora.account_id, changes=changes)


def edit(session: Session, lora: Lora, patch: LoraPatch) -> Lora:
    """Change what the patch names."""
    for name, value in patch.model_dump(exclude_unset=True).items():
        setattr(lora, name, value)
    session.flush()
    return lora
