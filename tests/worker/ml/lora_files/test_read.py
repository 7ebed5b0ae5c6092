"""Reading LoRA files of every layout, and refusing unsound ones."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from app.lora_format.check import check_file
from app.lora_format.errors import (
    LoraFileError,
    LoraFileInvalid,
    LoraKeysUnknown,
    LoraNotFinite,
    LoraPairMismatch,
    LoraVariantUnsupported,
)
from app.lora_format.header import HeaderLimits
from app.lora_format.index import LoraIndex
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"
TO_K = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TO_OUT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
Q1 = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
Q2 = "text_encoder_2.text_model.encoder.layers.1.mlp.fc1"
PATHS = (TO_K, TO_OUT, Q1, Q2)


@pytest.fixture(scope="module")
def index() -> LoraIndex:
    parts = ["unet", "text_encoder", "text_encoder_2"]
    return index_of(load_base_model(str(EMOJI), None, choose_policy("cpu"), parts).networks())


def pair(seed=0, rank=4, inputs=128, out=128):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rank, inputs, generator=generator),
        torch.randn(out, rank, generator=generator),
    )


def kohya(path):
    component, _, rest = path.partition(".")
    short = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}[component]
    return f"lora_{short}_{rest.replace('.', '_')}"


def kohya_of_the_original(path):
    """As kohya's trainer writes it: block names of SDXL's original code."""
    return {
        TO_K: "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k",
        TO_OUT: "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_out_0",
    }.get(path, kohya(path))


NAME = kohya(TO_K)
LAYOUTS = {
    "kohya": (kohya_of_the_original, "lora_down", "lora_up"),
    "kohya-diffusers-names": (kohya, "lora_down", "lora_up"),
    "diffusers": (lambda path: path, "lora_A", "lora_B"),
    "diffusers-older": (lambda path: path, "lora.down", "lora.up"),
    "peft": (lambda path: f"base_model.model.{path}", "lora_A", "lora_B"),
    "peft-adapter": (lambda path: f"base_model.model.{path}", "lora_A.default", "lora_B.default"),
    "no-text-model": (lambda path: path.replace(".text_model", ""), "lora_A", "lora_B"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [None, 0.0, 2.0])
def test_every_layout_gives_the_same_lora(index, tmp_path, layout, alpha):
    name, down_ending, up_ending = LAYOUTS[layout]
    tensors = {}
    for i, path in enumerate(PATHS):
        down, up = pair(i)
        tensors[f"{name(path)}.{down_ending}.weight"] = down
        tensors[f"{name(path)}.{up_ending}.weight"] = up
        if alpha is not None:
            tensors[f"{name(path)}.alpha"] = torch.tensor(alpha)
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file, {"ss_seed": "7"})

    lora, unmatched = read_lora(file, index)

    assert unmatched == ()
    assert lora.metadata == {"ss_seed": "7"}
    assert set(lora.modules) == set(PATHS)
    for i, path in enumerate(PATHS):
        down, up = pair(i)
        module = lora.modules[path]
        assert torch.equal(module.down, down)
        assert torch.equal(module.up, up)
        assert module.alpha == (alpha or 4.0)


def test_bare_peft_names_and_attention_processors_are_found(index):
    rest = TO_OUT.removeprefix("unet.")
    assert index.find(f"base_model.model.{rest}") == TO_OUT
    assert index.find(rest) == TO_OUT
    processor = TO_OUT.replace("to_out.0", "processor.to_out")
    assert index.find(processor) == TO_OUT
    assert index.find(TO_K.replace("to_k", "processor.to_k")) == TO_K
    assert index.find("unet.mid_block") is None


def test_alphas_that_diffusers_keeps_in_its_metadata_count(index, tmp_path):
    config = {
        "unet.lora_alpha": 2,
        "unet.alpha_pattern": {"attn2.to_k": 16},
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
    }
    tensors = {}
    for path in PATHS:
        down, up = pair()
        tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(config)})
    modules = read_lora(file, index)[0].modules
    assert [modules[path].alpha for path in PATHS] == [16.0, 2.0, 6.0, 4.0]


def test_an_alpha_pattern_that_is_a_regular_expression_is_refused(index, tmp_path):
    down, up = pair()
    config = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"attn[12].to_k": 16}}
    file = tmp_path / "lora.safetensors"
    tensors = {f"{TO_K}.lora_A.weight": down, f"{TO_K}.lora_B.weight": up}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(LoraFileInvalid, match="regular expression"):
        read_lora(file, index)


def test_the_configuration_of_a_bare_peft_export_counts(index, tmp_path):
    bare = f"base_model.model.{TO_K.removeprefix('unet.')}"
    down, up = pair()
    config = {"lora_alpha": 2, "alpha_pattern": {f"^{TO_K.removeprefix('unet.')}": 12}}
    file = tmp_path / "lora.safetensors"
    tensors = {f"{bare}.lora_A.weight": down, f"{bare}.lora_B.weight": up}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(config)})
    assert read_lora(file, index)[0].modules[TO_K].alpha == 12.0


def test_token_vectors_of_a_trigger_word_are_read(index, tmp_path):
    down, up = pair()
    vectors = {"clip_l": torch.randn(3, 96), "clip_g": torch.randn(3, 128)}
    tensors = {f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up}
    tensors |= {f"bundle_emb.<my.word>.{encoder}": value for encoder, value in vectors.items()}
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
    lora, unmatched = read_lora(file, index)
    assert unmatched == ()
    assert lora.trigger == "<my.word>"
    assert set(lora.embeddings) == {"text_encoder", "text_encoder_2"}
    assert torch.equal(lora.embeddings["text_encoder"], vectors["clip_l"])
    assert torch.equal(lora.embeddings["text_encoder_2"], vectors["clip_g"])


def test_what_the_installed_diffusers_saves_is_read(index, tmp_path):
    from diffusers import StableDiffusionXLPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = load_base_model(str(EMOJI), None, choose_policy("cpu"), ["unet"]).unet
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    unet.add_adapter(config)
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict() | {"target_modules": targets},
    )
    lora, unmatched = read_lora(tmp_path / "pytorch_lora_weights.safetensors", index)
    assert unmatched == ()
    adapted = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    module = lora.modules[TO_K]
    assert torch.equal(module.up, adapted.lora_B["default"].weight)
    assert module.scale == adapted.scaling["default"] == 0.5


def test_an_alpha_may_be_a_whole_number_or_not_count(index, tmp_path):
    file = tmp_path / "lora.safetensors"
    down, up = pair()
    tensors = {f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up}
    save_file(tensors | {f"{NAME}.alpha": torch.tensor(8)}, file)
    assert read_lora(file, index)[0].modules[TO_K].alpha == 8.0
    whole = {f"{NAME}.lokr_w1": torch.ones(8, 8), f"{NAME}.lokr_w2": torch.ones(16, 32)}
    save_file(whole | {f"{NAME}.alpha": torch.tensor(float("inf"))}, file)
    module = read_lora(file, index)[0].modules[TO_K]
    assert module.scale == 1.0
    assert torch.equal(module.delta(), torch.ones(128, 256))


def test_a_lora_does_not_change_with_its_file(index, tmp_path):
    file = tmp_path / "lora.safetensors"
    file.write_bytes(good_bytes())
    module = read_lora(file, index)[0].modules[TO_K]
    before = module.down.clone()
    file.write_bytes(b"")
    assert torch.equal(module.down, before)


def test_names_the_base_does_not_have_are_reported(index, tmp_path):
    down, up = pair()
    tensors = {
        f"{kohya(TO_K)}.lora_down.weight": down,
        f"{kohya(TO_K)}.lora_up.weight": up,
        "lora_unet_nowhere.lora_down.weight": down.clone(),
        "lora_unet_nowhere.lora_up.weight": up.clone(),
        "lora_unet_lonely.alpha": torch.tensor(1.0),
        "emb_params": torch.ones(2),
    }
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
    lora, unmatched = read_lora(file, index)
    assert list(lora.modules) == [TO_K]
    assert set(unmatched) == {"lora_unet_nowhere", "lora_unet_lonely.alpha", "emb_params"}


def test_a_module_named_twice_is_refused(index, tmp_path):
    tensors = {}
    for name in (kohya(TO_K), TO_K):
        down, up = pair()
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
    with pytest.raises(LoraFileInvalid, match="twice"):
        read_lora(file, index)


def good_bytes():
    down, up = pair()
    name = kohya(TO_K)
    return save({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})


def framed(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


UNSOUND = {
    "empty": (b"", "0 bytes"),
    "truncated header": (good_bytes()[:40], "too few"),
    "truncated data": (good_bytes()[:-1], "are named"),
    "bytes after the end": (good_bytes() + b"x", "are named"),
    "header larger than the file": (struct.pack("<Q", 2**63) + b"{}", "too few"),
    "header over the limit": (framed(b" " * 5000), "limit is 4000"),
    "not JSON": (framed(b"\x80\x04pickle"), "JSON"),
    "deeply nested": (framed(b"[" * 3900), "JSON"),
    "a list": (framed([]), "object"),
    "no tensors": (framed({}), "0 tensors"),
    "too many tensors": (
        framed({str(i): entry(0, 0, (0,)) for i in range(21)}),
        "1 to 20 allowed",
    ),
    "a duplicate name": (
        framed(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "JSON",
    ),
    "not a tensor entry": (framed({"a": 3}), "a: not a tensor entry"),
    "three offsets": (framed({"a": entry() | {"data_offsets": [0, 4, 8]}}), "not a tensor"),
    "a foreign dtype": (framed({"a": entry(dtype="I64")}, bytes(8)), "I64"),
    "a dtype of another type": (framed({"a": entry(dtype=["F32"])}, bytes(8)), "F32"),
    "a negative size": (framed({"a": entry(shape=(-2, -1))}, bytes(8)), "whole number"),
    "a boolean size": (framed({"a": entry(shape=(True, 2))}, bytes(8)), "whole number"),
    "five dimensions": (framed({"a": entry(shape=(1, 1, 1, 1, 2))}, bytes(8)), "four"),
    "a lying shape": (framed({"a": entry(shape=(2**40, 2**40))}, bytes(8)), "do not fit"),
    "offsets beyond the end": (framed({"a": entry(0, 4000, (1000,))}, bytes(8)), "are named"),
    "reversed offsets": (framed({"a": entry(8, 0)}, bytes(8)), "do not fit"),
    "overlapping tensors": (framed({"a": entry(), "b": entry(4, 12)}, bytes(12)), "overlaps"),
    "a hole": (framed({"a": entry(), "b": entry(12, 20)}, bytes(20)), "hole"),
    "metadata of numbers": (framed({"__metadata__": {"a": 1}, "a": entry()}, bytes(8)), "strings"),
    "a pickle": (b"\x80\x04\x95" + bytes(64), "too few"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_unsound_files_are_refused_with_the_reason(index, tmp_path, case):
    data, reason = UNSOUND[case]
    file = tmp_path / "bad.safetensors"
    file.write_bytes(data)
    limits = HeaderLimits(file_bytes=100_000, header_bytes=4000, tensors=20)
    for attempt in (lambda: read_lora(file, index, limits), lambda: check_file(file, limits)):
        with pytest.raises(LoraFileInvalid, match=reason) as refused:
            attempt()
        assert refused.value.code == "lora_file_invalid"


def test_a_file_over_the_size_limit_is_refused_unread(index, tmp_path):
    file = tmp_path / "lora.safetensors"
    file.write_bytes(good_bytes())
    with pytest.raises(LoraFileInvalid, match="limit is 100"):
        read_lora(file, index, HeaderLimits(file_bytes=100))


def _wrong(change):
    down, up = pair()
    return change({f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up})


def loha(name, **changed):
    parts = {
        "w1_a": torch.ones(128, 4),
        "w1_b": torch.ones(4, 96),
        "w2_a": torch.ones(128, 4),
        "w2_b": torch.ones(4, 96),
    }
    return {f"{name}.hada_{part}": tensor for part, tensor in (parts | changed).items()}


def _nan(tensors):
    tensors[f"{NAME}.lora_up.weight"][3, 1] = float("nan")
    return tensors


def _huge_half(tensors):
    tensors[f"{NAME}.lora_down.weight"] = torch.full((4, 128), float("inf"), dtype=torch.float16)
    return tensors


WRONG = {
    "NaN": (_nan, LoraNotFinite, "up"),
    "infinity": (_huge_half, LoraNotFinite, "down"),
    "NaN alpha": (
        lambda t: t | {f"{NAME}.alpha": torch.tensor(float("nan"))},
        LoraNotFinite,
        "alpha",
    ),
    "two alphas": (lambda t: t | {f"{NAME}.alpha": torch.ones(2)}, LoraFileInvalid, "2 values"),
    "ranks differ": (
        lambda t: t | {f"{NAME}.lora_up.weight": torch.ones(128, 5)},
        LoraPairMismatch,
        r"\(128, 5\)",
    ),
    "a vector": (lambda t: t | {f"{NAME}.lora_down.weight": torch.ones(4)}, LoraPairMismatch, "4"),
    "no up": (
        lambda t: {k: v for k, v in t.items() if "up" not in k},
        LoraFileInvalid,
        "its up matrix is missing",
    ),
    "DoRA of another height": (
        lambda t: t | {f"{NAME}.dora_scale": torch.ones(127, 1)},
        LoraPairMismatch,
        r"dora_scale is \(127, 1\); it must be \(128, 1",
    ),
    "DoRA of peft alone": (
        lambda t: t | {f"{TO_K}.lora_magnitude_vector": torch.ones(128)},
        LoraFileInvalid,
        "down matrix is missing",
    ),
    "DoRA of peft of another height": (
        lambda _: {
            f"{TO_K}.lora_A.weight": torch.ones(4, 128),
            f"{TO_K}.lora_B.weight": torch.ones(128, 4),
            f"{TO_K}.lora_magnitude_vector": torch.ones(100),
        },
        LoraPairMismatch,
        r"\(100,\); it needs one value for each of 128",
    ),
    "magnitudes with NaN": (
        lambda t: t | {f"{NAME}.dora_scale": torch.full((128, 1), float("nan"))},
        LoraNotFinite,
        "dora_scale",
    ),
    "half a LoHa": (lambda _: {f"{NAME}.hada_w1_a": torch.ones(2, 2)}, LoraFileInvalid, "w1_b"),
    "LoHa of unlike halves": (
        lambda _: loha(NAME, w2_a=torch.ones(100, 4)),
        LoraPairMismatch,
        r"\(128, 96\) and \(100, 96\)",
    ),
    "LoHa whose product does not fit": (
        lambda _: loha(NAME, w1_b=torch.ones(5, 96)),
        LoraPairMismatch,
        r"hada_w1_b \(5, 96\)",
    ),
    "LoHa with one core": (
        lambda _: loha(NAME, t1=torch.ones(4, 4, 3, 3)),
        LoraFileInvalid,
        "one of hada_t1 and hada_t2",
    ),
    "LoHa with NaN": (
        lambda _: loha(NAME, w2_b=torch.full((4, 96), float("nan"))),
        LoraNotFinite,
        "hada_w2_b",
    ),
    "LoHa of an unknown part": (
        lambda _: loha(NAME) | {f"{NAME}.hada_w3": torch.ones(2)},
        LoraVariantUnsupported,
        "hada_w3",
    ),
    "half a LoKr": (lambda _: {f"{NAME}.lokr_w1": torch.ones(2, 2)}, LoraFileInvalid, "lokr_w2"),
    "half a factor of LoKr": (
        lambda _: {f"{NAME}.lokr_w1": torch.ones(2, 2), f"{NAME}.lokr_w2_a": torch.ones(2, 2)},
        LoraFileInvalid,
        "lokr_w2_b is missing",
    ),
    "a LoKr factor twice": (
        lambda _: {
            f"{NAME}.{part}": torch.ones(2, 2)
            for part in ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
        },
        LoraFileInvalid,
        "either lokr_w2 or both",
    ),
    "LoKr that does not fit": (
        lambda _: {
            f"{NAME}.lokr_w1": torch.ones(2, 2),
            f"{NAME}.lokr_w2_a": torch.ones(2, 3),
            f"{NAME}.lokr_w2_b": torch.ones(2, 2),
        },
        LoraPairMismatch,
        r"lokr_w2_a is \(2, 3\)",
    ),
    "LoRA and LoHa at once": (lambda t: t | loha(NAME), LoraFileInvalid, "LoHa and of LoRA"),
    "a Tucker core of another rank": (
        lambda t: t | {f"{NAME}.lora_mid.weight": torch.ones(5, 5, 3, 3)},
        LoraPairMismatch,
        r"mid is \(5, 5, 3, 3\)",
    ),
    "OFT": (lambda _: {f"{NAME}.oft_blocks": torch.ones(2)}, LoraVariantUnsupported, "OFT"),
    "IA3": (lambda _: {f"{NAME}.on_input": torch.ones(1)}, LoraVariantUnsupported, "IA3"),
    "a bias": (
        lambda t: t | {f"{TO_K}.lora_B.bias": torch.ones(128)},
        LoraVariantUnsupported,
        "bias",
    ),
    "embeddings of two words": (
        lambda t: t | {f"bundle_emb.{word}.clip_l": torch.ones(2, 64) for word in ("a", "b")},
        LoraVariantUnsupported,
        "2 words",
    ),
    "embeddings of another form": (
        lambda t: t | {"bundle_emb.a.string_to_param.*": torch.ones(2, 64)},
        LoraVariantUnsupported,
        "clip_l and clip_g",
    ),
    "embeddings of unlike length": (
        lambda t: (
            t | {"bundle_emb.a.clip_l": torch.ones(2, 64), "bundle_emb.a.clip_g": torch.ones(3, 64)}
        ),
        LoraPairMismatch,
        "as many vectors",
    ),
    "an embedding with NaN": (
        lambda t: t | {"bundle_emb.a.clip_l": torch.full((2, 64), float("nan"))},
        LoraNotFinite,
        r"embedding of a|bundle_emb\.a\.",
    ),
    "a full difference": (
        lambda _: {f"{NAME}.diff": torch.ones(2)},
        LoraVariantUnsupported,
        "diff",
    ),
    "no LoRA": (
        lambda _: {"model.weight": torch.ones(2), "model.bias": torch.ones(2)},
        LoraKeysUnknown,
        r"model\.(bias|weight), model\.",
    ),
    "metadata that is not JSON": (None, LoraFileInvalid, "lora_adapter_metadata"),
}
CODES = {
    LoraNotFinite: "lora_not_finite",
    LoraFileInvalid: "lora_file_invalid",
    LoraPairMismatch: "lora_shape_mismatch",
    LoraVariantUnsupported: "lora_variant_unsupported",
    LoraKeysUnknown: "lora_keys_unknown",
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents_are_refused_with_a_stable_code(index, tmp_path, case):
    change, error, reason = WRONG[case]
    file = tmp_path / "bad.safetensors"
    if change is None:
        file.write_bytes(
            save(
                {f"{TO_K}.lora_A.weight": pair()[0], f"{TO_K}.lora_B.weight": pair()[1]},
                {"lora_adapter_metadata": "{"},
            )
        )
    else:
        file.write_bytes(save(_wrong(change)))
    for attempt in (
        lambda: read_lora(file, index),
        lambda: check_file(file, architecture="emoji-64"),
    ):
        with pytest.raises(LoraFileError, match=reason) as refused:
            attempt()
        assert type(refused.value) is error
        assert refused.value.code == CODES[error]
