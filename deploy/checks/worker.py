"""What a worker's image must be, asked from within it: run by tools/replay_image.py.

It imports all that jobs need, and draws a picture with the small base model on whatever device
there is. No server is asked.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions, version
from pathlib import Path

COMMANDS = (
    # The whole worker is imported and configured.
    ("celery", "-A", "worker.main:celery_app", "report"),
    ("celery", "-A", "worker.main:celery_app", "inspect", "--help"),
    ("accelerate", "launch", "--help"),
    ("python", "-m", "worker.ml.training", "--help"),
)


def main() -> None:
    """Say what was found; end with 1 where something is wrong."""
    problems: list[str] = []
    names = sorted(each.metadata["Name"].lower() for each in distributions())
    packages = Path(sysconfig.get_path("purelib"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    print(f"{len(names)} packages, {size:.0f} MB", flush=True)
    for command in COMMANDS:
        print("$ " + " ".join(command), flush=True)
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode != 0:
            problems.append(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    import diffusers
    import torch
    import transformers

    told = f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}"
    print(f"{told}, diffusers {diffusers.__version__}, transformers {transformers.__version__}")
    if version("torch") != torch.__version__:
        problems.append(f"torch says {torch.__version__}, its package {version('torch')}")
    problems += _draw()
    for name in ("LORAWRIGHT_WORK_DIR", "HF_HOME"):
        probe = Path(os.environ[name], "written")
        probe.touch()
        probe.unlink()
    for place in ("/opt/lorawright", "/opt/venv", "/etc"):
        try:
            Path(place, "written").touch()
            problems.append(f"{place} can be written")
        except OSError:
            pass
    sys.exit("\n".join(problems) or 0)


def _draw() -> list[str]:
    """One picture of the small base model."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusionXLPipeline.from_pretrained("assets/emoji-64").to(device)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        "red apple",
        num_inference_steps=4,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    colours = len(drawn.getcolors(64 * 64))
    print(f"a picture of {drawn.width} × {drawn.height} px, {colours} colours, drawn on {device}")
    return [] if colours > 100 else ["the picture is all but empty"]


if __name__ == "__main__":
    main()
