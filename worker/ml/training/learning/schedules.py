"""How the learning rate goes over a run: a pure function of the step, so resuming needs no past."""

from collections.abc import Callable

import torch

from app.trainings.params import TrainingParams


def rate_factor(params: TrainingParams, total_steps: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each step.

    Args:
        total_steps: optimizer steps of the run, >= 1.

    Returns:
        A function of the number of steps done, 0 to total_steps, with values in [0, 1]. It rises
        in a straight line over `lr_warmup_steps`, then is 1, or falls towards 0 as the schedule's
        name says.

    Raises:
        ValueError: there is no step, or warm-up does not end before the run does.
    """
    warmup = params.lr_warmup_steps
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; it must be at least 1")
    if warmup >= total_steps:
        raise ValueError(
            f"lr_warmup_steps is {warmup}, but the run has {total_steps} steps; warm-up must end "
            f"before the run does"
        )
    if params.lr_scheduler == "rex":
        return lambda step: _rex(step, warmup, total_steps)

    from diffusers.optimization import get_scheduler

    # diffusers hands out its functions inside a torch scheduler, and that wants an optimizer, of
    # which only the rate counts: `polynomial` ends at 1e-7 of it.
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(
        "constant_with_warmup" if params.lr_scheduler == "constant" else params.lr_scheduler,
        stand_in,
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
        num_cycles=params.lr_cycles,
        power=params.lr_power,
    )
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor


def _rex(step: int, warmup: int, total_steps: int) -> float:
    """REX, η = η₀ · (1 - p) / (1/2 + (1 - p)/2), p being the share done (Chen et al. 2021)."""
    if step < warmup:
        return step / warmup
    left = max(0.0, 1 - (step - warmup) / (total_steps - warmup))
    return left / (0.5 + 0.5 * left)
