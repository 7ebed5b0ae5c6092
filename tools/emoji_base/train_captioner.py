"""Train emoji-blip: a tiny BLIP that names emoji.

    python tools/emoji_base/train_captioner.py --output assets/emoji-blip

A captioner from scratch finds it easier to learn how names are spelt than to look. So the vision
tower is first taught to tell the concepts apart (stage 1); the text decoder then learns to name
what the tower sees (stage 2), and both are polished together.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from concepts import caption_of, load_concepts
from fetch import DEFAULT_CACHE, REPOSITORY
from render import background_palette, draw_all, place, random_placement
from torch import Tensor, nn
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipVisionModel

TRAINING_SETS = ("noto", "fluent", "noto-v1", "fxemoji", "high-contrast")
UNSEEN_SETS = ("flat",)
SIDE = 64
DRAWN_SIDE = 80
MEAN, STD = 0.5, 0.5
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]


class Pictures:
    """Icons in memory, served in batches on new backgrounds each time."""

    def __init__(self, cache: Path, sets: tuple[str, ...], concepts: list[str]) -> None:
        stored = cache / f"drawn-{DRAWN_SIDE}-{len(concepts)}-{'-'.join(sets)}.pt"
        if not stored.exists():
            torch.save(draw_all(cache, sets, concepts, DRAWN_SIDE), stored)
        self.rgba, self.labels, self.styles = torch.load(stored)
        self._palette = background_palette()

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random pictures (B, 3, 64, 64), normalised, and their concepts (B,)."""
        rows = torch.randint(len(self.labels), (size,), generator=generator)
        return self.compose(rows, generator, vary=True), self.labels[rows]

    def compose(self, rows: Tensor, generator: torch.Generator, *, vary: bool) -> Tensor:
        """Put the icons of `rows` on random backgrounds; `vary` changes their colours as well."""
        rgba = self.rgba[rows].float() / 255
        count = len(rows)
        colours = self._palette[torch.randint(len(self._palette), (count,), generator=generator)]
        if vary:
            # Half on white, as in most folders; a quarter on any colour at all.
            chance = torch.rand(count, 1, generator=generator)
            colours = torch.where(chance < 0.5, torch.ones(count, 3), colours)
            colours = torch.where(chance > 0.75, torch.rand(count, 3, generator=generator), colours)
            rgba = _vary_colours(rgba, generator)
        else:
            colours = self._palette[
                1 + torch.randint(len(self._palette) - 1, (count,), generator=generator)
            ]
        images = place(rgba, colours, side=SIDE, **random_placement(count, generator))
        return (images - MEAN) / STD


def _vary_colours(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Other hues, grey, and two-colour prints for some: a name should not hang on the colour."""
    count = len(rgba)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    jitter = 1 + 0.3 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    rgb = (rgb * jitter).clamp(0, 1)
    grey = rgb.mean(1, keepdim=True)
    dark = torch.rand(count, 3, 1, 1, generator=generator) * 0.5
    light = 0.5 + torch.rand(count, 3, 1, 1, generator=generator) * 0.5
    chance = torch.rand(count, 1, 1, 1, generator=generator)
    rgb = torch.where(chance < 0.08, grey.expand_as(rgb), rgb)
    rgb = torch.where(chance > 0.88, dark + (light - dark) * grey, rgb)
    return torch.cat([rgb, alpha], 1)


def make_tokenizer(captions: list[str], folder: Path) -> BertTokenizerFast:
    """A WordPiece vocabulary of the words themselves; letters are there for everything else."""
    words = sorted({word for caption in captions for word in caption.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = [*SPECIAL, *words, *(piece for piece in pieces if piece not in set(words))]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(
        vocab={token: number for number, token in enumerate(vocabulary)}, bos_token="[DEC]"
    )
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    path.unlink()
    return tokenizer


def make_model(tokenizer: BertTokenizerFast) -> BlipForConditionalGeneration:
    """3.6 M parameters: a ViT of 6 layers over 8 px patches, a text decoder of 2."""
    config = BlipConfig(
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 640,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 8,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "encoder_hidden_size": 192,
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
    return BlipForConditionalGeneration(config)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Warm-up over a twentieth, then a cosine to a hundredth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train_tower(
    tower: BlipVisionModel, pictures: Pictures, classes: int, args: argparse.Namespace
) -> nn.Linear:
    """Stage 1: classify the concept from the mean of the patches' states."""
    head = nn.Linear(192, classes).to(args.device)
    groups = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(args.seed)
    started = time.monotonic()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, args.steps, args.rate)
        images, labels = pictures.batch(args.batch, generator)
        with torch.autocast(args.device, torch.bfloat16):
            states = tower(images.to(args.device)).last_hidden_state  # (B, 65, 192)
            logits = head(states.mean(1))
        loss = F.cross_entropy(logits.float(), labels.to(args.device), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(groups, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            right = (logits.argmax(1).cpu() == labels).float().mean().item()
            pace = (time.monotonic() - started) / (step + 1)
            print(f"tower {step} loss {loss.item():.3f} right {right:.3f} {pace:.2f} s", flush=True)
        if step and step % 500 == 0:
            torch.save([tower.state_dict(), head.state_dict()], args.cache / "tower.pt")
    torch.save([tower.state_dict(), head.state_dict()], args.cache / "tower.pt")
    return head


def train_captions(
    model: BlipForConditionalGeneration,
    tokenizer: BertTokenizerFast,
    pictures: Pictures,
    captions: list[str],
    args: argparse.Namespace,
) -> None:
    """Stage 2: name what the tower sees; the tower is held still for the first half."""
    encoded = tokenizer(captions, padding=True, return_tensors="pt")
    tokens = encoded.input_ids.clone()
    tokens[:, 0] = model.config.text_config.bos_token_id  # [DEC] in place of [CLS]
    generator = torch.Generator().manual_seed(args.seed + 1)
    steps = args.caption_steps
    tower = list(model.vision_model.parameters())
    decoder = list(model.text_decoder.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": decoder, "scale": 1.0}, {"params": tower, "scale": 0.1}],
        lr=args.rate,
        weight_decay=0.01,
        fused=True,
    )
    for step in range(steps):
        frozen = step < steps // 2
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, args.rate) * group["scale"]
        for parameter in tower:
            parameter.requires_grad_(not frozen)
        images, labels = pictures.batch(args.batch, generator)
        ids = tokens[labels].to(args.device)
        targets = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        with torch.autocast(args.device, torch.bfloat16):
            states = model.vision_model(images.to(args.device)).last_hidden_state
            logits = model.text_decoder(
                input_ids=ids[:, :-1],
                attention_mask=(ids[:, :-1] != tokenizer.pad_token_id).long(),
                encoder_hidden_states=states,
            ).logits
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*decoder, *tower], 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"captions {step} loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def name_all(
    model: BlipForConditionalGeneration,
    tokenizer: BertTokenizerFast,
    pictures: Pictures,
    rows: Tensor,
    device: str,
) -> list[str]:
    """The model's names for icons on coloured backgrounds never drawn before."""
    generator = torch.Generator().manual_seed(99)
    names: list[str] = []
    for part in rows.split(256):
        images = pictures.compose(part, generator, vary=False).to(device)
        tokens = model.generate(pixel_values=images, max_new_tokens=16, num_beams=1)
        names += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return names


def evaluate(
    model: BlipForConditionalGeneration,
    tokenizer: BertTokenizerFast,
    pictures: Pictures,
    captions: list[str],
    args: argparse.Namespace,
) -> dict[str, object]:
    """Share of exact names and of names that share a word with the truth, and some examples."""
    chosen = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(5))[:1000]
    names = name_all(model, tokenizer, pictures, chosen, args.device)
    truths = [captions[label] for label in pictures.labels[chosen]]
    pairs = list(zip(truths, names, strict=True))
    return {
        "pictures": len(pairs),
        "exact": sum(truth == name for truth, name in pairs) / len(pairs),
        "shares_a_word": sum(bool(set(t.split()) & set(n.split())) for t, n in pairs) / len(pairs),
        "examples": pairs[:20],
    }


def save(model: BlipForConditionalGeneration, tokenizer: BertTokenizerFast, folder: Path) -> None:
    """Half precision weights, tokenizer, and how pictures are to be prepared."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "BlipImageProcessor",
                "processor_class": "BlipProcessor",
                "do_resize": True,
                "size": {"height": SIDE, "width": SIDE},
                "resample": 3,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [MEAN] * 3,
                "image_std": [STD] * 3,
                "do_convert_rgb": True,
            },
            indent=2,
        )
        + "\n"
    )


def main() -> None:
    """Train both stages, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "assets" / "emoji-blip")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=2000, help="of the vision tower")
    parser.add_argument("--caption-steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=None, help="fewer concepts, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reuse-tower", action="store_true", help="skip stage 1")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    concepts = load_concepts(args.cache)[: args.limit]
    captions = [caption_of(concept) for concept in concepts]
    pictures = Pictures(args.cache, TRAINING_SETS, concepts)
    unseen = Pictures(args.cache, UNSEEN_SETS, concepts)
    tokenizer = make_tokenizer(captions, args.output)
    model = make_model(tokenizer).to(args.device)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{len(concepts)} concepts, {len(pictures.labels)} icons, {total:,} parameters", flush=True
    )
    if args.reuse_tower:
        model.vision_model.load_state_dict(torch.load(args.cache / "tower.pt")[0])
    else:
        train_tower(model.vision_model, pictures, len(concepts), args)
    train_captions(model, tokenizer, pictures, captions, args)
    model.eval()
    report = {
        "seen_on_new_backgrounds": evaluate(model, tokenizer, pictures, captions, args),
        "style_never_seen": evaluate(model, tokenizer, unseen, captions, args),
    }
    save(model, tokenizer, args.output)
    print(json.dumps(report, indent=1))
    (args.output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
