"""LoRA files that are damaged, lie, or try to hurt, each with the code and words of its refusal."""

import json
import pickle
import random
from collections.abc import Iterator

from tests.safetensors_files import EMOJI_KEY, SDXL_KEY, framed, header_of, pair, peft_pair, sound

# What a mutation or a lie is made of: a LoRA of one module of the emoji base.
GOOD_TENSORS = pair(EMOJI_KEY, 256, 128)
GOOD = sound(GOOD_TENSORS, {"ss_network_dim": "4", "modelspec.title": "good"})
DOWN, UP = f"{EMOJI_KEY}.lora_down.weight", f"{EMOJI_KEY}.lora_up.weight"
DATA_BYTES = 4 * (256 + 128) * 2 + 4

Case = tuple[bytes, str, str]


def _header(**changes: object) -> bytes:
    """GOOD with fields of the down matrix's entry replaced."""
    header = header_of(GOOD_TENSORS)
    header[DOWN] |= changes
    return framed(header, bytes(DATA_BYTES))


def _raw(header: str | bytes) -> bytes:
    """A header as it is, and eight bytes of data."""
    return framed(header.encode() if isinstance(header, str) else header, bytes(8))


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

INVALID: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "7 bytes"),
    "a pickle renamed": (
        pickle.dumps({"weights": list(range(1000))}),
        "too few for its header",
    ),
    "a zip of pickles renamed": (b"PK\x03\x04" + bytes(1000), "too few for its header"),
    "a web page": (b"<!doctype html><html>" + b" " * 1000, "too few for its header"),
    "a header of 2**63 bytes": ((2**63).to_bytes(8, "little") + bytes(100), f"of {2**63} bytes"),
    "a header of 2**64 - 1 bytes": (b"\xff" * 108, f"of {2**64 - 1} bytes"),
    "a header over the limit": (
        framed(b"{" + b" " * (16 * 1024**2)),
        "header has 16777217 bytes; the limit is 16777216",
    ),
    "a header that is not JSON": (_raw("\x80\x04pickle"), "not safetensors JSON"),
    "a header that is not UTF-8": (_raw(b'{"a\xff":' + ENTRY.encode() + b"}"), "utf-8"),
    "a header in UTF-16": (_raw(('{"a":' + ENTRY + "}").encode("utf-16")), "not safetensors JSON"),
    "a header after a space": (_raw(' {"a":' + ENTRY + "}"), "not a JSON object"),
    "a header nested deeply": (_raw("[" * 100_000), "nested too deeply"),
    "objects nested deeply": (_raw('{"a":' * 100_000), "nested too deeply"),
    "a header that is a list": (_raw(f"[{ENTRY}]"), "not a JSON object"),
    "a header that is a number": (_raw("7"), "not a JSON object"),
    "a header that is null": (_raw("null"), "not a JSON object"),
    "no tensors": (framed({}), "0 tensors; 1 to 20000 allowed"),
    "fifty thousand tensors": (
        framed(header_of({f"t{n}": ("F16", (0,)) for n in range(50_000)})),
        "50000 tensors; 1 to 20000 allowed",
    ),
    "a million empty lists": (
        _raw('{"a":[' + "[]," * 1_000_000 + "1]}"),
        "more values than the limit, 700000",
    ),
    "a name twice": (_raw(f'{{"a":{ENTRY},"a":{ENTRY}}}'), "a name occurs twice"),
    "a field twice": (
        _raw('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "a name occurs twice",
    ),
    "half a character in a name": (_raw(f'{{"\\ud800":{ENTRY}}}'), "surrogates"),
    "half a character in the metadata": (
        _raw(f'{{"__metadata__":{{"a":"\\udfff"}},"b":{ENTRY}}}'),
        "surrogates",
    ),
    "a name that moves the cursor": (_raw(f'{{"\\u001b[2J":{ENTRY}}}'), "control characters"),
    "a name with a zero": (_raw(f'{{"a\\u0000":{ENTRY}}}'), "control characters"),
    "a name of a megabyte": (
        _raw(f'{{"{"a" * 1_000_000}":{ENTRY}}}'),
        "1000000 characters; the limit is 500",
    ),
    "metadata that is a list": (_raw(f'{{"__metadata__":[],"a":{ENTRY}}}'), "strings"),
    "metadata of numbers": (_raw(f'{{"__metadata__":{{"a":1}},"b":{ENTRY}}}'), "strings"),
    "an entry that is a number": (_raw('{"a":3}'), "a: not a tensor entry"),
    "an entry without offsets": (_raw('{"a":{"dtype":"F32","shape":[2]}}'), "not a tensor entry"),
    "three offsets": (_header(data_offsets=[0, 4, 8]), "not a tensor entry"),
    "NaN for a size": (_header(shape=[float("nan")]), "NaN is not JSON"),
    "Infinity for an offset": (_header(data_offsets=[0, float("inf")]), "Infinity is not JSON"),
    "a number of five thousand digits": (
        _raw('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,8]}}'),
        "4300 digits",
    ),
    "overlapping tensors": (_header(data_offsets=[1024, 3072]), "overlaps another's"),
    "a hole": (
        framed(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
            },
            bytes(12),
        ),
        "leaves a hole",
    ),
    "data past the end": (
        framed(header_of({"a": ("F32", (1000,))}), bytes(8)),
        "8 bytes of data; 4000 are named",
    ),
    "bytes after the end": (GOOD + b"x", "are named"),
    "negative offsets": (_header(data_offsets=[-2048, 0]), "whole number"),
    "reversed offsets": (_header(data_offsets=[2048, 0]), "do not fit"),
    "offsets of 2**64": (_header(data_offsets=[2**64, 2**64 + 2048]), "whole number"),
    "offsets of 2**62": (_header(data_offsets=[2**62, 2**62 + 2048]), "hole"),
    "offsets that are floats": (_header(data_offsets=[0.0, 2048.0]), "whole number"),
    "offsets that are text": (_header(data_offsets="ab"), "whole number"),
    "a negative size": (_header(shape=[-4, -256]), "whole number"),
    "a size that is true": (_header(shape=[True, 1024]), "whole number"),
    "a size of 2**60": (_header(shape=[2**60, 2**60]), "do not fit"),
    "five sizes": (_header(shape=[1, 1, 1, 4, 256]), "up to four sizes"),
    "a shape that is text": (_header(shape="ab"), "up to four sizes"),
    "an unknown dtype": (_header(dtype="F4"), "'F4'"),
    "whole numbers for a matrix": (_header(dtype="I16"), "'I16'"),
    "a dtype that is a list": (_header(dtype=["F16"]), "['F16']"),
    "no up matrix": (sound({DOWN: ("F16", (4, 256))}), "its up matrix is missing"),
    "two alphas in one": (
        sound(GOOD_TENSORS | {f"{EMOJI_KEY}.alpha": ("F32", (2,))}),
        "alpha has 2 values",
    ),
    "an alpha_pattern that is a regular expression": (
        sound(
            peft_pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 256, 128),
            {"lora_adapter_metadata": json.dumps({"unet.alpha_pattern": {"(a+)+$": 3}})},
        ),
        "a regular expression",
    ),
    "an alpha that no float holds": (
        sound(
            peft_pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 256, 128),
            {"lora_adapter_metadata": '{"unet.lora_alpha": 1e999}'},
        ),
        "alpha is inf",
    ),
}

MISMATCHED: dict[str, tuple[bytes, str]] = {
    "ranks that differ": (sound(GOOD_TENSORS | {UP: ("F16", (128, 5))}), "(128, 5)"),
    "rank 0": (sound(GOOD_TENSORS | {DOWN: ("F16", (0, 256)), UP: ("F16", (128, 0))}), "zero"),
    "no inputs": (sound(GOOD_TENSORS | {DOWN: ("F16", (4, 0))}), "zero"),
    "a vector for a matrix": (sound(GOOD_TENSORS | {DOWN: ("F16", (256,))}), "(256,)"),
    "another width": (sound(pair(EMOJI_KEY, 256, 129)), "(129, 256) for a weight of (128, 256)"),
}

# Bytes of infinity and NaN, little-endian.
NOT_FINITE = {
    "F64": (b"\0\0\0\0\0\0\xf0\x7f", b"\x01\0\0\0\0\0\xf0\xff"),
    "F32": (b"\0\0\x80\xff", b"\0\0\xc0\x7f"),
    "F16": (b"\0\xfc", b"\x01\x7c"),
    "BF16": (b"\x80\x7f", b"\xc0\xff"),
    # F8_E4M3 has NaN alone.
    "F8_E4M3": (b"\x7f", b"\xff"),
    "F8_E5M2": (b"\x7c", b"\xfe"),
}


def cases() -> dict[str, Case]:
    """All of them; each begins as a fresh copy."""
    found: dict[str, Case] = {}
    found |= {name: (data, "lora_file_invalid", words) for name, (data, words) in INVALID.items()}
    found |= {
        name: (data, "lora_shape_mismatch", words) for name, (data, words) in MISMATCHED.items()
    }
    for dtype, values in NOT_FINITE.items():
        for value in values:
            tensors = GOOD_TENSORS | {UP: (dtype, (128, 4))}
            # The last value of all.
            matrix = bytes(len(value)) * (128 * 4 - 1) + value
            data = sound(tensors, values={UP: matrix})
            found[f"{value.hex()} in {dtype}"] = (data, "lora_not_finite", f"{UP} holds NaN")
    infinite = sound(GOOD_TENSORS, values={f"{EMOJI_KEY}.alpha": b"\0\0\x80\x7f"})
    found["an infinite alpha"] = (infinite, "lora_not_finite", "alpha")
    unknown = sound({f"some.weight.{n}": ("F16", (1,)) for n in range(10_000)})
    found["ten thousand unknown keys"] = (unknown, "lora_keys_unknown", "some.weight.0")
    more = sound(GOOD_TENSORS | {f"some.weight.{n}": ("F16", (1,)) for n in range(10_000)})
    found["ten thousand keys more"] = (more, "lora_keys_unknown", "10000, which are some.weight.0")
    modules: dict[str, tuple[str, tuple[int, ...]]] = {}
    for n in range(3_334):
        modules |= pair(f"lora_unet_nowhere_{n}", 4, 4, 1)
    nowhere = sound(GOOD_TENSORS | modules)
    found["ten thousand keys of modules"] = (nowhere, "lora_keys_unknown", "3334, which are")
    oft = sound(GOOD_TENSORS | {f"{SDXL_KEY}.oft_blocks": ("F16", (2,))})
    found["OFT beside LoRA"] = (oft, "lora_variant_unsupported", "OFT")
    for place in random.Random(1).sample(range(1, len(GOOD)), 20):
        found[f"cut at {place}"] = (GOOD[:place], "lora_file_invalid", "bytes")
    return found


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """GOOD with a few bytes flipped, removed, doubled or moved; half of them in the header."""
    chance = random.Random(seed)
    header_bytes = 8 + int.from_bytes(GOOD[:8], "little")
    for _ in range(count):
        data = bytearray(GOOD)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            place = chance.randrange(header_bytes if chance.random() < 0.5 else len(data))
            place = min(place, len(data) - 1)
            kind = chance.randrange(6)
            if kind < 3:
                data[place] ^= 1 << chance.randrange(8)
            elif kind == 3:
                data[place] = chance.choice(b'\0\xff"{}[]:,0129-.eE\\')
            elif kind == 4:
                del data[place : place + chance.randrange(1, 9)]
            else:
                data[place:place] = data[place : place + chance.randrange(1, 9)]
        yield bytes(data)
