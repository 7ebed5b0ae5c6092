"""Train the UNet and both text encoders together, from scratch, on latents made once.

    python tools/emoji_base/train_unet.py --output .cache/emoji-64

`--output` must hold the `vae` and the tokenizers already; at the end it is a whole
StableDiffusionXLPipeline folder, the weights being the running average in half precision.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from fetch import DEFAULT_CACHE, REPOSITORY
from render import pick_device
from torch import Tensor, nn
from training_set import TrainingSet, draw_training_set, to_pixels
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

ARCHITECTURE = REPOSITORY / "assets" / "emoji-64"


class Learner(nn.Module):
    """What is trained together: the UNet and both text encoders."""

    def __init__(self) -> None:
        super().__init__()
        config = UNet2DConditionModel.load_config(ARCHITECTURE / "unet")
        self.unet = UNet2DConditionModel.from_config(config)
        first = CLIPTextConfig.from_pretrained(ARCHITECTURE / "text_encoder")
        second = CLIPTextConfig.from_pretrained(ARCHITECTURE / "text_encoder_2")
        # The files say half precision; learning happens in float32.
        first.dtype = second.dtype = torch.float32
        self.text_encoder = CLIPTextModel(first)
        self.text_encoder_2 = CLIPTextModelWithProjection(second)

    def forward(
        self, noisy: Tensor, timesteps: Tensor, ids: Tensor, ids_2: Tensor, time_ids: Tensor
    ) -> Tensor:
        """Predict the noise, (B, 4, 16, 16), as the SDXL pipeline conditions it.

        Args:
            ids, ids_2: both tokenizers' tokens, (B, 77).
            time_ids: (B, 6).
        """
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(ids_2, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], 2)  # (B, 77, 256)
        extra = {"text_embeds": second.text_embeds, "time_ids": time_ids}
        return self.unet(noisy, timesteps, states, added_cond_kwargs=extra).sample


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Tensor, device: str) -> Tensor:
    """Scaled latents of all pictures, (N, 4, 16, 16)."""
    return torch.cat(
        [
            vae.encode(to_pixels(part).to(device)).latent_dist.mean.cpu()
            * vae.config.scaling_factor
            for part in pictures.split(256)
        ]
    )


def tokenize(training: TrainingSet, folder: Path) -> tuple[Tensor, Tensor]:
    """Tokens of all captions for both tokenizers, (N, captions, 77); then one empty caption."""
    texts = [text for texts in training.captions for text in texts]
    tokens = []
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = CLIPTokenizer.from_pretrained(folder / name)
        made = tokenizer(
            [*texts, ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        tokens.append(made.input_ids)
    return tokens[0], tokens[1]


def min_snr_weights(snr: Tensor, gamma: float) -> Tensor:
    """Weight noise-prediction losses so that easy timesteps count for less (Hang et al. 2023).

    Args:
        snr: signal-to-noise ratio of each timestep, (B,), > 0.
        gamma: ceiling on the ratio; 5.0 is the paper's.

    Returns:
        Weights, (B,), in (0, 1]; exactly 1 wherever snr <= gamma.
    """
    return snr.clamp(max=gamma) / snr


def rate_at(step: int, progress: float, peak: float) -> float:
    """200 steps of warm-up, level, then a cosine to nothing over the last 85%."""
    warm = min(1.0, (step + 1) / 200)
    if progress < 0.15:
        return peak * warm
    return peak * warm * (0.5 + 0.5 * math.cos(math.pi * (progress - 0.15) / 0.85))


@torch.no_grad()
def follow(average: nn.Module, learner: nn.Module, decay: float) -> None:
    """Move the running average towards the learner."""
    for kept, new in zip(average.parameters(), learner.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def main() -> None:
    """Train until `--steps` or `--minutes` and save the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".cache" / "emoji-64")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=6000.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.9985, help="its last decay")
    parser.add_argument("--limit", type=int, default=None, help="fewer concepts, for a trial")
    args = parser.parse_args()
    device = pick_device(args.device)
    torch.manual_seed(0)

    training = draw_training_set(args.cache, args.limit)
    vae = AutoencoderKL.from_pretrained(args.output / "vae", torch_dtype=torch.float32).to(device)
    latents = encode_pictures(vae, training.pictures, device)
    ids, ids_2 = tokenize(training, args.output)
    captions = len(training.captions[0])
    learner = Learner().to(device)
    average = copy.deepcopy(learner).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in learner.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in learner.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    noiser = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    kept = noiser.alphas_cumprod
    snrs = kept / (1 - kept)  # (1000,)
    print(f"{len(latents)} latents, {sum(p.numel() for p in learner.parameters()):,} parameters")

    started, step, progress = time.monotonic(), 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, progress, args.rate)
        rows = torch.randint(len(latents), (args.batch,))
        spoken = rows * captions + torch.randint(captions, (args.batch,))
        # One in ten learns without words, for classifier-free guidance.
        spoken = torch.where(torch.rand(args.batch) < 0.1, len(ids) - 1, spoken)
        clean, noise = latents[rows], torch.randn(args.batch, *latents.shape[1:])
        timesteps = torch.randint(len(snrs), (args.batch,))
        noisy = noiser.add_noise(clean, noise, timesteps)
        with torch.autocast(device, torch.bfloat16):
            guess = learner(
                noisy.to(device),
                timesteps.to(device),
                ids[spoken].to(device),
                ids_2[spoken].to(device),
                training.time_ids[rows].to(device),
            )
        errors = (guess.float() - noise.to(device)).square().mean((1, 2, 3))  # (B,)
        loss = (errors * min_snr_weights(snrs[timesteps], 5.0).to(device)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        follow(average, learner, min(args.ema, (step + 1) / (step + 10)))
        step += 1
        progress = max(step / args.steps, (time.monotonic() - started) / (60 * args.minutes))
        if step % 100 == 0 or progress >= 1:
            pace = (time.monotonic() - started) / step
            print(f"step {step} loss {loss.item():.4f} {pace:.2f} s a step", flush=True)

    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=average.text_encoder,
        text_encoder_2=average.text_encoder_2,
        tokenizer=CLIPTokenizer.from_pretrained(args.output / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(args.output / "tokenizer_2"),
        unet=average.unet,
        scheduler=EulerDiscreteScheduler.from_pretrained(ARCHITECTURE / "scheduler"),
        add_watermarker=False,
    ).to(dtype=torch.float16).save_pretrained(args.output)


if __name__ == "__main__":
    main()
