"""What a LoRA is, whatever file it came from: a low-rank pair for each adapted module."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LoraModule:
    """The update of one linear or convolution: ΔW = (alpha / rank) · up @ down.

    Attributes:
        down: (rank, in) for linears, (rank, in, kh, kw) for convolutions.
        up: (out, rank), or (out, rank, 1, 1).
        alpha: the file's alpha; equal to rank when the file had none (or zero).
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of `up`, rows of `down`."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def nbytes(self) -> int:
        """Bytes the pair occupies."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True)
class Lora:
    """A parsed LoRA.

    Attributes:
        modules: by path: the component's name in the diffusers pipeline, a dot, and the module's
            path in it, e.g. `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`,
            `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`. Text encoder paths always
            carry `text_model.`, whether or not the installed transformers has that level.
        metadata: the file's, every value a string.
    """

    modules: dict[str, LoraModule]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(module.nbytes for module in self.modules.values())
