"""Rows that stand for many slots, of which some are run after all.

Invariant: each slot that such a row stood for is in exactly one row afterwards: those that are run in rows of their
own, the others in what is left of it. Called by a step of a backfill, in its transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from rota.model.backfill import Span, take_slots
from rota.model.slot_rule import SlotRule
from rota.store.creation import tell_slots
from rota.store.moves import Stale
from rota.store.tables import run
from rota.store.tallies import tally_changes
from rota.store.types import AnyRow

_LEFT = ", of: "

# A row that stands for several slots, without those that get rows of their own. Served by the primary key.
SHRINK = (
    update(run)
    .where(
        run.c.id == bindparam("of_id"),
        run.c.state == bindparam("of_state"),
        run.c.slot_at == bindparam("of_slot", type_=run.c.slot_at.type),
        run.c.slot_count == bindparam("of_count"),
        run.c.fence == bindparam("of_fence"),
    )
    .values(
        slot_at=bindparam("first", type_=run.c.slot_at.type),
        moment_at=bindparam("first", type_=run.c.slot_at.type),
        slot_last_at=bindparam("last", type_=run.c.slot_at.type),
        slot_count=bindparam("count"),
        reason_text=bindparam("text"),
    )
)
_SPAN = ("slot_at", "slot_last_at", "slot_count", "reason_text")
_KEPT = [
    column
    for column in run.c
    if column.computed is None and column.name not in {"id", "claim_id", "request_id", "moment_at", *_SPAN}
]
# What is left behind a slot that was taken out of its midst. Served by the primary key.
COPY_SPAN = insert(run).from_select(
    [*(column.name for column in _KEPT), *_SPAN, "moment_at"],
    select(
        *_KEPT,
        bindparam("first", type_=run.c.slot_at.type),
        bindparam("last", type_=run.c.slot_at.type),
        bindparam("count", type_=run.c.slot_count.type),
        bindparam("text", type_=run.c.reason_text.type),
        bindparam("first", type_=run.c.slot_at.type),
    ).where(run.c.id == bindparam("of_id")),
)


def split_off(connection: Connection, rule: SlotRule, row: AnyRow, slots: Sequence[datetime], text: str) -> bool:
    """Take ``slots`` out of a row that stands for several; False: none but the last of them is left, and it has it.

    Raises:
        Stale: the row was changed meanwhile.
    """
    left = take_slots(rule.timing, Span(row.slot_at, row.slot_last_at, row.slot_count), slots)
    kept = left[0] if left else Span(slots[-1], slots[-1], 1)
    which = {"of_id": row.id, "of_state": row.state, "of_slot": row.slot_at, "of_fence": row.fence}
    values = _span_values(kept, row.reason_text, text)
    tally_changes(connection, [(row.id, row.state, -1)])
    if connection.execute(SHRINK, which | {"of_count": row.slot_count} | values).rowcount != 1:
        raise Stale(f"run {row.id} was changed meanwhile")
    tally_changes(connection, [(row.id, row.state, 1)])
    for span in left[1:]:
        connection.execute(COPY_SPAN, {"of_id": row.id} | _span_values(span, row.reason_text, text))
    if told := [{"schedule_id": row.schedule_id, "slot_at": span.first, "finished": True} for span in left[1:]]:
        tell_slots(connection, told)
    return bool(left)


def _span_values(span: Span, said: str, text: str) -> dict[str, Any]:
    said = said.split(_LEFT, 1)[-1]
    return {
        "first": span.first,
        "last": span.last if span.count > 1 else None,
        "count": span.count,
        "text": f"{span.count} left by {text}{_LEFT}{said}",
    }
