"""Lists of what is defined: some rows of a table in the order of a unique key, from a place on, with filters.

Invariant: each read is bounded by its limit, and paged by the key. A filter that few rows pass looks at the rows in the
order of that key until there are enough, which is bounded by how much is defined; of runs there are more, and they have
a list of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, bindparam, desc, func

from rota.store.types import AnyRow

PAGE_ROWS = 1000
_ESCAPE = "!"  # a backslash is one to MySQL before LIKE sees it


class Listing:
    """The list of one table's rows. Its statements are built once for each combination of filters."""

    def __init__(
        self,
        rows: Select[Any],
        key: Column[Any],
        filters: Mapping[str, ColumnElement[bool]],
        *,
        newest_first: bool = False,
    ) -> None:
        self._rows = rows
        self._filters = dict(filters)
        if newest_first:
            self._filters["before"] = key < bindparam("before")
        else:
            self._filters["after"] = key > bindparam("after")
        self._order = desc(key) if newest_first else key
        self._built: dict[frozenset[str], Select[Any]] = {}

    def statement(self, *names: str) -> Select[Any]:
        """Return the statement with these filters."""
        which = frozenset(names)
        if which not in self._built:
            wanted = [self._filters[name] for name in sorted(which)]
            self._built[which] = self._rows.where(*wanted).order_by(self._order).limit(bindparam("limit"))
        return self._built[which]

    def read(self, connection: Connection, *, limit: int, **filters: Any) -> list[AnyRow]:
        """Read up to ``limit`` rows; a filter that is None or False is not there, and so is the place to go on from."""
        given = {name: value for name, value in filters.items() if value is not None and value is not False}
        if "search" in given:
            given["search"] = _pattern(given["search"])
        return list(connection.execute(self.statement(*given), given | {"limit": limit}).all())


def has_part(column: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the filter ``search``: the text holds what is searched for, whatever the case of its letters."""
    return func.lower(column).like(bindparam("search"), escape=_ESCAPE)


def _pattern(part: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        part = part.replace(special, _ESCAPE + special)
    return f"%{part.lower()}%"
