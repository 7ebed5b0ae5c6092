"""Train the VAE: 64 px pictures to 16 × 16 × 4 latents and back.

    python tools/emoji_base/train_vae.py --output .cache/emoji-64

At the end the latents' mean and deviation are folded into `quant_conv`, so that latents times
`scaling_factor` have zero mean and unit deviation a channel and the UNet starts from a level field.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from concepts import load_concepts
from diffusers import AutoencoderKL
from fetch import DEFAULT_CACHE, REPOSITORY
from render import background_palette, draw_all, pick_device, place, random_placement
from torch import Tensor

SETS = ("noto", "fluent", "noto-v1", "fxemoji", "high-contrast", "flat")
ARCHITECTURE = REPOSITORY / "assets" / "emoji-64" / "vae"


def gradient_loss(made: Tensor, true: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels' differences: keeps edges where L1 would blur."""
    across = (made.diff(dim=3) - true.diff(dim=3)).abs().mean()
    down = (made.diff(dim=2) - true.diff(dim=2)).abs().mean()
    return across + down


@torch.no_grad()
def centre_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold the latents' mean and deviation into quant_conv, and out again in post_quant_conv."""
    means = vae.encode(pixels).latent_dist.mean  # (B, 4, 16, 16)
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    gain = 1 / (deviation * vae.config.scaling_factor)
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] *= gain[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) * gain
    # The second half of quant_conv is the log variance.
    quant.bias[channels:] += 2 * gain.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight /= gain[None, :, None, None]


def main() -> None:
    """Train until `--steps` or `--minutes`, report PSNR, save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".cache" / "emoji-64")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=None, help="fewer concepts, for a trial")
    args = parser.parse_args()
    device = pick_device(args.device)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rgba, _, _ = draw_all(args.cache, SETS, load_concepts(args.cache)[: args.limit], 80)
    palette = background_palette()
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(ARCHITECTURE)).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.rate, betas=(0.9, 0.99))

    def batch(size: int) -> Tensor:
        """Random pictures, (size, 3, 64, 64) in -1..1."""
        rows = torch.randint(len(rgba), (size,), generator=generator)
        colours = palette[torch.randint(len(palette), (size,), generator=generator)]
        moved = random_placement(size, generator)
        return place(rgba[rows].float() / 255, colours, side=64, **moved).to(device) * 2 - 1

    started, step, progress = time.monotonic(), 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 50) * (1 - 0.95 * progress)
        pixels = batch(args.batch)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            made = vae.decode(posterior.sample()).sample
        made = made.float()
        difference = F.l1_loss(made, pixels)
        loss = difference + gradient_loss(made, pixels) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress = max(step / args.steps, (time.monotonic() - started) / (60 * args.minutes))
        if step % 100 == 0 or progress >= 1:
            print(f"step {step} L1 {difference.item():.4f}", flush=True)

    vae.eval()
    centre_latents(vae, batch(512 if args.limit is None else 16))
    with torch.no_grad():
        pixels = batch(64)
        posterior = vae.encode(pixels).latent_dist
        error = F.mse_loss(vae.decode(posterior.mean).sample.clamp(-1, 1), pixels)
        latents = posterior.mean * vae.config.scaling_factor
    # Peak to peak is 2 in -1..1, hence the 4.
    print(
        f"PSNR {10 * torch.log10(4 / error).item():.1f} dB, latents' mean "
        f"{latents.mean().item():.2f}, deviation {latents.std().item():.2f}"
    )
    vae.half().save_pretrained(args.output / "vae")


if __name__ == "__main__":
    main()
