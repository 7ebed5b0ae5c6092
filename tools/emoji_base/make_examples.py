"""Make the example datasets in `examples/` from icon sets that the emoji-64 UNet never saw.

    python tools/emoji_base/make_examples.py

The same pictures every time: what varies is a function of a picture's number.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from concepts import caption_of
from fetch import DEFAULT_CACHE, REPOSITORY
from PIL import Image
from render import BACKGROUNDS, IconSet

SIDE_PX = 96

# Two lists of simple subjects. They share a few, so that a mix has seen some objects in both.
INK = [
    "dog-face",
    "fox",
    "panda",
    "pig-face",
    "rabbit-face",
    "frog",
    "penguin",
    "owl",
    "butterfly",
    "tropical-fish",
    "mushroom",
    "cactus",
    "tulip",
    "four-leaf-clover",
    "deciduous-tree",
    "banana",
    "cherries",
    "strawberry",
    "lemon",
    "carrot",
    "hamburger",
    "birthday-cake",
    "soft-ice-cream",
    "bus",
    "sailboat",
    "rocket",
    "castle",
    "bell",
    "key",
    "umbrella",
    "light-bulb",
    "crown",
    "balloon",
    "winking-face",
    "grinning-face",
    "sleeping-face",
    "crying-face",
    "crescent-moon",
    "green-heart",
    "alien",
]
RISO = [
    "bear",
    "lion",
    "tiger-face",
    "koala",
    "mouse-face",
    "monkey-face",
    "chicken",
    "octopus",
    "spouting-whale",
    "turtle",
    "lady-beetle",
    "sunflower",
    "hibiscus",
    "palm-tree",
    "deciduous-tree",
    "tangerine",
    "peach",
    "pear",
    "pineapple",
    "watermelon",
    "bread",
    "cheese-wedge",
    "cookie",
    "doughnut",
    "pizza",
    "police-car",
    "tractor",
    "locomotive",
    "airplane",
    "school",
    "tent",
    "volcano",
    "gem-stone",
    "guitar",
    "basketball",
    "face-with-tongue",
    "neutral-face",
    "smiling-face-with-sunglasses",
    "blue-heart",
    "robot",
]
CAT = [
    "grinning-cat",
    "grinning-cat-with-smiling-eyes",
    "cat-with-tears-of-joy",
    "smiling-cat-with-heart-eyes",
    "cat-with-wry-smile",
    "kissing-cat",
    "weary-cat",
    "crying-cat",
    "pouting-cat",
    "cat-face",
]
# The captioner names ink drawings well, so only a few show what a caption by hand looks like; it
# does not read the three inks, so every one of those has its own.
INK_HAND_CAPTIONED = 5

# In none of the style sets, and what the base draws best: the prompts to judge a LoRA by.
HELD_OUT = [
    *("red-heart", "smiling-face", "red-apple", "evergreen-tree", "cat-face", "automobile"),
    *("house", "green-apple", "full-moon", "ghost", "sun", "fish", "star", "hot-beverage"),
    "soccer-ball",
]

VIOLET, ORANGE, CREAM = (58, 18, 110), (255, 92, 57), (255, 240, 206)
PAPER = (150, 214, 205)

CAT_MOODS = {
    "grinning-cat": "grinning",
    "grinning-cat-with-smiling-eyes": "grinning with smiling eyes",
    "cat-with-tears-of-joy": "with tears of joy",
    "smiling-cat-with-heart-eyes": "smiling with heart eyes",
    "cat-with-wry-smile": "with a wry smile",
    "kissing-cat": "kissing",
    "weary-cat": "weary",
    "crying-cat": "crying",
    "pouting-cat": "pouting",
    "cat-face": "looking ahead",
}


def on_canvas(icon: Image.Image, colour: tuple[int, int, int], share: float = 0.94) -> Image.Image:
    """The icon in the middle of a `SIDE_PX` square of one colour, filling `share` of its side."""
    side = round(SIDE_PX * share)
    canvas = Image.new("RGBA", (SIDE_PX, SIDE_PX), (*colour, 255))
    edge = (SIDE_PX - side) // 2
    canvas.alpha_composite(icon.resize((side, side), Image.Resampling.LANCZOS), (edge, edge))
    return canvas.convert("RGB")


def ink(icon: Image.Image) -> Image.Image:
    """Black on white, as the high-contrast set is drawn."""
    return on_canvas(icon, (255, 255, 255))


def riso(icon: Image.Image) -> Image.Image:
    """A three-colour print: brightness in four steps from violet over orange to cream."""
    pixels = np.asarray(icon, dtype=np.float32)
    brightness = pixels[..., :3] @ np.array([0.30, 0.59, 0.11], dtype=np.float32) / 255
    # The set is bright on the whole; the curve spreads it over the ramp.
    levels = np.round(np.clip((brightness - 0.1) / 0.75, 0, 1) ** 1.3 * 4) / 4
    ramp = np.array([VIOLET, ORANGE, CREAM], dtype=np.float32)
    inks = np.stack(
        [np.interp(levels, (0, 0.5, 1), ramp[:, channel]) for channel in range(3)], axis=-1
    )
    printed = np.concatenate([inks, pixels[..., 3:]], axis=-1).round().astype(np.uint8)
    return on_canvas(Image.fromarray(printed, "RGBA"), PAPER)


def mint(icon: Image.Image) -> Image.Image:
    """The flat set's orange cat in mint green: only hues from red-orange to yellow move."""
    red, green, blue, alpha = icon.split()
    hsv = np.asarray(Image.merge("RGB", (red, green, blue)).convert("HSV")).copy()
    hue, saturation = hsv[..., 0], hsv[..., 1]
    fur = (hue > 9) & (hue < 40) & (saturation > 100)
    hue[fur] = hue[fur] + 85
    saturation[fur] = saturation[fur] * 0.65
    recoloured = Image.fromarray(hsv, "HSV").convert("RGB")
    recoloured.putalpha(alpha)
    return recoloured


def cat_picture(icon: Image.Image, number: int) -> tuple[Image.Image, str]:
    """One of three looks for each mood: whole, turned on a colour, and close up on a colour."""
    colours = [name for name in BACKGROUNDS if name not in ("white", "green", "light blue")]
    look = number % 3
    if look == 0:
        return on_canvas(icon, BACKGROUNDS["white"]), ""
    colour = colours[(number // 3 * 2 + look) % len(colours)]
    place = f"on {'an' if colour == 'orange' else 'a'} {colour} background"
    turned = icon.rotate(12 * math.sin(number), Image.Resampling.BICUBIC)
    if number % 2:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if look == 1:
        return on_canvas(turned, BACKGROUNDS[colour], share=0.8), place
    margin = turned.width // 9
    close = turned.crop((margin, margin, turned.width - margin, turned.height - margin))
    return on_canvas(close, BACKGROUNDS[colour], share=1.0), f"close up, {place}"


def save(picture: Image.Image, path: Path) -> None:
    """As a PNG of 256 colours, which these flat pictures can spare."""
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def contact_sheet(folder: Path, columns: int = 10) -> Image.Image:
    """All pictures of a dataset, to look at."""
    paths = sorted(folder.glob("*.png"))
    rows = math.ceil(len(paths) / columns)
    sheet = Image.new("RGB", (columns * SIDE_PX, rows * SIDE_PX), "white")
    for number, path in enumerate(paths):
        spot = (number % columns * SIDE_PX, number // columns * SIDE_PX)
        sheet.paste(Image.open(path).convert("RGB"), spot)
    return sheet


def main() -> None:
    """Draw the three datasets and write the prompts to try them with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "examples")
    parser.add_argument("--limit", type=int, default=None, help="fewer pictures, for a trial")
    parser.add_argument("--sheets", type=Path, default=None, help="folder for contact sheets")
    args = parser.parse_args()
    overlap = set(HELD_OUT) & {*INK, *RISO}
    assert not overlap, f"held out and trained on: {sorted(overlap)}"

    for folder_name, trigger, icon_set, names, draw, hand_captioned in (
        ("ink-style", "inkstyle", "high-contrast", INK, ink, INK_HAND_CAPTIONED),
        ("riso-style", "risostyle", "flat", RISO, riso, len(RISO)),
    ):
        icons, folder = IconSet(args.cache / icon_set), args.output / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names[: args.limit]):
            save(draw(icons.draw(name, 192)), folder / f"{name}.png")
            if number < hand_captioned:
                (folder / f"{name}.txt").write_text(f"{caption_of(name)}, {trigger}\n")

    icons, folder = IconSet(args.cache / "flat"), args.output / "minty-character"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([name for name in CAT for _ in range(3)][: args.limit]):
        picture, place = cat_picture(mint(icons.draw(name, 192)), number)
        save(picture, folder / f"minty-{number + 1:02}.png")
        caption = ", ".join(part for part in ("mint green cat", CAT_MOODS[name], place) if part)
        (folder / f"minty-{number + 1:02}.txt").write_text(f"minty, {caption}\n")

    (args.output / "holdout_prompts.json").write_text(
        json.dumps({"prompts": [caption_of(name) for name in HELD_OUT]}, indent=2) + "\n"
    )
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
        for folder in sorted(args.output.glob("*-*")):
            contact_sheet(folder).save(args.sheets / f"{folder.name}.png")


if __name__ == "__main__":
    main()
