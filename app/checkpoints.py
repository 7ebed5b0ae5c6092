"""What a single-file SDXL checkpoint must hold, judged by its tensors' names alone.

The names are those of the reference implementation; `worker.ml.base_models.single_file_names` says
which parameter each is.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

# Where each part begins.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}

# What checkpoints carry besides: averaged weights, tables that are computed anew, the temperature
# of CLIP's training, and marks of a model's kind.
EXTRAS = re.compile(
    r"^(model_ema\..*|.*\.position_ids|conditioner\.embedders\.\d\..*logit_scale|"
    r"conditioner\.embedders\.0\.transformer\.text_projection\.weight|"
    r"denoiser\.(sigmas|weighting\..*)|betas|logvar|(sqrt_|log_one_minus_|posterior_).*|"
    r"alphas_cumprod(_prev)?|first_stage_model\.loss\..*|v_pred|ztsnr|edm_(mean|std))$"
)
# Present in a v-prediction model, and in one of zero terminal SNR.
V_PREDICTION_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
# SDXL's UNet is told sizes and a pooled prompt; those before it are not.
_LABEL = f"{PREFIXES['unet']}label_emb.0.0.weight"
_NAMED = 5


class NotACheckpoint(ValueError):
    """The names are not those of an SDXL checkpoint; the text says why."""


@dataclass(frozen=True)
class CheckpointParts:
    """What a checkpoint holds.

    Attributes:
        parts: those of `PREFIXES` that it has; the UNet always is.
        v_prediction, zero_snr: what its marks say.
    """

    parts: frozenset[str]
    v_prediction: bool
    zero_snr: bool


def checkpoint_parts(names: Collection[str]) -> CheckpointParts:
    """Read a checkpoint's parts off the names of its tensors.

    Raises:
        NotACheckpoint: there is no SDXL UNet, or names that no part has.
    """
    own = [name for name in names if not EXTRAS.match(name)]
    parts = frozenset(
        part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in own)
    )
    if "unet" not in parts:
        raise NotACheckpoint(
            f"nothing in it begins with {PREFIXES['unet']}; its first names are {_some(names)}"
        )
    foreign = [name for name in own if not name.startswith(tuple(PREFIXES.values()))]
    if foreign:
        raise NotACheckpoint(
            f"it has {len(foreign)} tensors that no part of SDXL has, such as {_some(foreign)}"
        )
    if _LABEL not in own:
        raise NotACheckpoint(
            f"it is without {_LABEL}, which SDXL's UNet has and older Stable Diffusion has not"
        )
    return CheckpointParts(parts, V_PREDICTION_MARK in names, ZERO_SNR_MARK in names)


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED])
