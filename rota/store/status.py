"""One look at everything: nodes, what runs, what is late, what failed lately, and what does not go on by itself.

Invariant: each part is bounded by an index or by a number of rows, so that it costs the same with a million runs in the
ledger. What has ended is counted among the latest 10,000 runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, desc, func, select

from rota.model.alerts import ALERT_JOB_PREFIX
from rota.model.findings import sort_findings
from rota.model.instants import format_instant
from rota.model.states import JobState, RunState
from rota.store.database import Database, now_of
from rota.store.health import check_health, show_health
from rota.store.long_transactions import find_long_transactions
from rota.store.nodes import latest_nodes
from rota.store.runs import read_runs
from rota.store.shown import shown
from rota.store.suspension import PART_MAX, read_suspended
from rota.store.tables import OLDEST_FIRST, run, schedule
from rota.store.types import Number, db_now_plus

RECENT_RUNS = 10_000
LATE_SECONDS = 10.0  # ready for longer than this: no node takes it

# The newest ones, by a bound that a planner sees: of an inequality with what is still to be found PostgreSQL believes
# that it leaves a third of all runs, and reads all of them in another order.
_recent = select(run.c.id, run.c.job, run.c.state).order_by(desc(run.c.id)).limit(RECENT_RUNS).subquery("recent")
# Runs that send alerts are Rota's own: a run that failed is not to look like two. Findings tell what was not sent.
_is_asked_for = ~_recent.c.job.startswith(ALERT_JOB_PREFIX)
_before_now = db_now_plus(-bindparam("late_seconds", type_=Number))

# Served by rota_run_due, rota_run_claim and rota_run_lease, in this order.
COUNT_WAITING = select(func.count()).where(run.c.due_at.is_not(None), run.c.state == RunState.WAITING.value)
COUNT_READY = select(func.count()).where(run.c.state == RunState.READY.value)
COUNT_RUNNING = select(func.count()).where(run.c.lease_ends_at.is_not(None))
# Served by the primary key.
COUNT_RECENT = select(_recent.c.state, func.count().label("number")).where(_is_asked_for).group_by(_recent.c.state)
FIND_FAILED = (
    select(_recent.c.id)
    .where(_is_asked_for, _recent.c.state.in_([RunState.FAILED.value, RunState.LOST.value]))
    .order_by(desc(_recent.c.id))
    .limit(PART_MAX)
)
# Served by rota_run_lease.
FIND_RUNNING = select(run.c.id).where(run.c.lease_ends_at.is_not(None)).order_by(OLDEST_FIRST).limit(PART_MAX)
# Ready for a while, and nobody takes it. Served by rota_run_claim.
FIND_LATE = (
    select(run.c.id)
    .where(run.c.state == RunState.READY.value, run.c.run_at < _before_now)
    .order_by(run.c.run_at)
    .limit(PART_MAX)
)
# Served by rota_schedule_due.
FIND_OVERDUE = (
    select(*shown([schedule.c.name, schedule.c.next_slot_at]))
    .where(
        schedule.c.state == JobState.ACTIVE.value,
        schedule.c.problem.is_(None),
        schedule.c.next_slot_at < _before_now,
    )
    .order_by(schedule.c.next_slot_at)
    .limit(PART_MAX)
)
FIND_PROBLEMS = (
    select(schedule.c.name, schedule.c.problem)
    .where(schedule.c.problem.is_not(None))
    .order_by(schedule.c.name)
    .limit(PART_MAX)
)


def read_status(database: Database) -> dict[str, Any]:
    """Return what somebody who is awake at night wants to see first."""

    def read(connection: Connection) -> dict[str, Any]:
        late = {"late_seconds": LATE_SECONDS}
        counts = {state.value: 0 for state in RunState}
        counts |= {row.state: row.number for row in connection.execute(COUNT_RECENT)}
        counts[RunState.WAITING.value] = connection.execute(COUNT_WAITING).scalar_one()
        counts[RunState.READY.value] = connection.execute(COUNT_READY).scalar_one()
        counts[RunState.RUNNING.value] = connection.execute(COUNT_RUNNING).scalar_one()
        suspended = read_suspended(connection)
        return {
            "now": format_instant(now_of(connection)),
            "counts": counts,
            "running": list(connection.execute(FIND_RUNNING).scalars()),
            "late": list(connection.execute(FIND_LATE, late).scalars()),
            "failed": list(connection.execute(FIND_FAILED).scalars()),
            "overdue": [_show_overdue(row) for row in connection.execute(FIND_OVERDUE, late)],
            "problems": [{"key": row.name, "problem": row.problem} for row in connection.execute(FIND_PROBLEMS)],
            "suspended": suspended,
            "paused_jobs": [one["name"] for one in suspended if one["kind"] == "job"],
            "paused_pools": [one["name"] for one in suspended if one["kind"] == "pool"],
            "paused_schedules": [one["name"] for one in suspended if one["kind"] == "schedule"],
        }

    found = database.read(read)
    for part in ("running", "late", "failed"):
        found[part] = read_runs(database, found[part])
    health = check_health(database)
    if (long := find_long_transactions(database)) is not None:
        health = replace(health, findings=tuple(sort_findings([*health.findings, long])))
    return found | {"nodes": latest_nodes(database), "findings": show_health(health)["findings"]}


def _show_overdue(row: Any) -> dict[str, Any]:
    return {"key": row.name, "next_slot": row.next_slot_at}
