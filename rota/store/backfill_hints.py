"""Telling a backfill that one of its runs has ended.

A hint: it brings forward when the backfill is looked at. One that nobody brings forward is looked at by itself, and
what the ledger says then decides (``backfill_steps``). Called in the transaction that records ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, select, update

from rota.store.tables import backfill
from rota.store.types import db_now
from rota.store.wakeup import announce

# Those that nobody is looking at: for a hint, no end is to wait. Served by the primary key.
LOCK_FREE_BACKFILLS = (
    select(backfill.c.id)
    .where(backfill.c.id.in_(bindparam("ids", expanding=True)), backfill.c.due_at.is_not(None))
    .order_by(backfill.c.id)
    .with_for_update(skip_locked=True)
)
BRING_BACKFILLS_FORWARD = (
    update(backfill)
    .where(backfill.c.id.in_(bindparam("ids", expanding=True)), backfill.c.due_at.is_not(None))
    .values(due_at=db_now())
)


def wake_backfills(connection: Connection, backfill_ids: Iterable[int | None]) -> None:
    """Have these backfills looked at at once; costs nothing where there is none."""
    ids = sorted({one for one in backfill_ids if one is not None})
    if ids and (free := connection.execute(LOCK_FREE_BACKFILLS, {"ids": ids}).scalars().all()):
        connection.execute(BRING_BACKFILLS_FORWARD, {"ids": list(free)})
        announce(connection)
