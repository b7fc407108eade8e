"""Sharing: in which order ready runs of one job whose concurrency keys differ are claimed.

Invariant: a run is placed when it becomes ready, whether it is made so or has waited for its moment or for a retry; so
the keys of a job take turns, however the runs of each came about. Called where runs are made, and where they are moved
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, desc, select, update

from rota.model.states import RunState
from rota.store.database import now_of
from rota.store.tables import PRIORITY_SECONDS, run
from rota.store.types import AnyRow, encode_rows, given_rows

SHARE_SECONDS_MAX = 7 * 86_400  # that a fair share places a run before those that are due for longer
BEHIND_SECONDS_MAX = 1_000_000_000  # what the column takes
_ASKED = ("job_id", "pool", "priority", "concurrency_key", "run_at")

# Who is first and who is last among the ready runs of a job and a priority, whose keys share fairly. Served by
# rota_run_ready_key, and by rota_run_concurrency_key.
_of_job = given_rows("jobs", job_id="id", pool="name", priority="id")
FIND_FIRST = select(
    _of_job.c.job_id,
    _of_job.c.priority,
    select(run.c.urgency)
    .where(
        run.c.ready_key_job_id == _of_job.c.job_id,
        run.c.priority == _of_job.c.priority,
        run.c.pool == _of_job.c.pool,
    )
    .order_by(run.c.urgency)
    .limit(1)
    .scalar_subquery()
    .label("urgency"),
)
_lines = given_rows("lines", job_id="id", priority="id", concurrency_key="name")
FIND_LAST_OF_KEYS = select(
    _lines.c.job_id,
    _lines.c.priority,
    _lines.c.concurrency_key,
    select(run.c.urgency)
    .where(
        run.c.state == RunState.READY.value,
        run.c.open_concurrency_key == _lines.c.concurrency_key,
        run.c.job_id == _lines.c.job_id,
        run.c.priority == _lines.c.priority,
    )
    .order_by(desc(run.c.urgency))
    .limit(1)
    .scalar_subquery()
    .label("urgency"),
)

_placed = given_rows("placed", run_id="id", behind_seconds="id")
# Served by the primary key.
PLACE_RUNS = update(run).where(run.c.id == _placed.c.run_id).values(behind_seconds=_placed.c.behind_seconds)


def share_fairly(connection: Connection, keyed: Sequence[dict[str, Any]]) -> None:
    """Place runs that have a concurrency key and become ready so that the keys of a job take turns: ``behind_seconds``.

    A run goes one second behind the last one of its key, and never behind the first one of its job: whoever comes new
    is served next, however long the line of another key is. Only runs of the same job and priority share. The first one
    may be there for ever, held back by the limit of its key: beyond a week nobody is placed before other jobs by that.
    """
    if not keyed:
        return
    # The first once for each job, and not for each key: it may be far behind those of other jobs.
    of_jobs = _distinct(keyed, "job_id", "pool", "priority")
    first: dict[tuple[int, int], int] = {
        (found.job_id, found.priority): found.urgency
        for found in connection.execute(FIND_FIRST, {"jobs": of_jobs})
        if found.urgency is not None
    }
    lines = _distinct(keyed, "job_id", "priority", "concurrency_key")
    last: dict[tuple[int, int, str], int] = {
        (found.job_id, found.priority, found.concurrency_key): found.urgency
        for found in connection.execute(FIND_LAST_OF_KEYS, {"lines": lines})
        if found.urgency is not None
    }
    now = now_of(connection)
    for row in keyed:
        line = (row["job_id"], row["priority"])
        own = int((row["run_at"] or now).timestamp()) - PRIORITY_SECONDS * row["priority"]
        place = min(own, max(first.setdefault(line, own), own - SHARE_SECONDS_MAX))
        if (before := last.get((*line, row["concurrency_key"]))) is not None:
            place = min(max(place, before + 1), own + BEHIND_SECONDS_MAX)
        last[(*line, row["concurrency_key"])] = place
        row["behind_seconds"] = place - own


def place_waiting(connection: Connection, rows: Sequence[AnyRow]) -> None:
    """Place waiting runs, which are locked, before they become ready; those without a concurrency key have no line."""
    # What a hand wrote there is no moment, and stays where it is.
    of_keys = [row for row in rows if row.concurrency_key is not None and row.run_at is not None]
    keyed = [
        {"run_id": row.id} | {name: getattr(row, name) for name in _ASKED}
        for row in sorted(of_keys, key=lambda row: (row.run_at, row.id))
    ]
    if keyed:
        share_fairly(connection, keyed)
        placed = encode_rows({name: row[name] for name in ("run_id", "behind_seconds")} for row in keyed)
        connection.execute(PLACE_RUNS, {"placed": placed})


def _distinct(rows: Sequence[dict[str, Any]], *names: str) -> str:
    found = sorted({tuple(row[name] for name in names) for row in rows})
    return encode_rows(dict(zip(names, one, strict=True)) for one in found)
