"""Name the icons of a set with a trained captioner, and count how often it is right.

python tools/emoji_base/evaluate_captioner.py --set .cache/emoji/flat
python tools/emoji_base/evaluate_captioner.py --set SOME_UNPACKED_ICONIFY_PACKAGE
"""

import argparse
import json
from pathlib import Path

import torch
from concepts import caption_of, load_captioner_concepts
from fetch import DEFAULT_CACHE, REPOSITORY
from render import draw_all, pick_device
from train_captioner import DRAWN_SIDE_PX, Pictures, evaluate
from transformers import BertTokenizerFast, BlipForConditionalGeneration


def main() -> None:
    """Print the same figures as training does at its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, required=True, help="folder with icons.json")
    parser.add_argument("--captioner", type=Path, default=REPOSITORY / "assets" / "emoji-blip")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    folder = args.set.resolve()
    concepts = load_captioner_concepts(args.cache)
    stored = folder / f"drawn-{DRAWN_SIDE_PX}-{len(concepts)}-{folder.name}.pt"
    torch.save(draw_all(folder.parent, (folder.name,), concepts, DRAWN_SIDE_PX), stored)
    pictures = Pictures(folder, (folder.name,), concepts)
    captioner = BlipForConditionalGeneration.from_pretrained(args.captioner, dtype=torch.float32)
    tokenizer = BertTokenizerFast.from_pretrained(args.captioner)
    captions = [caption_of(concept) for concept in concepts]
    report = evaluate(captioner.to(device).eval(), tokenizer, pictures, captions, device)
    stored.unlink()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
