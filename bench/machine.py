"""What a measurement was made on."""

import os
import platform
from pathlib import Path
from typing import Any


def processor() -> str:
    """What the processor is called."""
    told = Path("/proc/cpuinfo")
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def described() -> dict[str, Any]:
    """Processor, cores, Python, and how busy the machine was before."""
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
