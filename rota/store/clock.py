"""The clock of the database, when it steps: for a while nobody catches up, misses or rescues.

Invariant: a hold ends by itself. It is kept in the database, so that a node which has just started honours it as well,
and it counts only while its end is near: a clock that is put back again does not stretch it.
"""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, literal, or_, select, update

from rota.model.clock_guard import ClockGuard
from rota.model.durations import format_duration
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.tables import run, schema
from rota.store.types import db_now, db_now_plus
from rota.store.wakeup import announce

log = logging.getLogger("rota.scheduler")

HOLD_SECONDS_MAX = 600.0

_held_until = select(schema.c.clock_held_until).where(schema.c.id == 1).scalar_subquery()
IS_HELD = and_(_held_until > db_now(), _held_until <= db_now_plus(literal(HOLD_SECONDS_MAX)))

# Begin a hold, unless one is in force: the first node that notices a step tells of it.
BEGIN_HOLD = (
    update(schema)
    .where(
        schema.c.id == 1,
        or_(
            schema.c.clock_held_until.is_(None),
            schema.c.clock_held_until <= db_now(),
            schema.c.clock_held_until > db_now_plus(literal(HOLD_SECONDS_MAX)),
        ),
    )
    .values(clock_held_until=db_now_plus(bindparam("hold_seconds", type_=run.c.lease_seconds.type)))
)
END_HOLD = update(schema).where(schema.c.id == 1).values(clock_held_until=None)
READ_HELD = select(schema.c.clock_held_until).where(schema.c.id == 1, IS_HELD)
READ_CLOCK = select(db_now().label("now"), IS_HELD.label("is_held"))


def tell_clock_step(database: Database, step_seconds: float, hold_seconds: float, *, node: str) -> None:
    """Record that the clock of the database stepped; forwards, nothing late is decided for ``hold_seconds``.

    Raises:
        DatabaseUnavailable: it is not recorded.
    """

    def tell(connection: Connection) -> None:
        span = format_duration(round(abs(step_seconds), 1))
        if step_seconds > 0:
            hold = min(hold_seconds, HOLD_SECONDS_MAX)
            if connection.execute(BEGIN_HOLD, {"hold_seconds": hold}).rowcount != 1:
                return
            held = format_duration(round(hold, 1))
            text = f"the database's clock stepped forward by {span}: nothing is caught up, missed or rescued for {held}"
        else:
            connection.execute(END_HOLD)
            text = f"the database's clock stepped back by {span}: nothing is due again before it has caught up"
        log.error("%s", text)
        tell_change(connection, "clock", "stepped", text, node=node)
        announce(connection)

    database.write(tell, repeatable=True)


def read_clock(database: Database) -> tuple[datetime, bool]:
    """Return the database's clock, and whether nothing late is to be decided now, since it has stepped."""
    row = database.read(lambda connection: connection.execute(READ_CLOCK).one())
    return row.now, bool(row.is_held)


class ClockWatch:
    """Sees to it that whoever decides what is late has compared the database's clock with one that never steps."""

    def __init__(self, database: Database, lease_seconds: float, *, node: str) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._node = node
        self._guard = ClockGuard(lease_seconds)
        self._untold_step = 0.0

    def observe(self, asked_at: float, answered_at: float, now: datetime) -> float:
        """Return by how many seconds the clock has stepped since the last look, and tell all nodes; 0.0 if it has not.

        The parameters are those of ``ClockGuard.observe``.

        Raises:
            DatabaseUnavailable: it is not told, which the next look will do.
        """
        step = self._guard.observe(asked_at, answered_at, now) or self._untold_step
        if step:
            self._untold_step = step  # also after a failure
            tell_clock_step(self._database, step, self._lease_seconds, node=self._node)
            self._untold_step = 0.0
        return step
