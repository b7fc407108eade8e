"""Every table and index, in the order in which a transaction touches them.

The columns are documented in the reference and stable to read with plain SQL. Names carry their unit; a moment ends
in ``_at``. Words that a database reserves (``key``, ``user``, ``on``) are avoided, so that nobody has to quote.
Indexes are few, and each says which statement it serves. This file is over-long for a list's sake: the schema stands
in one place.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    literal_column,
    text,
)

from rota.model.accounts import AccountState, Source
from rota.model.actor import Door
from rota.model.backfill import ACTIVE_MAX, BackfillState
from rota.model.concurrency import CONCURRENCY_RANGES, RUNNING_MAX
from rota.model.durations import DURATION_SECONDS_MAX
from rota.model.job import LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, PRIORITY_MAX
from rota.model.limits import RANGES as LIMIT_RANGES
from rota.model.period_step import UNFINISHED_PERIODS, PeriodState
from rota.model.roles import Role
from rota.model.slot_rule import CatchUpOrder, OnClosed
from rota.model.states import AttemptState, CommandState, Delivery, JobState, NodeState, RunState
from rota.model.timing import Fold, Gap
from rota.store.types import (
    Blob,
    Id,
    Instant,
    LongText,
    Name,
    Number,
    Token,
    Word,
    YesNo,
    by_default,
    seconds_since_1970,
)

# Far above what any run reaches, and far below where counting one further is an error.
COUNT_MAX = 1_000_000_000
VERSION_MAX = 1_000_000_000_000_000

PRIORITY_SECONDS = 600  # of waiting, that a step of priority counts like

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

# InnoDB whatever the server's default; utf8mb4 for text that is not compared.
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "sqlite_autoincrement": True,
}


def _one_of(name: str, states: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{name} in ({listed})", name=f"{name}_known")


def _within(low: float, high: float, *names: str) -> tuple[CheckConstraint, ...]:
    # Also refuses what is not a number and what is infinite. One such row would make a statement fail that moves a
    # hundred others. SQLite can add no constraint to a table: there the triggers of `guards` hold these.
    return tuple(
        CheckConstraint(f"{name} between {low:.0f} and {high:.0f}", name=f"{name}_within", info={name: (low, high)})
        for name in names
    )


def ranges_of(table: Table) -> dict[str, tuple[float, float]]:
    """Return the columns of ``table`` whose values are held within a range, and that range."""
    found: dict[str, tuple[float, float]] = {}
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint):
            found |= constraint.info
    return found


# One row: which schema this is, and the oldest program that can still work with it.
schema = Table(
    "rota_schema",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("compatible_from", Integer, nullable=False),
    # Until then nobody misses, catches up or rescues: the clock of the database has stepped.
    Column("clock_held_until", Instant),
    Column("health_looked_at", Instant),  # when a node last looked for findings: one of them does, once a minute
    **_MYSQL,
)

pool = Table(
    "rota_pool",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("created_at", Instant, nullable=False),
    Column("state", Word, nullable=False, server_default=JobState.ACTIVE.value),  # paused: none of its runs start
    Column("paused_at", Instant),
    Column("paused_by", Name),
    # Which nodes serve it besides those that say so themselves: what matches any of these. JSON, NULL: none.
    Column("members", LongText),  # list of names
    Column("patterns", LongText),  # list of patterns for names
    Column("labels", LongText),  # object: nodes that have all of them
    _one_of("state", JobState),
    **_MYSQL,
)

node = Table(
    "rota_node",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("state", Word, nullable=False),
    Column("boot_id", Token, nullable=False),  # which boot of which machine
    Column("pid", Integer, nullable=False),
    Column("pid_started", Id, nullable=False),  # the process's start in clock ticks after boot: pids are used again
    Column("holder", Token, nullable=False),  # random, made by the process that goes by this name now
    Column("host", Name, nullable=False),
    Column("version", Name, nullable=False),
    Column("pools", LongText, nullable=False),  # JSON list of names
    Column("slots", Integer, nullable=False),  # how many runs at once
    Column("environments", LongText),  # JSON list of NAME==VERSION; NULL: it did not say
    Column("secrets", LongText),  # JSON list of the names of those that it can read; NULL: it did not say
    Column("cgroups", LongText),  # whether attempts get cgroups, or why not, in words; NULL: it did not say
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),  # the last good round
    Column("lease_ends_at", Instant),  # NULL once it has said goodbye
    Column("drain_asked_at", Instant),  # whoever goes by this name claims nothing until it is resumed
    Column("drain_asked_by", Name),
    Column("labels", LongText),  # JSON object; NULL: it did not say
    Column("skew_seconds", Number),  # its clock less the database's, as measured last; NULL: not measured
    Column("own_pools", LongText),  # JSON list of those of its pools that it names itself; NULL: all of them
    Column("zone_data_version", Name),  # of the rules of time zones by which it fires; NULL: it did not say
    Column("keep_runs", LongText),  # how long it keeps finished runs, as the setting is written; NULL: it did not say
    _one_of("state", NodeState),
    **_MYSQL,
)

job = Table(
    "rota_job",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("state", Word, nullable=False, server_default=JobState.ACTIVE.value),
    Column("kind", Word, nullable=False),  # call, command, shell, sql
    # package.module:function, JSON list of arguments or of statements, or shell line
    Column("target", LongText, nullable=False),
    Column("pool", Name, nullable=False),
    Column("env", Name),  # NAME or NAME==VERSION of the environment it asks for; NULL: the worker's own
    Column("timeout_seconds", Number),
    Column("start_within_seconds", Number),
    Column("delivery", Word, nullable=False),
    Column("retries", Integer, nullable=False),  # -1 is for ever
    Column("lost_max", Integer, nullable=False),
    Column("retry_delay_seconds", Number, nullable=False),
    Column("backoff", Word, nullable=False),
    Column("retry_delay_max_seconds", Number, nullable=False),
    Column("retry_on", LongText),  # JSON list of the bad ends that are retried; NULL: all of them
    Column("no_retry_on", LongText),  # JSON list of the bad ends that are not
    Column("deadline_seconds", Number),  # over all attempts of a run, from its first start
    Column("no_op_exit_code", Integer),
    Column("cancel_exit_code", Integer),
    Column("breaker_failures", Integer),  # attempts in a row that ended badly and open it; NULL: no breaker
    Column("breaker_pause_seconds", Number, nullable=False, server_default=text("300")),
    Column("failures_in_row", Integer, nullable=False, server_default=text("0")),  # counted where there is a breaker
    Column("breaker_until", Instant),  # open until then, half open from then on; NULL: closed
    Column("breaker_run_id", Id),  # the run that it lets through
    Column("lease_seconds", Number),  # NULL: the worker's
    Column("priority", Integer, nullable=False),
    Column("stdin", LongText),
    Column("cwd", LongText),
    Column("run_as", Name),
    Column("run_as_groups", LongText),  # JSON list of names, the first is its own; NULL: those of its user
    Column("memory_max_bytes", Id),  # of address space, each process; NULL, here and below: as the worker
    Column("cpu_max_seconds", Number),  # each process
    Column("open_files_max", Integer),  # each process
    Column("processes_max", Integer),  # of its user on the node
    Column("nice", Integer),  # -20 (most urgent) to 19
    Column("ionice", Word),  # idle, best-effort:N, realtime:N; N from 0 (most urgent) to 7
    Column("umask", Word),  # octal text; NULL: 022
    Column("variables", LongText, nullable=False),  # JSON object of environment variables
    Column("secrets", LongText),  # JSON list of names of variables whose values only nodes have; NULL: none
    Column("startup", Word),  # warm, cold; NULL: warm
    Column("connection", Name),  # of a job of SQL: rota, or one of the node's configuration
    Column("executor", Word),  # process, thread, async; NULL: process
    Column("runs_on", Word),  # any, all: on how many nodes of its pool; NULL: any, and never all before
    Column("max_parallel", Integer),  # of the runs of one slot on all nodes
    Column("prefer", LongText),  # JSON list of names of nodes and labels K=V: these first
    Column("exclude", LongText),  # likewise: never these
    Column("retry_node", Word),  # any, other: where an attempt after a bad one goes first; NULL: any
    Column("max_running", Integer),  # of its runs at once, in the whole cluster
    Column("mutexes", LongText),  # JSON list of names: its runs hold all of them, alone
    Column("concurrency_key", Name),  # the argument whose value is the key of a run
    Column("max_per_key", Integer),  # of its runs of one key at once
    Column("rate_count", Integer),  # so many starts
    Column("rate_seconds", Number),  # in any stretch of so long
    Column("keep", LongText),  # JSON object: seconds that runs are kept, by how they ended; null is for ever
    Column("after", LongText),  # JSON list of names: its upstreams, which rota_dependency has too; NULL: none
    Column("upstream_failure", Word),  # wait, skip: when one of them does not succeed; NULL: wait
    Column("timeline", LongText),  # JSON object: how it is cut into periods, and the rules for these; NULL: it is not
    Column("alert", LongText),  # JSON list of channels: who is told of it; NULL: nobody
    Column("alert_on", LongText),  # JSON list of kinds of alerts; NULL: those that jobs usually have
    Column("alert_quiet_seconds", Number),  # in which more of the same is only counted; NULL: as usual
    Column("periods_until", Instant),  # where its ledger of periods ends, and the next one begins; NULL: it has none
    Column("revision", Integer, nullable=False),
    Column("declared", LongText),  # the definition as code last declared it; differs from the row once it was edited
    Column("declared_by", Name),  # the module that did
    Column("ghost_since", Instant),  # since when that module declares it no more; NULL: it does
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    _one_of("state", JobState),
    _one_of("delivery", Delivery),
    CheckConstraint("retries >= -1", name="retries_counted"),
    CheckConstraint("lost_max >= 0", name="lost_max_counted"),
    *_within(-PRIORITY_MAX, PRIORITY_MAX, "priority"),
    *_within(LEASE_SECONDS_MIN, LEASE_SECONDS_MAX, "lease_seconds"),
    *_within(0, DURATION_SECONDS_MAX, "timeout_seconds", "start_within_seconds"),
    *_within(0, DURATION_SECONDS_MAX, "retry_delay_seconds", "retry_delay_max_seconds"),
    *(rule for name, (low, high) in LIMIT_RANGES.items() for rule in _within(low, high, name)),
    *_within(0, DURATION_SECONDS_MAX, "deadline_seconds", "breaker_pause_seconds", "alert_quiet_seconds"),
    *_within(0, COUNT_MAX, "failures_in_row"),
    *(rule for name, (low, high) in CONCURRENCY_RANGES.items() for rule in _within(low, high, name)),
    **_MYSQL,
)

# Which job builds on which: what jobs run after and roll up, to be asked from both sides.
dependency = Table(
    "rota_dependency",
    metadata,
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("upstream_id", Id, primary_key=True, autoincrement=False),
    Column("is_child", YesNo),  # it is rolled up: named by ``rolls_up`` instead; NULL: it is not
    **{name: value for name, value in _MYSQL.items() if name != "sqlite_autoincrement"},
)
Index("rota_dependency_upstream", dependency.c.upstream_id, dependency.c.job_id)

# Serves the look: whose ledger is to be continued.
Index(
    "rota_job_periods",
    job.c.periods_until,
    postgresql_where=job.c.periods_until.isnot(None),
    sqlite_where=job.c.periods_until.isnot(None),
)

# When schedules rest. Holidays are kept as dates, so that every node knows the same ones.
calendar = Table(
    "rota_calendar",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("definition", LongText, nullable=False),  # JSON: closed weekdays, dates and windows, open dates
    Column("revision", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    **_MYSQL,
)

schedule = Table(
    "rota_schedule",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("job_id", Id, ForeignKey("rota_job.id"), nullable=False),
    Column("state", Word, nullable=False, server_default=JobState.ACTIVE.value),
    Column("kind", Word, nullable=False),  # cron, every, at, interval, weekly, any
    Column("expression", LongText, nullable=False),  # as the kind writes it; JSON pairs of both for `any`
    Column("zone", Name, nullable=False),
    Column("gap", Word, nullable=False, server_default=Gap.SHIFT.value),  # a local time that a zone skips
    Column("fold", Word, nullable=False, server_default=Fold.FIRST.value),  # a local time that it has twice
    Column("anchor_at", Instant),  # where the grid of an `every` or an `interval` starts
    Column("start_at", Instant),  # no slot before
    Column("end_at", Instant),  # no slot after
    Column("first_run_at", Instant),  # the first slot, wherever the others lie
    Column("calendars", LongText),  # JSON list of names; NULL: none
    Column("on_closed", Word, nullable=False, server_default=OnClosed.SKIP.value),
    Column("delay_seconds", Number, nullable=False),
    Column("jitter_seconds", Number, nullable=False, server_default=text("0")),
    Column("start_within_seconds", Number),
    Column("catch_up", Word, nullable=False),
    Column("catch_up_limit", Integer, nullable=False),
    Column("catch_up_order", Word, nullable=False, server_default=CatchUpOrder.OLDEST.value),
    Column("overlap", Word, nullable=False),
    Column("in_order", YesNo),  # each slot runs when the one before it has succeeded; NULL: not
    Column("order_from_at", Instant),  # slots before are not waited for by those in order; NULL: all are
    Column("args", LongText, nullable=False),
    Column("next_slot_at", Instant),  # the cursor: the first slot nobody has decided; NULL: there is none
    Column("last_slot_at", Instant),
    Column("cursor_version", Id, nullable=False),  # moves with each change of the cursor: the compare-and-set
    Column("skips_in_row", Integer, nullable=False, server_default=text("0")),  # for an overlap, since one ran
    Column("problem", LongText),  # set aside with this reason; fires nothing until it is edited
    Column("paused_at", Instant),
    Column("revision", Integer, nullable=False),
    Column("declared", LongText),
    Column("declared_by", Name),
    Column("ghost_since", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    _one_of("state", JobState),
    *_within(0, COUNT_MAX, "skips_in_row"),  # what is wrong with the definition sets the schedule aside
    *_within(0, VERSION_MAX, "cursor_version"),
    **_MYSQL,
)
# Serves FIND_DUE and the look: the earliest active cursor.
Index("rota_schedule_due", schedule.c.state, schedule.c.next_slot_at)
Index("rota_schedule_job", schedule.c.job_id)
# Serves FIND_SKIPPING: few schedules skip again and again.
Index(
    "rota_schedule_skips",
    schedule.c.skips_in_row,
    postgresql_where=schedule.c.skips_in_row >= text("3"),
    sqlite_where=schedule.c.skips_in_row >= text("3"),
)

# Slots of the past that are run on request. No foreign keys upwards, as the ledger.
backfill = Table(
    "rota_backfill",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False),  # of the job or the schedule, as it was asked for
    Column("state", Word, nullable=False),
    Column("from_at", Instant, nullable=False),
    Column("to_at", Instant, nullable=False),  # the first moment that is out of it
    Column("slot_order", Word, nullable=False, server_default=CatchUpOrder.OLDEST.value),
    Column("max_active", Integer, nullable=False),  # unfinished runs of it at once, of each schedule
    Column("again", YesNo, nullable=False),  # also what has succeeded
    Column("failed_only", YesNo, nullable=False),
    Column("downstream", YesNo, nullable=False),  # and what is built on it
    Column("requested_by", Name, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_by", Name),  # who has paused, resumed or cancelled it last
    Column("changed_at", Instant),
    Column("finished_at", Instant),
    Column("due_at", Instant),  # when it is looked at next; NULL: never
    Column("version", Id, nullable=False),  # moves with each look at it: the compare-and-set
    _one_of("state", BackfillState),
    *_within(1, ACTIVE_MAX, "max_active"),
    **_MYSQL,
)
# Serves the look, and FIND_BACKFILLS.
Index(
    "rota_backfill_due",
    backfill.c.due_at,
    postgresql_where=backfill.c.due_at.isnot(None),
    sqlite_where=backfill.c.due_at.isnot(None),
)

# What a backfill does of one schedule, and how far it has come.
backfill_part = Table(
    "rota_backfill_part",
    metadata,
    Column("id", Id, primary_key=True),
    Column("backfill_id", Id, ForeignKey("rota_backfill.id", ondelete="CASCADE"), nullable=False),
    Column("schedule_id", Id, nullable=False),
    Column("schedule", Name, nullable=False),
    Column("job_id", Id, nullable=False),
    Column("job", Name, nullable=False),
    Column("built_on", YesNo, nullable=False),  # it is there for what its job runs after
    Column("from_at", Instant, nullable=False),
    Column("to_at", Instant),  # NULL: up to the schedule's own cursor
    Column("next_slot_at", Instant),  # the first slot that nobody has looked at for it; NULL: there is none
    Column("slots_total", Id, nullable=False),
    Column("slots_seen", Id, nullable=False),
    Column("slots_passed", Id, nullable=False),  # of these, left as they were
    Column("problem", LongText),  # why it does not go on now, or has ended before its last slot
    Column("ended_at", Instant),
    Column("succeeded_count", Id),  # when it ended
    Column("failed_count", Id),
    UniqueConstraint("backfill_id", "schedule_id", name="rota_backfill_part_schedule"),
    **_MYSQL,
)

_URGENCY = (
    seconds_since_1970(literal_column("run_at"))
    - literal_column(f"{PRIORITY_SECONDS} * priority", Integer)
    + literal_column("coalesce(behind_seconds, 0)", Integer)
)

run = Table(
    "rota_run",
    metadata,
    Column("id", Id, primary_key=True),
    # No foreign keys upwards: the ledger outlives jobs and schedules, ids are never given twice, and checking a key
    # would lock the job's row at every insert.
    Column("job_id", Id, nullable=False),
    Column("job", Name, nullable=False),  # its name then
    Column("schedule_id", Id),
    Column("schedule", Name),
    Column("slot_at", Instant),
    Column("slot_count", Integer, nullable=False),  # more than 1: this row stands for as many slots
    Column("slot_last_at", Instant),
    Column("target_node", Name, nullable=False),  # '' for any; never NULL, so that uniqueness holds
    Column("request_id", Token, unique=True),  # made by whoever enqueues: a repeated enqueue is the same run
    Column("run_key", Name),
    Column("active_key", Name),  # run_key while the run holds it, else NULL: one holder per job and key
    Column("state", Word, nullable=False),
    Column("reason", Word, nullable=False),
    Column("reason_text", LongText, nullable=False),
    Column("args", LongText, nullable=False),
    Column("result", LongText),
    Column("pool", Name, nullable=False),
    Column("priority", Integer, nullable=False),
    # The order of claims, ascending: a moment in seconds since 1970. Each step of priority counts like ten minutes of
    # waiting, so that nothing waits for ever.
    Column("urgency", Id, Computed(_URGENCY, persisted=True)),
    Column("behind_seconds", Integer),  # put back in that order, or forward, for a fair share between keys; NULL: not
    Column("delivery", Word, nullable=False),
    Column("requested_by", Name, nullable=False),
    Column("enqueued_at", Instant, nullable=False),
    Column("run_at", Instant, nullable=False),  # not before
    Column("start_by", Instant),  # the end of the start window; binds until the first start
    Column("due_at", Instant),  # when the scheduler must look again: run_at while waiting, start_by while ready
    Column("queued", YesNo, nullable=False),  # behind earlier slots of its schedule
    # schedule_id while unfinished, else NULL: what overlap and the queue of a schedule ask for.
    Column("open_schedule_id", Id, Computed("case when finished_at is null then schedule_id end", persisted=True)),
    Column("started_at", Instant),  # the first start mark
    Column("finished_at", Instant),
    Column("attempt", Integer, nullable=False),
    Column("retries_used", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("retries", Integer),  # asked for with the run, -1 is for ever; NULL: the job's
    Column("retry_delay_seconds", Number),  # asked for with the run; NULL: the job's
    Column("deadline_from_at", Instant),  # the first start mark since it was asked for, or rerun
    Column("fence", Id, nullable=False),
    Column("claim_id", Token, unique=True),  # of the last claim; kept after the end
    Column("node", Name),
    Column("environment", Name),  # what its newest attempt was claimed for; NULL: the worker's own
    Column("environment_version", Name),
    Column("holder", Token),  # the node's process that holds it
    Column("marked_at", Instant),  # the start mark of the current claim
    Column("lease_seconds", Number),  # the job's; NULL: the worker's
    Column("lease_ends_at", Instant),  # exactly while it is running
    Column("cancel_asked_at", Instant),
    Column("cancel_asked_by", Name),
    Column("freeze_asked_at", Instant),  # its processes are held, or about to be
    Column("freeze_asked_by", Name),
    Column("progress", Number),  # from 0 to 1, as its newest attempt said last
    Column("progress_message", LongText),
    Column("progress_at", Instant),
    Column("checkpoint", LongText),  # JSON that the next attempt begins from
    Column("group_id", Token),  # the same for the runs of one slot, or of one request, on all nodes
    Column("concurrency_key", Name),
    # The same while unfinished, else NULL.
    Column(
        "open_concurrency_key",
        Name,
        Computed("case when finished_at is null then concurrency_key end", persisted=True),
    ),
    Column("unique_seconds", Number),  # its key holds so long after it was asked for; -1: for ever; NULL: till its end
    Column("avoid_node", Name),  # where its last attempt ended badly: others first
    # job_id while ready, of a run with a concurrency key; else NULL.
    Column(
        "ready_key_job_id",
        Id,
        Computed("case when state = 'ready' and concurrency_key is not null then job_id end", persisted=True),
    ),
    Column("period_id", Id),  # in rota_period; NULL: it is for none
    Column("period", Name),  # its name
    Column("period_start_at", Instant),
    Column("period_end_at", Instant),
    Column("range_start_at", Instant),  # of the period, the part that this run is for
    Column("range_end_at", Instant),
    Column("open_period_id", Id),  # period_id until that has taken note of how the run ended
    # While it waits for upstreams, else NULL: when to look at them again, and job_id. Programs of schema 5 do not know
    # these, and leave alone what has no due_at.
    Column("upstreams_due_at", Instant),
    Column("awaiting_job_id", Id),
    Column("backfill_id", Id),  # that has it done; NULL: none
    # What it is for: its slot, the start of its period, or else when it was first to run. NULL: a program made it that
    # knows only schema 9.
    Column("moment_at", Instant),
    UniqueConstraint("schedule_id", "slot_at", "target_node", name="rota_run_slot"),
    UniqueConstraint("job_id", "active_key", name="rota_run_active_key"),
    _one_of("state", RunState),
    _one_of("delivery", Delivery),
    CheckConstraint("(state = 'running') = (lease_ends_at is not null)", name="lease_while_running"),
    *_within(-PRIORITY_MAX, PRIORITY_MAX, "priority"),
    *_within(LEASE_SECONDS_MIN, LEASE_SECONDS_MAX, "lease_seconds"),
    *_within(0, COUNT_MAX, "slot_count", "attempt", "retries_used", "losses"),
    *_within(0, VERSION_MAX, "fence"),
    *_within(0, 1, "progress"),
    *_within(0, DURATION_SECONDS_MAX, "retry_delay_seconds"),
    *_within(-1, COUNT_MAX, "retries"),
    *_within(-1, DURATION_SECONDS_MAX, "unique_seconds"),
    *_within(-COUNT_MAX, COUNT_MAX, "behind_seconds"),
    **_MYSQL,
)
# Serves FIND_CLAIMABLE: all equalities first, then its order. Only ready runs are in it where the database can say so.
Index(
    "rota_run_claim",
    run.c.state,
    run.c.pool,
    run.c.urgency,
    run.c.run_at,
    run.c.id,
    postgresql_where=run.c.state == text("'ready'"),
    sqlite_where=run.c.state == text("'ready'"),
)
# Serves the look and FIND_WAITED: what the scheduler has to decide next.
Index("rota_run_due", run.c.due_at, postgresql_where=run.c.due_at.isnot(None), sqlite_where=run.c.due_at.isnot(None))
# Serves the look, FIND_EXPIRED, and asking what runs now.
Index(
    "rota_run_lease",
    run.c.lease_ends_at,
    postgresql_where=run.c.lease_ends_at.isnot(None),
    sqlite_where=run.c.lease_ends_at.isnot(None),
)
# Serves FIND_OPEN and WAKE_QUEUED.
Index(
    "rota_run_open_schedule",
    run.c.open_schedule_id,
    postgresql_where=run.c.open_schedule_id.isnot(None),
    sqlite_where=run.c.open_schedule_id.isnot(None),
)
# Serves `run list --job`, and the last run of a job.
Index("rota_run_job", run.c.job_id, run.c.id)
# Serves the board: what a job has at a time.
Index("rota_run_moment", run.c.job_id, run.c.moment_at)
# Likewise: what of a job is not finished, whenever it is for. The job comes second, or MariaDB would take this one for
# whatever asks for the runs of a job.
Index(
    "rota_run_unfinished",
    run.c.finished_at,
    run.c.job_id,
    postgresql_where=run.c.finished_at.is_(None),
    sqlite_where=run.c.finished_at.is_(None),
)
# The order of the few runs that an index of few rows finds: along the primary key, SQLite would look through all that
# have ended, since it does not know that they are few.
OLDEST_FIRST = run.c.id + 0

# Serves the fair share between keys: what is asked for last with a key.
Index(
    "rota_run_concurrency_key",
    run.c.open_concurrency_key,
    run.c.job_id,
    run.c.urgency,
    postgresql_where=run.c.open_concurrency_key.isnot(None),
    sqlite_where=run.c.open_concurrency_key.isnot(None),
)
# Likewise: what would be claimed first of a job whose keys share.
Index(
    "rota_run_ready_key",
    run.c.ready_key_job_id,
    run.c.priority,
    run.c.urgency,
    postgresql_where=run.c.ready_key_job_id.isnot(None),
    sqlite_where=run.c.ready_key_job_id.isnot(None),
)
# Serves the runs of one group.
Index(
    "rota_run_group",
    run.c.group_id,
    postgresql_where=run.c.group_id.isnot(None),
    sqlite_where=run.c.group_id.isnot(None),
)

# Serves the look and FIND_AWAITING: whose upstreams are to be looked at next.
Index(
    "rota_run_upstreams_due",
    run.c.upstreams_due_at,
    postgresql_where=run.c.upstreams_due_at.isnot(None),
    sqlite_where=run.c.upstreams_due_at.isnot(None),
)
# Serves FIND_DEPENDANTS: what an end may let go.
Index(
    "rota_run_awaiting",
    run.c.awaiting_job_id,
    run.c.slot_at,
    postgresql_where=run.c.awaiting_job_id.isnot(None),
    sqlite_where=run.c.awaiting_job_id.isnot(None),
)
# Serves COUNT_STATES: what has become of the runs of a backfill.
Index(
    "rota_run_backfill",
    run.c.backfill_id,
    run.c.schedule_id,
    postgresql_where=run.c.backfill_id.isnot(None),
    sqlite_where=run.c.backfill_id.isnot(None),
)

# Serves the look and FIND_DUE_PERIODS: whose ends are to be taken note of.
Index(
    "rota_run_open_period",
    run.c.open_period_id,
    run.c.finished_at,
    postgresql_where=run.c.open_period_id.isnot(None),
    sqlite_where=run.c.open_period_id.isnot(None),
)

# For whatever locks a node's own runs on MySQL and MariaDB, which lock each row that they look at: by another index,
# such as that of all running ones, a node would wait for what any other has locked, and all of them for one that froze.
BY_CLAIM_ALONE = "force index (rota_run_claim_id_key)"
BY_ID_ALONE = "force index (primary)"

_UNFINISHED = ", ".join(f"'{state.value}'" for state in UNFINISHED_PERIODS)

# The periods of jobs that have some, from their first up to now.
period = Table(
    "rota_period",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, nullable=False),
    Column("name", Name, nullable=False),
    Column("start_at", Instant, nullable=False),
    Column("end_at", Instant, nullable=False),  # not in it
    Column("state", Word, nullable=False),
    Column("reason", Word, nullable=False),
    Column("reason_text", LongText, nullable=False),
    Column("due_at", Instant),  # when to look at it; NULL: when something is told
    Column("round", Integer, nullable=False),  # how many runs were made for it
    Column("run_id", Id),  # the last of them
    Column("is_void", YesNo, nullable=False),  # that one was made before the period was taken back: it counts no more
    Column("covered_until", Instant),  # by runs that succeeded while it was open; NULL: by none
    Column("asked_by", Name),  # who took it back, or skipped it, last
    Column("updated_at", Instant, nullable=False),
    Column("finished_at", Instant),
    # start_at while it is not finished, else NULL.
    Column(
        "unfinished_at",
        Instant,
        Computed(f"case when state in ({_UNFINISHED}) then start_at end", persisted=True),
    ),
    UniqueConstraint("job_id", "start_at", name="rota_period_start"),
    _one_of("state", PeriodState),
    *_within(0, COUNT_MAX, "round"),
    **_MYSQL,
)
# Serves the look and FIND_DUE_PERIODS.
Index(
    "rota_period_due",
    period.c.due_at,
    postgresql_where=period.c.due_at.isnot(None),
    sqlite_where=period.c.due_at.isnot(None),
)
# Serves the oldest of a job, and what is not finished within another.
Index(
    "rota_period_unfinished",
    period.c.job_id,
    period.c.unfinished_at,
    postgresql_where=period.c.unfinished_at.isnot(None),
    sqlite_where=period.c.unfinished_at.isnot(None),
)

# What one node at a time does: whoever has locked the row of that name.
lock = Table(
    "rota_lock",
    metadata,
    Column("name", Word, primary_key=True),
    **{name: value for name, value in _MYSQL.items() if name != "sqlite_autoincrement"},
)

# The places that limits have: taken by a claim, given back when it ends. A limit of N has the numbers 1 to N.
permit = Table(
    "rota_permit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("scope", Word, nullable=False),  # job, mutex, key, group, rate
    Column("job_id", Id, nullable=False),  # 0 for a mutex, which many jobs share
    Column("name", Name, nullable=False),  # of the mutex, the key or the group; '' for a job's own
    Column("number", Integer, nullable=False),
    Column("claim_id", Token),  # who has it; NULL: nobody
    Column("taken_at", Instant),
    Column("free_at", Instant),  # of a rate: until then it counts as taken, whatever became of the claim
    UniqueConstraint("scope", "job_id", "name", "number", name="rota_permit_number"),
    *_within(1, RUNNING_MAX, "number"),
    **_MYSQL,
)
# Serves giving back, and what a claim leaves out, FULL_JOBS and the others: few are taken, among many that are not.
Index(
    "rota_permit_claim",
    permit.c.claim_id,
    permit.c.scope,
    permit.c.job_id,
    permit.c.name,
    postgresql_where=permit.c.claim_id.isnot(None),
    sqlite_where=permit.c.claim_id.isnot(None),
)
# Serves SPENT_JOBS, and the look.
Index(
    "rota_permit_free",
    permit.c.free_at,
    permit.c.job_id,
    postgresql_where=permit.c.free_at.isnot(None),
    sqlite_where=permit.c.free_at.isnot(None),
)

attempt = Table(
    "rota_attempt",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", Id, ForeignKey("rota_run.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", Word, nullable=False),
    Column("claim_id", Token, nullable=False, unique=True),
    Column("fence", Id, nullable=False),
    Column("node", Name, nullable=False),
    Column("environment", Name),  # what it was claimed for; NULL: the worker's own
    Column("environment_version", Name),
    Column("boot_id", Token),
    Column("pid", Integer),
    Column("claimed_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("reason", Word),
    Column("reason_text", LongText),
    Column("exit_code", Integer),
    Column("exit_signal", SmallInteger),
    Column("error_type", LongText),
    Column("error_message", LongText),
    Column("traceback", LongText),
    Column("result", LongText),
    Column("seconds", Number),  # by the guardian's own clock
    Column("cpu_seconds", Number),
    Column("memory_bytes_max", Id),
    Column("read_bytes", Id),  # from disks, by the process and those it waited for; NULL: nobody knows
    Column("written_bytes", Id),  # to disks, likewise
    Column("stdout_bytes", Id),  # written by the job; what is kept of it is in rota_output
    Column("stderr_bytes", Id),
    Column("orphan_at", Instant),  # when an end came that no longer counted
    Column("orphan", LongText),  # that end, as JSON
    Column("cold_because", LongText),  # why a callable was started in a fresh interpreter although it might be warm
    Column("executor", Word),  # thread, async: pid is the executor process that it shared with others
    UniqueConstraint("run_id", "attempt", name="rota_attempt_number"),
    _one_of("state", AttemptState),
    *_within(0, COUNT_MAX, "attempt"),
    **_MYSQL,
)

# What a job wrote, in pieces: the head, and the tail when the middle was left out.
output = Table(
    "rota_output",
    metadata,
    Column("attempt_id", Id, ForeignKey("rota_attempt.id", ondelete="CASCADE"), primary_key=True),
    Column("stream", Word, primary_key=True),  # stdout, stderr
    Column("position", Id, primary_key=True, autoincrement=False),  # of the first byte in all that was written
    Column("data", Blob, nullable=False),
    Column("marks", LongText),  # JSON: positions, and the microseconds from the start to when these bytes came
    **_MYSQL,
)

# How many runs of a job ended how, by what they are for; and how many attempts a node had, by when they ended. Told in
# the transaction that ends them, and folded into the two tables below by one node at a time: many nodes would wait for
# each other if each end changed a number there.
tally = Table(
    "rota_tally",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, nullable=False),  # 0: it is of a node
    Column("node", Name, nullable=False),  # '': it is of a job
    Column("quarter", Id, nullable=False),  # of an hour, since 1970 began
    Column("quarter_last", Id),  # of a row that stands for many slots, spread up to there; NULL: that one alone
    Column("state", Word, nullable=False),
    Column("ended_count", Id, nullable=False),  # less than zero: so many are done again, or are something else now
    Column("busy_seconds", Number, nullable=False),
    Column("delay_seconds", Number, nullable=False),  # from when they might start to when they did, together
    Column("delay_count", Id, nullable=False),  # of so many: those that ended with their first attempt
    **_MYSQL,
)

_NO_SEQUENCE = {name: value for name, value in _MYSQL.items() if name != "sqlite_autoincrement"}

# How the runs of each job ended, by the quarters of an hour, the hours and the days (in UTC) that they are for. Days
# outlive the runs.
job_rollup = Table(
    "rota_job_rollup",
    metadata,
    Column("unit", Word, primary_key=True),  # quarter, hour, day
    Column("job_id", Id, primary_key=True, autoincrement=False),  # 0: all jobs together
    Column("start_at", Instant, primary_key=True),
    Column("state", Word, primary_key=True),
    Column("ended_count", Id, nullable=False),
    Column("delay_seconds", Number, nullable=False),
    Column("delay_count", Id, nullable=False),
    **_NO_SEQUENCE,
)
# Serves FIND_TROUBLED: the jobs of which something ended badly.
_ended_badly = text("state in ('failed', 'lost', 'missed')")
Index(
    "rota_job_rollup_state",
    job_rollup.c.unit,
    job_rollup.c.state,
    job_rollup.c.start_at,
    job_rollup.c.job_id,
    postgresql_where=_ended_badly,
    sqlite_where=_ended_badly,
)

# How the attempts on each node ended, by when they did, likewise.
node_rollup = Table(
    "rota_node_rollup",
    metadata,
    Column("unit", Word, primary_key=True),  # quarter, hour, day
    Column("node", Name, primary_key=True),
    Column("start_at", Instant, primary_key=True),
    Column("state", Word, primary_key=True),
    Column("ended_count", Id, nullable=False),
    Column("busy_seconds", Number, nullable=False),
    **_NO_SEQUENCE,
)

# What somebody asks for with nothing but a SQL prompt, and what became of it. Only the first four columns are theirs.
command = Table(
    "rota_command",
    metadata,
    Column("id", Id, primary_key=True),
    Column("verb", Name, nullable=False),  # as of the command line, with a dot: job.pause
    Column("target", Name),  # what it is about: the name of a job, the id of a run
    Column("params", LongText),  # JSON object: flags with underscores, and what follows the target; NULL: none
    Column("state", Word, nullable=False, server_default=CommandState.PENDING.value),
    Column("outcome", LongText),  # JSON: what the command line shows with --json
    Column("error", LongText),  # JSON: code, message, and what else is known, as field and rule
    Column("requested_by", Name, nullable=False, server_default=by_default("user")),
    Column("created_at", Instant, nullable=False, server_default=by_default("now")),
    Column("answered_at", Instant),
    Column("answered_by", Name),  # the node
    _one_of("state", CommandState),
    **_MYSQL,
)
# Serves the look and FIND_PENDING.
Index(
    "rota_command_pending",
    command.c.state,
    command.c.id,
    postgresql_where=command.c.state == text("'pending'"),
    sqlite_where=command.c.state == text("'pending'"),
)

# Who may log in over HTTP, and what each may do then.
account = Table(
    "rota_user",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("role", Word, nullable=False),  # viewer, operator, admin
    Column("state", Word, nullable=False, server_default=AccountState.ACTIVE.value),
    Column("password_hash", Name),  # argon2id with its parameters; NULL: nobody logs in by a password
    Column("created_at", Instant, nullable=False),
    Column("created_by", Name, nullable=False),
    Column("password_at", Instant),  # when it was set last
    Column("last_login_at", Instant),
    _one_of("role", Role),
    _one_of("state", AccountState),
    **_MYSQL,
)

# What a program shows to act over HTTP. The secret itself is nowhere: only what it is compared by.
token = Table(
    "rota_token",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("public_id", Token, nullable=False, unique=True),  # the first part of it, to recognise it by
    Column("secret_hash", Token, nullable=False),  # SHA-256 of all of it
    Column("user_id", Id),  # whose it is; NULL: a service's, that is nobody's
    Column("role", Word, nullable=False),  # and never more than its user's
    Column("scopes", LongText),  # JSON list of patterns of verbs; NULL: all that the role may
    Column("created_at", Instant, nullable=False),
    Column("created_by", Name, nullable=False),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),  # written once a minute at most
    Column("revoked_at", Instant),
    Column("revoked_by", Name),
    _one_of("role", Role),
    **_MYSQL,
)
# Serves what becomes of a user's tokens.
Index("rota_token_user", token.c.user_id)

# Who is logged in with a browser.
session = Table(
    "rota_session",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key_hash", Token, nullable=False, unique=True),  # SHA-256 of the key in the browser's cookie
    Column("csrf", Token, nullable=False),
    Column("user_id", Id),  # NULL: somebody whom another system has identified, and who has no row here
    Column("user_name", Name, nullable=False),
    Column("role", Word, nullable=False),  # of who has no row here; of a user it is the user's
    Column("source", Word, nullable=False),  # password, oidc, proxy
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),  # written once a minute at most
    Column("address", Token),
    Column("user_agent", Name),  # shortened
    _one_of("role", Role),
    _one_of("source", Source),
    **_MYSQL,
)
# Serves the end of all sessions of a user.
Index("rota_session_user", session.c.user_name)
# Serves the tidying.
Index("rota_session_expires", session.c.expires_at)

# Log-ins that did not succeed, or are tried at this moment: for an hour. Names only as hashes: people type passwords
# into the wrong field.
login_failure = Table(
    "rota_login_failure",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("name_hash", Token, nullable=False),
    Column("address", Token, nullable=False),  # of IPv6 the network of 64 bits
    **_MYSQL,
)
Index("rota_login_failure_name", login_failure.c.name_hash, login_failure.c.at)
Index("rota_login_failure_address", login_failure.c.address, login_failure.c.at)

# What does not go on by itself, as it was last seen: told when it begins and when it ends, and not in between.
finding = Table(
    "rota_finding",
    metadata,
    Column("id", Id, primary_key=True),
    Column("code", Word, nullable=False),
    Column("subject", Name, nullable=False),
    Column("severity", Word, nullable=False),  # warning, critical: the worst since it began
    Column("text", LongText, nullable=False),
    Column("since", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    UniqueConstraint("code", "subject", name="rota_finding_subject"),
    **_MYSQL,
)

# How each kind of alert of a job stands: when somebody was told, what was held back since, and whether it is still so.
alert = Table(
    "rota_alert",
    metadata,
    Column("job_id", Id, primary_key=True, autoincrement=False),
    Column("kind", Word, primary_key=True),  # failure, lost, missed, late, absent, long
    Column("told_at", Instant),  # when an alert was made last
    Column("held_count", Id, nullable=False, server_default=text("0")),  # since then, untold
    Column("held_last", LongText),  # JSON: the last of these
    Column("due_at", Instant),  # when they are told; NULL: there are none
    Column("open_since", Instant),  # since when it is so; NULL: it is not
    Column("is_told", YesNo),  # that it is so
    Column("seen_at", Instant),  # of what is looked for once a minute: when it was there last
    **_NO_SEQUENCE,
)
# Serves FIND_HELD.
Index(
    "rota_alert_due",
    alert.c.due_at,
    postgresql_where=alert.c.due_at.isnot(None),
    sqlite_where=alert.c.due_at.isnot(None),
)

event = Table(
    "rota_event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("run_id", Id),
    Column("schedule", Name),
    Column("job", Name),
    Column("kind", Word, nullable=False),  # run, schedule, job, calendar, pool, node, clock, health, backfill
    Column("from_state", Word),
    Column("to_state", Word),
    Column("reason", Word),
    Column("text", LongText),
    Column("attempt", Integer),
    Column("node", Name),
    Column("actor", Name),
    **_MYSQL,
)
Index("rota_event_run", event.c.run_id, event.c.id)
# Serves the history of one job, schedule or node: few rows, among the many of runs.
Index(
    "rota_event_kind",
    event.c.kind,
    event.c.id,
    postgresql_where=event.c.kind != text("'run'"),
    sqlite_where=event.c.kind != text("'run'"),
)


# Who did what, through which door: a row for each act of a person, written in the transaction of the act.
audit = Table(
    "rota_audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", Name, nullable=False),
    Column("door", Word, nullable=False),  # cli, python, http, page, sql
    Column("address", Token),  # where the request came from
    Column("via", Name),  # the token by which the actor acted
    Column("kind", Word, nullable=False),  # job, schedule, run, period, node, pool, calendar, backfill, user, token ...
    Column("subject", Name, nullable=False),  # its name, or its number
    Column("did", Word, nullable=False),  # what became of it: added, paused, cancelled ...
    Column("text", LongText, nullable=False),
    _one_of("door", Door),
    **_MYSQL,
)
# Each serves a list of its own, newest first; the last one finds where a time begins.
Index("rota_audit_actor", audit.c.actor, audit.c.id)
Index("rota_audit_door", audit.c.door, audit.c.id)
Index("rota_audit_kind", audit.c.kind, audit.c.id)
Index("rota_audit_subject", audit.c.subject, audit.c.id)
Index("rota_audit_at", audit.c.at)
