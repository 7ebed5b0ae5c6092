"""What a device reaches at its best: products and copies, the floors that figures are held to."""

import time
from collections.abc import Callable

import torch


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """How long some work takes until the device has done it."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Until the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The most it does a second in a large product of this precision, of several tries."""
    side, times = (8192, 20) if device.type == "cuda" else (1024, 2)
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    best = min(seconds(device, lambda: [a @ b for _ in range(times)]) for _ in range(5))
    return times * 2 * side**3 / best


def copy_bytes(device: torch.device) -> float:
    """The most bytes a second it reads and writes, both counted, copying within its memory."""
    source = torch.ones(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    best = min(seconds(device, lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best


def upload_bytes(device: torch.device) -> float:
    """The most bytes a second that reach it from pinned host memory; on the CPU, a copy's."""
    source = torch.ones(1 << (28 if device.type == "cuda" else 26), dtype=torch.uint8)
    if device.type == "cuda":
        source = source.pin_memory()
    target = torch.empty_like(source, device=device)
    best = min(seconds(device, lambda: target.copy_(source, non_blocking=True)) for _ in range(5))
    return source.nbytes / best
