"""Changes of the schema that hold no table for long: what migrations are made of.

docs/migrations.md says when to take which. A migration that leaves its transaction may be cut short
and run again, so every step of it must find done what it has done before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alembic import op
from sqlalchemy import text
from sqlalchemy.sql.elements import TextClause

# How long a statement waits for a table that others use, while they queue behind it. A migration
# that wants several tables may wait for each.
LOCK_TIMEOUT = "200ms"


@contextmanager
def outside_a_transaction() -> Iterator[None]:
    """Commit what came before; each statement of the block is a transaction of its own.

    They wait for locks as long as it takes, so only those belong here that nobody queues behind:
    building an index concurrently, validating a constraint, changing or copying rows.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


def commit() -> None:
    """Let go of the tables that were changed so far."""
    with op.get_context().autocommit_block():
        pass


def create_index(
    name: str,
    table: str,
    columns: Sequence[str | TextClause],
    *,
    unique: bool = False,
    where: TextClause | None = None,
) -> None:
    """An index that is built while others read and write; outside the transaction."""
    with outside_a_transaction():
        whole = op.get_bind().scalar(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
            {"name": name},
        )
        if whole:
            return
        if whole is False:
            # Left by an attempt that was cut short: never used, but kept up with every write.
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            list(columns),
            unique=unique,
            postgresql_concurrently=True,
            postgresql_where=where,
        )


def create_successor(
    name: str,
    table: str,
    columns: Sequence[str | TextClause],
    *,
    where: TextClause | None = None,
) -> None:
    """An index that is to replace the one called `name`, which serves until `succeed`."""
    create_index(f"{name}_new", table, columns, where=where)


def succeed(table: str, *names: str) -> None:
    """Put successors in the places of the table's indexes of these names, all at once."""
    swaps = (f"DROP INDEX {name}; ALTER INDEX {name}_new RENAME TO {name}" for name in names)
    # In one message, so that nobody waits for what goes to and fro between us and the server.
    op.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; " + "; ".join(swaps))


def create_unique_constraint(name: str, table: str, columns: Sequence[str]) -> None:
    """No two rows alike in these columns; the index behind it is built as `create_index` does."""
    create_index(name, table, columns, unique=True)
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}")


def replace_foreign_key(
    name: str, table: str, referent: str, column: str, *, ondelete: str | None
) -> None:
    """A foreign key to `referent.id` that new rows obey at once, old ones once it is validated."""
    op.drop_constraint(name, table, if_exists=True)
    op.create_foreign_key(
        name, table, referent, [column], ["id"], ondelete=ondelete, postgresql_not_valid=True
    )


def validate(name: str, table: str) -> None:
    """Look whether old rows obey a constraint, while others read and write."""
    with outside_a_transaction():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def set_not_null(table: str, column: str) -> None:
    """Refuse NULL in a column without looking through the table under a lock."""
    name = f"{table}_{column}_not_null"
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID")
    validate(name, table)
    # Postgres takes the check's word for it.
    op.alter_column(table, column, nullable=False)
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
