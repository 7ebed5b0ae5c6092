"""Files of other models are recognised by the names that their programs give."""

import pytest

from app.lora_format.architectures import architectures
from app.lora_format.family import recognise
from app.lora_format.shapes import ModuleShape


def shape(rows: int, columns: int) -> ModuleShape:
    return ModuleShape("lora", 4, rows, columns, None)


def family(modules: dict[str, tuple[int, int]]) -> str | None:
    found = recognise(modules, {name: shape(*sizes) for name, sizes in modules.items()})
    return found.id if found else None


TE = "text_model_encoder_layers_0_self_attn_q_proj"
DOWN = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"
KNOWN: dict[str, tuple[str, dict[str, tuple[int, int]]]] = {
    "SD 1.5 by kohya": ("sd-1", {f"{DOWN}_attn2_to_k": (640, 768)}),
    "SD 1.5 by diffusers": (
        "sd-1",
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v": (320, 768)},
    ),
    "SD 1.5, text encoder alone": ("sd-1", {f"lora_te_{TE}": (768, 768)}),
    "SD 2.1 by kohya": ("sd-2", {f"{DOWN}_attn2_to_k": (640, 1024)}),
    "SD 2.1, text encoder alone": ("sd-2", {f"lora_te_{TE}": (1024, 1024)}),
    "SD 1 or 2 without cross attention": (
        "sd-1-or-2",
        {"lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320)},
    ),
    "SD 1 or 2 by the original's names": (
        "sd-1-or-2",
        {"lora_unet_input_blocks_1_1_proj_in": (320, 320)},
    ),
    "SDXL's refiner": (
        "sdxl-refiner",
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (768, 1280)},
    ),
    "SDXL by kohya": (
        "sdxl",
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (640, 2048)},
    ),
    "SDXL by PEFT": (
        "sdxl",
        {"base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (640, 640)},
    ),
    "SDXL, one text encoder": ("sdxl", {f"lora_te2_{TE}": (1280, 1280)}),
    "SDXL with names of its own": (
        "sdxl",
        {
            "lora_unet_middle_block_1_proj_in": (1280, 1280),
            "lora_unet_middle_block_1_proj_out": (1280, 1280),
            "lora_unet_some_other_thing": (1280, 1280),
        },
    ),
    "SD3 by kohya": ("sd3", {"lora_unet_joint_blocks_0_context_block_attn_qkv": (4608, 1536)}),
    "SD3 by diffusers": ("sd3", {"transformer.transformer_blocks.0.attn.add_k_proj": (1536, 1536)}),
    "SD3.5 large": ("sd3", {"transformer.transformer_blocks.30.attn.to_q": (2432, 2432)}),
    "Flux by kohya": ("flux", {"lora_unet_single_blocks_0_linear1": (21504, 3072)}),
    "Flux by diffusers": ("flux", {"transformer.transformer_blocks.3.attn.to_q": (3072, 3072)}),
    "Flux, single blocks": (
        "flux",
        {"transformer.single_transformer_blocks.37.proj_mlp": (12288, 3072)},
    ),
    "Flux by ComfyUI": ("flux", {"diffusion_model.double_blocks.0.img_attn.qkv": (9216, 3072)}),
    "Flux.2": ("flux-2", {"diffusion_model.double_blocks.0.img_attn.qkv": (18432, 6144)}),
    "Flux.2 by its modulation": (
        "flux-2",
        {"diffusion_model.double_stream_modulation_img.lin": (24576, 4096)},
    ),
    "Chroma": ("chroma", {"lora_unet_distilled_guidance_layer_in_proj": (5120, 64)}),
    "HunyuanVideo": ("hunyuan-video", {"lora_unet_double_blocks_0_img_mlp_fc1": (12288, 3072)}),
    "HunyuanVideo by count": (
        "hunyuan-video",
        {"lora_unet_double_blocks_19_img_attn_qkv": (9216, 3072)},
    ),
    "Qwen-Image by kohya": (
        "qwen-image",
        {"lora_unet_transformer_blocks_0_img_mlp_net_0_proj": (12288, 3072)},
    ),
    "Qwen-Image, attention": (
        "qwen-image",
        {"transformer_blocks.59.attn.add_q_proj": (3072, 3072)},
    ),
    "Wan by kohya": ("wan", {"lora_unet_blocks_0_cross_attn_k_img": (5120, 5120)}),
    "Wan by ComfyUI": ("wan", {"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}),
    "Wan by diffusers": ("wan", {"transformer.blocks.0.attn1.to_q": (1536, 1536)}),
    "Anima": ("cosmos", {"lora_unet_blocks_0_cross_attn_q_proj": (2048, 2048)}),
    "Z-Image": ("z-image", {"diffusion_model.layers.0.attention.to_q": (3840, 3840)}),
    "Lumina 2": ("lumina-2", {"lora_unet_layers_0_attention_qkv": (4608, 2304)}),
    "PixArt": ("pixart", {"transformer.transformer_blocks.0.attn2.to_k": (1152, 1152)}),
    "Sana": ("sana", {"transformer.transformer_blocks.0.attn1.to_q": (2240, 2240)}),
    "LTX-Video": ("ltx-video", {"transformer.transformer_blocks.0.attn1.to_q": (2048, 2048)}),
    "CogVideoX": ("cogvideox", {"transformer.transformer_blocks.0.attn1.to_q": (1920, 1920)}),
    "Mochi": ("mochi", {"transformer.transformer_blocks.0.attn1.add_k_proj": (3072, 1536)}),
    "AuraFlow": ("auraflow", {"transformer.joint_transformer_blocks.0.attn.to_q": (3072, 3072)}),
    "HiDream": ("hidream", {"diffusion_model.double_stream_blocks.0.block.attn1.to_q": (9, 9)}),
    "Hunyuan-DiT": ("hunyuan-dit", {"lora_unet_blocks_0_attn1_Wqkv": (4224, 1408)}),
    "Stable Cascade": (
        "stable-cascade",
        {"lora_prior_unet_down_blocks_0_2_attention_attn_to_q": (2048, 2048)},
    ),
    "AnimateDiff": (
        "animatediff",
        {"down_blocks.0.motion_modules.0.temporal_transformer.proj_in": (320, 320)},
    ),
    "a language model": (
        "language-model",
        {"base_model.model.model.layers.0.self_attn.q_proj": (4096, 4096)},
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_family_is_known_by_its_names_and_widths(case: str) -> None:
    expected, modules = KNOWN[case]
    assert family(modules) == expected


BY_WIDTH = {"sd-1", "sd-2", "sdxl", "sdxl-refiner", "sd3", "flux", "flux-2", "qwen-image"} | {
    *("z-image", "lumina-2", "pixart", "sana", "ltx-video", "cogvideox")
}


@pytest.mark.parametrize("case", [case for case in KNOWN if KNOWN[case][0] not in BY_WIDTH])
def test_names_tell_the_other_families_alone(case: str) -> None:
    expected, modules = KNOWN[case]
    found = recognise([f"{name}.some_adapter.weight" for name in modules], {})
    assert found is not None
    assert found.id == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "checkpoint"),
        ("first_stage_model.decoder.conv_in.weight", "checkpoint"),
        ("emb_params", "embedding"),
        ("lora_controlnet", "controlnet"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "flux"),
        ("transformer_blocks.0.img_mod.1.oft_blocks", "qwen-image"),
    ],
)
def test_what_is_no_lora_is_recognised_too(name: str, expected: str) -> None:
    found = recognise([name], {})
    assert found is not None
    assert found.id == expected


def test_nothing_is_said_of_names_that_nobody_knows() -> None:
    assert family({"a.b.c": (3, 3)}) is None
    assert family({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (7, 7)}) is None
    assert recognise([], {}) is None


@pytest.mark.parametrize("architecture", list(architectures()))
@pytest.mark.parametrize("network", ["unet", "text_encoder_2"])
def test_every_module_alone_tells_its_base_or_nothing_wrong(
    architecture: str, network: str
) -> None:
    weights = architectures()[architecture].weights
    wrong = {}
    for path, weight in weights.items():
        if path.startswith(f"{network}.") and len(weight) == 2:
            found = family({path: (weight[0], weight[1])})
            # The small base's text encoders are as wide as each other, not as SDXL's.
            if found != architecture:
                wrong[path] = found
    assert wrong == {}
