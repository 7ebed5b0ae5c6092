"""Make the two CLIP tokenizers from the training captions: 2,048 entries of byte-pair encoding.

python tools/emoji_base/train_tokenizers.py --output .cache/emoji-64
"""

import argparse
import json
from pathlib import Path

from fetch import DEFAULT_CACHE, REPOSITORY
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from training_set import draw_training_set
from transformers import CLIPTokenizer

ENTRIES = 2048
START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own way to split a text into words.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn_merges(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary (bytes, bytes that end a word, merges, two specials) and the merges."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [(left, right) for left, right in learnt][: ENTRIES - 2 - 2 * len(alphabet)]
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    entries += [left + right for left, right in merges]
    entries += [START, END]
    return {entry: number for number, entry in enumerate(entries)}, merges


def main() -> None:
    """Write `tokenizer` and `tokenizer_2`; as in SDXL they differ in what they pad with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".cache" / "emoji-64")
    parser.add_argument("--limit", type=int, default=None, help="fewer concepts, for a trial")
    args = parser.parse_args()
    captions = draw_training_set(args.cache, args.limit).captions
    vocabulary, merges = learn_merges([text for texts in captions for text in texts])
    for folder, padding in (("tokenizer", END), ("tokenizer_2", "!")):
        CLIPTokenizer(
            vocab=vocabulary, merges=merges, pad_token=padding, model_max_length=77
        ).save_pretrained(args.output / folder)
    print(f"{len(vocabulary)} entries, {len(merges)} merges")


if __name__ == "__main__":
    main()
