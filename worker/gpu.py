"""What the GPUs of this worker are doing: asked of the driver, so that a trainer's work counts too.

Nothing is loaded or initialised on a GPU to find out. Without nvidia-ml-py torch is asked, if it
is at work already.
"""

import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU, now.

    Attributes:
        name: its number on the machine.
        busy: share of time, 0 to 1; None where nobody knows.
    """

    name: str
    used_bytes: int
    bytes: int
    busy: float | None


def read() -> list[Gpu]:
    """Those that this process may use."""
    nvml = _nvml()
    return _of_torch() if nvml is None else _of_driver(nvml)


@cache
def _nvml() -> Any:
    """The driver's library, ready; None where there is none."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _of_driver(nvml: Any) -> list[Gpu]:
    found = []
    for name in _visible(nvml):
        try:
            if name.isdecimal():
                handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(name)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError:
            continue
        try:
            busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError:
            # A slice of a card (MIG) does not know.
            busy = None
        found.append(Gpu(name, memory.used, memory.total, busy))
    return found


def _visible(nvml: Any) -> list[str]:
    """Numbers or UUIDs, as CUDA takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(nvml.nvmlDeviceGetCount())]
    return [name for name in (part.strip() for part in chosen.split(",")) if name not in ("", "-1")]


def _of_torch() -> list[Gpu]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    number = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(number)
    return [Gpu(str(number), total - free, total, None)]
