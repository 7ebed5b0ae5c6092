"""Random modules of every kind of LoRA, for weights of any shape."""

import math

import torch
from torch import Tensor

from worker.ml.lora_files.modules import LohaModule, LokrModule, LoraModule

KINDS = ("lora", "dora", "dora_by_columns", "tucker", "loha", "loha_tucker", "lokr")


class Maker:
    """Random modules for given weights; ranks and alphas differ from module to module."""

    def __init__(self, seed: int = 0, *, uniform: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.uniform = uniform
        self.made = 0

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * 0.2

    def rank_alpha(self) -> tuple[int, float]:
        self.made += 1
        if self.uniform:
            return 4, 2.0
        return (2, 4, 4, 3)[self.made % 4], (1.0, 8.0, 3.0)[self.made % 3]

    def lora(self, weight: Tensor, scale: Tensor | None = None) -> LoraModule:
        rank, alpha = self.rank_alpha()
        out, inputs, *kernel = weight.shape
        up = self.draw(out, rank, *[1] * len(kernel))
        return LoraModule(self.draw(rank, inputs, *kernel), up, alpha, scale)

    def dora(self, weight: Tensor) -> LoraModule:
        rows = weight.flatten(1).norm(dim=1) * (1 + self.draw(weight.shape[0]).abs())
        return self.lora(weight, rows.reshape(-1, *[1] * (weight.ndim - 1)))

    def dora_by_columns(self, weight: Tensor) -> LoraModule:
        columns = weight.transpose(0, 1).flatten(1).norm(dim=1)
        return self.lora(weight, (columns * 1.1).reshape(1, -1, *[1] * (weight.ndim - 2)))

    def tucker(self, weight: Tensor) -> LoraModule:
        if weight.ndim != 4:
            return self.lora(weight)
        rank, alpha = self.rank_alpha()
        out, inputs, *kernel = weight.shape
        down, up = self.draw(rank, inputs, 1, 1), self.draw(out, rank, 1, 1)
        return LoraModule(down, up, alpha, mid=self.draw(rank, rank, *kernel))

    def loha(self, weight: Tensor) -> LohaModule:
        rank, alpha = self.rank_alpha()
        out, columns = weight.flatten(1).shape
        halves = [self.draw(*size) for size in ((out, rank), (rank, columns)) * 2]
        return LohaModule(*halves, alpha)

    def loha_tucker(self, weight: Tensor) -> LohaModule:
        if weight.ndim != 4 or weight.shape[2] == 1:
            return self.loha(weight)
        rank, alpha = self.rank_alpha()
        out, inputs, *kernel = weight.shape
        halves = [self.draw(*size) for size in ((rank, out), (rank, inputs)) * 2]
        cores = [self.draw(rank, rank, *kernel) for _ in range(2)]
        return LohaModule(*halves, alpha, None, *cores)

    def lokr(self, weight: Tensor) -> LokrModule:
        rank, alpha = self.rank_alpha()
        out, inputs, *kernel = weight.shape
        first = {"w1": self.draw(4, 2)}
        if rank == 2:
            first = {"w1_a": self.draw(4, rank), "w1_b": self.draw(rank, 2)}
        out_2, in_2, size = out // 4, inputs // 2, math.prod(kernel)
        if rank == 4:
            return LokrModule(alpha=alpha, **first, w2=self.draw(out_2, in_2, *kernel))
        if kernel and rank == 3:
            core = self.draw(rank, rank, *kernel)
            second = {"w2_a": self.draw(rank, out_2), "w2_b": self.draw(rank, in_2), "t2": core}
        else:
            second = {"w2_a": self.draw(out_2, rank), "w2_b": self.draw(rank, in_2 * size)}
        return LokrModule(alpha=alpha, **first, **second)
