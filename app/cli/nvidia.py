"""Whether this machine has an NVIDIA GPU, asked without torch; standard library alone."""

import shutil
import subprocess


def has_nvidia_gpu() -> bool:
    """True where the driver's own tool lists at least one GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run(
            [tool, "--list-gpus"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.startswith("GPU ")
