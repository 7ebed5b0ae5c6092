"""Files as other programs write them: every module found, its change what that program applies.

Each case names the tensors as its program does and computes the new weight by its formula, in
float64 and apart from the code under test.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from app.lora_format.architectures import architectures
from app.lora_format.check import check_file
from app.lora_format.names import UnetShape, sgm_name
from worker.ml.lora_files.modules import change
from worker.ml.lora_files.read import read_lora

EMOJI = architectures()["emoji-64"]
SHAPE = EMOJI.shape
# A square linear, one that is not, a 3×3 and a 1×1 convolution; both text encoders.
UNET = (
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "unet.down_blocks.1.resnets.0.conv1",
    "unet.down_blocks.1.resnets.0.conv_shortcut",
    "unet.down_blocks.0.downsamplers.0.conv",
    "unet.up_blocks.1.upsamplers.0.conv",
    "unet.up_blocks.2.resnets.1.time_emb_proj",
    "unet.conv_in",
    "unet.add_embedding.linear_1",
)
TEXT = (
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "text_encoder.text_model.encoder.layers.1.self_attn.out_proj",
    "text_encoder.text_model.encoder.layers.1.mlp.fc1",
    "text_encoder_2.text_model.encoder.layers.2.self_attn.v_proj",
    "text_encoder_2.text_model.encoder.layers.0.mlp.fc2",
)
ALL = (*UNET, *TEXT)
ATTENTION = UNET[:3]
RANK, ALPHA = 3, 2.0
Made = tuple[dict[str, Tensor], Tensor]


# --- names: of a module by canonical path ----------------------------------------------------


def split(path: str) -> tuple[str, str]:
    component, _, name = path.partition(".")
    return component, name


def kohya(path: str) -> str:
    """sd-scripts: the original's blocks; text encoders by number."""
    component, name = split(path)
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    name = sgm_name(name, SHAPE) if component == "unet" else name
    return f"{prefix[component]}_{name}".replace(".", "_")


def flattened(path: str) -> str:
    """The same with diffusers' blocks: LCM-LoRA, OneTrainer's legacy layout, ai-toolkit."""
    component, name = split(path)
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    return f"{prefix[component]}_{name}".replace(".", "_")


def one_encoder(path: str) -> str:
    return flattened(path).replace("lora_te1_", "lora_te_")


def lycoris(path: str) -> str:
    """LyCORIS' wrapper around a UNet, as SimpleTuner uses it."""
    return f"lycoris_{split(path)[1]}".replace(".", "_")


def dotted(path: str) -> str:
    return path


def comfy(path: str) -> str:
    component, name = split(path)
    if component == "unet":
        return f"diffusion_model.{sgm_name(name, SHAPE)}"
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}[component]
    return f"text_encoders.{clip}.transformer.{name}"


def omi(path: str) -> str:
    """OneTrainer's layout of 2025."""
    component, name = split(path)
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    return f"unet.{sgm_name(name, SHAPE)}" if component == "unet" else f"{clip[component]}.{name}"


def original(path: str) -> str:
    return sgm_name(split(path)[1], SHAPE)


def without_text_model(path: str) -> str:
    """diffusers over transformers ≥ 5.6."""
    return path.replace("text_encoder.text_model.", "text_encoder.")


def peft(path: str) -> str:
    return f"base_model.model.{split(path)[1]}"


# --- kinds: a module's tensors, and the weight that its program comes to -----------------------


class Draw:
    """Random matrices for a module; another sequence for each."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * 0.3


def matrix(tensor: Tensor) -> Tensor:
    return tensor.double().reshape(tensor.shape[0], -1)


def pair(draw: Draw, weight: Tensor) -> tuple[Tensor, Tensor]:
    out, inputs, *kernel = weight.shape
    return draw(RANK, inputs, *kernel), draw(out, RANK, *[1] * len(kernel))


def lora(draw: Draw, weight: Tensor, *, ends=("lora_down", "lora_up"), alpha=ALPHA) -> Made:
    """y = W x + up(down(x)) · alpha / rank."""
    down, up = pair(draw, weight)
    tensors = {f".{ends[0]}.weight": down, f".{ends[1]}.weight": up}
    if alpha is not None:
        tensors[".alpha"] = torch.tensor(alpha)
    scale = 1.0 if alpha is None else alpha / RANK
    return tensors, weight.double() + (scale * matrix(up) @ matrix(down)).view(weight.shape)


def ab(draw: Draw, weight: Tensor) -> Made:
    return lora(draw, weight, ends=("lora_A", "lora_B"))


def ab_without_alpha(draw: Draw, weight: Tensor) -> Made:
    return lora(draw, weight, ends=("lora_A", "lora_B"), alpha=None)


def normed(moved: Tensor, by_rows: bool) -> Tensor:
    """‖W'‖ as OneTrainer takes it: of outputs, or of inputs as LyCORIS does."""
    ones = [1] * (moved.ndim - 2)
    if by_rows:
        return moved.reshape(moved.shape[0], -1).norm(dim=1).reshape(-1, 1, *ones)
    turned = moved.transpose(0, 1).reshape(moved.shape[1], -1)
    return turned.norm(dim=1).reshape(1, -1, *ones)


def onetrainer_dora(by_rows: bool, ends=("lora_down", "lora_up")) -> Callable[[Draw, Tensor], Made]:
    """W' = dora_scale · (W + ΔW) / (‖W + ΔW‖ + ε); decompose_output_axis decides the axis."""

    def make(draw: Draw, weight: Tensor) -> Made:
        tensors, moved = lora(draw, weight, ends=ends)
        scale = (normed(weight.double(), by_rows) * 1.1).float()
        tensors[".dora_scale"] = scale
        epsilon = torch.finfo(torch.float32).eps
        return tensors, scale.double() * moved / (normed(moved, by_rows) + epsilon)

    return make


def onetrainer_dora_for_diffusers(draw: Draw, weight: Tensor) -> Made:
    """alpha folded into lora_B; the magnitude flat, or channels second of a convolution."""
    tensors, moved = lora(draw, weight)
    scale = normed(weight.double(), True).float() * 0.9
    shape = (1, -1, 1, 1) if weight.ndim == 4 else (-1,)
    wanted = scale.double() * moved / normed(moved, True)
    return {
        ".lora_A.weight": tensors[".lora_down.weight"],
        ".lora_B.weight": tensors[".lora_up.weight"] * (ALPHA / RANK),
        ".lora_magnitude_vector.weight": scale.reshape(shape),
    }, wanted


def onetrainer_loha(draw: Draw, weight: Tensor) -> Made:
    """Factors of a convolution are those of its layers, (r, in, kh, kw) and (out, r, 1, 1)."""
    (w1_b, w1_a), (w2_b, w2_a) = pair(draw, weight), pair(draw, weight)
    first, second = matrix(w1_a) @ matrix(w1_b), matrix(w2_a) @ matrix(w2_b)
    wanted = weight.double() + (first * second * (ALPHA / RANK)).view(weight.shape)
    return {
        ".hada_w1_a": w1_a,
        ".hada_w1_b": w1_b,
        ".hada_w2_a": w2_a,
        ".hada_w2_b": w2_b,
        ".alpha": torch.tensor(ALPHA),
    }, wanted


def lokr(whole: bool) -> Callable[[Draw, Tensor], Made]:
    """LoKr as OneTrainer and ai-toolkit build it: a small whole factor, and a large one."""

    def make(draw: Draw, weight: Tensor) -> Made:
        out, inputs, *kernel = weight.shape
        rows, columns = math.gcd(out, 4), math.gcd(inputs, 4)
        w1 = draw(rows, columns)
        if whole:
            # Where both are whole they write the rank as alpha, and scale by 1.
            w2 = draw(out // rows, inputs // columns, *kernel)
            tensors = {".lokr_w2": w2, ".alpha": torch.tensor(float(RANK))}
            scale = 1.0
        else:
            a, b = draw(out // rows, RANK), draw(RANK, inputs // columns * math.prod(kernel))
            w2 = (a.double() @ b.double()).view(out // rows, inputs // columns, *kernel)
            tensors = {".lokr_w2_a": a, ".lokr_w2_b": b, ".alpha": torch.tensor(ALPHA)}
            scale = ALPHA / RANK
        first = w1.double().reshape(rows, columns, *[1] * len(kernel))
        delta = scale * torch.kron(first, w2.double().contiguous())
        return {".lokr_w1": w1, **tensors}, weight.double() + delta.view(weight.shape)

    return make


@dataclass(frozen=True)
class Writer:
    """A program's layout: its names, a kind, the modules it can adapt, what it says beside."""

    name: Callable[[str], str]
    make: Callable[[Draw, Tensor], Made]
    paths: tuple[str, ...] = ALL
    layout: str = "kohya"
    metadata: dict[str, str] = field(default_factory=dict)


def old_text(path: str) -> str:
    """diffusers before PEFT: a text encoder's attention named as a UNet's."""
    component, name = split(path)
    if component == "unet":
        if "attn" in name:
            head, _, last = name.rpartition(".to_")
            return f"unet.{head}.processor.to_{last.removesuffix('.0')}"
        return path
    for letter in "qkv":
        name = name.replace(f"{letter}_proj", f"to_{letter}")
    return f"{component}.{name.replace('out_proj', 'to_out')}"


def processor(draw: Draw, weight: Tensor) -> Made:
    """`to_q_lora.down.weight`; its old program wrote no alpha."""
    down, up = pair(draw, weight)
    wanted = weight.double() + (matrix(up) @ matrix(down)).view(weight.shape)
    return {"_lora.down.weight": down, "_lora.up.weight": up}, wanted


def dotted_down(draw: Draw, weight: Tensor) -> Made:
    return lora(draw, weight, ends=("lora.down", "lora.up"), alpha=None)


def linear_layer(draw: Draw, weight: Tensor) -> Made:
    return lora(draw, weight, ends=("lora_linear_layer.down", "lora_linear_layer.up"), alpha=None)


def said_beside(scale: float) -> Callable[[Draw, Tensor], Made]:
    """PEFT's own scale, which stands in a configuration."""

    def make(draw: Draw, weight: Tensor) -> Made:
        down, up = pair(draw, weight)
        wanted = weight.double() + (scale * matrix(up) @ matrix(down)).view(weight.shape)
        return {".lora_A.weight": down, ".lora_B.weight": up}, wanted

    return make


def beside(**of_networks: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(of_networks)}


NETWORKS = ("unet", "text_encoder", "text_encoder_2")
OUT, IN = True, False
WRITERS = {
    "kohya": Writer(kohya, lora),
    "LCM-LoRA": Writer(flattened, lora),
    "ai-toolkit": Writer(flattened, lora),
    "one text encoder": Writer(one_encoder, lora, (*UNET, *TEXT[:3])),
    "OneTrainer, legacy DoRA of inputs": Writer(flattened, onetrainer_dora(IN)),
    "OneTrainer, legacy DoRA of outputs": Writer(flattened, onetrainer_dora(OUT)),
    "OneTrainer, kohya DoRA": Writer(kohya, onetrainer_dora(IN)),
    "OneTrainer, internal": Writer(dotted, lora, layout="diffusers"),
    "OneTrainer, internal DoRA": Writer(dotted, onetrainer_dora(OUT), layout="diffusers"),
    "OneTrainer, diffusers": Writer(dotted, ab_without_alpha, layout="diffusers"),
    "OneTrainer, diffusers DoRA": Writer(dotted, onetrainer_dora_for_diffusers, layout="diffusers"),
    "OneTrainer, diffusers DoRA of inputs": Writer(
        dotted, onetrainer_dora(IN, ("lora_A", "lora_B")), layout="diffusers"
    ),
    "OneTrainer, ComfyUI": Writer(comfy, ab, layout="other"),
    "OneTrainer, ComfyUI DoRA": Writer(
        comfy, onetrainer_dora(IN, ("lora_A", "lora_B")), layout="other"
    ),
    "OneTrainer, original": Writer(original, ab, UNET, layout="other"),
    "OneTrainer, OMI": Writer(omi, lora, layout="other"),
    "OneTrainer, LoHa": Writer(flattened, onetrainer_loha),
    "OneTrainer, LoHa over dots": Writer(dotted, onetrainer_loha, layout="diffusers"),
    "OneTrainer, LoKr": Writer(flattened, lokr(whole=False)),
    "ai-toolkit, LoKr of whole factors": Writer(flattened, lokr(whole=True)),
    "ComfyUI's own": Writer(comfy, lora, layout="other"),
    "SimpleTuner, LyCORIS": Writer(lycoris, lokr(whole=False), UNET),
    "SimpleTuner, LyCORIS of whole factors": Writer(lycoris, lokr(whole=True), UNET),
    "SimpleTuner": Writer(
        dotted,
        said_beside(8 / RANK),
        layout="diffusers",
        metadata=beside(**{f"{network}.lora_alpha": 8 for network in NETWORKS}),
    ),
    "diffusers": Writer(without_text_model, ab_without_alpha, layout="diffusers"),
    "diffusers, rank-stabilised": Writer(
        dotted,
        said_beside(8 / math.sqrt(RANK)),
        layout="diffusers",
        metadata=beside(
            **{f"{network}.lora_alpha": 8 for network in NETWORKS},
            **{f"{network}.use_rslora": True for network in NETWORKS},
        ),
    ),
    "PEFT, rank-stabilised": Writer(
        peft,
        said_beside(8 / math.sqrt(RANK)),
        UNET,
        layout="peft",
        metadata=beside(lora_alpha=8, use_rslora=True),
    ),
    "diffusers before PEFT": Writer(
        old_text, processor, (*ATTENTION, TEXT[0], TEXT[1], TEXT[3]), layout="diffusers"
    ),
    "diffusers before PEFT, linear layers": Writer(dotted, linear_layer, TEXT, layout="diffusers"),
    "B-LoRA": Writer(dotted, dotted_down, ATTENTION[2:], layout="diffusers"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_every_module_changes_as_its_program_changes_it(case, tmp_path):
    writer = WRITERS[case]
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, tuple[Tensor, Tensor]] = {}
    for number, path in enumerate(writer.paths):
        draw = Draw(number)
        weight = draw(*EMOJI.weights[path])
        made, moved = writer.make(draw, weight)
        tensors |= {f"{writer.name(path)}{end}": value for end, value in made.items()}
        wanted[path] = (weight, moved)
    file = tmp_path / "lora.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, writer.metadata)

    found, unmatched = read_lora(file, EMOJI.index)

    assert unmatched == ()
    assert set(found.modules) == set(writer.paths)
    for path, (weight, moved) in wanted.items():
        # In float64, so that only our formula is compared, not its rounding beside W.
        expected = (moved - weight.double()).flatten(1)
        error = float((change(found.modules[path], weight).double() - expected).norm())
        assert error / float(expected.norm()) < 1e-5, path
    report = check_file(file, architecture="emoji-64")
    assert report.contents is not None
    assert report.contents.layout == writer.layout
    assert report.contents.matched == len(writer.paths)


SDXL = architectures()["sdxl"]
# Names as they stand in published files: SDXL-Lightning, LCM-LoRA, kohya's, ComfyUI's.
PUBLISHED = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    ),
    "lora_unet_input_blocks_1_0_emb_layers_1": "unet.down_blocks.0.resnets.0.time_emb_proj",
    "lora_unet_input_blocks_3_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_middle_block_2_out_layers_3": "unet.mid_block.resnets.1.conv2",
    "lora_unet_output_blocks_2_2_conv": "unet.up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj": (
        "unet.up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj"
    ),
    "lora_unet_time_embed_0": "unet.time_embedding.linear_1",
    "lora_unet_label_emb_0_2": "unet.add_embedding.linear_2",
    "lora_unet_conv_in": "unet.conv_in",
    "lora_unet_out_2": "unet.conv_out",
    "lora_unet_down_blocks_0_downsamplers_0_conv": "unet.down_blocks.0.downsamplers.0.conv",
    "lora_unet_time_embedding_linear_1": "unet.time_embedding.linear_1",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_9_attn2_to_out_0": (
        "unet.up_blocks.0.attentions.0.transformer_blocks.9.attn2.to_out.0"
    ),
    "lora_te1_text_model_encoder_layers_11_mlp_fc2": (
        "text_encoder.text_model.encoder.layers.11.mlp.fc2"
    ),
    "lora_te2_text_model_encoder_layers_31_self_attn_k_proj": (
        "text_encoder_2.text_model.encoder.layers.31.self_attn.k_proj"
    ),
    "diffusion_model.output_blocks.0.1.proj_in": "unet.up_blocks.0.attentions.0.proj_in",
    "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1": (
        "text_encoder_2.text_model.encoder.layers.3.mlp.fc1"
    ),
    "lycoris_mid_block_attentions_0_transformer_blocks_4_attn1_to_v": (
        "unet.mid_block.attentions.0.transformer_blocks.4.attn1.to_v"
    ),
    "unet.down_blocks.2.attentions.1.transformer_blocks.3.attn1.to_out": (
        "unet.down_blocks.2.attentions.1.transformer_blocks.3.attn1.to_out.0"
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_published_files_lead_to_their_modules(name):
    assert SDXL.index.find(name) == PUBLISHED[name]
    assert PUBLISHED[name] in SDXL.weights


def test_no_name_leads_to_two_modules():
    """Each kind of name, for every module of SDXL: found, and as its own module."""
    shape = UnetShape(2, (True, True, False))
    assert shape == SDXL.shape
    for path in SDXL.weights:
        component, name = split(path)
        names = [path]
        if component == "unet":
            flat, sgm = name.replace(".", "_"), sgm_name(name, shape)
            names += [f"lora_unet_{flat}", f"lycoris_{flat}", f"diffusion_model.{sgm}", sgm]
            names += [f"unet.{sgm}", f"lora_unet_{sgm}".replace(".", "_")]
        else:
            number, clip = ("1", "l") if component == "text_encoder" else ("2", "g")
            names += [f"lora_te{number}_{name}".replace(".", "_"), f"clip_{clip}.{name}"]
        assert {SDXL.index.find(each) for each in names} == {path}


def test_what_ai_toolkit_writes_of_dora_is_refused_by_name(tmp_path):
    from app.lora_format.errors import LoraVariantUnsupported

    draw = Draw(0)
    tensors, _ = lora(draw, draw(128, 128), alpha=None)
    name = flattened(UNET[0])
    tensors = {f"{name}{end}": value for end, value in tensors.items()}
    save_file(tensors | {f"{name}.magnitude": torch.ones(128)}, tmp_path / "a.safetensors")
    with pytest.raises(LoraVariantUnsupported, match="ai-toolkit"):
        read_lora(tmp_path / "a.safetensors", EMOJI.index)
