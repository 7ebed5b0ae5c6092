"""Fetch the pinned icon packages that everything here is drawn from, into `.cache/emoji/`.

python tools/emoji_base/fetch.py
"""

import argparse
import subprocess
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CACHE = REPOSITORY / ".cache" / "emoji"

# Folder in the cache → npm package. Licences: noto, noto-v1 and fxemoji Apache-2.0, the rest MIT.
PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "high-contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojilib": "emojilib@4.0.3",
}


def fetch(cache: Path) -> None:
    """Download and unpack what the cache lacks; each package appears only when it is whole."""
    cache.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        if (cache / name).exists():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", package],
            cwd=cache,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        partial = cache / f"{name}.part"
        with tarfile.open(cache / packed) as archive:
            archive.extractall(partial, filter="data")
        (partial / "package").rename(cache / name)
        partial.rmdir()
        (cache / packed).unlink()
        print(f"{name}: {package}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    fetch(parser.parse_args().cache)
