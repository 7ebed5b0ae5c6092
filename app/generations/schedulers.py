"""The schedulers a generation may name, and what each is. The worker holds a recipe for each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheduler:
    """What a request can be told of a scheduler without running it.

    Attributes:
        called: what web UIs call it.
        note: when to take it, and when not.
        calls: how often the UNet is asked in each step.
        random: whether it adds noise on the way; then more steps never settle on one picture.
        pure_noise: whether it can begin at pure noise, as bases of zero terminal SNR want.
        max_steps: the most it makes, where it has been distilled in so many; None: no limit.
    """

    called: str
    note: str = ""
    calls: int = 1
    random: bool = False
    pure_noise: bool = True
    max_steps: int | None = None


_FEW = "for LoRAs that draw in a few steps (Lightning, Hyper-SD)"
SCHEDULERS: dict[str, Scheduler] = {
    "euler": Scheduler("Euler", "the default; safe everywhere"),
    "euler_karras": Scheduler("Euler Karras"),
    "euler_exponential": Scheduler("Euler Exponential"),
    "euler_trailing": Scheduler("Euler SGM Uniform", _FEW),
    "euler_a": Scheduler("Euler a", "soft, forgiving", random=True),
    "euler_a_trailing": Scheduler("Euler a SGM Uniform", "for Turbo and the like", random=True),
    "ddim": Scheduler("DDIM"),
    "ddim_trailing": Scheduler("DDIM SGM Uniform", _FEW),
    "ddpm": Scheduler("DDPM", random=True),
    "dpmpp_2m": Scheduler("DPM++ 2M"),
    "dpmpp_2m_karras": Scheduler("DPM++ 2M Karras", "close to the end result in 15 to 20 steps"),
    "dpmpp_2m_exponential": Scheduler("DPM++ 2M Exponential"),
    "dpmpp_2m_trailing": Scheduler("DPM++ 2M SGM Uniform"),
    "dpmpp_2m_lu": Scheduler("DPM++ 2M Lu", "steps laid out for this solver"),
    "dpmpp_2m_sde": Scheduler("DPM++ 2M SDE", random=True),
    "dpmpp_2m_sde_karras": Scheduler("DPM++ 2M SDE Karras", "rich in detail", random=True),
    "dpmpp_2m_sde_exponential": Scheduler("DPM++ 2M SDE Exponential", random=True),
    "dpmpp_2m_sde_trailing": Scheduler("DPM++ 2M SDE SGM Uniform", random=True),
    "dpmpp_3m": Scheduler("DPM++ 3M", "for low guidance"),
    "dpmpp_3m_karras": Scheduler("DPM++ 3M Karras", "for low guidance"),
    "dpmpp_3m_sde": Scheduler("DPM++ 3M SDE", "wants 30 steps or more", random=True),
    "dpmpp_3m_sde_karras": Scheduler("DPM++ 3M SDE Karras", "wants 30 or more", random=True),
    "dpmpp_3m_sde_exponential": Scheduler(
        "DPM++ 3M SDE Exponential", "wants 30 or more", random=True
    ),
    "dpmpp_2s": Scheduler("DPM++ 2S", pure_noise=False),
    "dpmpp_2s_karras": Scheduler("DPM++ 2S Karras", pure_noise=False),
    "dpmpp_sde": Scheduler("DPM++ SDE", random=True, pure_noise=False),
    "dpmpp_sde_karras": Scheduler("DPM++ SDE Karras", random=True, pure_noise=False),
    "heun": Scheduler("Heun", calls=2, pure_noise=False),
    "heun_karras": Scheduler("Heun Karras", calls=2, pure_noise=False),
    "dpm2": Scheduler("DPM2", calls=2, pure_noise=False),
    "dpm2_karras": Scheduler("DPM2 Karras", calls=2, pure_noise=False),
    "dpm2_a": Scheduler("DPM2 a", calls=2, random=True, pure_noise=False),
    "dpm2_a_karras": Scheduler("DPM2 a Karras", calls=2, random=True, pure_noise=False),
    "lms": Scheduler("LMS", pure_noise=False),
    "lms_karras": Scheduler("LMS Karras", pure_noise=False),
    "deis": Scheduler("DEIS", pure_noise=False),
    "deis_karras": Scheduler("DEIS Karras", pure_noise=False),
    "unipc": Scheduler("UniPC"),
    "unipc_karras": Scheduler("UniPC Karras", "the closest to the end result in 12 steps"),
    "unipc_trailing": Scheduler("UniPC SGM Uniform"),
    "sa_solver": Scheduler("SA-Solver", random=True, pure_noise=False),
    "sa_solver_karras": Scheduler("SA-Solver Karras", random=True, pure_noise=False),
    "pndm": Scheduler("PLMS", pure_noise=False),
    "lcm": Scheduler("LCM", "for LCM LoRAs: 4 to 8 steps", random=True, max_steps=50),
    "tcd": Scheduler("TCD", "for TCD and Hyper-SD LoRAs: 4 to 8 steps", max_steps=50),
}


def why_not(name: str, *, steps: int, pure_noise: bool) -> str | None:
    """Why a request cannot have this scheduler, in its own words; None when it can.

    Args:
        steps: the most of any pass.
        pure_noise: whether the base was trained to begin at pure noise (zero terminal SNR).
    """
    scheduler = SCHEDULERS.get(name)
    if scheduler is None:
        return f"{name!r}; there are {', '.join(SCHEDULERS)}"
    if pure_noise and not scheduler.pure_noise:
        able = ", ".join(each for each, known in SCHEDULERS.items() if known.pure_noise)
        return f"{name} cannot begin at pure noise, as this base model does; these can: {able}"
    if scheduler.max_steps is not None and steps > scheduler.max_steps:
        return f"{name} makes at most {scheduler.max_steps} steps, not {steps}"
    return None
