"""What a file says of itself is told in short, and never believed."""

import json

import pytest

from app.lora_format.digest import TOP_TAGS, digest

KOHYA = {
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "32",
    "ss_network_alpha": "16.0",
    "ss_network_args": "None",
    "ss_steps": "1500",
    "ss_epoch": "10",
    "ss_resolution": "(1024, 1024)",
    "ss_learning_rate": "0.0001",
    "ss_tag_frequency": json.dumps({"10_ink": {"inkstyle": 20, " cat": 3}, "5_b": {"cat": 4}}),
    "modelspec.title": "Ink",
    "modelspec.trigger_phrase": "inkstyle",
    "modelspec.thumbnail": "data:image/jpeg;base64,AAAA",
}


def test_what_people_look_for_is_told() -> None:
    found = digest(KOHYA, None)
    assert found.training == {
        "base_model_version": "sdxl_base_v1-0",
        "base_model": "sd_xl_base_1.0.safetensors",
        "network_module": "networks.lora",
        "network_dim": 32,
        "network_alpha": 16,
        "steps": 1500,
        "epoch": 10,
        "resolution": "(1024, 1024)",
        "learning_rate": 0.0001,
    }
    assert found.tags == (("inkstyle", 20), ("cat", 7))
    assert found.modelspec == {"title": "Ink", "trigger_phrase": "inkstyle"}
    assert found.trigger_phrases == (("inkstyle", "modelspec"), ("cat", "tags"))


def test_the_word_of_token_vectors_is_a_trigger() -> None:
    assert digest({}, "<ink>").trigger_phrases == (("<ink>", "embedding"),)
    assert digest({}, None).trigger_phrases == ()


HOSTILE = {
    "numbers that are none": {"ss_steps": "nan", "ss_epoch": "1e999", "ss_network_dim": "many"},
    "a number too large": {"ss_steps": "9" * 39, "ss_epoch": "9" * 10_000},
    "tags that are not JSON": {"ss_tag_frequency": "{"},
    "tags nested deeply": {"ss_tag_frequency": "[" * 100_000},
    "tags in a list": {"ss_tag_frequency": "[1, 2]"},
    "tags of a list": {"ss_tag_frequency": '{"a": [1], "b": 3, "c": null}'},
    "counts that are none": {
        "ss_tag_frequency": '{"a": {"b": NaN, "c": -1, "d": "x", "e": true, "": 4, "f": 1e99}}'
    },
    "counts too large": {"ss_tag_frequency": '{"a": {"b": %s}}' % ("9" * 4000)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nonsense_is_left_out(case: str) -> None:
    found = digest(HOSTILE[case], None)
    assert found.training == {}
    assert found.tags == ()


def test_text_is_cut_and_cleaned() -> None:
    tags = {f"tag {n}": n for n in range(1, 1000)}
    found = digest(
        {
            "ss_output_name": "x" * 10_000,
            "modelspec.title": "\x1b[2Ja\x00",
            "ss_tag_frequency": json.dumps({"a": tags | {"\ud800": 5000}}),
            **{f"modelspec.{n}": "y" for n in range(1000)},
        },
        None,
    )
    assert len(str(found.training["output_name"])) == 300
    assert len(found.tags) == TOP_TAGS
    assert found.tags[0] == ("?", 5000)
    assert len(found.modelspec) == 100
    assert digest({"modelspec.title": "\x1b[2Ja\x00"}, None).modelspec == {"title": "�[2Ja�"}
