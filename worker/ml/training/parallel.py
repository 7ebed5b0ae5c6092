"""Several processes that train one LoRA: who they are, and what they tell one another.

Each has the whole base and a part of every batch. After the last backward of a step their
gradients are summed, once, in one message; LoRA's are so small that nothing is gained by sending
them piece by piece. Losses are divided by the pictures of all, so the sum is the gradient of the
whole batch however unevenly it was parted, and every process makes the very same step.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A checkpoint's pictures and files are one process' work, for which the others wait.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Group:
    """This process among those that `accelerate launch` (or torchrun) started together.

    Attributes:
        rank: of this process, 0 is the one that measures, draws and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; all hear the same answer."""
        if self.size == 1:
            return flag
        # On the CPU: the devices' streams go on meanwhile.
        word = torch.tensor([int(flag)])
        dist.all_reduce(word, dist.ReduceOp.MAX)
        return bool(word.item())

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Make every process' gradients the sum of all; the sum of their losses.

        One without a picture counts as zero.
        """
        if self.size == 1:
            return loss
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.view(1)])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return flat[-1]

    def part(self, count: int) -> slice:
        """This process' part of so many pictures; the first ones get one more if it is uneven."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))


@contextmanager
def joined_group() -> Iterator[Group]:
    """The group that the environment names; alone without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Gloo carries what is on the CPU, NCCL what is on the devices.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
