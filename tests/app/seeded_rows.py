"""A row for every table of a database, at whatever revision: made by what Postgres says of it."""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Column, Engine, MetaData, Table, inspect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.ddl import sort_tables
from sqlalchemy.types import Boolean, Date, DateTime, Double, Float, Integer, LargeBinary

Rows = dict[str, list[dict[str, Any]]]
BY_TYPE: list[tuple[type, Any]] = [
    (Boolean, True),
    (JSONB, {"kept": ["as", 1, 2.5, None]}),
    (DateTime, datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (Date, date(2026, 2, 3)),
    (Float, 0.125),
    (Double, 0.125),
    (LargeBinary, b"\x00\xff"),
]
# A word that only some values may be.
STATUS = {"jobs": "queued", "webhook_deliveries": "pending"}


def _tables(engine: Engine) -> list[Table]:
    found = MetaData()
    found.reflect(engine, only=lambda name, _: name != "alembic_version")
    return sort_tables(found.tables.values())


def seed(engine: Engine, number: int, fields: dict[str, dict[str, Any]] | None = None) -> None:
    """Add a row to every table, every column filled; `number` tells them from others.

    Args:
        fields: of a table, what columns are to hold instead.
    """
    with engine.begin() as connection:
        for table in _tables(engine):
            row = {column.name: _value(table, column, number) for column in table.columns}
            if table.name == "captionings" and column_may_be_null(table, "dataset_id"):
                row["dataset_id"] = None
            connection.execute(table.insert().values(row | (fields or {}).get(table.name, {})))


def column_may_be_null(table: Table, name: str) -> bool:
    """Whether a column takes NULL at this revision."""
    return bool(table.columns[name].nullable)


def _value(table: Table, column: Column[Any], number: int) -> Any:
    for key in column.foreign_keys:
        # Rows of one number belong together; a table's row is called after it, or after its job.
        return _name(key.column.table, number)
    if column.name == "id" and not isinstance(column.type, Integer):
        return _name(table, number)
    if column.name == "account_id":
        return f"accounts-{number}"
    if column.name == "status" and table.name in STATUS:
        return STATUS[table.name]
    for kind, value in BY_TYPE:
        if isinstance(column.type, kind):
            return value
    if isinstance(column.type, Integer):
        return 7 + number
    length = getattr(column.type, "length", None) or 40
    return f"{column.name}-{number}"[-length:]


def _name(table: Table, number: int) -> str:
    """The id of a table's row; that of a job's details is the job's."""
    for key in table.columns["id"].foreign_keys:
        return _name(key.column.table, number)
    return f"{table.name}-{number}"


def rows_of(engine: Engine) -> Rows:
    """Every row of every table, by the table's name."""
    with engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in (_tables(engine) if inspect(engine).get_table_names() else [])
        }


def changed(before: Rows, after: Rows) -> list[str]:
    """Rows that are gone, or differ in a column that is still there; of tables still there."""
    found = []
    for table, rows in before.items():
        if table not in after:
            continue
        left = after[table]
        for row in rows:
            if not any(
                all(new[name] == row[name] for name in new.keys() & row.keys()) for new in left
            ):
                found.append(f"{table} {row.get('id', row)}")
    return found
