"""Which stored objects the rows name, page by page, however many there are.

Each place is a table or a column of JSON. It is read in the order of its primary key, so many rows
at a time, with nothing kept in between.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import TextClause, text

from app.database import transaction

PAGE = 500
# Where one row may name thousands of objects.
SMALL_PAGE = 20


@dataclass(frozen=True)
class Named:
    """An object that a row names.

    Attributes:
        shown_by: the row, for people.
        bytes, sha256: what the row says of it; None where it does not.
    """

    object_key: str
    shown_by: str
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class Place:
    """Rows that name objects: how they are called, and a statement that reads a page of them.

    The statement takes `after` and `page`, and gives at least one line for each row: `id`, which is
    the row's place in the order, and `key`, `bytes` and `sha256`, which are null where it names
    none.
    """

    name: str
    statement: TextClause
    page: int = PAGE


def _place(
    name: str,
    page: str,
    objects: str,
    *,
    id_: str = "id",
    condition: str = "true",
    most: int = PAGE,
) -> Place:
    """A place whose page are the ids of `page`, and whose objects are what `objects` selects."""
    return Place(
        name,
        text(f"""
            WITH page AS (
                SELECT DISTINCT {id_} AS id FROM {page}
                WHERE {id_} > :after AND {condition} ORDER BY 1 LIMIT :page
            )
            SELECT page.id, file.key, file.bytes, file.sha256
            FROM page LEFT JOIN LATERAL ({objects}) AS file(key, bytes, sha256) ON true
            ORDER BY page.id
        """),
        most,
    )


PLACES = (
    _place(
        "image",
        "images",
        "SELECT object_key, bytes, sha256 FROM images WHERE images.id = page.id "
        "UNION ALL SELECT thumbnail_key, NULL, NULL FROM images WHERE images.id = page.id",
    ),
    _place(
        "upload",
        "uploads",
        "SELECT object_key, bytes, sha256 FROM uploads WHERE uploads.id = page.id",
        condition="stage = 'received' AND NOT object_gone",
    ),
    _place("LoRA", "loras", "SELECT object_key, bytes, sha256 FROM loras WHERE id = page.id"),
    _place(
        "LoRA in another layout",
        "lora_files",
        "SELECT object_key, bytes, sha256 FROM lora_files WHERE lora_id = page.id",
        id_="lora_id",
    ),
    _place(
        "checkpoint",
        "checkpoints",
        "SELECT object_key, bytes, sha256 FROM checkpoints WHERE checkpoints.id = page.id "
        "UNION ALL SELECT sample ->> 'object_key', NULL, NULL FROM checkpoints "
        "CROSS JOIN LATERAL jsonb_array_elements(samples) AS sample "
        "WHERE checkpoints.id = page.id",
    ),
    _place(
        "state of the training",
        "trainings",
        "SELECT file.value, NULL::bigint, NULL FROM trainings "
        "CROSS JOIN LATERAL jsonb_each_text(state -> 'files') AS file WHERE trainings.id = page.id",
        condition="state IS NOT NULL",
    ),
    _place(
        "picture of",
        "generated_images",
        "SELECT object_key, bytes, sha256 FROM generated_images "
        "JOIN jobs ON jobs.id = generation_id "
        "WHERE generation_id = page.id AND pictures_gone_at IS NULL",
        id_="generation_id",
    ),
    _place(
        "picture of",
        "comparisons",
        "SELECT sheet_key, NULL::bigint, NULL FROM comparisons JOIN jobs USING (id) "
        "WHERE id = page.id AND pictures_gone_at IS NULL "
        "UNION ALL SELECT image ->> 'object_key', (image ->> 'bytes')::bigint, image ->> 'sha256' "
        "FROM comparisons JOIN jobs USING (id) "
        "CROSS JOIN LATERAL jsonb_array_elements(images) AS image "
        "WHERE id = page.id AND pictures_gone_at IS NULL",
        most=SMALL_PAGE,
    ),
    _place(
        "input",
        "input_images",
        "SELECT object_key, bytes, sha256 FROM input_images WHERE input_images.id = page.id",
        condition="gone_at IS NULL",
    ),
    # What is frozen into a request, whatever has become of the rows it was taken from.
    _place(
        "needed by",
        "jobs",
        """
        SELECT DISTINCT item ->> 'object_key', NULL::bigint, item ->> 'sha256' FROM (
            SELECT jsonb_path_query(request, 'strict $.** ? (exists(@.object_key))') AS item FROM (
                SELECT spec AS request FROM trainings WHERE id = page.id
                UNION ALL
                SELECT jsonb_build_array(request, loras) FROM generations WHERE id = page.id
                UNION ALL
                SELECT jsonb_build_array(request, cells) FROM comparisons WHERE id = page.id
                UNION ALL SELECT request FROM lora_tools WHERE id = page.id
            ) AS requests
        ) AS items
        """,
        condition="status IN ('queued', 'running')",
        most=SMALL_PAGE,
    ),
)


def pages() -> Iterator[list[Named]]:
    """Every object that a row names, a page at a time; each page is a transaction of its own."""
    for place in PLACES:
        after = ""
        while True:
            with transaction() as session:
                rows = session.execute(place.statement, {"after": after, "page": place.page}).all()
            if not rows:
                break
            after = rows[-1].id
            yield [
                Named(row.key, f"{place.name} {row.id}", row.bytes, row.sha256)
                for row in rows
                if row.key is not None
            ]
