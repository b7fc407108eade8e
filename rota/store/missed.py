"""What somebody is told of runs that were missed, in the transaction that misses them: see ``alerts``.

Called where a run's time passes, by ``advancing``, where its node is gone, by ``forgetting``, and where slots are
decided that nobody has looked at in time, by ``firing``. Of what a person lets pass on purpose nobody is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, func, select

from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.store.alerts import READ_JOBS_TOLD, RULE_COLUMNS, Happened, tell
from rota.store.fanout import ANY
from rota.store.moves import Move
from rota.store.tables import job, run
from rota.store.types import AnyRow, db_now, encode_rows, given_rows

# Not by an index of states, by which all that was missed and all that is given would be compared.
_is_missed = func.coalesce(run.c.state, "") == RunState.MISSED.value
_missed = (
    select(
        run.c.id,
        run.c.job_id,
        run.c.job,
        run.c.schedule,
        run.c.slot_at,
        run.c.attempt,
        run.c.node,
        run.c.reason,
        run.c.reason_text,
        db_now().label("now"),
    )
    .where(_is_missed)
    .order_by(run.c.id)
)
_run_ids: BindParameter[Any] = bindparam("run_ids", expanding=True)
# Served by the primary keys.
READ_JOBS_OF_RUNS = (
    select(job.c.id, *RULE_COLUMNS)
    .join(run, run.c.job_id == job.c.id)
    .where(run.c.id.in_(_run_ids), job.c.alert.is_not(None))
)
# Served by the primary key.
READ_MISSED = _missed.where(run.c.id.in_(_run_ids))
_slots = given_rows("slots", schedule_id="id", slot_at="instant", target_node="name")
# The same, served by the unique slot.
READ_MISSED_SLOTS = _missed.where(
    run.c.schedule_id == _slots.c.schedule_id,
    run.c.slot_at == _slots.c.slot_at,
    run.c.target_node == func.coalesce(_slots.c.target_node, ANY),
)


def tell_missed(connection: Connection, moves: Iterable[Move]) -> None:
    """Tell which of these runs were missed, in the transaction that has just moved them.

    Raises:
        Stale: the transaction is to start over.
    """
    run_ids = sorted(move.run_id for move in moves if move.target is RunState.MISSED)
    if not run_ids:
        return
    jobs = connection.execute(READ_JOBS_OF_RUNS, {"run_ids": run_ids}).all()
    if jobs:
        _tell(connection, connection.execute(READ_MISSED, {"run_ids": run_ids}).all(), jobs)


def tell_missed_slots(connection: Connection, slots: Iterable[Mapping[str, Any]]) -> None:
    """Tell likewise of the rows of slots that have just been inserted and will not run."""
    missed = [slot for slot in slots if slot["state"] == RunState.MISSED.value]
    if not missed:
        return
    jobs = connection.execute(READ_JOBS_TOLD, {"names": sorted({slot["job"] for slot in missed})}).all()
    told = {row.id for row in jobs}
    wanted = [
        {name: slot.get(name) for name in ("schedule_id", "slot_at", "target_node")}
        for slot in missed
        if slot["job_id"] in told
    ]
    if wanted:
        _tell(connection, connection.execute(READ_MISSED_SLOTS, {"slots": encode_rows(wanted)}).all(), jobs)


def _tell(connection: Connection, rows: Sequence[AnyRow], jobs: Sequence[AnyRow]) -> None:
    missed = [Happened(row, RunState.MISSED, Reason(row.reason), row.reason_text or "") for row in rows]
    if missed:
        tell(connection, missed, {row.id: row for row in jobs})
