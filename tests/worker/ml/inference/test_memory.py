"""What is given up so that drawing fits a card."""

from dataclasses import replace

import pytest

from worker.ml.inference.memory import GIB, PLACEMENTS, BaseSize, needed_bytes, plan_memory

# SDXL in bfloat16 with the VAE in float32, as on large cards.
SDXL = BaseSize(
    unet_bytes=2_567_463_684 * 2,
    encoder_bytes=(123_060_480 + 694_659_840) * 2,
    vae_bytes=83_653_863 * 4,
    unet_width=320,
    vae_width=128,
    itemsize=2,
    vae_itemsize=4,
    vae_scale_factor=8,
    vae_tile_px=1024,
)
# As on cards below 16 GiB.
SMALL_VAE = replace(SDXL, vae_bytes=83_653_863 * 2, vae_itemsize=2)


def of_a_card(gib: float) -> int:
    """What a card of so many GiB has left when a desktop and the CUDA context have theirs."""
    return int((gib - 0.6) * GIB)


def plan(size: BaseSize, gib: float, side: int, **changes: object):
    asked = {"width": side, "height": side, "guided": True} | changes
    return plan_memory(size, of_a_card(gib), **asked)


@pytest.mark.parametrize(
    ("size", "gib", "side", "placement", "tiling"),
    [
        (SMALL_VAE, 8, 1024, "one_at_a_time", False),
        (SMALL_VAE, 12, 1024, "resident", False),
        (SDXL, 16, 1024, "resident", False),
        (SDXL, 24, 1024, "resident", False),
        (SDXL, 80, 1024, "resident", False),
        (SMALL_VAE, 8, 1536, "one_at_a_time", False),
        (SMALL_VAE, 12, 2048, "one_at_a_time", False),
        (SDXL, 16, 1536, "one_at_a_time", False),
        (SDXL, 16, 2048, "resident", True),
        (SDXL, 24, 2048, "one_at_a_time", False),
        (SDXL, 80, 2048, "resident", False),
    ],
)
def test_cards_give_up_no_more_than_they_must(size, gib, side, placement, tiling):
    found = plan(size, gib, side)
    assert (found.placement, found.vae_tiling) == (placement, tiling)
    assert found.fits
    assert found.batch >= 1


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 80])
@pytest.mark.parametrize("side", [512, 1024, 1536])
def test_what_is_planned_fits_and_one_picture_more_does_not(gib, side):
    size = SDXL if gib >= 16 else SMALL_VAE
    found = plan(size, gib, side, most=100)
    assert found.fits

    def needed(batch: int) -> int:
        return needed_bytes(
            size,
            found.placement,
            found.vae_tiling,
            width=side,
            height=side,
            guided=True,
            batch=batch,
        )

    assert found.needed_bytes == needed(1)
    assert needed(found.batch) <= of_a_card(gib)
    assert found.batch == 100 or needed(found.batch + 1) > of_a_card(gib)


def test_the_batch_has_a_ceiling():
    assert plan(SDXL, 80, 512).batch == 8
    assert plan(SDXL, 80, 512, most=3).batch == 3


def test_pictures_without_guidance_are_half_the_rows():
    guided, alone = (plan(SDXL, 24, 1024, guided=told, most=100).batch for told in (True, False))
    assert alone // 2 == guided


def test_a_card_that_is_too_small_is_told_so_and_tried():
    found = plan(SMALL_VAE, 8, 2048)
    assert not found.fits
    assert found.batch == 1
    assert found.placement == "one_at_a_time"
    assert "may need" in found.why


def test_the_plan_says_in_a_line_what_and_why():
    found = plan(SDXL, 16, 2048)
    assert found.why.startswith("all networks stay on the device, and the VAE decodes in tiles: ")
    assert "2048×2048 needs" in found.why
    assert "of 15.4 GiB" in found.why
    assert "\n" not in found.why


def test_each_thing_given_up_makes_room():
    asked = {"width": 1024, "height": 1024, "guided": True, "batch": 1}
    needs = [needed_bytes(SDXL, placement, False, **asked) for placement in PLACEMENTS]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == len(needs)
    large = asked | {"width": 2048, "height": 2048}
    tiled, whole = (needed_bytes(SDXL, "resident", told, **large) for told in (True, False))
    assert tiled < whole


def test_the_host_has_no_limit():
    found = plan_memory(SDXL, None, width=2048, height=2048, guided=True)
    assert (found.placement, found.vae_tiling, found.batch, found.fits) == (
        "resident",
        False,
        8,
        True,
    )
