"""How long a job usually takes: the durations of its latest good attempts.

Invariant: reading is bounded and found by an index, however long the ledger is. Called by the look ahead, by the look
for what takes far longer than usual, and by those who show jobs and runs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, bindparam, desc, select

from rota.model.forecast import Durations
from rota.model.states import AttemptState
from rota.store.tables import attempt, run
from rota.store.types import AnyRow

RUNS_LOOKED_AT = 200
ATTEMPTS_MAX = 50

# The latest runs of a job. Served by rota_run_job; however few of them ended well, no more are looked at.
_latest = (
    select(run.c.id)
    .where(run.c.job_id == bindparam("job_id"))
    .order_by(desc(run.c.id))
    .limit(RUNS_LOOKED_AT)
    .subquery()
)
READ_DURATIONS = (
    select(attempt.c.seconds, attempt.c.started_at, attempt.c.finished_at)
    .join(_latest, _latest.c.id == attempt.c.run_id)
    .where(attempt.c.state == AttemptState.SUCCEEDED.value)
    .order_by(desc(_latest.c.id))
    .limit(ATTEMPTS_MAX)
)


def read_durations(connection: Connection, job_id: int) -> Durations | None:
    """Sum up how long the latest good attempts of a job took; None when it has none."""
    measured = [_seconds_of(row) for row in connection.execute(READ_DURATIONS, {"job_id": job_id})]
    return Durations.of([seconds for seconds in measured if seconds is not None])


def show_durations(durations: Durations | None) -> dict[str, Any] | None:
    """Show how long a job usually takes; None when nobody knows."""
    return None if durations is None else dataclasses.asdict(durations)


def _seconds_of(row: AnyRow) -> float | None:
    if row.seconds is not None:
        return max(0.0, row.seconds)
    if row.started_at is None or row.finished_at is None:
        return None
    return max(0.0, (row.finished_at - row.started_at).total_seconds())
