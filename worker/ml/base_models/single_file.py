"""Load the parts of an SDXL model from one safetensors file, as fine-tunes are passed around.

Such a file holds weights alone; configuration and tokenizers come from a pipeline of the same
architecture. A part that the file leaves out comes from there too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from app.checkpoints import EXTRAS, PREFIXES, NotACheckpoint, checkpoint_parts
from app.lora_format.names import UnetShape
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.single_file_names import Place, place_of

# A header of an SDXL checkpoint has about 2,500 entries, 400 KB.
_MAX_HEADER_BYTES = 64 * 1024**2
_NAMED = 5


class SingleFile:
    """One checkpoint file, open for reading; nothing in it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            BaseModelUnavailable: it is not there, no safetensors file, or no SDXL checkpoint.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER_BYTES, path.stat().st_size):
                raise BaseModelUnavailable(
                    f"{path.name} has a header of {length} bytes, more than {_MAX_HEADER_BYTES} "
                    "or than the file"
                )
            with safe_open(str(path), framework="pt") as opened:
                self.keys = frozenset(opened.keys())
        except (OSError, SafetensorError) as error:
            raise BaseModelUnavailable(f"{path.name}: {error}") from error
        try:
            self._holds = checkpoint_parts(self.keys)
        except NotACheckpoint as error:
            raise BaseModelUnavailable(f"{path.name} is no SDXL checkpoint: {error}") from error

    def has(self, part: str) -> bool:
        """Whether the file holds a part: `unet`, `vae`, `text_encoder` or `text_encoder_2`."""
        return part in self._holds.parts

    @property
    def scheduler_changes(self) -> dict[str, Any]:
        """What the file's marks say of how it was trained."""
        changes: dict[str, Any] = {}
        if self._holds.v_prediction:
            changes["prediction_type"] = "v_prediction"
        if self._holds.zero_snr:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return changes

    def fill(self, part: str, network: nn.Module, dtype: torch.dtype) -> None:
        """Give a network without weights those of the file.

        One tensor is read at a time, so memory holds the part once.

        Args:
            network: of the part's configuration, its parameters on the meta device.

        Raises:
            BaseModelUnavailable: a parameter is missing or has another shape, or a tensor of the
                part is left over.
        """
        names = dict(network.named_parameters())
        places = self._places(part, network, names)
        missing = [name for name, place in places.items() if place.key not in self.keys]
        used = {place.key for place in places.values()}
        prefix = PREFIXES[part]
        left = [
            key
            for key in sorted(self.keys - used)
            if key.startswith(prefix) and not EXTRAS.match(key)
        ]
        for what, found in (("is without", missing), ("has no use for", left)):
            if found:
                raise BaseModelUnavailable(
                    f"{self.path.name}: the {part} {what} {len(found)} tensors, such as "
                    f"{', '.join(found[:_NAMED])}; its configuration is another"
                )
        tensors: dict[str, Tensor] = {}
        with safe_open(str(self.path), framework="pt") as opened:
            for name, place in places.items():
                tensor = place.convert(opened.get_tensor(place.key))
                if tensor.shape != names[name].shape:
                    raise BaseModelUnavailable(
                        f"{self.path.name}: {place.key} is {tuple(tensor.shape)}; {part}.{name} "
                        f"is {tuple(names[name].shape)}"
                    )
                # Copies: the file is mapped, and one that is cut short would end the process.
                tensors[name] = tensor.to(dtype, copy=True)
        network.load_state_dict(tensors, strict=False, assign=True)

    def _places(
        self, part: str, network: nn.Module, names: Mapping[str, object]
    ) -> dict[str, Place]:
        config: Any = network.config
        shape = UnetShape.of(config) if part == "unet" else None
        blocks = len(config.down_block_types) if part == "vae" else 0
        try:
            return {name: place_of(part, name, unet=shape, vae_blocks=blocks) for name in names}
        except KeyError as error:
            raise BaseModelUnavailable(f"{self.path.name}: {error.args[0]}") from error


def build_empty(part: str, config: str, revision: str | None) -> nn.Module:
    """A network of a pipeline's configuration, its parameters on the meta device.

    Raises:
        OSError: the configuration cannot be read.
    """
    from accelerate import init_empty_weights

    where: dict[str, Any] = {"subfolder": part, "revision": revision}
    # Buffers are computed, not loaded, so they must be real.
    with init_empty_weights(include_buffers=False):
        if part == "unet":
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

            found = UNet2DConditionModel.load_config(config, **where)
            network: nn.Module = UNet2DConditionModel.from_config(found)
        elif part == "vae":
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

            network = AutoencoderKL.from_config(AutoencoderKL.load_config(config, **where))
        else:
            from transformers import (
                CLIPTextConfig,
                CLIPTextModel,
                CLIPTextModelWithProjection,
            )

            kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
            network = kind(CLIPTextConfig.from_pretrained(config, **where))
    return network
