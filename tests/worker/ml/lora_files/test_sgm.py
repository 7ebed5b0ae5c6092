"""The original names of SDXL's UNet modules."""

import pytest
import torch

from worker.ml.lora_files.sgm import sgm_name
from worker.ml.lora_files.targets import adaptable_modules


@pytest.fixture(scope="module")
def unet():
    """SDXL's UNet in full shape, without memory for its weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=[320, 640, 1280],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
        ),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
        (
            "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_out.0",
            "output_blocks.2.1.transformer_blocks.0.attn2.to_out.0",
        ),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.2.conv2", "output_blocks.8.0.out_layers.3"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_out", "out.2"),
        ("down_blocks.0.resnets.0.norm1", None),
        ("nowhere", None),
    ],
)
def test_names_are_those_of_the_original_code(unet, name, original):
    assert sgm_name(name, unet.config) == original


def test_every_module_of_sdxl_has_an_original_name_of_its_own(unet):
    names = [path.removeprefix("unet.") for path in adaptable_modules({"unet": unet})]
    originals = [sgm_name(name, unet.config) for name in names]
    assert None not in originals
    assert len(set(originals)) == len(names)
    # What kohya adapts by default: attention blocks' linears, 722 of them.
    assert (
        sum(".1.transformer_blocks" in n or n.endswith(("proj_in", "proj_out")) for n in originals)
        == 722
    )
