"""Build a scheduler by the short name people know it by, on the base model's own noise schedule."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from worker.ml.inference.errors import SchedulerUnknown, SchedulerUnsupported

_KARRAS: dict[str, Any] = {"use_karras_sigmas": True}
_EXPONENTIAL: dict[str, Any] = {"use_exponential_sigmas": True}
# Timesteps counted from the noisy end, which web UIs call SGM uniform.
_TRAILING: dict[str, Any] = {"timestep_spacing": "trailing"}
_SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
_THIRD: dict[str, Any] = {"solver_order": 3}
# Without it an odd number of steps is refused.
_LOWER_ORDER: dict[str, Any] = {"lower_order_final": True}
# Clipping is for pixel-space models; latents reach beyond [-1, 1].
_LATENT: dict[str, Any] = {"clip_sample": False}
_DDIM: dict[str, Any] = {**_LATENT, "set_alpha_to_one": False}

_EULER = ("diffusers.schedulers.scheduling_euler_discrete", "EulerDiscreteScheduler")
_EULER_A = (
    "diffusers.schedulers.scheduling_euler_ancestral_discrete",
    "EulerAncestralDiscreteScheduler",
)
_DPMPP = ("diffusers.schedulers.scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")
_DPMPP_S = ("diffusers.schedulers.scheduling_dpmsolver_singlestep", "DPMSolverSinglestepScheduler")
_HEUN = ("diffusers.schedulers.scheduling_heun_discrete", "HeunDiscreteScheduler")
_DPM2 = ("diffusers.schedulers.scheduling_k_dpm_2_discrete", "KDPM2DiscreteScheduler")
_DPM2_A = (
    "diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete",
    "KDPM2AncestralDiscreteScheduler",
)
_LMS = ("worker.ml.inference.lms", "ExactLMSScheduler")
_DEIS = ("diffusers.schedulers.scheduling_deis_multistep", "DEISMultistepScheduler")
_UNIPC = ("diffusers.schedulers.scheduling_unipc_multistep", "UniPCMultistepScheduler")
_SA = ("diffusers.schedulers.scheduling_sasolver", "SASolverScheduler")
_DDIM_CLASS = ("diffusers.schedulers.scheduling_ddim", "DDIMScheduler")
_DDPM = ("diffusers.schedulers.scheduling_ddpm", "DDPMScheduler")
_PNDM = ("diffusers.schedulers.scheduling_pndm", "PNDMScheduler")
_LCM = ("diffusers.schedulers.scheduling_lcm", "LCMScheduler")
_TCD = ("diffusers.schedulers.scheduling_tcd", "TCDScheduler")

# name: (where its class is, what differs from the class's own configuration).
_RECIPES: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "euler": (_EULER, {}),
    "euler_karras": (_EULER, _KARRAS),
    "euler_exponential": (_EULER, _EXPONENTIAL),
    "euler_trailing": (_EULER, _TRAILING),
    "euler_a": (_EULER_A, {}),
    "euler_a_trailing": (_EULER_A, _TRAILING),
    "ddim": (_DDIM_CLASS, _DDIM),
    "ddim_trailing": (_DDIM_CLASS, {**_DDIM, **_TRAILING}),
    "ddpm": (_DDPM, _LATENT),
    "dpmpp_2m": (_DPMPP, {}),
    "dpmpp_2m_karras": (_DPMPP, _KARRAS),
    "dpmpp_2m_exponential": (_DPMPP, _EXPONENTIAL),
    "dpmpp_2m_trailing": (_DPMPP, _TRAILING),
    "dpmpp_2m_lu": (_DPMPP, {"use_lu_lambdas": True}),
    "dpmpp_2m_sde": (_DPMPP, _SDE),
    "dpmpp_2m_sde_karras": (_DPMPP, {**_SDE, **_KARRAS}),
    "dpmpp_2m_sde_exponential": (_DPMPP, {**_SDE, **_EXPONENTIAL}),
    "dpmpp_2m_sde_trailing": (_DPMPP, {**_SDE, **_TRAILING}),
    "dpmpp_3m": (_DPMPP, _THIRD),
    "dpmpp_3m_karras": (_DPMPP, {**_THIRD, **_KARRAS}),
    "dpmpp_3m_sde": (_DPMPP, {**_THIRD, **_SDE}),
    "dpmpp_3m_sde_karras": (_DPMPP, {**_THIRD, **_SDE, **_KARRAS}),
    "dpmpp_3m_sde_exponential": (_DPMPP, {**_THIRD, **_SDE, **_EXPONENTIAL}),
    "dpmpp_2s": (_DPMPP_S, _LOWER_ORDER),
    "dpmpp_2s_karras": (_DPMPP_S, {**_LOWER_ORDER, **_KARRAS}),
    "dpmpp_sde": (_DPMPP_S, {**_LOWER_ORDER, **_SDE}),
    "dpmpp_sde_karras": (_DPMPP_S, {**_LOWER_ORDER, **_SDE, **_KARRAS}),
    "heun": (_HEUN, {}),
    "heun_karras": (_HEUN, _KARRAS),
    "dpm2": (_DPM2, {}),
    "dpm2_karras": (_DPM2, _KARRAS),
    "dpm2_a": (_DPM2_A, {}),
    "dpm2_a_karras": (_DPM2_A, _KARRAS),
    "lms": (_LMS, {}),
    "lms_karras": (_LMS, _KARRAS),
    "deis": (_DEIS, {}),
    "deis_karras": (_DEIS, _KARRAS),
    "unipc": (_UNIPC, {}),
    "unipc_karras": (_UNIPC, _KARRAS),
    "unipc_trailing": (_UNIPC, _TRAILING),
    "sa_solver": (_SA, {}),
    "sa_solver_karras": (_SA, _KARRAS),
    "pndm": (_PNDM, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lcm": (_LCM, _LATENT),
    "tcd": (_TCD, _LATENT),
}

SCHEDULERS = tuple(_RECIPES)

# What a base's own configuration decides. The rest of it is how its makers liked to solve.
_OF_THE_BASE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
)


def make_scheduler(name: str, base_config: Mapping[str, Any], steps: int | None = None) -> Any:
    """A fresh diffusers scheduler; schedulers keep state, so each generation takes its own.

    Args:
        name: one of `SCHEDULERS`.
        base_config: the base model's scheduler configuration; betas, prediction type and timestep
            spacing are taken over where the class knows them.
        steps: how many it is to make, checked where it is given.

    Raises:
        SchedulerUnknown: there is no such name; the message lists those there are.
        SchedulerUnsupported: it cannot begin at pure noise, as this base was trained to, or
            cannot make so many steps.
    """
    if name not in _RECIPES:
        raise SchedulerUnknown(f"scheduler is {name!r}; known are {', '.join(SCHEDULERS)}")
    (module, class_name), overrides = _RECIPES[name]
    cls = getattr(importlib.import_module(module), class_name)
    known = inspect.signature(cls.__init__).parameters
    if base_config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        able = ", ".join(each for each in SCHEDULERS if begins_at_pure_noise(each))
        raise SchedulerUnsupported(
            f"scheduler {name} cannot begin at pure noise, which this base model was trained for "
            f"(zero terminal SNR); these can: {able}"
        )
    config = {key: base_config[key] for key in _OF_THE_BASE if key in base_config and key in known}
    made = cls(**{**config, **overrides})
    # Distilled in so many steps, of which fewer are taken.
    most = made.config.get("original_inference_steps")
    if steps is not None and most is not None and steps > most:
        raise SchedulerUnsupported(f"scheduler {name} makes at most {most} steps, not {steps}")
    return made


def begins_at_pure_noise(name: str) -> bool:
    """Whether a scheduler knows bases of zero terminal SNR (Lin et al. 2023)."""
    (module, class_name), _ = _RECIPES[name]
    cls = getattr(importlib.import_module(module), class_name)
    return "rescale_betas_zero_snr" in inspect.signature(cls.__init__).parameters
