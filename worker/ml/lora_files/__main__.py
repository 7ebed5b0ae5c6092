"""LoRA files from a shell, with no server and no GPU.

    python -m worker.ml.lora_files inspect FILE…
    python -m worker.ml.lora_files convert FILE --layout diffusers --output FILE
    python -m worker.ml.lora_files resize FILE --rank 16 --output FILE
    python -m worker.ml.lora_files merge FILE[:WEIGHT] FILE[:WEIGHT]… --output FILE
    python -m worker.ml.lora_files extract BASE TUNED --rank 32 --output FILE

Standard output carries one JSON object: what was found, or what was made and how exact it is.

Exit codes: 0 done, 1 the file or the base is wrong (standard error says how), 2 wrong options.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.catalog import load_catalog
from app.lora_format.architectures import Architecture, architectures
from app.lora_format.check import describe
from app.lora_format.errors import LoraFileError, LoraIncompatible

CATALOG = Path(__file__).resolve().parents[3] / "assets" / "catalog.toml"
LAYOUTS = ("kohya", "diffusers", "peft")
PRECISIONS = ("float16", "bfloat16", "float32")


def main(arguments: list[str] | None = None) -> int:
    """Run one tool; the exit code."""
    args = _parser().parse_args(arguments)
    # Imported late, here and below: help and wrong options are told at once; torch takes seconds.
    from worker.ml.base_models.errors import BaseModelUnavailable

    run: Callable[[argparse.Namespace], dict[str, Any]] = args.run
    try:
        found = run(args)
    except (LoraFileError, BaseModelUnavailable, OSError, ValueError) as error:
        code = getattr(error, "code", None)
        print(f"error: {error}{f' ({code})' if code else ''}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    return {
        str(path): (report := describe(path)).as_json() | {"file_metadata": report.metadata}
        for path in args.files
    }


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from worker.ml.lora_files.tools.convert import convert
    from worker.ml.lora_files.tools.files import read_whole

    architecture = _architecture(args, [args.file])
    lora, unmatched = read_whole(args.file, architecture, strict=args.strict)
    report = convert(lora, architecture, args.output, args.layout, dtype=_dtype(args))
    return _told(args, report) | {"left_out": unmatched}


def _resize(args: argparse.Namespace) -> dict[str, Any]:
    from worker.ml.lora_files.tools.files import read_whole, widest_dtype, write_checked
    from worker.ml.lora_files.tools.resize import resize

    architecture = _architecture(args, [args.file])
    lora, unmatched = read_whole(args.file, architecture, strict=args.strict)
    dtype = _dtype(args) or widest_dtype([lora])
    small, report = resize(lora, architecture, _needed_choice(args), dtype)
    write_checked(args.output, small, architecture, small.metadata, dtype, args.layout)
    return _told(args, report) | {"left_out": unmatched}


def _merge(args: argparse.Namespace) -> dict[str, Any]:
    from worker.ml.lora_files.tools.files import read_whole, widest_dtype, write_checked
    from worker.ml.lora_files.tools.merge import Ingredient, merge

    weighted = [_weighted(text) for text in args.files]
    architecture = _architecture(args, [path for path, _ in weighted])
    ingredients = []
    left_out = []
    for path, weight in weighted:
        lora, unmatched = read_whole(path, architecture, strict=args.strict)
        ingredients.append(Ingredient(path.stem, lora, weight))
        left_out += unmatched
    dtype = _dtype(args) or widest_dtype([each.lora for each in ingredients])
    merged, report = merge(ingredients, architecture, _choice(args), dtype)
    write_checked(args.output, merged, architecture, merged.metadata, dtype, args.layout)
    return _told(args, report) | {"left_out": left_out}


def _extract(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from worker.ml.lora_files.tools.extract import architecture_of, extract
    from worker.ml.lora_files.tools.files import write_checked

    before, after = _checkpoint(args.before), _checkpoint(args.after)
    architecture = architecture_of(before)
    dtype = _dtype(args) or torch.float16
    lora, report = extract(
        before,
        after,
        architecture,
        _needed_choice(args),
        titles=(Path(args.before).name, Path(args.after).name),
        targets=args.targets,
        text_encoders=args.text_encoders,
        dtype=dtype,
    )
    write_checked(args.output, lora, architecture, lora.metadata, dtype, args.layout)
    return _told(args, report)


def _architecture(args: argparse.Namespace, files: list[Path]) -> Architecture:
    """What the files are for: the one that was named, or the one that all of them fit."""
    if args.architecture is not None:
        return architectures()[args.architecture]
    found = {path: describe(_inside(path), strict=args.strict).architecture for path in files}
    fitting = set(found.values())
    if len(fitting) != 1 or None in fitting:
        told = ", ".join(f"{path.name} for {fit}" for path, fit in found.items())
        raise LoraIncompatible(f"the files are not all for one known architecture: {told}")
    return architectures()[str(fitting.pop())]


def _inside(path: Path) -> Path:
    return path / "adapter_model.safetensors" if path.is_dir() else path


def _checkpoint(wanted: str) -> Any:
    """Where a checkpoint is: a folder, the catalog's id of it, or a hub id."""
    from worker.ml.lora_files.tools.extract import Checkpoint

    entry = load_catalog(CATALOG).base_model(wanted)
    if entry is not None and not Path(wanted).is_dir():
        return Checkpoint(entry.location(CATALOG), entry.revision)
    return Checkpoint(wanted)


def _choice(args: argparse.Namespace) -> Any:
    """What --rank and --keep say; None when neither is given."""
    from worker.ml.lora_files.tools.low_rank import MAX_RANK, RankChoice

    if args.rank is None and args.keep is None:
        return None
    return RankChoice(MAX_RANK if args.rank is None else args.rank, args.keep)


def _needed_choice(args: argparse.Namespace) -> Any:
    choice = _choice(args)
    if choice is None:
        raise ValueError("give --rank, or --keep, or both")
    return choice


def _dtype(args: argparse.Namespace) -> Any:
    import torch

    return None if args.precision is None else getattr(torch, args.precision)


def _weighted(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:WEIGHT`; the weight is after the last colon."""
    name, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        return Path(name), float(weight)
    except ValueError:
        raise ValueError(f"{text}: the weight {weight!r} is not a number") from None


def _told(args: argparse.Namespace, report: Any) -> dict[str, Any]:
    return {"output": str(args.output), **report.as_json()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker.ml.lora_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="TOOL")

    inspect = commands.add_parser("inspect", help="what a file holds, and whether it is sound")
    inspect.add_argument("files", nargs="+", type=Path, metavar="FILE")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="the same LoRA in another layout")
    convert.add_argument("file", type=Path, metavar="FILE")
    _add_reading(convert)
    _add_output(convert, layout_required=True)
    convert.set_defaults(run=_convert)

    resize = commands.add_parser("resize", help="a lower rank, by singular values")
    resize.add_argument("file", type=Path, metavar="FILE")
    _add_rank(resize)
    _add_reading(resize)
    _add_output(resize)
    resize.set_defaults(run=_resize)

    merge = commands.add_parser("merge", help="several LoRAs as one")
    merge.add_argument("files", nargs="+", metavar="FILE[:WEIGHT]")
    _add_rank(merge)
    _add_reading(merge)
    _add_output(merge)
    merge.set_defaults(run=_merge)

    extract = commands.add_parser("extract", help="what a fine-tune has changed, as a LoRA")
    extract.add_argument("before", metavar="BASE", help="a folder, a catalog's id or a hub id")
    extract.add_argument("after", metavar="TUNED", help="the same, of the fine-tune")
    extract.add_argument("--targets", choices=("attention", "full", "conv"), default="full")
    extract.add_argument("--text-encoders", action="store_true", help="of both text encoders too")
    _add_rank(extract)
    _add_output(extract)
    extract.set_defaults(run=_extract)
    return parser


def _add_rank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rank", type=int, metavar="N", help="at most, 1 to 512")
    parser.add_argument(
        "--keep", type=float, metavar="SHARE", help="of each change's norm, above 0, at most 1"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--architecture",
        choices=sorted(architectures()),
        help="what the LoRA is for; without it, what it fits",
    )
    parser.add_argument(
        "--no-strict",
        dest="strict",
        action="store_false",
        help="leave out what the base has no module for, and list it",
    )


def _add_output(parser: argparse.ArgumentParser, *, layout_required: bool = False) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        required=layout_required,
        default=None if layout_required else "kohya",
        help="of peft the output is a folder, or a .zip",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the matrices; without it, as they came"
    )


if __name__ == "__main__":
    sys.exit(main())
