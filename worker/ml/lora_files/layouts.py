"""A LoRA's tensors under the names of each layout that is written.

kohya's holds everything. diffusers' and PEFT's have no alpha tensors: a program that knows nothing
else scales each module by 1, so alpha / rank goes into the matrices, and the configuration that is
written beside them says alpha = rank for every module. That is right for programs that read the
configuration and for those that do not.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from app.lora_format.adapter_config import METADATA_KEY
from app.lora_format.errors import LoraLayoutUnsupported
from app.lora_format.names import UnetShape, kohya_prefix
from worker.ml.lora_files.modules import AdapterModule, LohaModule, LokrModule, Lora, LoraModule
from worker.ml.lora_files.peft_lokr import settings_for

WrittenLayout = Literal["kohya", "diffusers", "peft"]

_KIND_NAMES: dict[type[AdapterModule], str] = {LohaModule: "LoHa", LokrModule: "LoKr"}
_EXCEPT = {"peft": ", but in every module and without magnitudes"}
_ENCODER_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def kohya_tensors(lora: Lora, shape: UnetShape, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every kind under kohya's and LyCORIS' names, token vectors as `bundle_emb.…`.

    Matrices come in `dtype`; magnitudes and token vectors in float32, and so does an alpha that
    `dtype` cannot hold exactly.

    Raises:
        LoraLayoutUnsupported: token vectors without a trigger word.
    """
    tensors: dict[str, Tensor] = {}
    for path, module in sorted(lora.modules.items()):
        prefix = kohya_prefix(path, shape)
        for ending, tensor in module.tensors().items():
            tensors[f"{prefix}.{ending}"] = tensor.to(dtype).contiguous()
        tensors[f"{prefix}.alpha"] = _number(module.alpha, dtype)
        if module.dora_scale is not None:
            tensors[f"{prefix}.dora_scale"] = _magnitudes(module.dora_scale)
    if lora.embeddings and not lora.trigger:
        raise LoraLayoutUnsupported("the LoRA has token vectors but no trigger word to name them")
    for encoder, vectors in sorted(lora.embeddings.items()):
        key = f"bundle_emb.{lora.trigger}.{_ENCODER_KEYS[encoder]}"
        tensors[key] = vectors.float().contiguous()
    return tensors


def diffusers_tensors(lora: Lora, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """LoRA, LoCon and DoRA as `load_lora_weights` reads them, and the metadata it reads beside.

    Raises:
        LoraLayoutUnsupported: LoHa, LoKr, DoRA by columns or of some modules only, or embeddings.
    """
    _refuse_embeddings(lora, "diffusers")
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for network in sorted({path.partition(".")[0] for path in lora.modules}):
        modules = _modules_of(lora, network, "diffusers")
        config |= {f"{network}.{key}": value for key, value in _config(modules).items()}
        for path, module in modules.items():
            tensors |= _pair(f"{network}.{path}", module, dtype)
    return tensors, {METADATA_KEY: json.dumps(config, sort_keys=True)}


def peft_tensors(lora: Lora, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """LoRA, LoCon, DoRA, LoHa or LoKr of a UNet as PEFT saves them, and its `adapter_config.json`.

    Raises:
        LoraLayoutUnsupported: as for diffusers, but for LoHa and LoKr; several kinds at once; a
            LoKr of shapes that none of PEFT's settings gives; or the LoRA changes a text encoder
            too, as PEFT keeps one network's adapter in a file.
    """
    _refuse_embeddings(lora, "peft")
    others = sorted({path.partition(".")[0] for path in lora.modules} - {"unet"})
    if others:
        raise LoraLayoutUnsupported(
            f"a PEFT file holds the adapter of one network; this LoRA changes {', '.join(others)} "
            f"beside the UNet: write it in the diffusers or kohya layout"
        )
    tensors: dict[str, Tensor] = {}
    loha = {
        path.removeprefix("unet."): module
        for path, module in sorted(lora.modules.items())
        if isinstance(module, LohaModule) and module.dora_scale is None
    }
    if loha and len(loha) == len(lora.modules):
        for path, module in loha.items():
            scaled = replace(module, w1_a=module.w1_a.float() * module.scale)
            for ending, tensor in scaled.tensors().items():
                tensors[f"base_model.model.{path}.{ending}"] = tensor.to(dtype).contiguous()
        return tensors, {
            "peft_type": "LOHA",
            "use_effective_conv2d": any(module.t1 is not None for module in loha.values()),
            **_ranks("alpha", loha),
        }
    lokr = {
        path.removeprefix("unet."): module
        for path, module in sorted(lora.modules.items())
        if isinstance(module, LokrModule) and module.dora_scale is None
    }
    if lokr and len(lokr) == len(lora.modules):
        return _lokr(lokr, dtype)
    modules = _modules_of(lora, "unet", "peft")
    for name, pair in modules.items():
        tensors |= _pair(f"base_model.model.{name}", pair, dtype)
    return tensors, {"peft_type": "LORA", "bias": "none", **_config(modules)}


def _lokr(
    modules: Mapping[str, LokrModule], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    settings = settings_for(modules)
    tensors: dict[str, Tensor] = {}
    for path, module in modules.items():
        for ending, tensor in module.tensors().items():
            # The scale goes into the first factor, and PEFT's own is alpha / r = 1.
            scale = module.scale if ending in ("lokr_w1", "lokr_w1_a") else 1.0
            scaled = (tensor.float() * scale).to(dtype).contiguous()
            tensors[f"base_model.model.{path}.{ending}"] = scaled
    ranks = _ranks_by_path("alpha", settings.ranks)
    return tensors, {"peft_type": "LOKR", **settings.config(), **ranks}


def _modules_of(lora: Lora, network: str, layout: WrittenLayout) -> dict[str, LoraModule]:
    """A network's modules by their path in it, ascending; refused unless PEFT can express them."""
    modules: dict[str, LoraModule] = {}
    for path, module in sorted(lora.modules.items()):
        if not path.startswith(f"{network}."):
            continue
        if not isinstance(module, LoraModule):
            kind = _KIND_NAMES[type(module)]
            raise LoraLayoutUnsupported(
                f"{path}: {kind} is not written in the {layout} layout{_EXCEPT.get(layout, '')}; "
                f"write it in the kohya layout"
            )
        if module.dora_scale is not None and not _by_rows(module):
            raise LoraLayoutUnsupported(
                f"{path}: the {layout} layout has DoRA by rows alone; its magnitudes are "
                f"{tuple(module.dora_scale.shape)}"
            )
        modules[path.removeprefix(f"{network}.")] = module
    dora = sum(module.dora_scale is not None for module in modules.values())
    if dora not in (0, len(modules)):
        raise LoraLayoutUnsupported(
            f"{dora} of {len(modules)} modules of the {network} are DoRA; the {layout} layout has "
            f"it for all or none"
        )
    return modules


def _by_rows(module: AdapterModule) -> bool:
    rows = module.matrix_shape[0]
    scale = module.dora_scale
    return scale is not None and scale.shape[0] == rows == scale.numel()


def _pair(name: str, module: LoraModule, dtype: torch.dtype) -> dict[str, Tensor]:
    down, up = module.down.float(), module.up.float()
    if module.mid is not None:
        # Tucker's core and its 1×1 down matrix make one down matrix of the kernel's size.
        down = torch.einsum("rskl,si->rikl", module.mid.float(), down.flatten(1))
    # Into the matrix that it brings closer to the other: half precision has few digits for tiny
    # numbers, which up matrices hold after a short training.
    if (down.abs().max() > up.abs().max()) == (module.scale < 1):
        down = down * module.scale
    else:
        up = up * module.scale
    tensors = {
        f"{name}.lora_A.weight": down.to(dtype).contiguous(),
        f"{name}.lora_B.weight": up.to(dtype).contiguous(),
    }
    if module.dora_scale is not None:
        flat = _magnitudes(module.dora_scale).flatten()
        # PEFT multiplies a convolution's result by it, channels second.
        convolution = down.ndim == 4
        # PEFT's own name has no `.weight` and takes either; transformers takes no other.
        ending = ".weight" if name.startswith("text_encoder") else ""
        tensors[f"{name}.lora_magnitude_vector{ending}"] = (
            flat.reshape(1, -1, 1, 1) if convolution else flat
        )
    return tensors


def _config(modules: Mapping[str, LoraModule]) -> dict[str, Any]:
    """PEFT's LoraConfig of one network."""
    dora = any(module.dora_scale is not None for module in modules.values())
    return {**_ranks("lora_alpha", modules), "use_dora": dora}


def _ranks(alpha: str, modules: Mapping[str, AdapterModule]) -> dict[str, Any]:
    return _ranks_by_path(alpha, {path: module.rank for path, module in modules.items()})


def _ranks_by_path(alpha: str, by_path: Mapping[str, int]) -> dict[str, Any]:
    """Which modules, and their ranks; alpha equals the rank in each."""
    # CLIPTextModel has lost its `text_model.` in newer transformers; PEFT matches ends of names.
    ranks = {path.removeprefix("text_model."): rank for path, rank in by_path.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: own for path, own in ranks.items() if own != rank}
    return {
        "r": rank,
        alpha: rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }


def _refuse_embeddings(lora: Lora, layout: WrittenLayout) -> None:
    if lora.embeddings:
        raise LoraLayoutUnsupported(
            f"the {layout} layout has no place for the token vectors of {lora.trigger}; write it "
            f"in the kohya layout"
        )


def _magnitudes(scale: Tensor) -> Tensor:
    # They stand for the whole weight, whose rounding would be as large as a change of a percent:
    # a few vectors in float32 are cheap.
    return scale.float().contiguous()


def _number(value: float, dtype: torch.dtype) -> Tensor:
    rounded = torch.tensor(value, dtype=dtype)
    return rounded if float(rounded) == value else torch.tensor(value, dtype=torch.float32)
