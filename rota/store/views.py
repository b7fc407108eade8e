"""Views for whoever looks with nothing but a SQL prompt: the questions that are asked most.

Their columns are documented in the reference and stable. Each is served by indexes that are there for something else,
however long the ledger is, and is written once for all databases; an upgrade makes them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Dialect,
    and_,
    cast,
    desc,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import ScalarSelect, SelectBase

from rota.model.states import JobState, RunState
from rota.store.status import LATE_SECONDS
from rota.store.tables import job, run, schedule
from rota.store.types import Instant, Word, seconds_since_1970


class statement_time(FunctionElement[datetime]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's clock when the statement began, less so many seconds.

    Not ``db_now``: PostgreSQL looks nothing up in an index by a clock that goes on, and SQLite has that from Rota only.
    """

    type = Instant()
    inherit_cache = True
    name = "statement_time"

    def __init__(self, minus_seconds: float = 0) -> None:
        self.minus_seconds = int(minus_seconds)
        super().__init__()


_STATEMENT_TIME = {
    "postgresql": "statement_timestamp() - interval '{} seconds'",
    "mysql": "utc_timestamp(6) - interval {} second",
    "mariadb": "utc_timestamp(6) - interval {} second",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-{} seconds') || '000'",
}


@compiles(statement_time)
def _write_statement_time(element: statement_time, compiler: SQLCompiler, **_: object) -> str:
    return f"({_STATEMENT_TIME[compiler.dialect.name].format(element.minus_seconds)})"


@dataclass(frozen=True, slots=True)
class View:
    """One view, and what its columns mean."""

    name: str
    about: str
    query: SelectBase
    columns: Mapping[str, str]

    def create(self, dialect: Dialect) -> str:
        """Return the statement that makes it."""
        assert list(self.columns) == [column.name for column in self.query.selected_columns]
        query = self.query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        # Drivers take a doubled sign for one; here there are no parameters, so none is doubled.
        return f"create view {self.name} as {str(query).replace('%%', '%')}"

    @property
    def drop(self) -> str:
        """The statement that removes it."""
        return f"drop view if exists {self.name}"


def _since(moment: ColumnElement[datetime]) -> ColumnElement[int]:
    return seconds_since_1970(statement_time()) - seconds_since_1970(moment)


# MariaDB finds what is not NULL in an index only as what is greater than something.
_is_running = run.c.lease_ends_at > literal_column("'0001-01-02 00:00:00.000000'", Instant())

_last = run.alias("last")
_ended = run.alias("ended")
# Served by rota_run_job: back from the newest run of the job, past those that have not ended. MariaDB would rather look
# through the runs of all jobs, for the first one of a job that is named.
_BY_JOB = "force index (rota_run_job)"
_last_ended = (
    select(_ended.c.id)
    .where(_ended.c.job_id == job.c.id, _ended.c.finished_at.is_not(None))
    .order_by(desc(_ended.c.job_id), desc(_ended.c.id))
    .limit(1)
    .with_hint(_ended, _BY_JOB, "mysql")
    .with_hint(_ended, _BY_JOB, "mariadb")
    .correlate(job)
    .scalar_subquery()
)
LAST_RESULTS = View(
    "rota_last_results",
    "How the last run of each job ended: a row for each job. What is unfinished does not count.",
    select(
        job.c.id.label("job_id"),
        job.c.name.label("job"),
        job.c.state.label("job_state"),
        _last.c.id.label("run_id"),
        _last.c.schedule,
        _last.c.slot_at,
        _last.c.state,
        _last.c.reason,
        _last.c.reason_text,
        _last.c.result,
        _last.c.attempt,
        _last.c.node,
        _last.c.started_at,
        _last.c.finished_at,
    ).select_from(job.outerjoin(_last, _last.c.id == _last_ended)),
    {
        "job_id": "of the job",
        "job": "its name",
        "job_state": "active, paused",
        "run_id": "NULL, and so are those below: none has ended",
        "schedule": "that made it; NULL: none, it was asked for",
        "slot_at": "of that schedule",
        "state": "how it ended",
        "reason": "why, as a code",
        "reason_text": "and as a sentence",
        "result": "JSON, what the job returned",
        "attempt": "how many attempts it took",
        "node": "of the last one",
        "started_at": "the first start",
        "finished_at": "when it ended",
    },
)

_has_come = statement_time(LATE_SECONDS)


def _late_runs(moment: ColumnElement[datetime], state: RunState, *where: ColumnElement[bool]) -> SelectBase:
    return select(
        literal("run", Word).label("kind"),
        run.c.id.label("run_id"),
        run.c.job.label("job"),
        run.c.schedule.label("schedule"),
        run.c.pool.label("pool"),
        run.c.state.label("state"),
        moment.label("due_at"),
        _since(moment).label("late_seconds"),
    ).where(run.c.state == literal_column(f"'{state.value}'"), moment < _has_come, *where)


# Served by rota_schedule_due, rota_run_claim and rota_run_due, in this order.
LATE = View(
    "rota_late",
    f"What should have happened more than {LATE_SECONDS:g} s ago: slots that nobody has decided, and runs that nobody "
    "moves on or starts.",
    union_all(
        select(
            literal("slot", Word).label("kind"),
            cast(null(), BigInteger).label("run_id"),
            job.c.name.label("job"),
            schedule.c.name.label("schedule"),
            job.c.pool.label("pool"),
            literal("due", Word).label("state"),
            schedule.c.next_slot_at.label("due_at"),
            _since(schedule.c.next_slot_at).label("late_seconds"),
        )
        # Each has a job. An outer join has MariaDB begin with the schedules.
        .select_from(schedule.outerjoin(job, job.c.id == schedule.c.job_id))
        .where(
            schedule.c.state == literal_column(f"'{JobState.ACTIVE.value}'"),
            schedule.c.problem.is_(None),
            schedule.c.next_slot_at < _has_come,
        ),
        _late_runs(run.c.run_at, RunState.READY),
        _late_runs(run.c.due_at, RunState.WAITING, ~run.c.queued),
    ),
    {
        "kind": "slot, run",
        "run_id": "of a run; NULL: it is a slot, which has none yet",
        "job": "the name of its job",
        "schedule": "the name of its schedule; NULL: it has none",
        "pool": "where it is to run",
        "state": "of a run: ready, waiting; of a slot: due",
        "due_at": "since when it is late",
        "late_seconds": "and for how long",
    },
)

# Served by rota_run_lease.
RUNNING = View(
    "rota_running",
    "What runs now.",
    select(
        run.c.id.label("run_id"),
        run.c.job_id,
        run.c.job,
        run.c.schedule,
        run.c.slot_at,
        run.c.pool,
        run.c.node,
        run.c.attempt,
        run.c.marked_at,
        _since(run.c.marked_at).label("running_seconds"),
        run.c.progress,
        run.c.progress_message,
        run.c.lease_ends_at,
        run.c.freeze_asked_at,
        run.c.cancel_asked_at,
        run.c.group_id,
    ).where(_is_running),
    {
        "run_id": "of the run",
        "job_id": "of its job",
        "job": "its name",
        "schedule": "that made it; NULL: none",
        "slot_at": "of that schedule",
        "pool": "where it runs",
        "node": "on which node",
        "attempt": "the number of this attempt",
        "marked_at": "when this attempt was started; NULL: it is about to be",
        "running_seconds": "how long ago that is; NULL likewise",
        "progress": "from 0 to 1, as the job says",
        "progress_message": "and in words",
        "lease_ends_at": "until when the node has it, unless it renews",
        "freeze_asked_at": "its processes are held; NULL: they are not",
        "cancel_asked_at": "it is being stopped; NULL: it is not",
        "group_id": "the same for the runs on all nodes; NULL: it is alone",
    },
)

_member = run.alias("member")


def _count(*states: RunState) -> ScalarSelect[int]:
    listed = ", ".join(f"'{state.value}'" for state in states)
    of_states = [_member.c.state.in_([literal_column(listed)])] if states else []
    return (
        select(func.count())
        .where(_member.c.group_id == run.c.group_id, _member.c.target_node != literal_column("''"), *of_states)
        .correlate(run)
        .scalar_subquery()
    )


_first = select(func.min(_member.c.id)).where(_member.c.group_id == run.c.group_id).correlate(run).scalar_subquery()
# A row is the first run of its group, so whatever chooses runs quickly chooses groups. The others are looked up by
# rota_run_group.
GROUPS = View(
    "rota_groups",
    "How complete the runs of one slot, or of one request, on all nodes are: a row for each such group. Choose by "
    "group_id, job_id, run_id, or schedule_id and slot_at: a ledger has many.",
    select(
        run.c.group_id,
        run.c.id.label("run_id"),
        run.c.job_id,
        run.c.job,
        run.c.schedule_id,
        run.c.schedule,
        run.c.slot_at,
        run.c.enqueued_at,
        _count().label("nodes"),
        _count(RunState.SUCCEEDED).label("succeeded"),
        _count(RunState.FAILED, RunState.LOST).label("failed"),
        _count(RunState.MISSED, RunState.SKIPPED, RunState.CANCELLED).label("missing"),
        _count(RunState.WAITING, RunState.READY, RunState.RUNNING).label("unfinished"),
    ).where(and_(run.c.group_id.is_not(None), run.c.id == _first)),
    {
        "group_id": "what its runs have in common",
        "run_id": "the first of them",
        "job_id": "of its job",
        "job": "its name",
        "schedule_id": "of the schedule that made it; NULL: none",
        "schedule": "its name",
        "slot_at": "of that schedule",
        "enqueued_at": "when it was made",
        "nodes": "for how many nodes it is: each has a run",
        "succeeded": "on how many it succeeded",
        "failed": "on how many it failed, or was lost",
        "missing": "on how many it was missed, skipped or cancelled",
        "unfinished": "on how many it has not ended",
    },
)

VIEWS = (LAST_RESULTS, LATE, RUNNING, GROUPS)
