"""How much of everything: the short form of the suite, and the long one."""

import argparse

from tests.faults.campaign import Plan

# Out of a hundred kills. A worker killed whole takes seconds to load its libraries again; a pool's
# child is forked anew at once.
SHARES = {
    "claim": 14,
    "trainer mid-step": 6,
    "child mid-step of a training": 6,
    "child mid-step of a generation": 8,
    "mid-checkpoint": 6,
    "mid-upload of a state": 6,
    "mid-upload of a checkpoint": 5,
    "mid-upload of a picture": 8,
    "state stored, no row": 6,
    "checkpoint stored, no row": 5,
    "picture stored, no row": 8,
    "any moment, child": 12,
    "any moment, trainer": 4,
    "any moment, worker": 6,
}


def long_plan(options: argparse.Namespace) -> Plan:
    """The long form, by the command line's numbers."""
    kills = {point: options.kills * share // 100 for point, share in SHARES.items()}
    kills["any moment, child"] += options.kills - sum(kills.values())
    return Plan(
        kills=kills,
        trainings=options.trainings,
        generations=options.generations,
        redis=options.redis,
        postgres=options.postgres,
        s3=options.s3,
        freezes=options.freezes,
        seed=options.seed,
        pause_seconds=0.4,
        settle_seconds=1200.0,
    )


def short_plan() -> Plan:
    """The short form: each fault about once, in about a minute."""
    return Plan(
        kills={
            "claim": 1,
            "trainer mid-step": 1,
            "child mid-step of a generation": 1,
            "mid-checkpoint": 1,
            "mid-upload of a state": 1,
            "checkpoint stored, no row": 1,
            "picture stored, no row": 1,
            "any moment, worker": 1,
        },
        trainings=3,
        generations=12,
        redis=1,
        postgres=1,
        s3=1,
        freezes=1,
        seed=1,
        pause_seconds=0.3,
        settle_seconds=300.0,
    )
