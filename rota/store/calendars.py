"""Calendars: adding, changing and deleting them, and handing them to whoever decides about slots.

Invariant: a calendar that a schedule names is not deleted, and changing one moves on the cursors of the schedules whose
slots it moves, in the same transaction. Values are checked by ``rota.model.calendars`` before they get here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from rota.errors import AlreadyExists, Conflict, Invalid, NotFound
from rota.model.calendars import Calendar
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.jobs import IfExists, adding, encode_definition
from rota.store.listing import PAGE_ROWS, Listing, has_part
from rota.store.moves import Stale, write_fresh
from rota.store.shown import show_document, shown
from rota.store.tables import calendar, schedule
from rota.store.types import db_now
from rota.store.wakeup import announce

INSERT_CALENDAR = insert(calendar).values(revision=1, created_at=db_now(), updated_at=db_now())
CHANGE_CALENDAR = (
    update(calendar)
    .where(calendar.c.name == bindparam("of_name"), calendar.c.revision == bindparam("of_revision"))
    .values(revision=calendar.c.revision + 1, updated_at=db_now(), definition=bindparam("new_definition"))
)
DELETE_CALENDAR = delete(calendar).where(calendar.c.name == bindparam("of_name"))
_SHOWN = select(*shown(calendar.c))
READ_CALENDAR = _SHOWN.where(calendar.c.name == bindparam("name"))
LIST_CALENDARS = Listing(_SHOWN, calendar.c.name, {"search": has_part(calendar.c.name)})
LOAD_CALENDARS = select(calendar.c.name, calendar.c.definition).where(
    calendar.c.name.in_(bindparam("names", expanding=True))
)
# Schedules that may name a calendar: few have one at all.
FIND_USERS = select(schedule.c.name, schedule.c.calendars).where(schedule.c.calendars.is_not(None))


def load_calendars(connection: Connection, names: Iterable[str]) -> dict[str, Calendar]:
    """Return those of the calendars ``names`` that there are and that can be understood."""
    wanted = sorted(set(names))
    found: dict[str, Calendar] = {}
    for row in connection.execute(LOAD_CALENDARS, {"names": wanted}) if wanted else ():
        try:
            found[row.name] = _read(row.name, row.definition)
        except (Invalid, ValueError, TypeError, AttributeError, RecursionError):
            continue  # changed by hand: for whoever needs it, it is not there
    return found


@lru_cache(maxsize=256)
def _read(name: str, definition: str) -> Calendar:
    return Calendar.from_definition(name, json.loads(definition))


def add_calendar(database: Database, new: Calendar, *, actor: str, if_exists: IfExists = "error") -> dict[str, Any]:
    """Add a calendar and return how it is shown.

    Raises:
        AlreadyExists: the name is taken, and ``if_exists`` does not say what to do.
    """

    def add(connection: Connection) -> dict[str, Any]:
        connection.execute(INSERT_CALENDAR, {"name": new.name, "definition": encode_definition(new.definition())})
        tell_change(connection, "calendar", "added", f"calendar {new.name} was added", actor=actor, subject=new.name)
        return _show(connection, new.name)

    try:
        return adding(database, "calendar", new.name, add)
    except AlreadyExists:
        if if_exists == "skip":
            return read_calendar(database, new.name)
        if if_exists == "update":
            return replace_calendar(database, new, actor=actor)
        raise


def replace_calendar(database: Database, new: Calendar, *, actor: str) -> dict[str, Any]:
    """Put ``new`` in the place of the calendar of its name. Schedules whose slots it moves go on by the new one.

    Raises:
        NotFound: there is no such calendar.
    """
    from rota.store.schedules import move_on_by_calendar

    def replace(connection: Connection) -> dict[str, Any]:
        row = _find(connection, new.name)
        definition = encode_definition(new.definition())
        if row.definition != definition:
            which = {"of_name": new.name, "of_revision": row.revision, "new_definition": definition}
            if connection.execute(CHANGE_CALENDAR, which).rowcount != 1:
                raise Stale(f"calendar {new.name} was changed meanwhile")
            move_on_by_calendar(connection, _users(connection, new.name))
            tell_change(
                connection, "calendar", "edited", f"calendar {new.name} was edited", actor=actor, subject=new.name
            )
            announce(connection)
        return _show(connection, new.name)

    return write_fresh(database, replace)


def delete_calendar(database: Database, name: str, *, actor: str) -> None:
    """Delete a calendar.

    Raises:
        NotFound: there is no such calendar.
        Conflict: a schedule names it.
    """

    def remove(connection: Connection) -> None:
        _find(connection, name)
        if users := _users(connection, name):
            shown_users = ", ".join(users[:5]) + (" and others" if len(users) > 5 else "")
            raise Conflict(f"calendar {name} is named by schedule {shown_users}: edit or delete them first")
        connection.execute(DELETE_CALENDAR, {"of_name": name})
        tell_change(connection, "calendar", "deleted", f"calendar {name} was deleted", actor=actor, subject=name)

    write_fresh(database, remove)


def read_calendar(database: Database, name: str) -> dict[str, Any]:
    """Return how a calendar is shown.

    Raises:
        NotFound: there is no such calendar.
    """
    return database.read(lambda connection: _show(connection, name))


def list_calendars(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` calendars in the order of their names: ``after`` one, and those that pass the filters."""
    return [_show_row(row) for row in database.read(lambda c: LIST_CALENDARS.read(c, limit=limit, **filters))]


def _users(connection: Connection, name: str) -> list[str]:
    return [row.name for row in connection.execute(FIND_USERS) if name in (show_document(row.calendars) or ())]


def _find(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(READ_CALENDAR, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("calendar", name)
    return row


def _show(connection: Connection, name: str) -> dict[str, Any]:
    return _show_row(_find(connection, name)) | {"schedules": _users(connection, name)}


def _show_row(row: Row[Any]) -> dict[str, Any]:
    definition = show_document(row.definition)
    facts = cast("dict[str, Any]", definition) if isinstance(definition, dict) else {"definition": definition}
    return {
        "name": row.name,
        **facts,
        "revision": row.revision,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
