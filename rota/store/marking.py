"""Letting a slot count as done without a run.

Invariant: afterwards the slot has its row, one for each node that it is for, which has succeeded by the word of a
person; what waits for it goes on. Called where a person asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, or_, select

from rota.errors import Conflict, Invalid
from rota.model.instants import say_slot
from rota.model.policy import SlotDecision
from rota.model.reasons import Reason
from rota.model.states import Because, RunState, check_move
from rota.store.audit import note_act
from rota.store.calendars import load_calendars
from rota.store.creation import insert_slots
from rota.store.database import Database
from rota.store.dependants import wake_dependants
from rota.store.endings import wake_queued
from rota.store.fanout import is_for_all
from rota.store.firing import names_of_calendars, rule_of, slot_row
from rota.store.moves import Move, apply_moves, write_fresh
from rota.store.schedules import read_for_change
from rota.store.tables import run
from rota.store.types import AnyRow
from rota.store.wakeup import announce

_MICROSECOND = timedelta(microseconds=1)

# What was decided about a slot. Served by rota_run_slot.
FIND_OF_SLOT = (
    select(
        run.c.id,
        run.c.schedule_id,
        run.c.target_node,
        run.c.state,
        run.c.reason_text,
        run.c.fence,
        run.c.claim_id,
        run.c.slot_count,
        run.c.node,
    )
    .where(
        run.c.schedule_id == bindparam("schedule_id"),
        or_(
            run.c.slot_at == bindparam("slot", type_=run.c.slot_at.type),
            and_(
                run.c.slot_at < bindparam("slot", type_=run.c.slot_at.type),
                run.c.slot_last_at >= bindparam("slot", type_=run.c.slot_at.type),
            ),
        ),
    )
    .order_by(run.c.id)
    .with_for_update()
)


def mark_slot(database: Database, key: str, slot: datetime, *, actor: str) -> list[int]:
    """Let a slot of a schedule count as done, and return its runs.

    What waits is withdrawn, and what has ended otherwise counts as succeeded. A past slot without a row gets one.

    Raises:
        NotFound: there is no such schedule.
        Invalid: it has no such slot.
        Conflict: it has succeeded, runs, is not decided yet, or shares its row with others; nothing was changed.
    """

    def mark(connection: Connection) -> list[int]:
        row = read_for_change(connection, key)
        which = {"schedule_id": row.id, "slot": slot}
        found = connection.execute(FIND_OF_SLOT, which).all()
        if found:
            _mark(connection, key, slot, found, actor)
        else:
            _insert(connection, row, slot, actor)
            found = connection.execute(FIND_OF_SLOT, which).all()
            wake_dependants(connection, [one.id for one in found])
        text = f"slot {say_slot(slot)} of schedule {key} counts as done"
        note_act(connection, actor, "schedule", key, "mark-succeeded", text)
        announce(connection)
        return [one.id for one in found]

    return write_fresh(database, mark)


def _mark(connection: Connection, key: str, slot: datetime, found: Sequence[AnyRow], actor: str) -> None:
    said = f"slot {say_slot(slot)} of schedule {key}"
    for one in found:
        if one.slot_count > 1:
            raise Conflict(
                f"{said} shares run {one.id} with {one.slot_count - 1} others that were passed over together: "
                f"`rota run mark-succeeded {one.id}` lets all of them count as done"
            )
        if one.state == RunState.RUNNING.value:
            raise Conflict(
                f"run {one.id} of {said} is running on {one.node}: cancel it with `rota run cancel {one.id}` first"
            )
    left = [one for one in found if one.state != RunState.SUCCEEDED.value]
    if not left:
        raise Conflict(f"{said} has succeeded already")
    waiting = [one for one in left if one.state in {RunState.WAITING.value, RunState.READY.value}]
    text = f"{actor} said that the slot counts as done"
    apply_moves(connection, [_move(one, RunState(one.state), RunState.CANCELLED, text, actor) for one in waiting])
    apply_moves(
        connection,
        [
            _move(one, RunState.CANCELLED if one in waiting else RunState(one.state), RunState.SUCCEEDED, text, actor)
            for one in left
        ],
    )
    wake_queued(connection, left)


def _move(row: AnyRow, source: RunState, target: RunState, text: str, actor: str) -> Move:
    is_marked = target is RunState.SUCCEEDED
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=source,
        target=target,
        because=Because.MARKED if is_marked else Because.CANCEL_ASKED,
        reason=Reason.MARKED if is_marked else Reason.CANCEL,
        text=f"{text}; it had ended {source}: {row.reason_text}" if is_marked else text,
        actor=actor,
    )


def _insert(connection: Connection, row: AnyRow, slot: datetime, actor: str) -> None:
    said = f"slot {say_slot(slot)} of schedule {row.name}"
    if slot > row.now or (row.next_slot_at is not None and slot >= row.next_slot_at):
        raise Conflict(f"{said} is not decided yet: wait until it has come")
    rule = rule_of(row, load_calendars(connection, names_of_calendars([row])))
    if rule.timing.next(slot - _MICROSECOND) != slot:
        near = rule.timing.next(slot)
        hint = f"the next one after it is {say_slot(near)}" if near is not None else "there is none after it"
        raise Invalid("slot", say_slot(slot), f"schedule {row.name} has no such slot; {hint}")
    if is_for_all(row.runs_on):
        raise Conflict(f"{said} was never decided, and for which nodes of its pool it was nobody knows")
    check_move(None, RunState.SUCCEEDED, Because.MARKED)
    text = f"{actor} said that the slot counts as done; nothing was decided about it before"
    decision = SlotDecision(slot, RunState.SUCCEEDED, Reason.MARKED, text, rule.run_at(slot), None)
    insert_slots(connection, [slot_row(row, decision) | {"requested_by": actor[:200]}])
