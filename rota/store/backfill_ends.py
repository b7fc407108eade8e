"""How backfills stand, and how they end.

Invariant: what has become of a backfill's runs is what the ledger says; it is kept with a part only when that has
ended. Called by steps, and where a person looks at a backfill or cancels it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, case, func, literal, null, or_, select, update

from rota.model.backfill import BackfillState
from rota.model.reasons import Reason
from rota.model.states import UNFINISHED, RunState
from rota.store.downstream import withdrawal
from rota.store.endings import wake_queued
from rota.store.events import tell_change, tell_runs
from rota.store.moves import apply_moves
from rota.store.tables import backfill, backfill_part, run
from rota.store.types import AnyRow, db_now
from rota.store.wakeup import announce

WITHDRAWN_MAX = 500

_is_own = func.coalesce(run.c.backfill_id, 0) == bindparam("backfill_id")
# How many unfinished runs of these schedules are a backfill's, and how many others go on, or may. Served by
# rota_run_open_schedule.
READ_UNFINISHED = (
    select(
        run.c.open_schedule_id,
        func.sum(case((_is_own, 1), else_=0)).label("own"),
        func.sum(case((or_(_is_own, run.c.awaiting_job_id.is_not(None)), 0), else_=1)).label("others"),
    )
    .where(run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)))
    .group_by(run.c.open_schedule_id)
)
END_PART = (
    update(backfill_part)
    .where(backfill_part.c.id == bindparam("of_id"))
    .values(
        ended_at=db_now(),
        next_slot_at=null(),
        problem=bindparam("problem", type_=backfill_part.c.problem.type),
        succeeded_count=bindparam("succeeded"),
        failed_count=bindparam("failed"),
    )
)
# What became of the runs of a backfill. Served by rota_run_backfill.
COUNT_STATES = (
    select(run.c.schedule_id, run.c.state, run.c.reason, func.count().label("runs"))
    .where(run.c.backfill_id == bindparam("backfill_id"))
    .group_by(run.c.schedule_id, run.c.state, run.c.reason)
)
CLOSE_BACKFILL = (
    update(backfill)
    .where(backfill.c.id == bindparam("of_id"))
    .values(state=bindparam("state"), due_at=null(), finished_at=db_now())
)
# What a backfill has made and has not ended. Served by rota_run_open_schedule.
FIND_OURS = (
    select(
        run.c.id,
        run.c.schedule_id,
        run.c.target_node,
        run.c.state,
        run.c.fence,
        run.c.claim_id,
        run.c.cancel_asked_at,
    )
    .where(
        run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)),
        _is_own,  # spelled so that nobody reads all that it has ever made
        or_(run.c.state != RunState.RUNNING.value, run.c.cancel_asked_at.is_(None)),
    )
    .order_by(run.c.id)
    .limit(WITHDRAWN_MAX)
    .with_for_update()
)
_running = and_(run.c.id.in_(bindparam("ids", expanding=True)), run.c.state == RunState.RUNNING.value)
ASK_TO_STOP = (
    update(run)
    .where(_running, run.c.cancel_asked_at.is_(None))
    .values(cancel_asked_at=db_now(), cancel_asked_by=bindparam("actor"))
)
TELL_STOPPING = tell_runs(
    run.c.id.in_(bindparam("ids", expanding=True)),
    from_state=run.c.state,
    reason=literal(Reason.CANCEL.value),
    text=bindparam("text", type_=run.c.reason_text.type),
    attempt=run.c.attempt,
    node=run.c.node,
    actor=bindparam("actor", type_=run.c.cancel_asked_by.type),
)


@dataclass(slots=True)
class Counts:
    """What the runs of a backfill are now, of one schedule."""

    succeeded: int = 0
    failed: int = 0
    active: int = 0


def count_states(connection: Connection, backfill_id: int) -> dict[int, Counts]:
    """Return, by schedule, how the runs of a backfill stand: whatever did not succeed has failed."""
    found: dict[int, Counts] = {}
    for row in connection.execute(COUNT_STATES, {"backfill_id": backfill_id}):
        counts = found.setdefault(row.schedule_id, Counts())
        if row.state in UNFINISHED:
            counts.active += row.runs
        elif row.state == RunState.SUCCEEDED.value or row.reason == Reason.NO_OP.value:
            counts.succeeded += row.runs
        else:
            counts.failed += row.runs
    return found


def tell_backfill(connection: Connection, row: AnyRow, became: str, *, actor: str | None, more: str = "") -> None:
    """Tell in the history what became of a backfill."""
    text = f"backfill {row.id} of {row.name}: {became}{more}"
    tell_change(connection, "backfill", became, text, actor=actor, subject=row.id)


# -- cancelling


def withdraw_runs(connection: Connection, row: AnyRow, parts: Sequence[AnyRow]) -> int:
    """Withdraw what a backfill has made and has not started, and ask for the end of what runs: some of it at a time.

    Returns how many of its runs are unfinished still, as far as it looked.
    """
    ids = sorted({part.schedule_id for part in parts})
    if not ids:
        return 0
    which = {"schedule_ids": ids, "backfill_id": row.id}
    found = connection.execute(FIND_OURS, which).all()
    actor = row.changed_by or row.requested_by
    text = f"{actor} cancelled backfill {row.id}"
    running = [one.id for one in found if one.state == RunState.RUNNING.value]
    if running:
        connection.execute(ASK_TO_STOP, {"ids": running, "actor": actor})
        connection.execute(TELL_STOPPING, {"ids": running, "text": f"{text}; its node is to stop it", "actor": actor})
        announce(connection)
    waiting = [one for one in found if one.id not in set(running)]
    apply_moves(connection, [withdrawal(one, text, actor) for one in waiting])
    wake_queued(connection, waiting)
    left = connection.execute(READ_UNFINISHED, which)
    return sum(int(one.own) for one in left)


def end_cancelled(connection: Connection, row: AnyRow, parts: Sequence[AnyRow]) -> None:
    """Close a cancelled backfill of which nothing is unfinished."""
    counts = count_states(connection, row.id)
    for part in parts:
        if part.ended_at is None:
            count = counts.get(part.schedule_id, Counts())
            values = {"of_id": part.id, "problem": "the backfill was cancelled"}
            connection.execute(END_PART, values | {"succeeded": count.succeeded, "failed": count.failed})
    connection.execute(CLOSE_BACKFILL, {"of_id": row.id, "state": BackfillState.CANCELLED.value})
