"""What lies ahead: the schedules with a coming slot, how long their jobs take, and who is there to run them.

Invariant: reading is bounded. Schedules come by an index, only those due in the time asked for; a job's durations are
those of its latest attempts, found by an index too. A schedule that cannot be understood is left out, as firing sets it
aside. Called by the doors, and by simulated time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, literal, select

from rota.errors import NotFound, RotaError
from rota.model.forecast import Subject
from rota.model.job import check_start_within
from rota.model.schedule import ScheduleSpec
from rota.model.slot_rule import SlotRule
from rota.model.states import JobState, NodeState, RunState
from rota.store.breakers import NEXT_HALF_OPEN_AT
from rota.store.calendars import load_calendars
from rota.store.database import Database, now_of
from rota.store.durations import read_durations
from rota.store.fanout import Registered
from rota.store.firing import names_of_calendars, rule_of
from rota.store.schedule_rows import spec_of
from rota.store.schedules import READ_SCHEDULE, same_timing
from rota.store.tables import job, node, period, run, schedule
from rota.store.types import Instant, db_now

SCHEDULES_MAX = 100_000
JOBS_MAX = 1000  # whose durations are looked up; of the others nothing is expected
NODES_MAX = 1000

# Schedules that are due soon, in the order of their slots, without their arguments, which may be long.
COMING = (
    select(
        *(column for column in schedule.c if column.name not in {"args", "declared"}),
        literal("{}").label("args"),
        job.c.name.label("job_name"),
        job.c.state.label("job_state"),
        job.c.pool,
        job.c.runs_on,
        job.c.exclude,
        job.c.after,
        job.c.retries.label("job_retries"),
        job.c.start_within_seconds.label("job_start_within_seconds"),
    )
    .join(job, job.c.id == schedule.c.job_id)
    .where(
        schedule.c.state == JobState.ACTIVE.value,
        schedule.c.problem.is_(None),
        schedule.c.next_slot_at < bindparam("until", type_=Instant()),
    )
    .order_by(schedule.c.next_slot_at)
)
FIND_COMING = COMING.limit(bindparam("limit"))  # served by rota_schedule_due
FIND_COMING_OF_JOB = FIND_COMING.where(job.c.name == bindparam("job"))
READ_START_WITHIN = select(job.c.start_within_seconds).where(job.c.name == bindparam("job"))
READ_JOB_ID = select(job.c.id).where(job.c.name == bindparam("job"))
READ_LIVING = (
    select(node.c.pools, node.c.slots)
    .where(node.c.state == NodeState.ALIVE.value, node.c.lease_ends_at > db_now())
    .limit(NODES_MAX)
)

# When something will be due, for a clock that moves from one such instant to the next. A run that queues and was put
# off for a few seconds is left out but for the end of its window: whatever ends before it wakes it.
_is_put_off = and_(run.c.queued, run.c.state == RunState.WAITING.value, run.c.due_at > run.c.run_at)
READ_AHEAD = select(
    select(func.min(schedule.c.next_slot_at))
    .where(schedule.c.state == JobState.ACTIVE.value, schedule.c.problem.is_(None))
    .scalar_subquery()
    .label("next_slot_at"),
    select(func.min(case((_is_put_off, run.c.start_by), else_=run.c.due_at)))
    .where(run.c.due_at.is_not(None))
    .scalar_subquery()
    .label("next_due_at"),
    # What waits for upstreams, and was not looked at: the end of one of them brings the others forward.
    select(func.min(run.c.upstreams_due_at))
    .where(run.c.upstreams_due_at.is_not(None), run.c.upstreams_due_at <= run.c.run_at)
    .scalar_subquery()
    .label("next_upstreams_at"),
    select(func.min(run.c.lease_ends_at))
    .where(run.c.lease_ends_at.is_not(None))
    .scalar_subquery()
    .label("lease_ends_at"),
    select(func.count()).where(run.c.lease_ends_at.is_not(None)).scalar_subquery().label("lease_count"),
    # What lies in the past waits for a run that is ready, not for the clock.
    case((db_now() < NEXT_HALF_OPEN_AT, NEXT_HALF_OPEN_AT)).label("next_half_open_at"),
    select(func.min(period.c.due_at)).where(period.c.due_at.is_not(None)).scalar_subquery().label("next_period_at"),
    select(func.min(job.c.periods_until)).scalar_subquery().label("next_ledger_at"),
)


@dataclass(frozen=True, slots=True)
class Ahead:
    """The next instants at which there is something to do, and how many leases there are."""

    next_slot_at: datetime | None
    next_due_at: datetime | None
    next_lease_end_at: datetime | None
    lease_count: int
    next_half_open_at: datetime | None
    next_period_at: datetime | None = None
    next_ledger_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Prospect:
    """All that a look ahead takes."""

    now: datetime
    subjects: list[Subject]
    pools: dict[str, int]  # slots of living nodes; a node of several pools counts for each
    unknown_jobs: list[str]  # without a good attempt to go by
    is_cut: bool  # more schedules are due than are looked at
    left_out: list[str]  # schedules that cannot be understood


def read_ahead(database: Database) -> Ahead:
    """Return when something will be due next."""
    row = database.read(lambda connection: connection.execute(READ_AHEAD).one())
    next_due_at = min((one for one in (row.next_due_at, row.next_upstreams_at) if one is not None), default=None)
    return Ahead(
        row.next_slot_at,
        next_due_at,
        row.lease_ends_at,
        row.lease_count,
        row.next_half_open_at,
        row.next_period_at,
        row.next_ledger_at,
    )


def read_prospect(
    database: Database, days: int, job_name: str | None = None, *, schedules_max: int = SCHEDULES_MAX
) -> Prospect:
    """Read what is due within ``days``, of all jobs or of one: of the next ``schedules_max`` schedules to be due.

    Raises:
        NotFound: there is no such job.
    """

    def read(connection: Connection) -> Prospect:
        now = now_of(connection)
        until = {"until": now + timedelta(days=days), "limit": schedules_max + 1}
        if job_name is None:
            rows = connection.execute(FIND_COMING, until).all()
        else:
            if connection.execute(READ_JOB_ID, {"job": job_name}).scalar() is None:
                raise NotFound("job", job_name)
            rows = connection.execute(FIND_COMING_OF_JOB, until | {"job": job_name}).all()
        is_cut, rows = len(rows) > schedules_max, rows[:schedules_max]
        job_names: dict[int, str] = {row.job_id: row.job_name for row in rows}
        durations = {job_id: read_durations(connection, job_id) for job_id in list(job_names)[:JOBS_MAX]}
        known = load_calendars(connection, names_of_calendars(rows))
        subjects: list[Subject] = []
        left_out: list[str] = []
        registered = Registered(connection)
        for row in rows:
            try:
                rule = rule_of(row, known)
                runs_per_slot = len(registered.targets(row.runs_on, row.pool, row.exclude))
            except (RotaError, ValueError, TypeError, ArithmeticError, LookupError):
                left_out.append(row.name)
                continue
            paused = row.job_state == JobState.PAUSED.value
            usual = durations.get(row.job_id)
            subjects.append(
                Subject(row.name, row.job_name, row.pool, rule, row.next_slot_at, usual, paused, runs_per_slot)
            )
        unknown = sorted(name for job_id, name in job_names.items() if durations.get(job_id) is None)
        return Prospect(now, subjects, _count_slots(connection), unknown, is_cut, left_out)

    return database.read(read)


def read_rule(database: Database, name: str) -> tuple[SlotRule, datetime, datetime | None]:
    """Return what decides about the slots of a schedule, the database's now, and a first slot that is still ahead.

    Raises:
        NotFound: there is no such schedule.
        Invalid: what stands in its row cannot be understood.
    """

    def read(connection: Connection) -> tuple[SlotRule, datetime, datetime | None]:
        row = connection.execute(READ_SCHEDULE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("schedule", name)
        known = load_calendars(connection, names_of_calendars([row]))
        spec = spec_of(row)
        rule = spec.rule(row.created_at, known, check_start_within(row.job_start_within_seconds))
        return rule, row.now, _first_of(spec, row.now)

    return database.read(read)


def read_new_rule(database: Database, spec: ScheduleSpec) -> tuple[SlotRule, datetime, datetime | None]:
    """Return what ``read_rule`` would of a schedule that is not stored, if it were stored now.

    Raises:
        NotFound: there is no such job.
        Invalid: there is no such calendar.
    """

    def read(connection: Connection) -> tuple[SlotRule, datetime, datetime | None]:
        now = now_of(connection)
        return _rule_of_new(connection, spec, now), now, _first_of(spec, now)

    return database.read(read)


def read_edited_rule(
    database: Database, name: str, edit: Callable[[ScheduleSpec], ScheduleSpec]
) -> tuple[ScheduleSpec, SlotRule, datetime, datetime | None]:
    """Return the definition that ``edit`` makes of a schedule's, and what ``read_rule`` would if it were stored now.

    Raises:
        NotFound: there is no such schedule, or no such job.
        Invalid: what stands in its row cannot be understood, or as ``edit``.
    """

    def read(connection: Connection) -> tuple[ScheduleSpec, SlotRule, datetime, datetime | None]:
        row = connection.execute(READ_SCHEDULE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("schedule", name)
        old = spec_of(row)
        new = edit(old)
        if new.anchor_at is None and same_timing(old, new):  # as editing does
            new = replace(new, anchor_at=old.anchor_at)
        return new, _rule_of_new(connection, new, row.now), row.now, _first_of(new, row.now)

    return database.read(read)


def _rule_of_new(connection: Connection, spec: ScheduleSpec, now: datetime) -> SlotRule:
    of_job = connection.execute(READ_START_WITHIN, {"job": spec.job}).one_or_none()
    if of_job is None:
        raise NotFound("job", spec.job)
    known = load_calendars(connection, spec.calendars)
    return spec.rule(now, known, check_start_within(of_job.start_within_seconds))


def _first_of(spec: ScheduleSpec, now: datetime) -> datetime | None:
    return spec.first_run_at if spec.first_run_at is not None and spec.first_run_at > now else None


def _count_slots(connection: Connection) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in connection.execute(READ_LIVING):
        for name in _names(row.pools):
            found[name] = found.get(name, 0) + row.slots
    return found


def _names(text: str) -> list[str]:
    try:
        names: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
