"""What the check of a LoRA file finds, and what it refuses."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.lora_format.architectures import architectures
from app.lora_format.check import check_file, describe
from app.lora_format.errors import LoraFileError
from tests.safetensors_files import (
    EMOJI_KEY,
    SDXL_KEY,
    Tensors,
    framed,
    header_of,
    pair,
    peft_pair,
    sound,
    whole,
)

Write = Callable[..., Path]
CONV = "lora_unet_input_blocks_1_0_in_layers_2"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A sound file of these tensors."""

    def write(
        tensors: Tensors,
        metadata: dict[str, str] | None = None,
        values: dict[str, bytes] | None = None,
    ) -> Path:
        path = tmp_path / "lora.safetensors"
        path.write_bytes(sound(tensors, metadata, values))
        return path

    return write


def refusal(path: Path, **options: object) -> LoraFileError:
    with pytest.raises(LoraFileError) as refused:
        check_file(path, **options)  # type: ignore[arg-type]
    return refused.value


def test_the_report_describes_the_file(write: Write) -> None:
    proj_in = "lora_unet_input_blocks_4_1_proj_in"
    tensors = pair(SDXL_KEY, 2048, 640, 8) | pair(proj_in, 640, 640, 2) | pair(CONV, 320, 320, 2)
    tensors[f"{CONV}.lora_down.weight"] = ("F16", (2, 320, 3, 3))
    path = write(tensors, {"ss_network_dim": "8"})
    report = check_file(path)
    assert report.family is not None
    assert (report.family.id, report.architecture) == ("sdxl", "sdxl")
    contents = report.contents
    assert contents is not None
    assert contents.layout == "kohya"
    assert contents.kinds == ("locon", "lora")
    assert contents.modules == contents.matched == 3
    assert dict(contents.networks) == {"unet": 3}
    assert (contents.rank, sorted(contents.ranks)) == (2, [2, 8])
    assert dict(contents.alphas) == {0.5: 3}
    assert contents.unmatched == contents.misfits == ()
    assert report.dtypes == ("F16", "F32")
    assert report.metadata == {"ss_network_dim": "8"}
    assert report.hashes.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.nbytes == path.stat().st_size
    json.dumps(report.as_json(), allow_nan=False)


@pytest.mark.parametrize("architecture", list(architectures()))
def test_a_lora_of_every_linear_fits_its_base(write: Write, architecture: str) -> None:
    tensors = whole(architecture)
    contents = check_file(write(tensors)).contents
    assert contents is not None
    assert contents.matched == len(tensors) // 2
    assert set(contents.networks) == {"unet", "text_encoder", "text_encoder_2"}


LOHA = {
    f"{SDXL_KEY}.hada_w1_a": ("F32", (640, 6)),
    f"{SDXL_KEY}.hada_w1_b": ("F32", (6, 2048)),
    f"{SDXL_KEY}.hada_w2_a": ("F32", (640, 6)),
    f"{SDXL_KEY}.hada_w2_b": ("F32", (6, 2048)),
}
LOKR = {
    f"{SDXL_KEY}.lokr_w1": ("BF16", (20, 32)),
    f"{SDXL_KEY}.lokr_w2_a": ("BF16", (32, 8)),
    f"{SDXL_KEY}.lokr_w2_b": ("BF16", (8, 64)),
}
TUCKER = {
    f"{CONV}.lora_down.weight": ("F8_E4M3", (2, 320, 1, 1)),
    f"{CONV}.lora_mid.weight": ("F8_E4M3", (2, 2, 3, 3)),
    f"{CONV}.lora_up.weight": ("F8_E5M2", (320, 2, 1, 1)),
}
MAGNITUDES = {f"{SDXL_KEY}.dora_scale": ("F32", (640, 1))}
COLUMN_MAGNITUDES = {f"{SDXL_KEY}.dora_scale": ("F32", (1, 2048))}
KINDS = {
    "lora": (pair(SDXL_KEY, 2048, 640), ("lora",), [4]),
    "dora": (pair(SDXL_KEY, 2048, 640) | MAGNITUDES, ("dora", "lora"), [4]),
    "dora by columns": (pair(SDXL_KEY, 2048, 640) | COLUMN_MAGNITUDES, ("dora", "lora"), [4]),
    "loha": (LOHA, ("loha",), [6]),
    "lokr": (LOKR, ("lokr",), [8]),
    "lokr with magnitudes": (LOKR | MAGNITUDES, ("dora", "lokr"), [8]),
    "tucker": (TUCKER, ("locon",), [2]),
    "a mix": (LOKR | TUCKER, ("locon", "lokr"), [2, 8]),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds_and_ranks_are_told(write: Write, case: str) -> None:
    tensors, kinds, ranks = KINDS[case]
    contents = check_file(write(tensors), architecture="sdxl").contents
    assert contents is not None
    assert contents.kinds == kinds
    assert sorted(contents.ranks) == ranks


def test_an_alpha_may_be_any_number_format(write: Write) -> None:
    raw = {
        "F16": b"\x00\x48",
        "BF16": b"\x00\x41",
        "F32": b"\x00\x00\x00\x41",
        "F64": b"\x00\x00\x00\x00\x00\x00\x20\x40",
        "F8_E4M3": b"\x50",
        "F8_E5M2": b"\x48",
        "I64": (8).to_bytes(8, "little"),
        "I32": (8).to_bytes(4, "little"),
        "U8": b"\x08",
    }
    for dtype, value in raw.items():
        tensors = pair(SDXL_KEY, 2048, 640) | {f"{SDXL_KEY}.alpha": (dtype, ())}
        contents = check_file(write(tensors, values={f"{SDXL_KEY}.alpha": value})).contents
        assert contents is not None
        assert dict(contents.alphas) == {8.0: 1}, dtype


def test_an_alpha_that_does_not_count_may_be_infinite(write: Write) -> None:
    whole_factors: Tensors = {
        f"{SDXL_KEY}.lokr_w1": ("F16", (20, 32)),
        f"{SDXL_KEY}.lokr_w2": ("F16", (32, 64)),
        f"{SDXL_KEY}.alpha": ("F16", ()),
    }
    infinite = {f"{SDXL_KEY}.alpha": b"\x00\x7c"}
    contents = check_file(write(whole_factors, values=infinite)).contents
    assert contents is not None
    assert (contents.rank, contents.alpha) == (1, 1.0)
    with_rank = LOKR | {f"{SDXL_KEY}.alpha": ("F16", ())}
    assert refusal(write(with_rank, values=infinite)).code == "lora_not_finite"


def test_a_missing_alpha_or_zero_means_the_rank(write: Write) -> None:
    for tensors in (
        pair(SDXL_KEY, 2048, 640, alpha=False),
        pair(SDXL_KEY, 2048, 640, alpha=False) | {f"{SDXL_KEY}.alpha": ("F64", ())},
    ):
        contents = check_file(write(tensors)).contents
        assert contents is not None
        assert contents.alpha == 4.0


def test_keys_without_a_place_are_refused_by_name_or_listed(write: Write) -> None:
    tensors = pair(SDXL_KEY, 2048, 640) | {f"left.over.{n}": ("F16", (1,)) for n in range(7)}
    path = write(tensors)
    error = refusal(path)
    assert error.code == "lora_keys_unknown"
    assert "7, which are left.over.0, left.over.1, left.over.2" in str(error)
    assert "and 2 more" in str(error)
    contents = check_file(path, strict=False).contents
    assert contents is not None
    assert contents.unmatched == tuple(f"left.over.{n}" for n in range(7))


def test_a_module_of_another_shape_is_refused_by_name(write: Write) -> None:
    wrong = "lora_unet_input_blocks_4_1_proj_in"
    path = write(pair(SDXL_KEY, 2048, 640) | pair(wrong, 640, 641))
    for strict in (True, False):
        error = refusal(path, strict=strict)
        assert error.code == "lora_shape_mismatch"
        assert wrong in str(error)
        assert "(641, 640) for a weight of (640, 640)" in str(error)


def test_magnitudes_must_fit_the_weight(write: Write) -> None:
    tensors = LOHA | {f"{SDXL_KEY}.dora_scale": ("F32", (1, 1024))}
    error = refusal(write(tensors))
    assert error.code == "lora_shape_mismatch"
    assert "magnitudes of (1, 1024)" in str(error)


def test_names_of_sdxl_with_other_widths_are_of_another_model(write: Write) -> None:
    path = write(pair(SDXL_KEY, 333, 64) | pair(CONV, 77, 77))
    error = refusal(path, architecture="sdxl")
    assert error.code == "lora_incompatible"
    assert "its widths are not" in str(error)
    assert "(64, 333)" in str(error)
    assert refusal(path).code == "lora_incompatible"


def test_a_lora_of_one_base_is_refused_for_another(write: Write) -> None:
    error = refusal(write(pair(EMOJI_KEY, 256, 128)), architecture="sdxl")
    assert error.code == "lora_incompatible"
    assert str(error) == (
        "the file was made for Emoji, 64 px; Stable Diffusion XL (sdxl) is needed"
    )


def test_a_base_whose_modules_are_unknown_is_refused(write: Write) -> None:
    error = refusal(write(pair(SDXL_KEY, 2048, 640)), architecture="sd-1")
    assert error.code == "lora_incompatible"
    assert "emoji-64, sdxl" in str(error)


def test_two_names_of_one_module_are_refused(write: Write) -> None:
    path = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    error = refusal(write(pair(SDXL_KEY, 2048, 640) | peft_pair(path, 2048, 640)))
    assert error.code == "lora_file_invalid"
    assert f"changes {path} twice" in str(error)


def test_token_vectors_must_be_as_wide_as_the_text_encoders(write: Write) -> None:
    vectors = {"bundle_emb.inkstyle.clip_l": ("F32", (2, 768))}
    tensors = pair(SDXL_KEY, 2048, 640) | vectors
    report = check_file(write(tensors | {"bundle_emb.inkstyle.clip_g": ("F32", (2, 1280))}))
    assert report.contents is not None
    assert report.contents.trigger == "inkstyle"
    assert report.digest.trigger_phrases == (("inkstyle", "embedding"),)
    error = refusal(write(tensors | {"bundle_emb.inkstyle.clip_g": ("F32", (2, 1024))}))
    assert error.code == "lora_shape_mismatch"
    assert "1024" in str(error)


def test_a_file_of_another_family_is_described(write: Write) -> None:
    report = describe(write(peft_pair("transformer.single_transformer_blocks.0.attn.to_q", 64, 64)))
    assert report.family is not None
    assert report.family.id == "flux"
    assert report.architecture is None
    assert report.contents is not None
    assert report.contents.modules == 1
    assert [problem.code for problem in report.problems] == ["lora_incompatible"]
    assert report.as_json()["usable"] is False


def test_text_encoders_by_older_diffusers_are_read(write: Write) -> None:
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    old: Tensors = {
        f"{name}.down.weight": ("F32", (4, 768)),
        f"{name}.up.weight": ("F32", (768, 4)),
    }
    unet = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"
    old |= {
        f"{unet}.down.weight": ("F32", (4, 2048)),
        f"{unet}.up.weight": ("F32", (640, 4)),
    }
    contents = check_file(write(old)).contents
    assert contents is not None
    assert dict(contents.networks) == {"text_encoder": 1, "unet": 1}


def test_a_large_alpha_pattern_is_looked_up_not_searched(write: Write) -> None:
    pattern = {f"down_blocks.{n}.nowhere": n for n in range(100_000)} | {"attn2.to_k": 3}
    config = {"unet.lora_alpha": 2, "unet.alpha_pattern": pattern}
    path = write(whole("sdxl"), {"lora_adapter_metadata": json.dumps(config)})
    contents = check_file(path).contents
    assert contents is not None
    # The pattern counts for attn2.to_k of the UNet; text encoders have no alpha but their rank.
    keys = [p for p in architectures()["sdxl"].weights if p.endswith("attn2.to_k")]
    assert contents.alphas[3.0] == len(keys) == 70


MEASURE = """
import sys
from pathlib import Path
from app.lora_format.check import describe
from app.lora_format.errors import LoraFileError

def peak():
    # Not getrusage's, which begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

describe(Path(sys.argv[1]))
before = peak()
try:
    print(describe(Path(sys.argv[2])).nbytes)
except LoraFileError as error:
    print(error)
print((peak() - before) * 1024)
"""


def peak(small: Path, path: Path) -> tuple[str, int]:
    """What the check of a file says, and the memory it takes at its peak beyond a small file's."""
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    said, grown = finished.stdout.splitlines()
    return said, int(grown)


def test_memory_does_not_grow_with_the_file(write: Write, tmp_path: Path) -> None:
    tensors: Tensors = {
        f"{SDXL_KEY}.lora_down.weight": ("F16", (65_536, 2048)),
        f"{SDXL_KEY}.lora_up.weight": ("F16", (640, 65_536)),
    }
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.write(framed(header_of(tensors)))
        # Zeros that take no room on the disk.
        file.truncate(file.tell() + 65_536 * (2048 + 640) * 2)
    said, grown = peak(write(pair(SDXL_KEY, 2048, 640)), large)
    assert int(said) > 350_000_000
    assert grown < 8 * 1024**2


@pytest.mark.parametrize("value", ["[],", "{},", "7,", '"",', '{"a":1},', "1e9,"])
def test_memory_of_a_hostile_header_is_bounded(write: Write, tmp_path: Path, value: str) -> None:
    hostile = tmp_path / "hostile.safetensors"
    # As many values as the limits let pass, or as many bytes.
    for count in (340_000, 16 * 1024**2 // len(value) - 10):
        hostile.write_bytes(framed(b'{"a":[' + value.encode() * count + b"1]}"))
        said, grown = peak(write(pair(SDXL_KEY, 2048, 640)), hostile)
        assert "not a tensor entry" in said or "more values" in said
        assert grown < 64 * 1024**2, (count, said)
