"""A crowded database: a hundred thousand jobs with a schedule each, and millions of runs that have ended.

It is filled by SQL alone. Most jobs run each hour, a few each minute; few runs fail, are lost, missed or skipped.
Nobody works there, and some runs wait.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import ColumnElement, String, Table, case, cast, create_engine, insert, literal, null, select, text

from rota import Rota
from rota.store.database import Database
from rota.store.tables import attempt, event, job, node, run, schedule
from rota.store.types import db_now, db_now_plus

THOUSAND = (
    select(literal(0).label("i")).cte("thousand", recursive=True)
)  # fmt: skip
THOUSAND = THOUSAND.union_all(select(THOUSAND.c.i + 1).where(THOUSAND.c.i < 999))
PORTION = 100_000
BUSY_JOBS = 100  # that run each minute
BUSY_SHARE = 10  # one in so many runs is of them
FIRST = literal("job-", String)
NODES = 20
WAITING = 1000


def name_of(number: int) -> str:
    """Return the name of a job, and of its schedule."""
    return f"job-{1_000_000 + number}"


def fill(database: Database, *, jobs: int, runs: int, say: Callable[[str], None]) -> None:
    """Fill a migrated, empty database."""
    _write(database, node, NODES, _node)
    _write(database, job, jobs, _job)
    _write(database, schedule, jobs, lambda n: _schedule(n, jobs))
    for first in range(0, runs, PORTION):
        _write(database, run, min(PORTION, runs - first), lambda n: _run(n, jobs), first)
        if first % (10 * PORTION) == 0:
            say(f"{first:,} of {runs:,} runs")
    of_run = {
        "run_id": run.c.id, "attempt": literal(1), "state": run.c.state, "claim_id": run.c.claim_id,
        "fence": literal(1), "node": run.c.node, "claimed_at": run.c.started_at, "started_at": run.c.started_at,
        "finished_at": run.c.finished_at, "seconds": literal(12.0), "reason": run.c.reason,
        "reason_text": run.c.reason_text,
    }  # fmt: skip
    told = {
        "at": run.c.finished_at, "run_id": run.c.id, "schedule": run.c.schedule, "job": run.c.job,
        "kind": literal("run"), "to_state": run.c.state, "reason": run.c.reason, "text": run.c.reason_text,
    }  # fmt: skip
    say("attempts and events")
    ran = run.c.claim_id.is_not(None)
    for first in range(0, runs, PORTION):
        these = run.c.id.between(first + 1, first + PORTION)
        for statement in (
            insert(attempt).from_select(list(of_run), select(*of_run.values()).where(these, ran)),
            insert(event).from_select(list(told), select(*told.values()).where(these)),
        ):
            database.write(lambda connection: connection.execute(statement), repeatable=False)  # noqa: B023 - at once
    say("roll-ups, as an upgrade makes them")
    rollups = importlib.import_module("rota.store.migrations.versions.0010_rollups")
    with database.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        if database.dialect.name == "postgresql":
            connection.execute(text("set statement_timeout = 0"))
        rollups.count_all()
    rota = Rota.over(database, actor="crowd")
    rota.enqueue_many([{"job": name_of(number % jobs)} for number in range(WAITING)])
    analyze = {"postgresql": "vacuum analyze", "sqlite": "analyze"}.get(database.dialect.name)
    if analyze is not None:
        engine = create_engine(database.url, isolation_level="AUTOCOMMIT")  # for a vacuum is in no transaction
        with engine.connect() as connection:
            connection.execute(text(analyze))
        engine.dispose()


def _write(
    database: Database,
    table: Table,
    count: int,
    columns_of: Callable[[ColumnElement[int]], dict[str, ColumnElement[object]]],
    first: int = 0,
) -> None:
    for portion in range(0, count, PORTION):
        low, high = THOUSAND.alias("low"), THOUSAND.alias("high")
        n = literal(first + portion) + high.c.i * 1000 + low.c.i
        columns = columns_of(n)
        rows = (
            select(*columns.values())
            .select_from(low.join(high, literal(1) == 1))
            .where(high.c.i < (min(PORTION, count - portion) + 999) // 1000, n < first + count)
        )
        statement = insert(table).from_select(list(columns), rows)
        database.write(lambda connection: connection.execute(statement), repeatable=False)  # noqa: B023 - at once


def _name(n: ColumnElement[int]) -> ColumnElement[str]:
    return FIRST + cast(n + 1_000_000, String)


def _node(n: ColumnElement[int]) -> dict[str, ColumnElement[object]]:
    return {
        "name": literal("node-", String) + cast(n, String), "state": literal("gone"), "boot_id": literal("b"),
        "pid": literal(1), "pid_started": literal(1), "holder": literal("h"), "host": literal("host"),
        "version": literal("1"), "pools": literal('["default"]'), "slots": literal(8), "started_at": db_now(),
        "seen_at": db_now(),
    }  # fmt: skip


def _job(n: ColumnElement[int]) -> dict[str, ColumnElement[object]]:
    return {
        "name": _name(n), "kind": literal("shell"), "target": literal("true"), "pool": literal("default"),
        "delivery": literal("at_least_once"), "retries": literal(0), "lost_max": literal(5),
        "retry_delay_seconds": literal(10.0), "backoff": literal("fixed"), "retry_delay_max_seconds": literal(3600.0),
        "priority": literal(0), "variables": literal("{}"), "revision": literal(1), "created_at": db_now(),
        "updated_at": db_now(),
    }  # fmt: skip


def _schedule(n: ColumnElement[int], jobs: int) -> dict[str, ColumnElement[object]]:
    return {
        "name": _name(n), "job_id": n + 1, "kind": literal("cron"), "expression": literal("H * * * *"),
        "zone": literal("UTC"), "delay_seconds": literal(0.0), "catch_up": literal("latest"),
        "catch_up_limit": literal(100), "overlap": literal("skip"), "args": literal("{}"),
        "cursor_version": literal(1), "revision": literal(1), "created_at": db_now(), "updated_at": db_now(),
        "next_slot_at": db_now_plus(literal(3600.0) * (n % jobs) / jobs + 60.0),
    }  # fmt: skip


def _run(n: ColumnElement[int], jobs: int) -> dict[str, ColumnElement[object]]:
    is_busy = n % BUSY_SHARE == 0
    number = n // BUSY_SHARE  # of its kind
    job_id = case((is_busy, number % BUSY_JOBS), else_=(n - number) % jobs) + 1
    # How long ago its slot was: each hour of each job one, each minute of a busy one.
    ago = case((is_busy, literal(60.0) * (number // BUSY_JOBS)), else_=literal(3600.0) * ((n - number) // jobs))
    offset = literal(3600.0) * (job_id % 3600) / 3600
    slot = db_now_plus(literal(0.0) - ago - offset - 5.0)
    kind = n * 7 % 200
    state = case(
        (kind < 2, literal("failed")), (kind == 2, literal("lost")), (kind < 5, literal("missed")),
        (kind < 7, literal("skipped")), (kind == 7, literal("cancelled")), else_=literal("succeeded"),
    )  # fmt: skip
    did_run = kind.not_in([3, 4, 5, 6])
    return {
        "job_id": job_id, "job": FIRST + cast(job_id + 999_999, String), "schedule_id": null(),
        "schedule": FIRST + cast(job_id + 999_999, String), "slot_at": slot, "moment_at": slot,
        "slot_count": literal(1), "target_node": literal(""), "state": state, "reason": literal("ended_well"),
        "reason_text": literal("as it is in a crowd"), "args": literal("{}"), "pool": literal("default"),
        "priority": literal(0), "delivery": literal("at_least_once"), "requested_by": literal("schedule"),
        "enqueued_at": slot, "run_at": slot, "queued": literal(False), "attempt": literal(1),
        "started_at": slot, "finished_at": slot, "retries_used": literal(0), "losses": literal(0),
        "fence": literal(1), "claim_id": case((did_run, literal("c-") + cast(n, String)), else_=null()),
        "node": case((did_run, literal("node-") + cast(n % 20, String)), else_=null()),
    }  # fmt: skip
