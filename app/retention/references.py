"""Which stored objects are still needed: by rows that show them, and by jobs that will read them.

A key tells where to look: `accounts/{account}/{images|thumbnails|loras|inputs}/…` are shared by
every row of the same content, `accounts/{account}/jobs/{job}/{run}/…` are one job's own.
"""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.settings import get_settings

# Of each key, whether a row shows it. `split_part(key, '/', 4)` is the job of a job's own file.
_SHOWN = text("""
    SELECT key FROM unnest(CAST(:keys AS text[])) AS key
    WHERE EXISTS (SELECT FROM images WHERE object_key = key OR thumbnail_key = key)
       OR EXISTS (SELECT FROM loras WHERE object_key = key)
       OR EXISTS (SELECT FROM lora_files WHERE object_key = key)
       OR EXISTS (SELECT FROM input_images WHERE object_key = key AND gone_at IS NULL)
       OR EXISTS (SELECT FROM uploads WHERE object_key = key AND NOT object_gone)
       OR EXISTS (
            SELECT FROM generated_images
            JOIN jobs ON jobs.id = generation_id
            WHERE generation_id = split_part(key, '/', 4) AND object_key = key
              AND pictures_gone_at IS NULL)
       OR EXISTS (
            SELECT FROM checkpoints
            WHERE training_id = split_part(key, '/', 4)
              AND (object_key = key
                   OR samples @> jsonb_build_array(jsonb_build_object('object_key', key))))
       OR EXISTS (
            SELECT FROM comparisons JOIN jobs USING (id)
            WHERE id = split_part(key, '/', 4) AND pictures_gone_at IS NULL
              AND (sheet_key = key
                   OR images @> jsonb_build_array(jsonb_build_object('object_key', key))))
""")

# A training goes on from its state; a retry of it from the same files, until it has its own.
_STATES = text("""
    SELECT file.value FROM trainings
    JOIN jobs ON jobs.id = trainings.id
    CROSS JOIN LATERAL jsonb_each_text(trainings.state -> 'files') AS file
    WHERE jobs.account_id = :account_id AND trainings.state IS NOT NULL
""")

# Everything frozen into a request: pictures, LoRAs, masks, whatever their rows have become.
_FROZEN = text("""
    WITH unfinished AS (
        SELECT id FROM jobs WHERE account_id = :account_id AND status IN ('queued', 'running')
    ), requests AS (
        -- One that failed or was canceled may be retried with the same pictures, for a while.
        SELECT spec AS request FROM trainings JOIN jobs USING (id)
        WHERE account_id = :account_id AND status <> 'succeeded'
          AND coalesce(ended_at, now()) > now() - make_interval(secs => :retried_seconds)
        UNION ALL
        SELECT jsonb_build_array(request, loras) FROM generations JOIN unfinished USING (id)
        UNION ALL
        SELECT jsonb_build_array(request, cells) FROM comparisons JOIN unfinished USING (id)
        UNION ALL SELECT request FROM lora_tools JOIN unfinished USING (id)
    )
    SELECT jsonb_path_query(request, '$.**.object_key') #>> '{}' FROM requests
""")

# A running attempt has stored files that its rows do not name yet.
_UNFINISHED = text("""
    SELECT id FROM jobs WHERE account_id = :account_id AND status IN ('queued', 'running')
""")


def shown(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that a row refers to, as long as it exists."""
    return set(session.scalars(_SHOWN, {"keys": list(keys)}))


def awaited(session: Session, account_id: str, keys: Collection[str]) -> set[str]:
    """Those of the keys that a job of the account will read, or may have written just now."""
    told = {"account_id": account_id}
    retried = {"retried_seconds": get_settings().training_state_keep_seconds}
    read = set(session.scalars(_STATES, told)) | set(session.scalars(_FROZEN, told | retried))
    unfinished = set(session.scalars(_UNFINISHED, told))
    return {key for key in keys if key in read or job_of(key) in unfinished}


def account_of(key: str) -> str | None:
    """The account of an object; None of one that is nobody's."""
    parts = key.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "accounts" else None


def job_of(key: str) -> str | None:
    """The job whose attempt stored an object; None of one that jobs share."""
    parts = key.split("/")
    return parts[3] if len(parts) > 4 and parts[2] == "jobs" else None
