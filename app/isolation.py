"""Whose rows a query sees: within a request only the caller's, whatever the query itself says.

Services name the account in their queries, for the reader and the planner. This is the wall behind
them: every row that a request reads, changes or deletes through a mapped class is looked for among
the caller's own, so a forgotten condition finds nothing instead of another account's object. Whose
a row is follows from its table: its `account_id`, or that of the row its foreign key belongs to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import cache

from sqlalchemy import BindParameter, ColumnElement, FromClause, String, Table, bindparam, exists
from sqlalchemy.orm import Mapper, ORMExecuteState, with_loader_criteria
from sqlalchemy.orm.util import LoaderCriteriaOption

# For the few statements that look for whom a request acts, or weigh all accounts.
ACROSS_ACCOUNTS = {"across_accounts": True}


class _Acting(Enum):
    """What a context acts for when it is not an account."""

    EVERYONE = "everyone"
    NOBODY = "nobody"


# Workers, chores and commands act for everyone; a request for nobody until its key is known.
_acting: ContextVar[str | _Acting] = ContextVar("acting", default=_Acting.EVERYONE)


@contextmanager
def unknown_caller() -> Iterator[None]:
    """A request whose key has not been looked at: until `act_for` no object can be read."""
    token = _acting.set(_Acting.NOBODY)
    try:
        yield
    finally:
        _acting.reset(token)


@contextmanager
def acting_for(account_id: str) -> Iterator[None]:
    """Only this account's rows are seen within the block."""
    token = _acting.set(account_id)
    try:
        yield
    finally:
        _acting.reset(token)


def act_for(account_id: str) -> None:
    """Only this account's rows are seen from now on in this request."""
    _acting.set(account_id)


def act_for_everyone() -> None:
    """Rows of all accounts are seen from now on in this request: an operator's."""
    _acting.set(_Acting.EVERYONE)


def restrict(state: ORMExecuteState) -> None:
    """Narrow a statement to the rows of the account that the context acts for.

    Raises:
        RuntimeError: a request reads objects before its key is known, or of a table of which it
            cannot be told whose its rows are.
    """
    acting = _acting.get()
    if acting is _Acting.EVERYONE or state.execution_options.get("across_accounts"):
        return
    # What is inserted is nobody's yet; columns that are loaded later are of a row that was found.
    if state.is_insert or state.is_column_load:
        return
    mappers = state.all_mappers
    if not mappers:
        return
    if acting is _Acting.NOBODY:
        names = ", ".join(mapper.class_.__name__ for mapper in mappers)
        raise RuntimeError(f"A request read {names} before its key was known")
    state.statement = state.statement.options(*(_only_own(mapper) for mapper in mappers))


@cache
def _only_own(mapper: Mapper[object]) -> LoaderCriteriaOption:
    assert isinstance(mapper.local_table, Table), "no class is mapped to anything but a table"
    return with_loader_criteria(
        mapper.class_, owned(mapper.local_table), include_aliases=True, propagate_to_loaders=False
    )


def owned(table: Table, alias: FromClause | None = None) -> ColumnElement[bool]:
    """The condition that a row of the table is the acting account's.

    Raises:
        RuntimeError: nothing in the table says whose a row is.
    """
    columns = (table if alias is None else alias).c
    if table.name == "accounts":
        return columns.id == _account()
    if "account_id" in columns:
        return columns.account_id == _account()
    for column in table.c:
        for key in column.foreign_keys if not column.nullable else ():
            # A name of its own: the statement may have joined the same table.
            parent = key.column.table.alias()
            own = parent.c[key.column.name] == columns[column.name]
            return exists().where(own, owned(key.column.table, parent))
    raise RuntimeError(f"Nothing in the table {table.name} says whose its rows are")


def _account() -> BindParameter[str]:
    # Asked for when the statement runs, so that one condition serves every account.
    return bindparam("acting_account", type_=String(), callable_=_acting_account)


def _acting_account() -> str:
    acting = _acting.get()
    assert isinstance(acting, str), "a statement is only narrowed for an account"
    return acting
