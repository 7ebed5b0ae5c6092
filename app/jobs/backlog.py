"""How much work waits, in seconds of one worker: what an autoscaler asks every few seconds.

Cheap however much waits: no more than `COUNTED` jobs of a queue are counted, by index alone, and
how long one takes is read from the newest that ended.
"""

from datetime import timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from app.accounts.usage import today
from app.broker import WORK_QUEUES

# More waiting jobs of one queue count as so many. At 4 s each they are 111 hours of one worker.
COUNTED = 100_000
# Ended jobs that are looked at, the newest first, whatever their queue.
NEWEST = 2000
# Where none of a queue is among them, its kinds' days of so long tell.
DAYS = timedelta(days=7)
# Before any has ended on this installation; a queue at 0 would never get its first worker.
FIRST_GUESS_SECONDS = {"ingest": 5.0, "caption": 60.0, "train": 2400.0, "generate": 10.0}


def queue_seconds(session: Session) -> dict[str, float]:
    """Seconds that one worker would take for all that waits, by queue; every work queue is there.

    Jobs in a pause before another attempt wait, too; those of suspended accounts are left out, as
    no worker may have them. On queues of GPU workers a second is a GPU second, so that jobs drawn
    together count for their share.
    """
    waiting = {
        queue: session.scalar(_WAITING, {"queue_is": queue, "counted": COUNTED}) or 0
        for queue in WORK_QUEUES
    }
    if not any(waiting.values()):
        return dict.fromkeys(waiting, 0.0)
    one = mean_seconds(session)
    return {queue: round(jobs * one[queue], 3) for queue, jobs in waiting.items()}


def mean_seconds(session: Session) -> dict[str, float]:
    """What a job takes, by queue: as the newest did, or those of the last days, or a guess."""
    newest = _by_queue(session, _NEWEST, newest=NEWEST)
    if len(newest) == len(WORK_QUEUES):
        return newest
    return FIRST_GUESS_SECONDS | _by_queue(session, _DAYS, since=today() - DAYS) | newest


def _by_queue(session: Session, statement: TextClause, **told: object) -> dict[str, float]:
    return {row.queue: row.seconds for row in session.execute(statement, told)}


# An account's line is open as long as a job waits in it.
_WAITING = text("""
    SELECT count(*) FROM (
        SELECT FROM job_lines
        JOIN accounts ON accounts.id = job_lines.account_id AND accounts.suspended_at IS NULL
        JOIN jobs ON jobs.queue = :queue_is AND jobs.account_id = job_lines.account_id
            AND jobs.priority = job_lines.priority AND jobs.status = 'queued'
        WHERE job_lines.queue = :queue_is AND job_lines.waiting
        LIMIT :counted
    ) AS found
""")
_NEWEST = text("""
    SELECT queue, CAST(avg(
        CASE WHEN gpu_seconds > 0 THEN gpu_seconds
             ELSE extract(epoch FROM ended_at - started_at) END
    ) AS double precision) AS seconds
    FROM (
        SELECT queue, gpu_seconds, started_at, ended_at FROM jobs
        WHERE ended_at IS NOT NULL AND status = 'succeeded'
        ORDER BY ended_at DESC LIMIT :newest
    ) AS ended
    GROUP BY queue
""")
# Of the days only kinds are known, and GPU seconds alone are kept.
_DAYS = text("""
    SELECT queue, sum(gpu_seconds) / sum(jobs) AS seconds
    FROM usage_days JOIN (VALUES
        ('captioning', 'caption'), ('training', 'train'),
        ('generation', 'generate'), ('comparison', 'generate')
    ) AS kinds (kind, queue) USING (kind)
    WHERE day >= :since
    GROUP BY queue HAVING sum(jobs) > 0 AND sum(gpu_seconds) > 0
""")
