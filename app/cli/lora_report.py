"""What the check of a LoRA file found, as a table a person reads."""

from typing import Any

from rich.table import Table
from rich.text import Text


def table_of(report: dict[str, Any]) -> Table:
    """Label and value on each line."""
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, value in _facts(report):
        table.add_row(label, Text(value))
    return table


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line; lines that would be empty are left out."""
    family, hashes, training = report["family"], report["hashes"], report["training"]
    networks = ", ".join(f"{count} in {name}" for name, count in report["networks"].items())
    stale = [name for name in ("model_hash", "legacy_hash") if hashes[f"{name}_matches"] is False]
    lines = [
        ("made for", family["title"] if family else "unknown"),
        ("usable", "yes" if report["usable"] else "no"),
        *((problem["code"], problem["detail"]) for problem in report["problems"]),
        ("kind", _summary(report) if report["modules"] else ""),
        ("modules", f"{report['matched']} of {report['modules']} match: {networks}"),
        ("unmatched", _first(report["unmatched"])),
        ("misfits", _first(report["misfits"])),
        ("ranks", _numbers(report["ranks"])),
        ("alphas", _numbers(report["alphas"])),
        ("tensors", f"{report['tensors']}, {', '.join(report['dtypes'])}"),
        ("size", mebibytes(report["bytes"])),
        ("trigger", "; ".join(_phrase(item) for item in report["trigger_phrases"])),
        ("tags", ", ".join(f"{item['tag']} ({item['count']})" for item in report["tags"][:10])),
        *((name.replace("_", " "), str(value)) for name, value in training.items()),
        *((f"modelspec.{name}", value) for name, value in report["modelspec"].items()),
        ("sha256", hashes["sha256"]),
        ("AutoV2, AutoV3", f"{hashes['autov2']}, {hashes['autov3']}"),
        ("stale hashes", ", ".join(f"sshs_{name}" for name in stale)),
    ]
    return [(label, text) for label, text in lines if text]


def _summary(report: dict[str, Any]) -> str:
    """`lora, locon of rank 8, kohya, 722 modules`."""
    kinds = ", ".join(report["kinds"])
    return f"{kinds} of rank {report['rank']}, {report['layout']}, {report['modules']} modules"


def _phrase(item: dict[str, str]) -> str:
    return f"{item['phrase']} ({item['source']})"


def _first(names: dict[str, Any]) -> str:
    if not names["count"]:
        return ""
    more = names["count"] - 5
    return "\n".join(names["names"][:5]) + (f"\nand {more} more" if more > 0 else "")


def _numbers(values: list[float]) -> str:
    more = len(values) - 12
    return ", ".join(f"{value:g}" for value in values[:12]) + (
        f", … ({more} more)" if more > 0 else ""
    )


def mebibytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1024**2:.1f} MiB"
