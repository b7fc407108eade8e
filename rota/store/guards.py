"""Triggers by which SQLite refuses what the other databases refuse by their types and constraints.

SQLite keeps whatever it is given in whatever column, and adds no constraint to a table that is there. One row with text
for a number, written by hand, would fail the statement that moves a hundred others. A value that was there before the
triggers is left alone until it is changed. They are derived from ``tables``, so an upgrade makes them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Boolean, Column, Double, Integer, LargeBinary, String, Table

from rota.store.tables import metadata, ranges_of
from rota.store.types import Instant

_TWO = "[0-9][0-9]"
_MOMENT = f"{_TWO}{_TWO}-{_TWO}-{_TWO} {_TWO}:{_TWO}:{_TWO}.{_TWO}{_TWO}{_TWO}"


def drop_guards() -> Iterator[str]:
    """Give the statements that remove the triggers."""
    for table in metadata.sorted_tables:
        for occasion in ("insert", "update"):
            yield f"drop trigger if exists {table.name}_{occasion}_guard"


def create_guards() -> Iterator[str]:
    """Give the statements that make the triggers: two for each table."""
    for table in metadata.sorted_tables:
        yield _guard(table, "insert", "new.{0} is not null")
        yield _guard(table, "update", "new.{0} is not null and new.{0} is not old.{0}")


def _guard(table: Table, occasion: str, concerns: str) -> str:
    ranges = ranges_of(table)
    refusals = ""
    for column in table.columns:
        if column.computed is None:
            rule, words = _rule(column)
            if column.name in ranges:
                low, high = ranges[column.name]
                rule += f" and {{0}} between {low:.0f} and {high:.0f}"
                words += f" from {low:.0f} to {high:.0f}"
            broken = f"{concerns} and not ({rule.format('new.{0}')})".format(column.name)
            refusals += f"  when {broken} then raise(abort, '{table.name}.{column.name} must be {words}')\n"
    # After, since only then does text that is a number stand there as the number that the column makes of it.
    return (
        f"create trigger {table.name}_{occasion}_guard after {occasion} on {table.name}\n"
        f"begin\n  select case\n{refusals}  end; end"
    )


def _rule(column: Column[Any]) -> tuple[str, str]:
    """Return what must hold of a value, with {0} in its place, and how to say it."""
    kind = column.type
    if isinstance(kind, Instant):
        return f"typeof({{0}}) = 'text' and {{0}} glob '{_MOMENT}'", "a moment in UTC like 2026-11-20 07:00:00.000000"
    if isinstance(kind, Boolean):
        return "typeof({0}) = 'integer' and {0} in (0, 1)", "0 or 1"
    if isinstance(kind, Integer):
        return "typeof({0}) = 'integer'", "a whole number"
    if isinstance(kind, Double):
        return "typeof({0}) in ('real', 'integer') and abs({0}) < 1e308", "a number"
    if isinstance(kind, LargeBinary):
        return "typeof({0}) = 'blob'", "a blob"
    assert isinstance(kind, String)
    if kind.length is None:
        return "typeof({0}) = 'text'", "text"
    return f"typeof({{0}}) = 'text' and length({{0}}) <= {kind.length}", f"text of at most {kind.length} characters"
