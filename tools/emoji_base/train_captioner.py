"""Train emoji-blip: a tiny BLIP that names emoji.

    python tools/emoji_base/train_captioner.py --output assets/emoji-blip

A captioner from scratch finds it easier to learn how names are spelt than to look. So beside the
caption the vision tower has to tell the concepts apart with a linear head, which is thrown away
afterwards; changes to the pictures grow from slight to full over the first third.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from concepts import caption_of, load_captioner_concepts
from fetch import DEFAULT_CACHE, REPOSITORY
from render import background_palette, draw_all, pick_device, place, random_placement
from torch import Tensor, nn
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

TRAINING_SETS = ("noto", "fluent", "noto-v1", "fxemoji", "high-contrast")
UNSEEN_SETS = ("flat",)
SIDE_PX = 64
DRAWN_SIDE_PX = 80
PATCH_PX = 16
WIDTH = 192
MEAN, STD = 0.5, 0.5
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]


class Pictures:
    """Icons in memory, served in batches on new backgrounds each time."""

    def __init__(self, cache: Path, sets: tuple[str, ...], concepts: list[str]) -> None:
        stored = cache / f"drawn-{DRAWN_SIDE_PX}-{len(concepts)}-{'-'.join(sets)}.pt"
        if not stored.exists():
            torch.save(draw_all(cache, sets, concepts, DRAWN_SIDE_PX), stored)
        self.rgba, self.labels, self.styles = torch.load(stored)
        self._palette = background_palette()

    def compose(self, rows: Tensor, generator: torch.Generator, strength: float) -> Tensor:
        """Training pictures (B, 3, 64, 64), normalised; `strength` 0..1 scales the changes."""
        rgba, count = self.rgba[rows].float() / 255, len(rows)
        picked = torch.randint(len(self._palette), (count,), generator=generator)
        colours = self._palette[picked]
        # Half on white, as in most folders; a quarter on any colour at all.
        chance = torch.rand(count, 1, generator=generator)
        colours = torch.where(chance < 0.5, torch.ones(count, 3), colours)
        colours = torch.where(chance > 0.75, torch.rand(count, 3, generator=generator), colours)
        rgba = _vary_colours(rgba, generator, strength)
        placement = random_placement(count, generator, strength=strength)
        return (place(rgba, colours, side=SIDE_PX, **placement) - MEAN) / STD

    def compose_for_test(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures on plain colours that training never picks by name, moved as in training."""
        rgba, count = self.rgba[rows].float() / 255, len(rows)
        colours = 0.3 + 0.7 * torch.rand(count, 3, generator=generator)
        placement = random_placement(count, generator)
        return (place(rgba, colours, side=SIDE_PX, **placement) - MEAN) / STD


def _vary_colours(rgba: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Other tints, grey, and two-colour prints for some: a name should not hang on the colour."""
    count = len(rgba)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    tint = 1 + 0.3 * strength * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    rgb = (rgb * tint).clamp(0, 1)
    grey = rgb.mean(1, keepdim=True)
    dark = torch.rand(count, 3, 1, 1, generator=generator) * 0.5
    light = 0.5 + torch.rand(count, 3, 1, 1, generator=generator) * 0.5
    chance = torch.rand(count, 1, 1, 1, generator=generator)
    rgb = torch.where(chance < 0.06 * strength, grey.expand_as(rgb), rgb)
    rgb = torch.where(chance > 1 - 0.1 * strength, dark + (light - dark) * grey, rgb)
    return torch.cat([rgb, alpha], 1)


def make_tokenizer(captions: list[str]) -> BertTokenizerFast:
    """A WordPiece vocabulary of the words themselves; letters are there for everything else."""
    words = sorted({word for caption in captions for word in caption.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = [*SPECIAL, *words, *(piece for piece in pieces if piece not in set(words))]
    tokenizer = BertTokenizerFast(
        vocab={token: number for number, token in enumerate(vocabulary)}, bos_token="[DEC]"
    )
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def make_captioner(tokenizer: BertTokenizerFast) -> BlipForConditionalGeneration:
    """3 M parameters: a ViT of 5 layers over 16 px patches, a text decoder of 2 layers."""
    config = BlipConfig(
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
            # BLIP's default, 1e-10, is meant for loading weights: a tower that starts
            # from it passes no gradient and never learns to look.
            "initializer_range": 0.02,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "encoder_hidden_size": WIDTH,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=128,
    )
    captioner = BlipForConditionalGeneration(config)
    embeddings = captioner.vision_model.embeddings
    nn.init.normal_(embeddings.patch_embedding.weight, std=0.03)
    with torch.no_grad():
        embeddings.position_embedding[0, 1:] = 0.3 * grid_positions(SIDE_PX // PATCH_PX, WIDTH)
    return captioner


def grid_positions(cells: int, width: int) -> Tensor:
    """Sines and cosines of each patch's row and column: (cells², width), in -1..1."""
    place_in_grid = torch.arange(cells, dtype=torch.float32)
    rates = 0.02 ** (torch.arange(width // 4) / (width // 4)) * 2.0
    waves = place_in_grid[:, None] * rates
    line = torch.cat([waves.sin(), waves.cos()], 1)  # (cells, width / 2)
    rows = line[:, None].expand(-1, cells, -1)
    columns = line[None].expand(cells, -1, -1)
    return torch.cat([rows, columns], 2).reshape(cells * cells, width)


def rate_at(progress: float, peak: float) -> float:
    """Warm-up over the first thirtieth, then a cosine to a hundredth of the peak."""
    warm = 1 / 30
    if progress < warm:
        return peak * (0.05 + 0.95 * progress / warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm))))


def train(
    captioner: BlipForConditionalGeneration,
    tokenizer: BertTokenizerFast,
    pictures: Pictures,
    captions: list[str],
    args: argparse.Namespace,
) -> None:
    """Learn names and concepts together, until `--steps` or `--minutes`, whichever is first."""
    encoded = tokenizer(captions, padding=True, return_tensors="pt").input_ids  # (concepts, L)
    encoded[:, 0] = captioner.config.text_config.bos_token_id  # [DEC] in place of [CLS]
    head = nn.Linear(captioner.config.vision_config.hidden_size, len(captions)).to(args.device)
    parameters = [*captioner.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    generator = torch.Generator().manual_seed(args.seed)
    started, step, right = time.monotonic(), 0, 0.0
    saved = started
    while True:
        elapsed = time.monotonic() - started
        progress = max(step / args.steps, elapsed / (60 * args.minutes))
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, args.rate)
        rows = torch.randint(len(pictures.labels), (args.batch,), generator=generator)
        images = pictures.compose(rows, generator, strength=min(1.0, 0.2 + 2.4 * progress))
        labels = pictures.labels[rows]
        ids = encoded[labels].to(args.device)
        targets = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        with torch.autocast(args.device, torch.bfloat16):
            states = captioner.vision_model(images.to(args.device)).last_hidden_state  # (B, 17, D)
            classes = head(states.mean(1))
            words = captioner.text_decoder(
                input_ids=ids[:, :-1],
                attention_mask=(ids[:, :-1] != tokenizer.pad_token_id).long(),
                encoder_hidden_states=states,
            ).logits
        class_loss = F.cross_entropy(classes.float(), labels.to(args.device), label_smoothing=0.05)
        caption_loss = F.cross_entropy(
            words.float().flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100
        )
        optimizer.zero_grad(set_to_none=True)
        (class_loss + caption_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        right += (classes.argmax(1).cpu() == labels).float().mean().item()
        step += 1
        if step % 100 == 0:
            print(
                f"step {step} concept {class_loss.item():.3f} right {right / 100:.3f} "
                f"caption {caption_loss.item():.3f} {elapsed / step:.3f} s a step, "
                f"{progress:.0%}",
                flush=True,
            )
            right = 0.0
        if time.monotonic() - saved > 30:
            torch.save(captioner.state_dict(), args.cache / "captioner.pt")
            saved = time.monotonic()


@torch.no_grad()
def evaluate(
    captioner: BlipForConditionalGeneration,
    tokenizer: BertTokenizerFast,
    pictures: Pictures,
    captions: list[str],
    device: str,
) -> dict[str, object]:
    """Name up to 1,000 icons on new backgrounds.

    Returns:
        How many; the share named exactly; the share of names with at least one word of the truth
        (exact ones included); the first wrong names as [truth, name] and the first of all.
    """
    generator = torch.Generator().manual_seed(99)
    rows = torch.randperm(len(pictures.labels), generator=generator)[:1000]
    pairs: list[tuple[str, str]] = []
    for part in rows.split(250):
        images = pictures.compose_for_test(part, generator).to(device)
        tokens = captioner.generate(pixel_values=images, max_new_tokens=16, num_beams=1)
        names = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        pairs += zip([captions[label] for label in pictures.labels[part]], names, strict=True)
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    return {
        "pictures": len(pairs),
        "exact": 1 - len(wrong) / len(pairs),
        "shares_a_word": sum(bool(set(t.split()) & set(n.split())) for t, n in pairs) / len(pairs),
        "first": pairs[:20],
        "first_wrong": wrong[:20],
    }


def save(
    captioner: BlipForConditionalGeneration, tokenizer: BertTokenizerFast, folder: Path
) -> None:
    """Half precision weights, tokenizer, and how pictures are to be prepared."""
    captioner.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preparation = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_resize": True,
        "size": {"height": SIDE_PX, "width": SIDE_PX},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation, indent=2) + "\n")


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "assets" / "emoji-blip")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=None, help="fewer concepts, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, default=None, help="saved captioner to go on from")
    args = parser.parse_args()
    args.device = pick_device(args.device)
    torch.manual_seed(args.seed)
    concepts = load_captioner_concepts(args.cache)[: args.limit]
    captions = [caption_of(concept) for concept in concepts]
    pictures = Pictures(args.cache, TRAINING_SETS, concepts)
    unseen = Pictures(args.cache, UNSEEN_SETS, concepts)
    tokenizer = make_tokenizer(captions)
    captioner = make_captioner(tokenizer).to(args.device)
    if args.start:
        captioner = BlipForConditionalGeneration.from_pretrained(
            args.start, dtype=torch.float32
        ).to(args.device)
    total = sum(parameter.numel() for parameter in captioner.parameters())
    print(
        f"{len(concepts)} concepts, {len(pictures.labels)} icons, {total:,} parameters", flush=True
    )
    train(captioner, tokenizer, pictures, captions, args)
    captioner.eval()
    report = {
        "seen_on_new_backgrounds": evaluate(captioner, tokenizer, pictures, captions, args.device),
        "style_never_seen": evaluate(captioner, tokenizer, unseen, captions, args.device),
    }
    save(captioner, tokenizer, args.output)
    print(json.dumps(report, indent=1))
    (args.output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
