"""What a tensor of a LoRA file is, by the way its name ends; and what is not applied.

Layouts told apart by that ending:
* kohya and LyCORIS: `lora_unet_… .lora_down.weight`, `.lora_up.weight`, `.lora_mid.weight`,
  `.hada_w1_a`, `.lokr_w1`, `.dora_scale`, `.alpha`;
* PEFT and diffusers: `… .lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector`, adapter name
  in between or not;
* older diffusers: `… .lora.down.weight`, `.lora.up.weight`, `_lora.down.weight`, and of text
  encoders `.lora_linear_layer.down.weight`;
* other: any of these endings after names of SDXL's original code with its dots, as ComfyUI and
  OneTrainer write them: `diffusion_model.input_blocks.4.1. …`, `clip_l. …`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from app.lora_format.errors import LoraVariantUnsupported

Layout = Literal["kohya", "diffusers", "peft", "other"]

# Parts keep LyCORIS' names where they have one.
_PARTS = {
    "down": r"(\.lora_down|[._]lora\.down|\.lora_linear_layer\.down|\.lora_A(\.\w+)?)\.weight",
    "up": r"(\.lora_up|[._]lora\.up|\.lora_linear_layer\.up|\.lora_B(\.\w+)?)\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "dora_scale": r"\.dora_scale",
    # PEFT's dora_scale, whose shape means something else.
    "magnitude": r"\.lora_magnitude_vector(\.\w+)*",
    **{
        name: rf"\.{name}(\.\w+)?"
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
            *("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}
_ENDINGS = {part: re.compile(rf"^(.+?)({ending})$") for part, ending in _PARTS.items()}
_ORIGINAL = re.compile(
    r"^(diffusion_model\.|text_encoders\.|clip_[lg]\."
    r"|(unet\.)?(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\.)"
)
_EMBEDDING = re.compile(r"^bundle_emb\.(.+)\.(clip_l|clip_g)$")
_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}

# How the names of adapters end, or begin, that none of the kinds above is.
_UNSUPPORTED = {
    "OFT or BOFT": re.compile(r"\.(oft_\w+|boft_\w+)(\.\w+)*$"),
    "IA3": re.compile(r"\.(on_input|ia3_l(\.\w+)?)$"),
    "GLoRA": re.compile(r"^lora_.+\.(a1|a2|b1|b2|bm1|bm2)\.weight$"),
    "a full difference": re.compile(r"\.(diff|diff_b|set_weight|w_norm|b_norm)$"),
    "DoRA as ai-toolkit writes it, which does not say its scale": re.compile(r"\.magnitude$"),
    "LoRA with a bias": re.compile(r"\.(lora_B(\.\w+)?\.bias|bias_(indices|values|size))$"),
    "LoRA of an embedding": re.compile(r"\.lora_embedding_[AB](\.\w+)?$"),
    "LoHa or LoKr of an unknown form": re.compile(r"\.(hada|lokr)_\w+(\.\w+)?$"),
    "an embedding of another form than clip_l and clip_g": re.compile(r"^bundle_emb\."),
}


@dataclass(frozen=True)
class Part:
    """One tensor of a module.

    Attributes:
        module: the name that the file gives the module.
        part: one of `down`, `up`, `mid`, `alpha`, `dora_scale`, `magnitude`, `hada_…`, `lokr_…`.
    """

    module: str
    part: str
    layout: Layout


@dataclass(frozen=True)
class EmbeddingPart:
    """Token vectors that stand for a word, of one text encoder (its name in the pipeline)."""

    trigger: str
    text_encoder: str


def part_of(name: str) -> Part | EmbeddingPart | None:
    """What a tensor is; None when its name is of no layout."""
    if match := _EMBEDDING.match(name):
        return EmbeddingPart(match[1], _ENCODERS[match[2]])
    for part, pattern in _ENDINGS.items():
        if match := pattern.match(name):
            return Part(match[1], part, _layout(match[1], match[2]))
    return None


def refuse_unsupported(names: Iterable[str]) -> None:
    """Refuse a file some of whose tensors would change the base in a way that is not applied.

    Args:
        names: those for which `part_of` found nothing.

    Raises:
        LoraVariantUnsupported: what it is, and an example.
    """
    names = list(names)
    for variant, pattern in _UNSUPPORTED.items():
        found = [name for name in names if pattern.search(name)]
        if found:
            raise LoraVariantUnsupported(
                f"the file holds {variant} ({len(found)} tensors such as {found[0]}); LoRA, LoCon, "
                f"DoRA, LoHa and LoKr are read"
            )


def _layout(module: str, ending: str) -> Layout:
    if module.startswith(("lora_", "lycoris_")):
        return "kohya"
    if _ORIGINAL.match(module):
        return "other"
    # `.lora_A.weight` is diffusers', `.lora_A.default.weight` PEFT's.
    named = ending.startswith((".lora_A.", ".lora_B.")) and ending.count(".") > 2
    return "peft" if named or module.startswith("base_model.") else "diffusers"
