"""What a worker's image must be, asked from within it: run by tools/replay_image.py.

It imports all that jobs need, and draws a picture with the small base model, on a GPU if there is
one. No server is asked.
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
    """One picture of the small base model, as a job draws it."""
    from worker.ml.base_models.device import choose_policy
    from worker.ml.inference.generate import generate
    from worker.ml.inference.pipelines import open_pipeline
    from worker.ml.inference.spec import BaseModelSpec, GenerationSpec

    base = BaseModelSpec(
        id="emoji-64", location="assets/emoji-64", architecture="emoji-64", vae_scale_factor=4
    )
    spec = GenerationSpec(
        prompt="red apple", width=64, height=64, steps=4, seeds=(1,), base_model=base
    )
    policy = choose_policy()
    outcome = generate(open_pipeline(base, policy), spec, lambda *_: None, lambda: False)
    drawn = outcome.images[0].image
    colours = len(drawn.getcolors(64 * 64))
    print(f"a picture of {drawn.width} × {drawn.height} px, {colours} colours, on {policy.device}")
    return [] if colours > 100 else ["the picture is all but empty"]


if __name__ == "__main__":
    main()
