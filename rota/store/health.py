"""Silence is noticed: what does not go on by itself, found by whoever looks.

Invariant: looking changes nothing, and costs the same with a million runs in the ledger: each part is one look into an
index, or bounded by a number of rows. Called by the doors, and by the one node that looks for all in ``findings``.
Over-long, as a list of looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    ScalarSelect,
    bindparam,
    desc,
    func,
    literal,
    not_,
    or_,
    select,
    text,
)

from rota.errors import Invalid, RotaError
from rota.model.alerts import ALERT_JOB_PREFIX, job_of_channel, read_rule, variable_of_channel
from rota.model.calendars import Calendar
from rota.model.findings import Finding, FindingCode, Severity, Thresholds, judge_all, sort_findings
from rota.model.forecast import FAR_LONGER_SECONDS
from rota.model.instants import format_instant, say_moment, say_slot
from rota.model.names import NAME_LENGTH_MAX
from rota.model.secret import read_names
from rota.model.states import UNFINISHED, JobState, RunState
from rota.model.timing import TimingKind, parse_any
from rota.store.breakers import FIND_NOT_CLOSED, MAY_BE_CLAIMED, say_held
from rota.store.clock import READ_HELD
from rota.store.database import Database, now_of
from rota.store.durations import read_durations
from rota.store.period_view import find_held_periods
from rota.store.permits import WITHIN_LIMITS, find_kept_waiting
from rota.store.placing import read_selectors
from rota.store.pool_rules import READ_RULES, rule_of
from rota.store.pools import (
    GOODBYE_SECONDS,
    excludes_all,
    have_just_left,
    is_drained,
    last_seen,
    read_servers,
    say_excluded,
    say_full,
    say_lacking,
    say_nobody,
    say_unsupplied,
    serving,
)
from rota.store.shown import say_span
from rota.store.suspension import read_paused_pools, say_paused
from rota.store.tables import calendar, event, finding, job, run, schedule
from rota.store.tables import pool as pools
from rota.store.types import AnyRow, Number, db_now, db_now_plus
from rota.store.upstreams import find_cycles, find_held_up

FOUND_MAX = 100  # rows of one kind
NAMED_MAX = 5  # of them, those that a sentence names
POOLS_MAX = 100
CALENDARS_MAX = 1000
READY_LOOKED_AT = 10_000  # of a pool, those that are claimed first
RECENT_RUNS = 10_000
RUNNING_LOOKED_AT = 1000
FAILURES_IN_ROW = 3
LAST_RUNS = 50
SKIPS_IN_ROW = 3
HOLIDAYS_DAYS = 60
CLOCK_TOLD_SECONDS = 3600.0
SKEW_SECONDS = 1.0  # between the clocks of a node and of the database
SILENT_SECONDS_MAX = 86400.0  # then a node is taken for gone

_is_active = schedule.c.state == JobState.ACTIVE.value
_late = db_now_plus(-bindparam("late_seconds", type_=Number))

_name_of_job = select(job.c.name).where(job.c.id == schedule.c.job_id).scalar_subquery()
# Slots that are due and undecided, oldest first. Served by rota_schedule_due, and so are the next three.
FIND_ABSENT = (
    select(schedule.c.name, schedule.c.next_slot_at, _name_of_job.label("job"))
    .where(_is_active, schedule.c.problem.is_(None), schedule.c.next_slot_at < _late)
    .order_by(schedule.c.next_slot_at)
    .limit(FOUND_MAX)
)
# A schedule is set aside when its slot comes, and its cursor stays there.
FIND_SET_ASIDE = (
    select(schedule.c.name, schedule.c.problem, schedule.c.next_slot_at)
    .where(_is_active, schedule.c.problem.is_not(None), schedule.c.next_slot_at <= db_now())
    .order_by(schedule.c.next_slot_at)
    .limit(FOUND_MAX)
)
_ended = (_is_active, schedule.c.problem.is_(None), schedule.c.next_slot_at.is_(None))
_ENDED = [schedule.c.name, schedule.c.kind, schedule.c.expression, schedule.c.last_slot_at]
_was_told_to_end = or_(schedule.c.kind == TimingKind.AT.value, schedule.c.end_at.is_not(None))
FIND_STOPPED = select(*_ENDED).where(*_ended, ~_was_told_to_end).limit(FOUND_MAX)
FIND_ENDED = select(*_ENDED).where(*_ended, _was_told_to_end).limit(FOUND_MAX)
HAS_AHEAD = (
    select(schedule.c.next_slot_at)
    .where(_is_active, schedule.c.problem.is_(None), schedule.c.next_slot_at.is_not(None))
    .order_by(schedule.c.next_slot_at)
    .limit(1)
)
# Served by rota_schedule_skips, whose condition is repeated as it stands.
FIND_SKIPPING = (
    select(schedule.c.name, schedule.c.skips_in_row, schedule.c.last_slot_at)
    .where(schedule.c.skips_in_row >= text(str(SKIPS_IN_ROW)), _is_active)
    .limit(FOUND_MAX)
)

# Runs whose moment has passed and that nobody has moved on; not those made of an old slot just now, nor those in a
# queue, whose moment is put back when their turn may have come. Served by rota_run_due, rota_run_lease.
FIND_STUCK = (
    select(run.c.id, run.c.job, run.c.due_at.label("moment"))
    .where(run.c.due_at < _late, run.c.enqueued_at < _late, not_(run.c.queued))
    .order_by(run.c.due_at)
    .limit(FOUND_MAX)
)
# Likewise those whose upstreams nobody has looked at. Served by rota_run_upstreams_due.
FIND_UNLOOKED = (
    select(run.c.id, run.c.job, run.c.upstreams_due_at.label("moment"))
    .where(run.c.upstreams_due_at < _late, run.c.enqueued_at < _late)
    .order_by(run.c.upstreams_due_at)
    .limit(FOUND_MAX)
)
FIND_EXPIRED = (
    select(run.c.id, run.c.job, run.c.node, run.c.lease_ends_at.label("moment"))
    .where(run.c.lease_ends_at < _late)
    .order_by(run.c.lease_ends_at)
    .limit(FOUND_MAX)
)
HAS_DUE = select(run.c.id).where(run.c.due_at.is_not(None)).order_by(run.c.due_at).limit(1)

# The pools that have ready runs, one look into rota_run_claim for each, however many runs are ready.
_is_ready = run.c.state == text(f"'{RunState.READY.value}'")
_first_pool = select(func.min(run.c.pool).label("pool"), literal(1).label("number")).where(_is_ready)
_pools = _first_pool.cte("ready_pools", recursive=True)
READ_READY_POOLS = select(
    _pools.union_all(
        select(
            select(func.min(run.c.pool)).where(_is_ready, run.c.pool > _pools.c.pool).scalar_subquery(),
            _pools.c.number + 1,
        ).where(_pools.c.pool.is_not(None), _pools.c.number < POOLS_MAX)
    ).c.pool
)
# Of the ready runs of a pool that are claimed first, those that have been there for a while. Served by rota_run_claim
# in its own order.
_ready = (
    select(run.c.id, run.c.job, run.c.job_id, run.c.target_node, run.c.run_at, run.c.enqueued_at)
    .where(run.c.state == RunState.READY.value, run.c.pool == bindparam("pool"), MAY_BE_CLAIMED, WITHIN_LIMITS)
    .order_by(run.c.urgency, run.c.run_at, run.c.id)
)
HAS_READY = _ready.limit(1)
_first = _ready.limit(READY_LOOKED_AT).subquery("first_ready")
FIND_LATE = select(_first).where(_first.c.run_at < _late, _first.c.enqueued_at < _late).limit(FOUND_MAX)
# Whether runs that ask for an environment are among them; and the jobs that do.
HAS_READY_IN = (
    select(_first.c.id)
    .where(_first.c.job_id.in_(select(job.c.id).where(job.c.env == bindparam("env", type_=job.c.env.type))))
    .limit(1)
)
READ_ENVIRONMENTS = (
    select(job.c.pool, job.c.env)
    .where(job.c.env.is_not(None), job.c.env != "", job.c.state == JobState.ACTIVE.value)
    .distinct()
    .order_by(job.c.pool, job.c.env)
    .limit(FOUND_MAX)
)
# The same of secrets.
_names_secrets = job.c.secrets == bindparam("secrets", type_=job.c.secrets.type)
HAS_READY_WITH = select(_first.c.id).where(_first.c.job_id.in_(select(job.c.id).where(_names_secrets))).limit(1)
READ_SECRETS = (
    select(job.c.pool, job.c.env, job.c.secrets)
    .where(job.c.secrets.is_not(None), job.c.secrets != "", job.c.state == JobState.ACTIVE.value)
    .distinct()
    .order_by(job.c.pool, job.c.env, job.c.secrets)
    .limit(FOUND_MAX)
)
# What jobs that are not paused say of who is told.
READ_ALERTS = (
    select(job.c.alert)
    .where(job.c.alert.is_not(None), job.c.state == JobState.ACTIVE.value)
    .distinct()
    .order_by(job.c.alert)
    .limit(FOUND_MAX)
)
FIND_TOLD = (
    select(job.c.name)
    .where(job.c.alert == bindparam("alert", type_=job.c.alert.type))
    .order_by(job.c.name)
    .limit(NAMED_MAX + 1)
)
# Served by the unique name.
FIND_SENDERS = select(job.c.id, job.c.name).where(job.c.name.in_(bindparam("names", expanding=True)))
READ_ENVIRONMENTS_OF = (
    select(job.c.env, job.c.secrets)
    .where(
        job.c.id.in_(bindparam("job_ids", expanding=True)),
        or_(job.c.env.is_not(None), job.c.secrets.is_not(None)),
    )
    .distinct()
)
READ_EXCLUDES_OF = (
    select(job.c.name, job.c.exclude)
    .where(job.c.id.in_(bindparam("job_ids", expanding=True)), job.c.exclude.is_not(None))
    .order_by(job.c.name)
)
# Since when they are ready: a run may have waited, or run, before. Served by rota_event_run.
READ_READY_SINCE = (
    select(event.c.run_id, func.max(event.c.at).label("at"))
    .where(event.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .group_by(event.c.run_id)
)
READ_JOB_POOLS = select(job.c.pool).where(job.c.state == JobState.ACTIVE.value).distinct().limit(POOLS_MAX)
HAS_POOL = select(pools.c.id).where(pools.c.name == bindparam("pool"))
# Served by rota_schedule_job.
HAS_SCHEDULE = (
    select(schedule.c.id)
    .join(job, job.c.id == schedule.c.job_id)
    .where(
        job.c.pool == bindparam("pool"),
        job.c.state == JobState.ACTIVE.value,
        _is_active,
        schedule.c.problem.is_(None),
        schedule.c.next_slot_at.is_not(None),
    )
    .limit(1)
)
HAS_SCHEDULE_IN = HAS_SCHEDULE.where(job.c.env == bindparam("env", type_=job.c.env.type))
HAS_SCHEDULE_WITH = HAS_SCHEDULE.where(_names_secrets)

# By a bound that a planner sees, as in `status`.
_recent = select(run.c.id, run.c.job_id, run.c.state).order_by(desc(run.c.id)).limit(RECENT_RUNS).subquery("recent")
_BAD = (RunState.FAILED.value, RunState.LOST.value)
_ENDED_BY_ITSELF = {RunState.SUCCEEDED.value, *_BAD}
# Jobs that may be failing: of which several runs failed lately, and those that were before. Served by the primary key,
# and by rota_run_job for the runs of each.
FIND_FAILED_JOBS = select(_recent.c.job_id).where(_recent.c.state.in_(_BAD)).group_by(_recent.c.job_id).limit(FOUND_MAX)
FIND_JOBS_FOUND = (
    select(job.c.id)
    .join(finding, finding.c.subject == job.c.name)
    .where(finding.c.code == FindingCode.JOB_FAILING.value)
    .limit(FOUND_MAX)
)


def _state_of(number: int) -> ScalarSelect[str]:
    """Return the state of a job's last run but so many."""
    of_job = select(run.c.state).where(run.c.job_id == job.c.id).order_by(desc(run.c.id)).limit(1).offset(number)
    return of_job.correlate(job).scalar_subquery()


# A job of whose last few runs one has succeeded is not failing.
READ_ACTIVE_JOBS = select(job.c.id, job.c.name).where(
    job.c.id.in_(bindparam("job_ids", expanding=True)),
    job.c.state == JobState.ACTIVE.value,
    ~job.c.name.startswith(ALERT_JOB_PREFIX),  # of which one failure is enough
    *(func.coalesce(_state_of(number), "") != RunState.SUCCEEDED.value for number in range(FAILURES_IN_ROW)),
)
READ_LAST_RUNS = (
    select(run.c.id, run.c.state, run.c.reason_text, run.c.retries_used, run.c.enqueued_at, run.c.finished_at)
    .where(run.c.job_id == bindparam("job_id"))
    .order_by(desc(run.c.id))
    .limit(LAST_RUNS)
)

# Runs that may have taken too long by now, as many as are looked at; one whose processes are held takes no time. Served
# by rota_run_lease.
FIND_LONG = (
    select(run.c.id, run.c.job_id, run.c.job, run.c.node, run.c.marked_at)
    .where(
        run.c.lease_ends_at.is_not(None),
        run.c.marked_at < db_now_plus(literal(-FAR_LONGER_SECONDS)),
        run.c.freeze_asked_at.is_(None),
    )
    .order_by(run.c.lease_ends_at)
    .limit(RUNNING_LOOKED_AT)
)

READ_CALENDARS = select(calendar.c.name, calendar.c.definition).order_by(calendar.c.name).limit(CALENDARS_MAX)

# Served by rota_event_kind, whose condition is repeated as it stands.
FIND_STEP = (
    select(event.c.at, event.c.text)
    .where(event.c.kind == text("'clock'"), event.c.kind != text("'run'"))
    .order_by(desc(event.c.id))
    .limit(1)
)

READ_FINDINGS = select(finding)
# Served by rota_run_claim and rota_run_lease.
COUNT_READY = select(func.count()).where(run.c.state == RunState.READY.value)
COUNT_RUNNING = select(func.count()).where(run.c.lease_ends_at.is_not(None))


@dataclass(frozen=True, slots=True)
class Health:
    """How things stand."""

    now: datetime
    findings: tuple[Finding, ...]  # what is worst first
    ready: int
    running: int
    late: int  # ready for too long; 100 stands for more
    nodes: int  # that are alive
    cgroups: int  # nodes of these whose attempts get cgroups


def check_health(database: Database, thresholds: Thresholds = Thresholds()) -> Health:  # noqa: B008 - frozen
    """Look at everything that should go on by itself, and return what does not.

    Raises:
        DatabaseUnavailable: nobody answers: nothing is known.
    """
    return database.read(lambda connection: _Look(connection, thresholds).look())


def show_health(health: Health) -> dict[str, Any]:
    """Show how things stand with the words of the doors."""
    return {
        "state": judge_all(health.findings),
        "now": format_instant(health.now),
        "counts": {
            "ready": health.ready,
            "running": health.running,
            "late": health.late,
            "nodes": health.nodes,
            "cgroups": health.cgroups,
        },
        "findings": [
            {
                "severity": found.severity.value,
                "code": found.code.value,
                "subject": found.subject,
                "text": found.text,
                "since": None if found.since is None else format_instant(found.since),
            }
            for found in health.findings
        ],
    }


class _Look:
    """One look at everything."""

    def __init__(self, connection: Connection, thresholds: Thresholds) -> None:
        self._connection = connection
        self._thresholds = thresholds
        self._late = {"late_seconds": thresholds.warning_late_seconds}
        self._now = now_of(connection)
        self._held_until: datetime | None = connection.execute(READ_HELD).scalar()
        self._servers = read_servers(connection)
        self._paused_pools = read_paused_pools(connection)
        self._found: list[Finding] = []
        self._alerted: dict[str, list[str]] = {}  # channels, and what jobs that name them say of alerts
        for alerts in connection.execute(READ_ALERTS).scalars():
            for channel in read_rule("", alerts, None, None).channels:
                self._alerted.setdefault(channel, []).append(alerts)

    def look(self) -> Health:
        ready_pools = [pool for pool in self._connection.execute(READ_READY_POOLS).scalars() if pool is not None]
        self._look_at_clock()
        if self._held_until is None:  # else what is late is left alone on purpose
            self._look_at_slots()
            self._look_at_moments()
        late = sum(self._look_at_ready(pool) for pool in ready_pools)
        if any(server.is_there for server in self._servers):
            self._look_at_pools(ready_pools)
            self._look_at_environments(ready_pools)
            self._look_at_secrets(ready_pools)
            self._look_at_channels()
        else:
            is_late = any(found.code is not FindingCode.CLOCK_STEPPED for found in self._found)
            self._tell_stopped(has_come=is_late or any(map(self._has_ready, ready_pools)))
        self._look_at_rules()
        self._look_at_nodes()
        self._look_at_node_clocks()
        self._look_at_zone_data()
        self._look_at_keeping()
        self._look_at_schedules()
        self._look_at_running()
        self._look_at_upstreams()
        self._look_at_periods()
        self._look_at_breakers()
        self._look_at_jobs()
        self._look_at_alerts()
        self._look_at_calendars()
        return Health(
            now=self._now,
            findings=tuple(sort_findings(self._with_beginnings())),
            ready=self._connection.execute(COUNT_READY).scalar_one() if ready_pools else 0,
            running=self._connection.execute(COUNT_RUNNING).scalar_one(),
            late=late,
            nodes=sum(server.is_alive for server in self._servers),
            cgroups=sum(server.is_alive and server.uses_cgroups for server in self._servers),
        )

    def _tell(
        self,
        severity: Severity,
        code: FindingCode,
        subject: str,
        sentence: str,
        since: datetime | None = None,
        *,
        jobs: Iterable[str] = (),
    ) -> None:
        self._found.append(Finding(severity, code, subject, sentence, since, tuple(sorted(set(jobs)))))

    def _look_at_clock(self) -> None:
        step = self._connection.execute(FIND_STEP).one_or_none()
        if self._held_until is not None:
            left = say_span(self._held_until - self._now)
            told = f"{step.text}; " if step is not None else ""
            sentence = f"{told}the hold ends at {say_moment(self._held_until)}, in {left}"
            since = step.at if step is not None else None
            self._tell(Severity.CRITICAL, FindingCode.CLOCK_STEPPED, "database", sentence, since)
        elif step is not None and step.at is not None and self._age(step.at) < CLOCK_TOLD_SECONDS:
            self._tell(Severity.WARNING, FindingCode.CLOCK_STEPPED, "database", step.text, step.at)

    def _age(self, moment: datetime | None) -> float:
        return 0.0 if moment is None else (self._now - moment).total_seconds()

    def _look_at_slots(self) -> None:
        rows = self._connection.execute(FIND_ABSENT, self._late).all()
        if rows:
            oldest: datetime = rows[0].next_slot_at
            each = _name(rows, lambda row: f"{row.name} at {say_slot(row.next_slot_at)}")
            sentence = f"{_count(rows, 'slot')} due and not decided, for up to {say_span(self._now - oldest)}: {each}"
            severity = self._thresholds.judge(self._age(oldest))
            of_jobs = [row.job for row in rows if row.job is not None]
            self._tell(severity, FindingCode.SLOT_ABSENT, "schedules", sentence, oldest, jobs=of_jobs)

    def _look_at_moments(self) -> None:
        stuck: list[AnyRow] = []
        for find in (FIND_STUCK, FIND_UNLOOKED):
            stuck += self._connection.execute(find, self._late).all()
        if stuck:
            each = _name(stuck, lambda row: f"run {row.id} of {row.job} since {say_moment(row.moment)}")
            sentence = f"{_count(stuck, 'run')} to be moved on, and no node does it: {each}"
            severity = self._thresholds.judge(self._age(stuck[0].moment))
            self._tell(severity, FindingCode.RUN_STUCK, "runs", sentence, stuck[0].moment)
        rows = self._connection.execute(FIND_EXPIRED, self._late).all()
        if rows:
            each = _name(rows, lambda row: f"run {row.id} of {row.job} on {row.node} since {say_moment(row.moment)}")
            sentence = f"{_count(rows, 'run')} past the end of the lease, and no node takes them away: {each}"
            self._tell(Severity.CRITICAL, FindingCode.LEASE_OVER, "runs", sentence, rows[0].moment)

    def _look_at_ready(self, pool: str) -> int:
        rows = self._connection.execute(FIND_LATE, self._late | {"pool": pool}).all()
        if not rows:
            return 0
        ids = {"run_ids": [row.id for row in rows]}
        since: dict[int, datetime] = {row.run_id: row.at for row in self._connection.execute(READ_READY_SINCE, ids)}
        edge = self._now - timedelta(seconds=self._thresholds.warning_late_seconds)
        # One without an event was put there by hand.
        ready_since = {row.id: since.get(row.id) or max(row.run_at, row.enqueued_at) for row in rows}
        late = sorted((row for row in rows if ready_since[row.id] < edge), key=lambda row: ready_since[row.id])
        kept = find_kept_waiting(self._connection, [row.id for row in late])
        late = [row for row in late if row.id not in kept]
        if late:
            oldest = ready_since[late[0].id]
            each = _name(late, lambda row: f"run {row.id} of {row.job}")
            span = say_span(self._now - oldest)
            those = f"{_count(late, 'run')} ready in pool {pool}, for up to {span}: {each}"
            if (held := self._say_held(pool)) is not None:  # on purpose, so it is not critical, however late
                self._tell(Severity.WARNING, held[0], pool, f"{those}; {held[1]}", oldest)
                return len(late)
            of_jobs = {row.job for row in late}
            awaited = [row.target_node and say_nobody(self._servers, pool, row.target_node) for row in late]
            if all(awaited):  # each is for one node, and waits for it as long as its window is open
                sentence = f"{those}; {awaited[0]}"
                self._tell(Severity.WARNING, FindingCode.RUN_LATE, pool, sentence, oldest, jobs=of_jobs)
                return len(late)
            why = (
                say_nobody(self._servers, pool)
                or self._say_lacking(pool, [row.job_id for row in late])
                or self._say_excluding(pool, [row.job_id for row in late])
                or say_full(self._servers, pool)
                or "its nodes do not take them"
            )
            severity = self._thresholds.judge(self._age(oldest))
            self._tell(severity, FindingCode.RUN_LATE, pool, f"{those}; {why}", oldest, jobs=of_jobs)
        return len(late)

    def _say_lacking(self, pool: str, job_ids: Sequence[int]) -> str | None:
        rows = self._connection.execute(READ_ENVIRONMENTS_OF, {"job_ids": sorted(set(job_ids))}).all()
        said = [
            say_lacking(self._servers, pool, row.env) or say_unsupplied(self._servers, pool, row.env, row.secrets)
            for row in sorted(rows, key=lambda row: (row.env or "", row.secrets or ""))
        ]
        return next((one for one in said if one is not None), None)

    def _say_excluding(self, pool: str, job_ids: Sequence[int]) -> str | None:
        """Say that one of these jobs excludes every living node of a pool; None when none does."""
        for row in self._connection.execute(READ_EXCLUDES_OF, {"job_ids": sorted(set(job_ids))}).all():
            try:
                exclude = read_selectors("exclude", row.exclude)
            except Invalid:  # written by hand: whoever claims such a run fails it with the reason
                continue
            if excludes_all(self._servers, pool, exclude):
                return say_excluded(self._servers, pool, exclude, who=f"job {row.name}")
        return None

    def _say_held(self, pool: str) -> tuple[FindingCode, str] | None:
        """Say that somebody holds the runs of a pool, and how; None when nobody does."""
        if (row := self._paused_pools.get(pool)) is not None:
            return FindingCode.POOL_PAUSED, say_paused(row)
        if is_drained(self._servers, pool):
            return FindingCode.POOL_DRAINED, say_nobody(self._servers, pool) or ""
        return None

    def _has_ready(self, pool: str) -> bool:
        return self._connection.execute(HAS_READY, {"pool": pool}).first() is not None

    def _tell_stopped(self, *, has_come: bool) -> None:
        has_ahead = any(self._connection.execute(each).scalar() is not None for each in (HAS_AHEAD, HAS_DUE))
        if not has_come and not has_ahead:
            return
        if not self._servers:
            what, since, is_silent = "no node has ever been there", None, False
        else:
            last = last_seen(self._servers)
            how = "fell silent" if last.is_silent else "said goodbye"
            what = f"no node is alive: {last.name} was the last one and {how}, seen {say_moment(last.seen_at)}"
            since, is_silent = last.seen_at, any(server.is_silent for server in self._servers)
            if not is_silent and self._age(since) < GOODBYE_SECONDS:
                return  # what is late by now is a finding of its own
        severity = Severity.CRITICAL if has_come or is_silent else Severity.WARNING
        sentence = f"{what}; nothing is fired, started or rescued: start one with `rota worker`"
        self._tell(severity, FindingCode.SCHEDULER_STOPPED, "cluster", sentence, since)

    def _look_at_pools(self, ready_pools: Sequence[str]) -> None:
        of_jobs = set(self._connection.execute(READ_JOB_POOLS).scalars())
        known = dict.fromkeys([*ready_pools, *sorted(of_jobs)])
        for pool in known:
            nobody = say_nobody(self._servers, pool)
            if nobody is None or self._say_held(pool) is not None:
                continue
            served = serving(self._servers, pool)
            since = last_seen(served).seen_at if served else None
            if have_just_left(served, self._now):
                continue
            if pool in ready_pools and self._has_ready(pool):
                self._tell(Severity.CRITICAL, FindingCode.POOL_EMPTY, pool, f"runs are ready, and {nobody}", since)
            elif self._connection.execute(HAS_SCHEDULE, {"pool": pool}).scalar() is not None:
                sentence = f"schedules of its jobs come due, and {nobody}"
                self._tell(Severity.WARNING, FindingCode.POOL_EMPTY, pool, sentence, since)
            elif pool in of_jobs:
                is_known = self._connection.execute(HAS_POOL, {"pool": pool}).scalar() is not None
                sentence = f"jobs of pool {pool} have nowhere to run: {nobody}"
                unknown = f"there is no pool {pool} yet, and its jobs have nowhere to run: {nobody}"
                self._tell(Severity.WARNING, FindingCode.POOL_EMPTY, pool, sentence if is_known else unknown, since)

    def _look_at_rules(self) -> None:
        for row in self._connection.execute(READ_RULES):
            try:
                rule_of(row)
            except Invalid as error:
                sentence = (
                    f"the rule of pool {row.name} names nobody, since it cannot be read: {error}; give it another with "
                    f"`rota pool edit {row.name}`"
                )
                self._tell(Severity.WARNING, FindingCode.POOL_BROKEN, row.name, sentence)

    def _look_at_environments(self, ready_pools: Sequence[str]) -> None:
        """Look for jobs whose environment no living node of their pool has. Without such a node the pool is told."""
        found: dict[str, list[tuple[Severity, str, datetime | None]]] = {}
        for row in self._connection.execute(READ_ENVIRONMENTS).all():
            lacking = say_lacking(self._servers, row.pool, row.env)
            if lacking is None:
                continue
            had = [server for server in serving(self._servers, row.pool) if server.has(row.env)]
            since = last_seen(had).seen_at if had else None
            if have_just_left(had, self._now):
                continue
            which = {"pool": row.pool, "env": row.env}
            if row.pool in ready_pools and self._connection.execute(HAS_READY_IN, which).scalar() is not None:
                found.setdefault(row.env, []).append((Severity.CRITICAL, f"runs are ready, and {lacking}", since))
            elif self._connection.execute(HAS_SCHEDULE_IN, which).scalar() is not None:
                sentence = f"schedules of its jobs come due, and {lacking}"
                found.setdefault(row.env, []).append((Severity.WARNING, sentence, since))
        self._tell_together(FindingCode.ENVIRONMENT_MISSING, found)

    def _look_at_secrets(self, ready_pools: Sequence[str]) -> None:
        """Look for jobs whose secrets no living node of their pool can read that has their environment."""
        found: dict[str, list[tuple[Severity, str, datetime | None]]] = {}
        for row in self._connection.execute(READ_SECRETS).all():
            lacking = say_unsupplied(self._servers, row.pool, row.env, row.secrets)
            if lacking is None:
                continue
            had = [server for server in serving(self._servers, row.pool) if server.may_run(row.env, row.secrets)]
            since = last_seen(had).seen_at if had else None
            if have_just_left(had, self._now):
                continue
            which = {"pool": row.pool, "secrets": row.secrets}
            try:
                subject = ", ".join(read_names(row.secrets))[:NAME_LENGTH_MAX]
            except Invalid:  # written by hand
                subject = "secrets"
            if row.pool in ready_pools and self._connection.execute(HAS_READY_WITH, which).scalar() is not None:
                found.setdefault(subject, []).append((Severity.CRITICAL, f"runs are ready, and {lacking}", since))
            elif self._connection.execute(HAS_SCHEDULE_WITH, which).scalar() is not None:
                sentence = f"schedules of its jobs come due, and {lacking}"
                found.setdefault(subject, []).append((Severity.WARNING, sentence, since))
        self._tell_together(FindingCode.SECRET_MISSING, found)

    def _look_at_channels(self) -> None:
        """Look for channels that jobs name for their alerts, and that no living node has."""
        had = {name for server in self._servers if server.is_there for name in server.secrets}
        for channel, named in self._alerted.items():
            if variable_of_channel(channel) in had:
                continue
            first = self._connection.execute(FIND_TOLD, {"alert": named[0]}).scalars().all()
            sentence = (
                f"alerts of {_list(first)} go to channel {channel}, and no node alive can send them: define "
                f"[alerts.{channel}] in the settings of one, or see in its log what it cannot read"
            )
            self._tell(Severity.WARNING, FindingCode.CHANNEL_MISSING, channel, sentence)

    def _look_at_alerts(self) -> None:
        """Look for alerts that could not be sent since the last one that was: one is enough, for nobody else tells."""
        channels = {job_of_channel(channel): channel for channel in self._alerted}
        senders = self._connection.execute(FIND_SENDERS, {"names": sorted(channels)}).all() if channels else ()
        for row in senders[:FOUND_MAX]:
            unsent: list[AnyRow] = []
            for one in self._connection.execute(READ_LAST_RUNS, {"job_id": row.id}).all():
                if one.state == RunState.SUCCEEDED.value:
                    break
                if one.state in (*_BAD, RunState.MISSED.value) or (one.finished_at is None and one.retries_used > 0):
                    unsent.append(one)
            if unsent:
                many = "an alert" if len(unsent) == 1 else f"{len(unsent)} alerts"
                first, channel = unsent[0], channels[row.name]
                sentence = (
                    f"{many} could not be sent to channel {channel}; run {first.id}, which is {first.state}: "
                    f"{first.reason_text}; see its output, and try the channel with `rota alert test {channel}`"
                )
                since = unsent[-1].enqueued_at
                self._tell(Severity.WARNING, FindingCode.ALERT_UNSENT, channel, sentence, since)

    def _tell_together(
        self, code: FindingCode, found: Mapping[str, Sequence[tuple[Severity, str, datetime | None]]]
    ) -> None:
        """Tell one finding for each subject, however many pools lack it."""
        for subject, told in found.items():
            severity = Severity.CRITICAL if any(one[0] is Severity.CRITICAL for one in told) else Severity.WARNING
            moments = [since for _, _, since in told if since is not None]
            sentence = "; ".join(sentence for _, sentence, _ in told)
            self._tell(severity, code, subject, sentence, min(moments, default=None))

    def _look_at_nodes(self) -> None:
        silent = [server for server in self._servers if server.is_silent]
        for server in [one for one in silent if self._age(one.lease_ends_at) < SILENT_SECONDS_MAX][:FOUND_MAX]:
            held = f"; it held {server.held} runs" if server.held else ""
            sentence = (
                f"node {server.name} fell silent: seen {say_moment(server.seen_at)}, its lease ended "
                f"{say_moment(server.lease_ends_at)}{held}"
            )
            self._tell(Severity.WARNING, FindingCode.NODE_SILENT, server.name, sentence, server.lease_ends_at)

    def _look_at_node_clocks(self) -> None:
        there = [server for server in self._servers if server.is_there]
        off = [one for one in there if one.skew_seconds is not None and abs(one.skew_seconds) >= SKEW_SECONDS]
        sides = {(one.skew_seconds or 0.0) > 0 for one in off}
        for server in off[:FOUND_MAX]:
            seconds = server.skew_seconds or 0.0
            way = "ahead of" if seconds > 0 else "behind"
            sentence = (
                f"the clock of node {server.name} is {say_span(timedelta(seconds=abs(seconds)))} {way} the database's: "
                "nothing of Rota goes by it, but what its jobs and its log take from it is wrong; set it, as by NTP"
            )
            if len(off) == len(there) > 1 and len(sides) == 1:
                sentence += "; it is so on every node, so that it may be the database's that is wrong"
            self._tell(Severity.WARNING, FindingCode.NODE_CLOCK, server.name, sentence)

    def _look_at_zone_data(self) -> None:
        each = self._compare({server.name: server.zone_data_version for server in self._servers if server.is_there})
        if each is not None:
            sentence = (
                f"living nodes have different versions of the zone data: {each}. Where a zone has changed between "
                "them, whichever node fires a slot decides when the next one is: bring all to the newest, and start "
                "their workers again"
            )
            self._tell(Severity.WARNING, FindingCode.ZONE_DATA_DIFFERS, "cluster", sentence)

    def _look_at_keeping(self) -> None:
        each = self._compare({server.name: server.keep_runs for server in self._servers if server.is_there})
        if each is not None:
            sentence = (
                f"living nodes keep finished runs for different times: {each}. Each removes those of all jobs that do "
                "not say it themselves, so that the shortest time counts: give all the same `keep_runs`"
            )
            self._tell(Severity.WARNING, FindingCode.KEEPING_DIFFERS, "cluster", sentence)

    @staticmethod
    def _compare(said: Mapping[str, str | None]) -> str | None:
        """Say what nodes differ in, the greatest first; None: in nothing. One that does not say is left out."""
        names: dict[str, list[str]] = {}
        for name, fact in said.items():
            if fact is not None:
                names.setdefault(fact, []).append(name)
        if len(names) <= 1:
            return None
        each = [f"{fact} on {_list(sorted(names[fact]))}" for fact in sorted(names, reverse=True)]
        return f"{'; '.join(each[:NAMED_MAX])}{'; and others' if len(each) > NAMED_MAX else ''}"

    def _look_at_schedules(self) -> None:
        for row in self._connection.execute(FIND_SET_ASIDE).all():
            sentence = f"schedule {row.name} is set aside and fires nothing until it is edited: {row.problem}"
            since = row.next_slot_at
            self._tell(Severity.WARNING, FindingCode.SCHEDULE_SET_ASIDE, row.name, sentence, since)
        for row in self._connection.execute(FIND_SKIPPING).all():
            sentence = (
                f"schedule {row.name} skipped {row.skips_in_row} slots in a row, up to {say_slot(row.last_slot_at)}, "
                "since an earlier run has not finished"
            )
            self._tell(Severity.WARNING, FindingCode.SCHEDULE_SKIPPING, row.name, sentence)
        rows = self._connection.execute(FIND_STOPPED).all()
        ended = [*self._connection.execute(FIND_ENDED).all(), *filter(_is_once, rows)]
        for row in rows:
            if not _is_once(row):
                last = f"; the last one was {say_slot(row.last_slot_at)}" if row.last_slot_at is not None else ""
                sentence = f"schedule {row.name} has no slots left, and nobody gave it an end{last}"
                self._tell(Severity.WARNING, FindingCode.SCHEDULE_STOPPED, row.name, sentence, row.last_slot_at)
        if ended:
            each = _name(ended, lambda row: row.name)
            number = f"{_many(ended)} schedule{'s have' if len(ended) > 1 else ' has'}"
            self._tell(Severity.INFO, FindingCode.SCHEDULE_ENDED, "schedules", f"{number} come to an end: {each}")

    def _look_at_periods(self) -> None:
        for row in find_held_periods(self._connection, FAILURES_IN_ROW):
            if row.state in UNFINISHED:
                how = f"failed {row.retries_used} times, and is tried on: {row.reason_text}"
            else:
                how = "failed for good: rerun its run, or reprocess or skip the period"
            sentence = f"period {row.period} of job {row.job} (run {row.id}) has {how}; the later ones wait for it"
            self._tell(Severity.WARNING, FindingCode.PERIOD_HELD, row.job, sentence, row.period_end_at)

    def _look_at_upstreams(self) -> None:
        for path in find_cycles(self._connection):
            sentence = f"runs of job {path[0]} wait for themselves: {' after '.join(path)}; edit one of these jobs"
            self._tell(Severity.CRITICAL, FindingCode.UPSTREAM_CYCLE, path[0], sentence)
        for name, (how, rows) in find_held_up(self._connection).items():
            since: datetime = min(row.run_at for row in rows)
            each = _name(rows, lambda row: f"run {row.id} of {row.job}")
            sentence = (
                f"{_count(rows, 'run')} waiting for job {name}, {how}: {each}; see to its run with `rota run rerun`, "
                "or let it count as done with `rota run mark-succeeded`"
            )
            self._tell(Severity.WARNING, FindingCode.UPSTREAM_FAILED, name, sentence, since)

    def _look_at_breakers(self) -> None:
        for row in self._connection.execute(FIND_NOT_CLOSED).all():
            sentence = say_held(row, self._now)
            if sentence is not None:
                self._tell(Severity.WARNING, FindingCode.BREAKER_OPEN, row.name, sentence)

    def _look_at_jobs(self) -> None:
        job_ids = set(self._connection.execute(FIND_FAILED_JOBS).scalars())
        job_ids.update(self._connection.execute(FIND_JOBS_FOUND).scalars())
        if not job_ids:
            return
        for row in self._connection.execute(READ_ACTIVE_JOBS, {"job_ids": sorted(job_ids)}).all():
            ends: list[AnyRow] = []
            for one in self._connection.execute(READ_LAST_RUNS, {"job_id": row.id}).all():
                if one.state in _BAD:
                    ends.append(one)
                elif one.state in _ENDED_BY_ITSELF:
                    break
            if len(ends) >= FAILURES_IN_ROW:
                sentence = (
                    f"the last {len(ends)} runs of job {row.name} failed; run {ends[0].id}: {ends[0].reason_text}"
                )
                since = ends[-1].finished_at
                self._tell(Severity.WARNING, FindingCode.JOB_FAILING, row.name, sentence, since)

    def _look_at_running(self) -> None:
        by_job: dict[int, list[AnyRow]] = {}
        for row in self._connection.execute(FIND_LONG).all():
            by_job.setdefault(row.job_id, []).append(row)
        for job_id, rows in list(by_job.items())[:FOUND_MAX]:
            usual = read_durations(self._connection, job_id)
            if usual is None or (far_longer := usual.far_longer_seconds) is None:
                continue
            first = self._now - timedelta(seconds=far_longer)
            long = sorted((row for row in rows if row.marked_at < first), key=lambda row: row.marked_at)
            if long:
                name = long[0].job
                each = _name(long, lambda row: f"run {row.id} on {row.node} for {say_span(self._now - row.marked_at)}")
                expected, high = (say_span(timedelta(seconds=n)) for n in (usual.expected_seconds, usual.high_seconds))
                sentence = (
                    f"{_count(long, 'run')} taking far longer than usual for job {name}: {each}; it usually takes "
                    f"{expected}, and nine in ten of its last {usual.attempt_count} good attempts took at most {high}"
                )
                since = long[0].marked_at + timedelta(seconds=far_longer)
                self._tell(Severity.WARNING, FindingCode.RUN_LONG, name, sentence, since, jobs=[name])

    def _look_at_calendars(self) -> None:
        for row in self._connection.execute(READ_CALENDARS):
            try:
                until = Calendar.from_definition(row.name, json.loads(row.definition)).holidays_until
            except (Invalid, ValueError, TypeError, AttributeError, RecursionError):
                continue  # changed by hand: a schedule that needs it is set aside, with the reason
            if until is None or datetime(until + 1, 1, 1, tzinfo=UTC) - self._now > timedelta(days=HOLIDAYS_DAYS):
                continue
            sentence = (
                f"the holidays of calendar {row.name} are known up to the end of {until} only: add it again with "
                "`rota calendar add ... --if-exists update`"
            )
            self._tell(Severity.WARNING, FindingCode.CALENDAR_ENDING, row.name, sentence)

    def _with_beginnings(self) -> list[Finding]:
        """Give each finding the beginning that the nodes have noted, where that is earlier or the only one."""
        rows = self._connection.execute(READ_FINDINGS).all()
        noted: dict[tuple[str, str], datetime] = {(row.code, row.subject): row.since for row in rows}
        found: list[Finding] = []
        for one in self._found:
            since = noted.get((one.code.value, one.subject))
            moments = [moment for moment in (since, one.since) if moment is not None]
            found.append(replace(one, since=min(moments, default=None)))
        return found


def _is_once(row: AnyRow) -> bool:
    """Tell whether a schedule of several timings is due at certain moments only, which have passed."""
    if row.kind != TimingKind.ANY.value:
        return False
    try:
        return all(kind == TimingKind.AT.value for kind, _ in parse_any(row.expression))
    except RotaError:
        return False


def _many(rows: Sequence[Any]) -> str:
    return f"{FOUND_MAX} or more" if len(rows) >= FOUND_MAX else str(len(rows))


def _count(rows: Sequence[Any], noun: str) -> str:
    return f"{_many(rows)} {noun}{'s are' if len(rows) > 1 else ' is'}"


def _name(rows: Sequence[AnyRow], say: Callable[[AnyRow], str]) -> str:
    return _list([say(row) for row in rows[:FOUND_MAX]])


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_MAX]) + (" and others" if len(names) > NAMED_MAX else "")
