"""The loop to compare with: diffusers, peft and accelerate put together as their examples do it.

It follows `examples/text_to_image/train_text_to_image_lora_sdxl.py` of diffusers: pictures are
decoded, encoded by the VAE, and captions by both text encoders, in every step; the loss is gathered
and read in every step. `--cached` gives the same loop latents and embeddings made before.

Two things are not as there, so that it computes what our trainer computes: the LoRA's matrices are
in float32 whatever the base is in, and alpha may differ from rank.

    python -m bench.straight_loop SETTINGS.json [--cached FILE | --make-cache FILE]

Standard output: a line of JSON after each step, {"step": n, "time": seconds of the clock}.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params, compute_snr
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.settings import Settings

# What the UNet is given for a batch: latents, token states, pooled vectors, time ids.
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class Pictures(Dataset[dict[str, Any]]):
    """Pictures and captions as files hold them, made ready when they are asked for."""

    def __init__(self, settings: Settings, tokenizers: tuple[Any, Any]) -> None:
        self._files = settings.pictures
        self._side = settings.resolution
        self._tokenizers = tokenizers

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        path = Path(self._files[number])
        image = Image.open(path).convert("RGB")
        original = (image.height, image.width)
        scale = self._side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
        top = max(0, round((image.height - self._side) / 2))
        left = max(0, round((image.width - self._side) / 2))
        image = image.crop((left, top, left + self._side, top + self._side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        caption = path.with_suffix(".txt").read_text().strip()
        return {
            "pixel_values": (pixels - 0.5) / 0.5,
            "original_size": original,
            "crop_top_left": (top, left),
            "input_ids": [
                tokenizer(
                    caption,
                    max_length=tokenizer.model_max_length,
                    padding="max_length",
                    truncation=True,
                    return_tensors="pt",
                ).input_ids[0]
                for tokenizer in self._tokenizers
            ],
        }


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of pictures and token ids."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "original_sizes": [example["original_size"] for example in examples],
        "crop_top_lefts": [example["crop_top_left"] for example in examples],
        "input_ids": [
            torch.stack([example["input_ids"][n] for example in examples]) for n in range(2)
        ],
    }


class Encoder:
    """VAE and text encoders, run on each batch."""

    def __init__(self, settings: Settings, accelerator: Accelerator, dtype: torch.dtype) -> None:
        base = settings.base
        self._side = settings.resolution
        self._accelerator = accelerator
        self._dtype = dtype
        self.tokenizers = (
            CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
            CLIPTokenizer.from_pretrained(base, subfolder="tokenizer_2"),
        )
        self._text_encoders = (
            CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(base, subfolder="text_encoder_2"),
        )
        self._vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
        self._vae.requires_grad_(False)
        self._vae.to(accelerator.device, dtype=torch.float32)
        for text_encoder in self._text_encoders:
            text_encoder.requires_grad_(False)
            text_encoder.to(accelerator.device, dtype=dtype)

    def __call__(self, batch: dict[str, Any]) -> Inputs:
        """Latents (B, 4, h, w), token states (B, 77, C), pooled (B, D), time ids (B, 6)."""
        pixel_values = batch["pixel_values"]
        latents = self._vae.encode(pixel_values.to(torch.float32)).latent_dist.sample()
        latents = (latents * self._vae.config.scaling_factor).to(self._dtype)
        time_ids = torch.cat(
            [
                torch.tensor([[*original, *corner, self._side, self._side]]).to(
                    self._accelerator.device, dtype=self._dtype
                )
                for original, corner in zip(
                    batch["original_sizes"], batch["crop_top_lefts"], strict=True
                )
            ]
        )
        states: list[Tensor] = []
        for text_encoder, ids in zip(self._text_encoders, batch["input_ids"], strict=True):
            answer = text_encoder(ids.to(text_encoder.device), output_hidden_states=True)
            states.append(answer.hidden_states[-2])
        pooled = answer[0]  # of the second encoder
        return latents, torch.cat(states, dim=-1), pooled, time_ids


class Cached(Dataset[Inputs]):
    """What `Encoder` made of each picture, in memory."""

    def __init__(self, file: Path) -> None:
        self._columns: list[Tensor] = torch.load(file)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, number: int) -> Inputs:
        latents, states, pooled, time_ids = (column[number] for column in self._columns)
        return latents, states, pooled, time_ids


def train(
    unet: Any,
    noise_scheduler: Any,
    loader: DataLoader[Any],
    inputs_of: Callable[[Any], Inputs],
    settings: Settings,
    accelerator: Accelerator,
    dtype: torch.dtype,
    on_step: Callable[[int], None],
) -> None:
    """Train a LoRA on attention for `settings.steps` steps.

    Args:
        inputs_of: what the UNet is given for a batch of the loader.
        on_step: told how many steps are done, after the loss of each was read.
    """
    unet.requires_grad_(False)
    unet.to(accelerator.device, dtype=dtype)
    unet.add_adapter(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        )
    )
    cast_training_params([unet], dtype=torch.float32)
    if settings.checkpointing:
        unet.enable_gradient_checkpointing()
    params_to_optimize = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        params_to_optimize,
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=settings.weight_decay,
        eps=1e-8,
    )
    lr_scheduler = get_scheduler(
        "constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=settings.steps
    )
    unet, optimizer, loader, lr_scheduler = accelerator.prepare(
        unet, optimizer, loader, lr_scheduler
    )
    step, train_loss = 0, 0.0
    unet.train()
    while step < settings.steps:
        for batch in loader:
            with accelerator.accumulate(unet):
                model_input, prompt_embeds, pooled, time_ids = inputs_of(batch)
                noise = torch.randn_like(model_input)
                bsz = model_input.shape[0]
                timesteps = torch.randint(
                    0,
                    noise_scheduler.config.num_train_timesteps,
                    (bsz,),
                    device=model_input.device,
                ).long()
                noisy_model_input = noise_scheduler.add_noise(model_input, noise, timesteps)
                model_pred = unet(
                    noisy_model_input,
                    timesteps,
                    prompt_embeds,
                    added_cond_kwargs={"time_ids": time_ids, "text_embeds": pooled},
                    return_dict=False,
                )[0]
                target = noise
                snr = compute_snr(noise_scheduler, timesteps)
                gammas = settings.min_snr_gamma * torch.ones_like(timesteps)
                mse_loss_weights = torch.stack([snr, gammas], dim=1).min(dim=1)[0] / snr
                loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
                loss = loss.mean(dim=list(range(1, len(loss.shape)))) * mse_loss_weights
                loss = loss.mean()
                avg_loss = accelerator.gather(loss.repeat(settings.batch_size)).mean()
                train_loss += avg_loss.item()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(params_to_optimize, settings.max_grad_norm)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            loss.detach().item()
            lr_scheduler.get_last_lr()
            step += 1
            on_step(step)
            if step >= settings.steps:
                break


def main() -> None:
    """One run, or one making of the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--cached", type=Path)
    parser.add_argument("--make-cache", type=Path)
    args = parser.parse_args()
    out = _events()
    settings = Settings.read(args.settings)
    torch.manual_seed(0)
    half = settings.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if half else "no")
    if args.make_cache:
        encoder = Encoder(settings, accelerator, dtype)
        pictures = Pictures(settings, encoder.tokenizers)
        with torch.no_grad():
            rows = [encoder(collate([pictures[n]])) for n in range(len(pictures))]
        torch.save([torch.cat(column) for column in zip(*rows, strict=True)], args.make_cache)
        return
    unet = UNet2DConditionModel.from_pretrained(settings.base, subfolder="unet")
    noise_scheduler = DDPMScheduler.from_pretrained(settings.base, subfolder="scheduler")
    inputs_of: Callable[[Any], Inputs] = tuple  # A cached batch is what the UNet is given.
    size = settings.batch_size
    if args.cached:
        loader: DataLoader[Any] = DataLoader(Cached(args.cached), batch_size=size, shuffle=True)
    else:
        inputs_of = Encoder(settings, accelerator, dtype)
        pictures = Pictures(settings, inputs_of.tokenizers)
        loader = DataLoader(pictures, batch_size=size, shuffle=True, collate_fn=collate)

    def on_step(step: int) -> None:
        out.write(json.dumps({"step": step, "time": time.time()}) + "\n")

    train(unet, noise_scheduler, loader, inputs_of, settings, accelerator, dtype, on_step)


def _events() -> IO[str]:
    """Standard output for events alone; what libraries print goes to standard error."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


if __name__ == "__main__":
    main()
