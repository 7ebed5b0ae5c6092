"""A labelled sheet: rows of pictures with a name for each row and each column."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (20, 20, 20)
FONT_PX = 16
GAP_PX = 6
MARGIN_PX = 12


@dataclass(frozen=True)
class SheetRow:
    """One row: its label (lines parted by newlines) and its pictures' files, one a column."""

    label: str
    pictures: Sequence[Path]


def draw_sheet(
    title: str, columns: Sequence[str], rows: Sequence[SheetRow], *, scale: int = 2
) -> Image.Image:
    """Lay the pictures out in a grid, each `scale` times as large with hard pixels.

    All cells have the size of the largest picture.

    Raises:
        ValueError: there are no pictures, or a row has not one for each column.
    """
    if not rows or not columns:
        raise ValueError("a sheet needs at least one row and one column")
    for row in rows:
        if len(row.pictures) != len(columns):
            raise ValueError(
                f"row {row.label!r} has {len(row.pictures)} pictures for {len(columns)} columns"
            )
    grid = [[_enlarged(path, scale) for path in row.pictures] for row in rows]
    cell_width = max(picture.width for line in grid for picture in line)
    cell_height = max(picture.height for line in grid for picture in line)
    font = ImageFont.load_default(FONT_PX)
    line_height = FONT_PX + 4
    label_width = max(_text_width(font, row.label) for row in rows)
    names = [_wrapped(font, name, cell_width) for name in columns]
    top = MARGIN_PX + line_height + GAP_PX
    header = line_height * max(len(name) for name in names) + GAP_PX
    left = MARGIN_PX + label_width + 2 * GAP_PX
    width = left + len(columns) * (cell_width + GAP_PX) - GAP_PX + MARGIN_PX
    width = max(width, 2 * MARGIN_PX + _text_width(font, title))
    height = top + header + len(rows) * (cell_height + GAP_PX) - GAP_PX + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, MARGIN_PX), title, fill=INK, font=font)
    for number, name in enumerate(names):
        middle = left + number * (cell_width + GAP_PX) + cell_width // 2
        for line, text in enumerate(name):
            pen.text((middle, top + line * line_height), text, fill=INK, font=font, anchor="ma")
    for number, (row, pictures) in enumerate(zip(rows, grid, strict=True)):
        y = top + header + number * (cell_height + GAP_PX)
        pen.text((MARGIN_PX, y + GAP_PX), row.label, fill=INK, font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (left + column * (cell_width + GAP_PX), y))
    return sheet


def _enlarged(path: Path, scale: int) -> Image.Image:
    with Image.open(path) as picture:
        size = (picture.width * scale, picture.height * scale)
        return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _text_width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return max(round(font.getlength(line)) for line in text.split("\n"))


def _wrapped(
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
