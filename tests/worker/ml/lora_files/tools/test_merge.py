"""Merging: the one LoRA changes the base by the weighted sum of what the several changed."""

import pytest
import torch

from app.lora_format.errors import LoraVariantUnsupported
from worker.ml.lora_files.modules import Lora, LoraModule, with_tensors
from worker.ml.lora_files.tools.files import read_whole, write_checked
from worker.ml.lora_files.tools.low_rank import RankChoice
from worker.ml.lora_files.tools.merge import Ingredient, merge


def wanted(ingredients, path):
    return sum(
        each.lora.modules[path].delta().double() * each.weight
        for each in ingredients
        if path in each.lora.modules
    )


def worst(merged, ingredients):
    """The largest relative error of a module, from the whole matrices."""
    return max(
        float(
            (module.delta() - wanted(ingredients, path)).norm() / wanted(ingredients, path).norm()
        )
        for path, module in merged.modules.items()
    )


def three(make_lora):
    return [
        Ingredient("ink", make_lora("lora", 1), 0.7),
        Ingredient("gold", make_lora("tucker", 2), -1.3),
        # Fewer modules than the others.
        Ingredient("fur", make_lora("lora", 3, parts=("attn2.to_k", "to_q", "fc1")), 0.25),
    ]


def test_matrices_side_by_side_are_the_sum_exactly(make_lora, architecture, tmp_path):
    ingredients = three(make_lora)
    merged, report = merge(ingredients, architecture, None, torch.float32)
    assert set(merged.modules) == {path for each in ingredients for path in each.lora.modules}
    assert worst(merged, ingredients) < 1e-6
    assert report.error < 1e-6
    for path, module in merged.modules.items():
        ranks = [each.lora.modules[path].rank for each in ingredients if path in each.lora.modules]
        assert module.rank == sum(ranks)
        assert module.scale == 1.0
    write_checked(tmp_path / "m.safetensors", merged, architecture, merged.metadata, torch.float32)
    stored, _ = read_whole(tmp_path / "m.safetensors", architecture)
    assert worst(stored, ingredients) < 1e-6


def test_weights_that_are_powers_of_two_lose_no_bit_of_half_precision(make_lora, architecture):
    loras = [make_lora("lora", seed, uniform=True) for seed in (1, 2)]
    loras = [
        Lora({k: with_tensors(m, lambda t: t.half()) for k, m in lora.modules.items()})
        for lora in loras
    ]
    ingredients = [Ingredient("a", loras[0], 0.5), Ingredient("b", loras[1], -2.0)]
    merged, _ = merge(ingredients, architecture, None, torch.float16)
    for path, module in merged.modules.items():
        up, down = module.up.double().flatten(1), module.down.double().flatten(1)
        exact = sum(
            each.weight
            * each.lora.modules[path].scale
            * each.lora.modules[path].up.double().flatten(1)
            @ each.lora.modules[path].down.double().flatten(1)
            for each in ingredients
        )
        # But for numbers below half precision's smallest normal one, 6e-5.
        assert float((up @ down - exact).abs().max()) < 1e-7, path


@pytest.mark.parametrize("kinds", [("lora", "lora"), ("lora", "loha"), ("lokr", "loha_tucker")])
def test_a_given_rank_is_the_nearest_and_its_error_is_told(kinds, make_lora, architecture):
    ingredients = [Ingredient(k, make_lora(k, n), 1 - 1.5 * n) for n, k in enumerate(kinds)]
    merged, report = merge(ingredients, architecture, RankChoice(3), torch.float32)
    for path, module in merged.modules.items():
        whole = wanted(ingredients, path)
        values = torch.linalg.svdvals(whole)
        error = float((module.delta() - whole).norm() / whole.norm())
        assert module.rank <= 3
        assert report.modules[path].error == pytest.approx(error, rel=1e-3, abs=2e-6)
        assert error == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-3, abs=2e-6)


def test_ranks_that_add_up_to_more_than_a_weight_has_are_cut_to_what_it_has(architecture):
    path = next(path for path in architecture.weights if path.endswith("conv_in"))
    out, *inputs = architecture.weights[path]
    columns = torch.Size(inputs).numel()
    generator = torch.Generator().manual_seed(5)

    def full():
        down = torch.randn(columns, *inputs, generator=generator)
        up = torch.randn(out, columns, 1, 1, generator=generator)
        return Lora({path: LoraModule(down, up, 1.0)})

    ingredients = [Ingredient("a", full()), Ingredient("b", full())]
    merged, _ = merge(ingredients, architecture, None, torch.float32)
    assert merged.modules[path].rank == min(out, columns)
    assert worst(merged, ingredients) < 1e-5


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr", "dora_by_columns"])
def test_one_lora_alone_at_weight_one_may_be_of_any_kind(kind, make_lora, architecture):
    lora = make_lora(kind)
    merged, report = merge([Ingredient("it", lora)], architecture, None, torch.float32)
    assert report.error < 1e-6
    for path, module in lora.modules.items():
        assert type(merged.modules[path]) is type(module)
        assert torch.equal(merged.modules[path].delta(), module.delta())


def test_dora_beside_another_or_scaled_is_refused(make_lora, architecture):
    dora, other = make_lora("dora"), make_lora("lora")
    for ingredients in (
        [Ingredient("silk", dora), Ingredient("ink", other)],
        [Ingredient("silk", dora, 0.5)],
    ):
        with pytest.raises(LoraVariantUnsupported, match="silk is DoRA"):
            merge(ingredients, architecture, None)


def test_loha_without_a_rank_is_refused(make_lora, architecture):
    ingredients = [Ingredient("ink", make_lora("lora")), Ingredient("oil", make_lora("loha"))]
    with pytest.raises(LoraVariantUnsupported, match=r"oil is no plain LoRA .* give a rank"):
        merge(ingredients, architecture, None)


def test_vectors_of_one_trigger_word_come_along_and_of_two_are_refused(make_lora, architecture):
    vectors = {"text_encoder": torch.randn(2, 128)}
    first = make_lora("lora", 1, embeddings=vectors, trigger="<ink>")
    second = make_lora("lora", 2)
    merged, _ = merge([Ingredient("a", second), Ingredient("b", first)], architecture)
    assert merged.trigger == "<ink>"
    assert torch.equal(merged.embeddings["text_encoder"], vectors["text_encoder"])
    other = make_lora("lora", 3, embeddings=vectors, trigger="<oil>")
    with pytest.raises(LoraVariantUnsupported, match="b and c each have vectors"):
        merge([Ingredient("b", first), Ingredient("c", other)], architecture)


def test_the_file_names_what_it_was_merged_from(make_lora, architecture):
    base = {"ss_base_model_version": "sdxl_base_v1-0", "ss_seed": "1"}
    first = make_lora("lora", 1, metadata={**base, "modelspec.trigger_phrase": "inkstyle"})
    second = make_lora(
        "lora", 2, metadata={**base, "ss_seed": "2", "modelspec.trigger_phrase": "furstyle"}
    )
    merged, _ = merge([Ingredient("ink", first, 0.7), Ingredient("fur", second)], architecture)
    assert merged.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert "ss_seed" not in merged.metadata
    assert merged.metadata["modelspec.trigger_phrase"] == "inkstyle, furstyle"
    assert merged.metadata["modelspec.merged_from"] == "ink, fur"
    assert merged.metadata["ss_training_comment"] == "merged: 0.7 × ink + 1 × fur"


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(weight, make_lora, architecture):
    with pytest.raises(ValueError, match="weights that are numbers"):
        merge([Ingredient("a", make_lora("lora"), weight)], architecture)
