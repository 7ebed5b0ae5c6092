"""The memory plan reckons with what the networks really make."""

import pytest

from bench.inference_memory import unet_values, vae_values
from worker.ml.inference import memory


def test_the_plan_counts_what_sdxls_unet_makes():
    assert unet_values(512, 2) == pytest.approx(memory._UNET_VALUES, rel=0.02)
    assert unet_values(1024, 1) == pytest.approx(memory._UNET_VALUES, rel=0.02)


def test_the_plan_counts_what_sdxls_vae_makes_and_encoding_takes_less():
    assert vae_values(512) == pytest.approx(memory._VAE_VALUES, rel=0.02)
    assert vae_values(512, encode=True) < memory._VAE_VALUES
