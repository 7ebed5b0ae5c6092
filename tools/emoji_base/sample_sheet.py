"""Draw a sheet of what the base makes of the held-out prompts, to look at.

python tools/emoji_base/sample_sheet.py --base assets/emoji-64 --output sheet.png
"""

import argparse
import json
import math
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from fetch import REPOSITORY
from PIL import Image
from render import pick_device


def lay_out(images: list[Image.Image], columns: int) -> Image.Image:
    """Images of one size in rows, a pixel apart."""
    width, height = images[0].width + 1, images[0].height + 1
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "gray")
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet


def load_base(folder: Path, device: str) -> StableDiffusionXLPipeline:
    """The base in float32, which every device can run."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def draw(
    pipeline: StableDiffusionXLPipeline, prompts: list[str], *, steps: int = 20, guidance: float = 4
) -> list[Image.Image]:
    """One 64 px picture a prompt; each has a seed of its own, the same at every call."""
    return pipeline(
        prompts,
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(number) for number in range(len(prompts))],
    ).images


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=REPOSITORY / "assets" / "emoji-64")
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".cache" / "sheet.png")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=None, help="fewer prompts, for a trial")
    args = parser.parse_args()
    listed = json.loads((REPOSITORY / "examples" / "holdout_prompts.json").read_text())
    prompts = listed["prompts"][: args.limit]
    images = draw(load_base(args.base, pick_device(args.device)), prompts, steps=args.steps)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lay_out(images, 8).save(args.output)


if __name__ == "__main__":
    main()
