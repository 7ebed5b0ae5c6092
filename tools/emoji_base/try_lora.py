"""Train LoRAs on the example styles with peft and draw a sheet: does a setting show on the base?

    python tools/emoji_base/try_lora.py --targets attention --rank 32 --alpha 16 --rate 1e-3

Rows: the base, ink 0.5, ink 1.0, riso 0.5, riso 1.0, ink 0.7 with riso 0.7. Prompts and seeds are
the same in every row, trigger words included, so that only the LoRA differs.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from concepts import caption_of
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from fetch import REPOSITORY
from peft import LoraConfig
from PIL import Image
from render import pick_device
from sample_sheet import draw, lay_out, load_base
from torch import Tensor
from train_unet import min_snr_weights
from training_set import to_pixels

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TARGETS = {
    "attention": ATTENTION,
    "full": [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
}
ROWS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.7, 0.7))


@torch.no_grad()
def prepare(
    pipeline: StableDiffusionXLPipeline,
    folder: Path,
    trigger: str,
    template: str,
    limit: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, 4, 16, 16), text states and pooled text of N pictures and of an empty caption."""
    paths = sorted(folder.glob("*.png"))[:limit]
    images = [
        Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for path in paths
    ]
    pixels = to_pixels(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    latents = pipeline.vae.encode(pixels.to(pipeline.device)).latent_dist.mean
    captions = [template.format(trigger=trigger, caption=caption_of(path.stem)) for path in paths]
    states, _, pooled, _ = pipeline.encode_prompt(
        [*captions, ""], do_classifier_free_guidance=False
    )
    return latents * pipeline.vae.config.scaling_factor, states, pooled


def train(
    pipeline: StableDiffusionXLPipeline,
    name: str,
    data: tuple[Tensor, Tensor, Tensor],
    args: argparse.Namespace,
) -> None:
    """Add the adapter `name` to the UNet and train it."""
    latents, states, pooled = data
    unet, count = pipeline.unet, len(latents)
    unet.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules=TARGETS[args.targets]), name
    )
    unet.set_adapter(name)
    parameters = [p for key, p in unet.named_parameters() if "lora_" in key and f".{name}." in key]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.01)
    noiser = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    snrs = noiser.alphas_cumprod / (1 - noiser.alphas_cumprod)
    generator = torch.Generator().manual_seed(0)
    time_ids = torch.tensor([[96.0, 96, 0, 0, 64, 64]], device=latents.device)
    unet.train()
    started = time.monotonic()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * (0.05 + 0.475 * (1 + math.cos(math.pi * step / args.steps)))
        rows = torch.randint(count, (args.batch,), generator=generator)
        dropped = torch.rand(args.batch, generator=generator) < 0.05
        spoken = torch.where(dropped, count, rows)
        timesteps = torch.randint(1000, (args.batch,), generator=generator)
        noise = torch.randn(args.batch, *latents.shape[1:], generator=generator).to(latents.device)
        noisy = noiser.add_noise(latents[rows], noise, timesteps.to(latents.device))
        extra = {"text_embeds": pooled[spoken], "time_ids": time_ids.expand(args.batch, -1)}
        with torch.autocast(latents.device.type, torch.bfloat16):
            guess = unet(
                noisy, timesteps.to(latents.device), states[spoken], added_cond_kwargs=extra
            ).sample
        errors = (guess.float() - noise).square().mean((1, 2, 3))
        if args.min_snr_gamma:
            errors = errors * min_snr_weights(snrs[timesteps], args.min_snr_gamma).to(errors.device)
        optimizer.zero_grad(set_to_none=True)
        errors.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 49 or step == args.steps - 1:
            pace = (time.monotonic() - started) / (step + 1)
            print(
                f"{name} step {step + 1} loss {errors.mean().item():.4f} {pace:.3f} s", flush=True
            )
    unet.eval()
    size = sum(parameter.numel() for parameter in parameters)
    print(f"{name}: {size:,} parameters in {time.monotonic() - started:.0f} s", flush=True)


def measure(images: list[Image.Image]) -> str:
    """Mean chroma (largest less smallest channel), share near black, share of sea-green paper."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / 255
    chroma = (pixels.max(-1) - pixels.min(-1)).mean()
    black = (pixels.max(-1) < 0.3).mean()
    paper = (np.abs(pixels - np.array([150, 214, 205]) / 255).max(-1) < 0.15).mean()
    return f"chroma {chroma:.3f} black {black:.3f} paper {paper:.3f}"


def main() -> None:
    """Train both LoRAs, draw every row, print what can be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=REPOSITORY / "assets" / "emoji-64")
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".cache" / "lora-sheet.png")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--targets", choices=tuple(TARGETS), default="attention")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--min-snr-gamma", type=float, default=5.0, help="0 leaves losses alone")
    parser.add_argument("--template", default="{caption}, {trigger}")
    parser.add_argument("--limit", type=int, default=None, help="fewer pictures and prompts")
    args = parser.parse_args()
    torch.manual_seed(0)
    examples = REPOSITORY / "examples"
    pipeline = load_base(args.base, pick_device(args.device))
    pipeline.unet.requires_grad_(False)
    prompts = json.loads((examples / "holdout_prompts.json").read_text())["prompts"][: args.limit]
    for name in ("ink", "riso"):
        data = prepare(
            pipeline, examples / f"{name}-style", f"{name}style", args.template, args.limit
        )
        train(pipeline, name, data, args)
    styled = [
        args.template.format(trigger="inkstyle risostyle", caption=prompt) for prompt in prompts
    ]
    sheet: list[Image.Image] = []
    for ink, riso in ROWS:
        pipeline.unet.set_adapters(["ink", "riso"], weights=[ink, riso])
        images = draw(pipeline, styled)
        print(f"ink {ink} riso {riso}: {measure(images)}", flush=True)
        sheet += images
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lay_out(sheet, len(prompts)).save(args.output)


if __name__ == "__main__":
    main()
