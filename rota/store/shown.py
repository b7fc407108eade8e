"""How rows are shown: JSON values that never refuse.

Invariant: reading never fails because of what stands in a row. A moment or a document that somebody broke by hand is
shown as the text that is there, so that the list stays readable and the broken row can be found in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Dialect, type_coerce
from sqlalchemy.types import TypeDecorator

from rota.errors import Invalid
from rota.model.durations import format_duration
from rota.model.instants import format_instant, say_slot
from rota.store.types import Instant


class ShownInstant(TypeDecorator[str]):
    """A moment as ISO 8601 in UTC with microseconds and ``Z``; what is no moment, as it stands."""

    impl = Instant
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value if value is None or isinstance(value, str) else format_instant(value)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        # Around Instant's own reading, not after it: that one reads nothing where no moment stands.
        read = self.impl_instance.result_processor(dialect, coltype)

        def show(value: Any) -> str | None:
            moment = read(value) if read else value
            return str(value) if moment is None and value is not None else self.process_result_value(moment, dialect)

        return show


def shown(columns: Iterable[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Return the columns to select for showing: moments become text, and nothing in a row can refuse to be read."""
    return [
        type_coerce(column, ShownInstant).label(column.key) if isinstance(column.type, Instant) else column
        for column in columns
    ]


def show_document(text: str | None) -> Any:
    """Read JSON for showing; what is not JSON is shown as the text that is there."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def check_range(start: datetime, end: datetime) -> None:
    """Check that there is something from one moment up to, and without, the other.

    Raises:
        Invalid: there is nothing.
    """
    if end < start:
        raise Invalid("to", say_slot(end), f"it comes before from, {say_slot(start)}: swap them, or correct one")
    if end == start:
        raise Invalid("to", say_slot(end), "it is the same as from, and nothing lies between: give a later one")


def say_span(length: timedelta) -> str:
    """Write a length of time into a sentence; less than nothing is nothing."""
    seconds = max(0.0, length.total_seconds())
    return format_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
