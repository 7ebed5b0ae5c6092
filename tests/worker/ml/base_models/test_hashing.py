"""Fingerprints of weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from worker.ml.base_models.hashing import hash_model_files, hash_networks


def _network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))


def test_one_bit_of_one_weight_changes_the_hash_and_going_back_restores_it():
    network = _network()
    start = hash_networks({"unet": network})
    assert hash_networks({"unet": _network()}) == start
    weight = network[1].weight.data.view(torch.int32)
    weight[0, 0] ^= 1
    assert hash_networks({"unet": network}) != start
    weight[0, 0] ^= 1
    assert hash_networks({"unet": network}) == start


def test_name_shape_and_dtype_count():
    network = _network()
    start = hash_networks({"unet": network})
    assert hash_networks({"vae": network}) != start
    assert hash_networks({"unet": _network().to(torch.bfloat16)}) != start
    network[1].weight = nn.Parameter(network[1].weight.view(4, 2))
    assert hash_networks({"unet": network}) != start


def test_bfloat16_is_hashed_too():
    assert len(hash_networks({"unet": _network().to(torch.bfloat16)})) == 64


def test_sharding_and_metadata_of_files_make_no_difference_and_a_bit_does(tmp_path):
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2), "c": torch.tensor(1.0)}
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    for folder in (whole, sharded):
        (folder / "unet").mkdir(parents=True)
    save_file(tensors, whole / "unet" / "model.safetensors", {"made": "today"})
    save_file({"c": tensors["c"]}, sharded / "unet" / "model-1.safetensors")
    save_file({k: tensors[k] for k in "ab"}, sharded / "unet" / "model-2.safetensors")
    assert hash_model_files({"unet": whole / "unet"}) == hash_model_files(
        {"unet": sharded / "unet"}
    )

    other = tmp_path / "other"
    shutil.copytree(whole, other)
    path = other / "unet" / "model.safetensors"
    changed = load_file(path)
    changed["a"][3] += 1e-6
    save_file(changed, path, {"made": "today"})
    assert hash_model_files({"unet": other / "unet"}) != hash_model_files({"unet": whole / "unet"})


def test_a_folder_without_weights_has_no_hash(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        hash_model_files({"unet": tmp_path})
