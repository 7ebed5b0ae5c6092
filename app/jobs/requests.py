"""What every request for a job may say besides what the job is to do."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from app.database import utc_now
from app.settings import get_settings
from app.web.text import PlainText

Seconds = Annotated[float, Field(gt=0)]


def _from_now(told: Any) -> Any:
    """Seconds become a time; what is no number is left to the type's own check."""
    if isinstance(told, bool) or not isinstance(told, int | float):
        return told
    if not told > 0:
        raise ValueError(f"{told} s is no time from now; more than 0 works")
    try:
        return utc_now() + timedelta(seconds=told)
    except OverflowError as error:
        raise ValueError(f"{told:g} s are more than a calendar has") from error


def _within_limits(at: datetime) -> datetime:
    ahead = (at - utc_now()).total_seconds()
    if ahead <= 0:
        raise ValueError(f"{at.isoformat()} is past")
    most = get_settings().max_deadline_seconds
    if ahead > most:
        raise ValueError(
            f"{at.isoformat()} is {ahead:.0f} s away; the limit "
            f"(LORAWRIGHT_MAX_DEADLINE_SECONDS) is {most:.0f}"
        )
    return at


Deadline = Annotated[
    AwareDatetime,
    BeforeValidator(_from_now, json_schema_input_type=AwareDatetime | Seconds),
    AfterValidator(_within_limits),
]


class JobRequest(BaseModel):
    """Parent of the bodies that ask for a job."""

    model_config = ConfigDict(extra="forbid")

    metadata: dict[str, str] = Field(
        default_factory=dict, max_length=16, description="The client's own string pairs"
    )
    deadline: Deadline | None = Field(
        default=None,
        description="A time with its zone, or seconds from now: a job that is not done by then "
        "fails with `deadline_exceeded`",
        examples=[3600],
    )
    webhook: PlainText | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description="A URL that is told of every change of the job's status, besides the "
        "account's webhooks",
        examples=["https://example.com/lorawright"],
    )
