"""Forgetting what a job has not done, so that it begins anew; its history stays.

Invariant: nothing that runs is forgotten. Called where a person asks for it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from rota.errors import Conflict, NotFound
from rota.model.states import RunState
from rota.store.breakers import CLOSED
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.interventions import skip_within
from rota.store.moves import write_fresh
from rota.store.period_ledger import reset_ledger, timeline_of
from rota.store.tables import job, run, schedule
from rota.store.types import db_now
from rota.store.wakeup import announce

READ_JOB = select(job.c.id, job.c.name, job.c.timeline).where(job.c.name == bindparam("name")).with_for_update()
FIND_UNFINISHED = (
    select(run.c.id, run.c.state, run.c.schedule_id)
    .where(run.c.job_id == bindparam("of_job"), run.c.finished_at.is_(None))
    .order_by(run.c.id)
)
CLOSE_BREAKER = update(job).where(job.c.id == bindparam("of_job")).values(**CLOSED)
# Slots before are not waited for by those that run in order.
FORGET_BEFORE = (
    update(schedule)
    .where(schedule.c.job_id == bindparam("of_job"))
    .values(order_from_at=func.coalesce(schedule.c.next_slot_at, db_now()))
)


def reset_job(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Forget what a job has not done; say what that was.

    Its periods are forgotten, and worked on from the first one on again. Slots that wait are skipped, and those to come
    wait for none before. Its breaker is closed.

    Raises:
        NotFound: there is no such job.
        Conflict: it is running; nothing was changed.
    """

    def reset(connection: Connection) -> dict[str, Any]:
        row = connection.execute(READ_JOB, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("job", name)
        unfinished = connection.execute(FIND_UNFINISHED, {"of_job": row.id}).all()
        for one in unfinished:
            if one.state == RunState.RUNNING.value:
                raise Conflict(
                    f"run {one.id} of job {name} is running: cancel it with `rota run cancel {one.id}` first"
                )
        timeline = timeline_of(row)
        skipped = [one.id for one in unfinished if one.schedule_id is not None or timeline is not None]
        for run_id in skipped:
            skip_within(connection, run_id, actor=actor, text=f"{actor} reset its job")
        connection.execute(CLOSE_BREAKER, {"of_job": row.id})
        connection.execute(FORGET_BEFORE, {"of_job": row.id})
        forgotten = None if timeline is None else reset_ledger(connection, row.id, name, timeline)
        tell_change(connection, "job", "reset", f"job {name} was reset", actor=actor, job=name)
        announce(connection)
        return {"job": name, "skipped": skipped, "forgotten_periods": forgotten}

    return write_fresh(database, reset)
