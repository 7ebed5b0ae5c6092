"""What kind of model a LoRA was made for, by the names and shapes in its file.

Transformers are told apart by the names of their blocks; where two share names, by their width or
by how many blocks they have. UNets share most names, and are told apart by the width of the text
that their cross attention reads.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from app.lora_format.architectures import Architecture, architectures
from app.lora_format.shapes import ModuleShape


@dataclass(frozen=True)
class Family:
    """A kind of model; `id` is stable, `title` what people call it."""

    id: str
    title: str


SD1 = Family("sd-1", "Stable Diffusion 1.x")
SD2 = Family("sd-2", "Stable Diffusion 2.x")
SD1_OR_2 = Family("sd-1-or-2", "Stable Diffusion 1.x or 2.x")
REFINER = Family("sdxl-refiner", "the SDXL refiner")
SD3 = Family("sd3", "Stable Diffusion 3")
FLUX = Family("flux", "Flux")
FLUX_2 = Family("flux-2", "Flux.2")
HUNYUAN_VIDEO = Family("hunyuan-video", "HunyuanVideo")
QWEN_IMAGE = Family("qwen-image", "Qwen-Image")
Z_IMAGE = Family("z-image", "Z-Image")
LUMINA_2 = Family("lumina-2", "Lumina 2")
PIXART = Family("pixart", "PixArt")
SANA = Family("sana", "Sana")
LTX = Family("ltx-video", "LTX-Video")
COGVIDEO = Family("cogvideox", "CogVideoX")
OTHER_DIT = Family("dit", "a diffusion transformer")

# What programs put before a module's path.
_PREFIX = re.compile(
    r"^(base_model\.model\.|lycoris_|lora_unet_|lora_transformer_|lora_prior_unet_"
    r"|diffusion_model\.|transformer\.|unet\.)+"
)

# Names that only one family has; dots are underscores here. The first that fits counts.
_BY_NAME = (
    (Family("checkpoint", "a whole model, not a LoRA"), r"^(model_diffusion_model|first_stage)_"),
    (Family("controlnet", "a ControlNet"), r"^(lora_controlnet$|control_model_|input_hint_block_)"),
    (Family("embedding", "a textual inversion, not a LoRA"), r"^(emb_params|clip_[lg])$"),
    (Family("animatediff", "AnimateDiff's motion module"), r"(^|_)motion_modules_\d"),
    (Family("hidream", "HiDream"), r"^(double|single)_stream_blocks_\d"),
    (
        Family("auraflow", "AuraFlow"),
        r"^(joint_transformer_blocks_\d|(double|single)_layers_\d+_(attn|mlp|mod))",
    ),
    (SD3, r"^joint_blocks_\d+_(context|x)_block_"),
    (Family("chroma", "Chroma"), r"^distilled_guidance_layer_"),
    (
        FLUX_2,
        r"^((double|single)_stream_modulation_|single_transformer_blocks_\d+_attn_to_qkv_mlp)",
    ),
    (
        HUNYUAN_VIDEO,
        r"^(double_blocks_\d+_(img|txt)_(mod_linear|mlp_fc\d)|single_blocks_\d+_modulation_linear"
        r"|txt_in_individual_token_refiner|context_embedder_token_refiner"
        # Flux has 19 of these and 38 of those, HunyuanVideo one or two more of each.
        r"|double_blocks_19_|single_blocks_(38|39)_)",
    ),
    (QWEN_IMAGE, r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    (Family("mochi", "Mochi"), r"^transformer_blocks_\d+_attn1_add_[qkv]_proj"),
    (
        Family("cosmos", "Cosmos or Anima"),
        r"^blocks_\d+_(self|cross)_attn_(q|k|v|output)_proj",
    ),
    (
        Family("wan", "Wan"),
        r"^blocks_\d+_((self|cross)_attn_(q|k|v|o)(_img)?($|[._])|ffn_(0|2|net_))",
    ),
    (Family("hunyuan-dit", "Hunyuan-DiT"), r"^blocks_\d+_attn[12]_(Wqkv|[qk]v?_proj|out_proj)"),
    (Family("wan", "Wan"), r"^blocks_\d+_attn[12]_to_[qkv]"),
    (
        Family("stable-cascade", "Stable Cascade"),
        r"^(down|up)_blocks_\d+_\d+_(attention|channelwise|depthwise|kv_mapper|mapper)_",
    ),
    (
        Family("language-model", "a language model"),
        r"^(model_)*(language_model_)?(model_)?layers_\d+_(self_attn|mlp)_\w+_proj",
    ),
)
_NAMED = tuple((family, re.compile(pattern)) for family, pattern in _BY_NAME)

# Names that several families share: which one, by the width of what the module reads.
_FLUX_BLOCKS = re.compile(r"^(double_blocks|single_blocks|single_transformer_blocks)_\d+_")
_JOINT = re.compile(r"^transformer_blocks_(\d+)_(attn_(add_|to_)|ff_context_|norm1_context_)")
_PLAIN = re.compile(r"^transformer_blocks_\d+_(attn[12]|ff)_")
_LAYERS = re.compile(r"^(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward)_")

# UNets. A block that the ones with wider text do not have attends in SD 1.x and 2.x.
_TEXT_KEY = re.compile(r"attn2[._]to_[kv]$")
_TEXT_WIDTHS = {768: SD1, 1024: SD2, 1280: REFINER}
_OLD_BLOCKS = re.compile(
    r"^(down_blocks_0_attentions|up_blocks_3_|down_blocks_3_"
    r"|input_blocks_[12]_1_(transformer|proj)|input_blocks_(9|10|11)_|output_blocks_(9|10|11)_)"
)


def recognise(names: Iterable[str], shapes: Mapping[str, ModuleShape]) -> Family | None:
    """The family of a file; None when nothing tells it.

    Args:
        names: of its tensors or modules.
        shapes: of its modules by the name the file gives them; empty when they are not understood.
    """
    plain = {name: _PREFIX.sub("", name).replace(".", "_") for name in names}
    for family, pattern in _NAMED:
        if any(pattern.search(name) for name in plain.values()):
            return family
    widths = {
        plain.get(name, name): shape.columns for name, shape in shapes.items() if name in plain
    }
    for pattern, decide in _DECIDED:
        found = [name for name in plain.values() if pattern.search(name)]
        if found:
            return decide(found, {widths[name] for name in found if name in widths})
    return _unet(plain, shapes)


def _flux(names: list[str], widths: set[int]) -> Family:  # noqa: ARG001 (as its siblings)
    return FLUX_2 if 6144 in widths else FLUX


def _joint(names: list[str], widths: set[int]) -> Family:
    if widths & {1536, 2432}:
        return SD3
    if not widths:
        return OTHER_DIT
    blocks = [int(match[1]) for name in names if (match := _JOINT.search(name))]
    # Of Flux' two kinds of blocks it has 19 such, Qwen-Image 60 and no other kind.
    return QWEN_IMAGE if max(blocks) >= 19 else FLUX


def _plain_blocks(names: list[str], widths: set[int]) -> Family:
    if any("_ff_conv_" in name for name in names) or widths & {2240}:
        return SANA
    by_width = {1152: PIXART, 2048: LTX, 4096: LTX, 1920: COGVIDEO, 3072: COGVIDEO}
    return next((by_width[width] for width in sorted(widths) if width in by_width), OTHER_DIT)


def _layers(names: list[str], widths: set[int]) -> Family:  # noqa: ARG001 (as its siblings)
    by_width = {2304: LUMINA_2, 3840: Z_IMAGE}
    return next((by_width[width] for width in sorted(widths) if width in by_width), OTHER_DIT)


_DECIDED: tuple[tuple[re.Pattern[str], Callable[[list[str], set[int]], Family]], ...] = (
    (_FLUX_BLOCKS, _flux),
    (_JOINT, _joint),
    (_PLAIN, _plain_blocks),
    (_LAYERS, _layers),
)


def _unet(plain: Mapping[str, str], shapes: Mapping[str, ModuleShape]) -> Family | None:
    # SDXL's text encoders are te1 and te2; a file of `te` alone is of a model that has one.
    if shapes and all(name.startswith("lora_te_") for name in shapes):
        return SD2 if any(shape.columns == 1024 for shape in shapes.values()) else SD1
    known = architectures().values()
    fits = {each.id: _fitting(each, shapes) for each in known}
    whole = [each for each in known if shapes and fits[each.id] == len(shapes)]
    if whole:
        return family_of(whole[0])
    widths = Counter(
        shape.columns for name, shape in shapes.items() if _TEXT_KEY.search(plain.get(name, name))
    )
    by_width = _TEXT_WIDTHS | {each.text_width: family_of(each) for each in known}
    for width, _ in widths.most_common(1):
        # A width of no UNet that is known here says that it is none of those.
        return by_width.get(width)
    if any(_OLD_BLOCKS.search(name) for name in plain.values()):
        return SD1_OR_2
    nearest = max(known, key=lambda each: fits[each.id])
    return family_of(nearest) if 2 * fits[nearest.id] > len(shapes) else None


def family_of(architecture: Architecture) -> Family:
    """A base model that LoRAs can be used with here."""
    return Family(architecture.id, architecture.title)


def _fitting(architecture: Architecture, shapes: Mapping[str, ModuleShape]) -> int:
    """How many modules the architecture has by name and shape."""
    return sum(
        (path := architecture.index.find(name)) is not None
        and shape.misfit(architecture.weights[path]) is None
        for name, shape in shapes.items()
    )
