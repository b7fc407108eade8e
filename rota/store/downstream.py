"""What is built on a run, and doing all of it again.

Invariant: what builds on a run that is done again waits for it again, in the same transaction, so that all of it is
done in the order of the dependencies and nothing else is. Called where a person asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select

from rota.errors import Conflict, NotFound
from rota.model.instants import format_instant
from rota.model.reasons import Reason
from rota.model.states import FINISHED, Because, RunState
from rota.store.database import Database
from rota.store.dependants import is_latest_for
from rota.store.fanout import ANY
from rota.store.moves import Move, apply_moves
from rota.store.tables import dependency, run, schedule
from rota.store.types import AnyRow

DOWNSTREAM_MAX = 10_000
NAMED_MAX = 5

READ_SLOT = select(run.c.slot_at, run.c.job, run.c.period_id, run.c.period).where(run.c.id == bindparam("id"))
_built = run.alias("built")
# The runs of slots that have, or had, one of these for an upstream; a row that stands for many slots is none of them.
# Served by the primary key, rota_dependency_upstream, rota_schedule_job, and rota_run_slot.
FIND_BUILT = (
    select(
        _built.c.id,
        _built.c.job,
        _built.c.state,
        _built.c.reason,
        _built.c.reason_text,
        _built.c.slot_at,
        _built.c.target_node,
        _built.c.attempt,
        _built.c.fence,
        _built.c.claim_id,
        _built.c.awaiting_job_id,
    )
    .select_from(run)
    .join(dependency, dependency.c.upstream_id == run.c.job_id)
    .join(schedule, schedule.c.job_id == dependency.c.job_id)
    .join(_built, _built.c.schedule_id == schedule.c.id)
    .where(
        run.c.id.in_(bindparam("run_ids", expanding=True)),
        run.c.slot_at.is_not(None),
        is_latest_for(_built.c.slot_at),
        _built.c.slot_count == 1,
        # Of two jobs that run on all nodes, each run builds on that of its own node.
        or_(run.c.target_node == ANY, _built.c.target_node == ANY, _built.c.target_node == run.c.target_node),
    )
    .order_by(_built.c.slot_at, _built.c.id)
)


def read_downstream(database: Database, run_id: int) -> list[dict[str, Any]]:
    """Show what would be done again with a run, with the words of the doors.

    Raises:
        NotFound: there is no such run.
        Conflict: it is of no slot, or there is too much.
    """
    rows = database.read(lambda connection: find_downstream(connection, run_id))
    return [
        {
            "id": row.id,
            "job": row.job,
            "slot": format_instant(row.slot_at),
            "target_node": row.target_node or None,
            "state": row.state,
        }
        for row in rows
    ]


def find_downstream(connection: Connection, run_id: int) -> list[AnyRow]:
    """Return the runs that are to be done again when this one is: of the slots that it is the latest for, and so on.

    What was never tried stays as it is, unless that was for want of an upstream, and so does what builds on it.

    Raises:
        NotFound: there is no such run.
        Conflict: it is of no slot, or there are too many.
    """
    asked = connection.execute(READ_SLOT, {"id": run_id}).one_or_none()
    if asked is None:
        raise NotFound("run", run_id)
    if asked.slot_at is None:
        if asked.period_id is not None:
            again = f"`rota period reprocess {asked.job} {asked.period}`"
            raise Conflict(f"run {run_id} is of a period: {again} does that again with all that is built on it")
        raise Conflict(f"run {run_id} is of no slot of a schedule: which runs build on it is not known")
    found: dict[int, AnyRow] = {}
    nexts = [run_id]
    while nexts:
        rows = connection.execute(FIND_BUILT, {"run_ids": nexts}).all()
        chosen = {row.id: row for row in rows if _is_built(row)}
        nexts = sorted(chosen.keys() - found.keys())
        found |= chosen
        if len(found) > DOWNSTREAM_MAX:
            raise Conflict(
                f"more than {DOWNSTREAM_MAX} runs build on run {run_id}: do it again for fewer slots at once"
            )
    return list(found.values())


def _is_built(row: AnyRow) -> bool:
    is_undone = RunState(row.state) not in FINISHED
    return is_undone or row.attempt > 0 or row.reason == Reason.UPSTREAM_FAILED.value


def redo_downstream(connection: Connection, run_id: int, *, actor: str) -> list[int]:
    """Have all that builds on a run wait for it again; return the runs. In the transaction that does it again.

    Raises:
        Conflict: some of it is running, or there is too much; nothing is to be committed.
        Stale: something moved meanwhile.
    """
    found = find_downstream(connection, run_id)
    running = [row for row in found if row.state == RunState.RUNNING.value]
    if running:
        named = ", ".join(f"run {row.id} of {row.job}" for row in running[:NAMED_MAX])
        hint = "wait for its end, or stop it with `rota run cancel`"
        raise Conflict(f"what builds on run {run_id} is running ({named}): {hint}")
    # What is about to start is withdrawn first.
    started = {RunState.WAITING.value, RunState.READY.value}
    withdrawn = [row for row in found if row.state in started and row.awaiting_job_id is None]
    text = f"{actor} asked for run {run_id} again, on which it builds"
    ended = [row for row in found if RunState(row.state) in FINISHED]
    redo_runs(connection, withdrawn + ended, text, actor=actor)
    return [row.id for row in found]


def redo_runs(
    connection: Connection,
    rows: Sequence[AnyRow],
    text: str,
    *,
    actor: str,
    awaits: bool = True,
    backfill_id: int | None = None,
) -> None:
    """Have these runs done again, those that have ended and those that are about to start, which are withdrawn first.

    With ``awaits`` they wait for what they build on; else they are ready at once.

    Raises:
        Stale: something moved meanwhile.
    """
    started = [row for row in rows if RunState(row.state) not in FINISHED]
    apply_moves(connection, [withdrawal(row, text, actor) for row in started])
    for some in (started, [row for row in rows if row not in started]):
        apply_moves(
            connection,
            [
                Move(
                    run_id=row.id,
                    fence=row.fence,
                    claim_id=row.claim_id,
                    source=RunState(row.state) if RunState(row.state) in FINISHED else RunState.CANCELLED,
                    target=RunState.WAITING if awaits else RunState.READY,
                    because=Because.RERUN,
                    reason=Reason.UPSTREAM if awaits else Reason.RERUN,
                    text=f"{text}; it had ended {row.state}: {row.reason_text}",
                    actor=actor,
                    resets=True,
                    awaits=awaits,
                    backfill_id=backfill_id,
                )
                for row in some
            ],
        )


def withdrawal(row: AnyRow, text: str, actor: str) -> Move:
    """Return the move that withdraws a run which has not started."""
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState(row.state),
        target=RunState.CANCELLED,
        because=Because.CANCEL_ASKED,
        reason=Reason.CANCEL,
        text=text,
        actor=actor,
    )
