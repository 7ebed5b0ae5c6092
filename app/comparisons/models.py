"""Comparisons: grids of pictures that differ in a few things."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, JsonObject


class Comparison(Base):
    """Detail of a comparison job: a grid of pictures, and one sheet that shows it."""

    __tablename__ = "comparisons"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    base_model: Mapped[str] = mapped_column(String(64))
    # What all cells share, as `Generation.request`.
    request: Mapped[JsonObject]
    # Each: name, values; the first runs down the sheet, the second across, others part sheets.
    axes: Mapped[list[JsonObject]]
    # What each cell draws: `labels`, its own `request` fields and its `loras`.
    cells: Mapped[list[JsonObject]]
    # Each: index, labels, object_key, seed, width, height, format, sha256, bytes.
    images: Mapped[list[JsonObject]]
    sheet_key: Mapped[str | None] = mapped_column(String(300))
