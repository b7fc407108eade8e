"""The steps of a migration: Alembic's operations, each of which may find its work done.

PostgreSQL and SQLite take back an upgrade that is killed. MySQL and MariaDB commit each change of the schema by itself:
what was done of a version stays, and the next upgrade begins with that version again. So a step is tried there, and
where the server answers that it was done already, it is. Any other answer is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError, NoSuchTableError

_IS_THERE = {
    1050,  # the table
    1060,  # the column
    1061,  # the index
    1062,  # the row
    1826,  # the constraint: MariaDB
    3822,  # and MySQL
}
_IS_GONE = {
    1091,  # the column or the index; in MariaDB also the constraint
    3821,  # the check: MySQL
    3940,  # the constraint: MySQL
}


def commits_each() -> bool:
    """Tell whether the database of this upgrade commits each statement by itself, so that one may be cut off."""
    context = op.get_context()
    return context.dialect.name in {"mysql", "mariadb"} and not context.as_sql


def _did(step: Callable[[], Any], done: set[int]) -> bool:
    """Do a step, and return False if it was done already."""
    try:
        step()
    except DBAPIError as error:
        arguments = getattr(error.orig, "args", ())
        if not commits_each() or not arguments or arguments[0] not in done:
            raise
        return False
    return True


def create_table(name: str, *parts: sa.Column[Any] | sa.Constraint, **options: Any) -> None:
    """Create a table. One of that name with other columns is somebody else's, and refused."""

    def create() -> None:
        op.create_table(name, *parts, **options)

    try:
        create()
    except DBAPIError:
        wanted = {part.name for part in parts if isinstance(part, sa.Column)}
        if not commits_each() or columns_of(name).keys() != wanted:
            raise


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column."""
    _did(lambda: op.add_column(table, column), _IS_THERE)


def drop_column(table: str, name: str) -> None:
    """Drop a column."""
    _did(lambda: op.drop_column(table, name), _IS_GONE)


def create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """Create an index that is not unique."""
    _did(lambda: op.create_index(name, table, columns, unique=False, **options), _IS_THERE)


def drop_index(name: str, table: str) -> None:
    """Drop an index."""
    _did(lambda: op.drop_index(name, table), _IS_GONE)


def create_check(name: str, table: str, condition: str) -> None:
    """Have the database check a condition."""
    _did(lambda: op.create_check_constraint(op.f(name), table, sa.text(condition)), _IS_THERE)


def drop_check(name: str, table: str) -> None:
    """Have it check a condition no longer."""
    # MySQL and MariaDB agree on this.
    _did(lambda: op.execute(f"alter table {table} drop constraint {name}"), _IS_GONE)


def insert_row(statement: str) -> None:
    """Add a row with a key of its own."""
    _did(lambda: op.execute(statement), _IS_THERE)


def columns_of(table: str) -> dict[str, Any]:
    """Return the types of a table's columns, as the database has them."""
    try:
        found = sa.inspect(op.get_bind()).get_columns(table)
    except NoSuchTableError:
        return {}
    return {column["name"]: column["type"] for column in found}
