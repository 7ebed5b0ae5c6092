"""Build a scheduler by the short name people know it by, on the base model's own noise schedule."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from worker.ml.inference.errors import SchedulerUnknown

# name: (diffusers module, class, what differs from the base's configuration).
_RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("euler_discrete", "EulerDiscreteScheduler", {}),
    "euler_karras": ("euler_discrete", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", {}),
    # Clipping is for pixel-space models; latents reach beyond [-1, 1].
    "ddim": ("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("ddpm", "DDPMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("dpmsolver_multistep", "DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": (
        "dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True},
    ),
    "dpmpp_2m_sde": (
        "dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "dpmpp_2m_sde_karras": (
        "dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpmpp_2s": (
        "dpmsolver_singlestep",
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": True},
    ),
    "heun": ("heun_discrete", "HeunDiscreteScheduler", {}),
    "lcm": ("lcm", "LCMScheduler", {"clip_sample": False}),
    "pndm": ("pndm", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "tcd": ("tcd", "TCDScheduler", {"clip_sample": False}),
    "unipc": ("unipc_multistep", "UniPCMultistepScheduler", {}),
}

SCHEDULERS = tuple(_RECIPES)


def make_scheduler(name: str, base_config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler; schedulers keep state, so each generation takes its own.

    Args:
        name: one of `SCHEDULERS`.
        base_config: the base model's scheduler configuration; betas, prediction type and timestep
            spacing are taken over where the class knows them.

    Raises:
        SchedulerUnknown: there is no such name; the message lists those there are.
    """
    if name not in _RECIPES:
        raise SchedulerUnknown(f"scheduler is {name!r}; known are {', '.join(SCHEDULERS)}")
    module, class_name, overrides = _RECIPES[name]
    cls = getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), class_name)
    known = inspect.signature(cls.__init__).parameters
    config = {key: value for key, value in base_config.items() if key in known}
    return cls(**{**config, **overrides})
