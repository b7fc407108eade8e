"""Ghosts: jobs and schedules that code has declared once, and declares no more.

Invariant: they are named and never touched: they go on as they are until a person deletes them, or the code declares
them again. Called when a process brings what it declares into force.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, null, select, update

from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.tables import job, schedule
from rota.store.types import db_now

_TABLES = {"job": job, "schedule": schedule}


@dataclass(frozen=True, slots=True)
class Ghost:
    """What is declared no more."""

    kind: str  # job, schedule
    name: str
    module: str  # that declared it


def note_ghosts(
    database: Database, declared: Mapping[str, Collection[str]], is_loaded: Callable[[str], bool], *, actor: str
) -> list[Ghost]:
    """Note what modules that are loaded here have declared once and declare no more; return all of it.

    ``declared`` gives the names that they declare now, of jobs and of schedules. Each is told once, in the history.
    """

    def note(connection: Connection) -> list[Ghost]:
        found: list[Ghost] = []
        for kind, table in _TABLES.items():
            rows = connection.execute(
                select(table.c.name, table.c.declared_by, table.c.ghost_since)
                .where(table.c.declared_by.is_not(None))
                .order_by(table.c.name)
            ).all()
            is_declared = {row.name: row.name in declared.get(kind, ()) for row in rows}
            ghosts = [row for row in rows if not is_declared[row.name] and is_loaded(row.declared_by)]
            new = [row for row in ghosts if row.ghost_since is None]
            back = [row.name for row in rows if is_declared[row.name] and row.ghost_since is not None]
            of_names = update(table).where(table.c.name.in_(bindparam("names", expanding=True)))
            if new:
                connection.execute(of_names.values(ghost_since=db_now()), {"names": [row.name for row in new]})
            if back:
                connection.execute(of_names.values(ghost_since=null()), {"names": back})
            for row in new:
                text = f"{kind} {row.name} is declared no more by {row.declared_by}, and goes on as it is"
                tell_change(connection, kind, "ghost", text, actor=actor, **{kind: row.name})
            found += [Ghost(kind, row.name, row.declared_by) for row in ghosts]
        return found

    return database.write(note, repeatable=True)
