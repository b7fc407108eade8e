"""Events as they come, for whoever looks on: the newest, and those that show up late below them.

Ids are given when a row is written and seen when its transaction commits, so that one may show up after a higher one. A
number that is missing below the highest is asked for again for a while: what is behind it then was never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select

from rota.store.database import Database
from rota.store.events import show_event
from rota.store.shown import shown
from rota.store.tables import event
from rota.store.types import Number, db_now_plus

FEED_MAX = 1000  # events in one read
SPANS_MAX = 20  # spans of missing ids in one statement

Span = tuple[int, int]  # the first and the last id of it

# All of these are served by the primary key.
READ_TOP = select(func.max(event.c.id))
READ_IDS = select(event.c.id).where(event.c.id > bindparam("after"), event.c.id <= bindparam("top"))
_EVENT = select(*shown(event.c))
READ_NEWER = _EVENT.where(event.c.id > bindparam("after")).order_by(event.c.id).limit(bindparam("limit"))
READ_SPANS = (
    _EVENT.where(
        event.c.id.between(bindparam("lowest"), bindparam("highest")),  # or SQLite would read all of them
        or_(*(event.c.id.between(bindparam(f"first_{n}"), bindparam(f"last_{n}")) for n in range(SPANS_MAX))),
    )
    .order_by(event.c.id)
    .limit(bindparam("limit"))
)
READ_RECENT = (
    _EVENT.where(
        event.c.id > bindparam("after"),
        event.c.id <= bindparam("top"),
        event.c.at > db_now_plus(-bindparam("seconds", type_=Number)),
    )
    .order_by(event.c.id)
    .limit(bindparam("limit"))
)


def show_fed(row: Any) -> dict[str, Any]:
    """Show an event with its number, and what it is about."""
    about = {"id": row.id, "run": row.run_id, "job": row.job, "schedule": row.schedule}
    return {name: value for name, value in about.items() if value is not None} | show_event(row)


def read_top(database: Database, back: int) -> tuple[int, set[int]]:
    """Return the highest id, 0 before the first event, and which of the ``back`` ids up to it are there."""

    def read(connection: Connection) -> tuple[int, set[int]]:
        top: int = connection.execute(READ_TOP).scalar() or 0
        return top, set(connection.execute(READ_IDS, {"after": top - back, "top": top}).scalars())

    return database.read(read)


def read_feed(database: Database, after: int, missing: Sequence[Span] = ()) -> list[dict[str, Any]]:
    """Return up to ``FEED_MAX`` events above ``after``, and those within ``missing`` that are there now."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows: list[Any] = []
        for start in range(0, len(missing), SPANS_MAX):
            spans = list(missing[start : start + SPANS_MAX])
            bounds = {"lowest": min(first for first, _ in spans), "highest": max(last for _, last in spans)}
            spans += [spans[0]] * (SPANS_MAX - len(spans))
            given = {f"first_{n}": first for n, (first, _) in enumerate(spans)}
            given |= {f"last_{n}": last for n, (_, last) in enumerate(spans)}
            rows += connection.execute(READ_SPANS, given | bounds | {"limit": FEED_MAX}).all()
        rows += connection.execute(READ_NEWER, {"after": after, "limit": FEED_MAX}).all()
        return [show_fed(row) for row in rows]

    return database.read(read)


def read_again(database: Database, after: int, top: int, seconds: float) -> list[dict[str, Any]]:
    """Return the events above ``after`` and up to ``top`` that are no older than ``seconds``."""
    given = {"after": after, "top": top, "seconds": seconds, "limit": FEED_MAX}
    return database.read(lambda connection: [show_fed(row) for row in connection.execute(READ_RECENT, given)])
