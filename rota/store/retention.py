"""Retention: finished runs that were kept long enough go, with their attempts, output and events; so do old commands.

Invariant: nothing goes that still decides something. A run stays while it is unfinished, while its key keeps another
one from being made, while its slot is not behind the cursor of its schedule, while it is the newest of its job or
schedule, and while a breaker lets it through. The runs of a group go together or not at all: what were left of one
would tell of fewer nodes than there were. A slot behind the cursor is not fired again when its row is gone, since a
cursor moves forward only.

Called by the scheduler of whichever node looks for findings, a batch at a time. A batch reads on by the primary key,
takes no lock while it looks, and then locks few rows, in the order of their keys, which nobody else has locked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, String, bindparam, delete, desc, exists, func, or_, select, text
from sqlalchemy.sql.selectable import ScalarSelect

from rota.model.keeping import Keeping, read_keep
from rota.model.states import CommandState
from rota.store.database import Database
from rota.store.dependants import NEXT_SLOT, is_latest_for
from rota.store.keys import HOLDS_KEY_BEYOND
from rota.store.tables import command, dependency, event, job, period, run, schedule
from rota.store.types import FIRST, AnyRow, Number, db_now, db_now_plus

READ_MAX = 1000
REMOVED_MAX = 100
ATTEMPTS_MAX = 500  # of the runs that one transaction removes, unless one of them has more
EVENTS_MAX = 500
KEEP_EVENTS_SECONDS = 180 * 86400.0
COMMANDS_MAX = 500
KEEP_COMMANDS_SECONDS = 30 * 86400.0
AFTER_STEP_SECONDS = 86400.0
# Whatever is told that concerns no run.
KINDS = ("schedule", "job", "calendar", "pool", "node", "clock", "health")

READ_KEEPS = select(job.c.id, job.c.keep).where(job.c.keep.is_not(None))
_READ = select(
    run.c.id,
    run.c.job_id,
    run.c.state,
    run.c.enqueued_at,
    run.c.finished_at,
    run.c.attempt,
    run.c.group_id,
    db_now().label("now"),
)
# The next rows, whatever they are. Served by the primary key, in its order.
READ_NEXT = _READ.where(run.c.id > bindparam("after")).order_by(run.c.id).limit(READ_MAX)
# All of these groups: as many as one batch takes at most. Served by rota_run_group.
READ_GROUPS = _READ.where(run.c.group_id.in_(bindparam("group_ids", expanding=True))).order_by(run.c.id)
READ_JOBS = select(job.c.id, job.c.breaker_run_id).where(job.c.id.in_(bindparam("job_ids", expanding=True)))
# The newest run of a job that is not of this group. Served by rota_run_job. A statement for each job, and no part of
# another: PostgreSQL, not told which job, might read all newer runs down to one of it.
FIND_NEWEST = (
    select(run.c.id)
    .where(run.c.job_id == bindparam("job_id"), or_(run.c.group_id.is_(None), run.c.group_id != bindparam("group_id")))
    .order_by(desc(run.c.job_id), desc(run.c.id))
    .limit(1)
)


def _first(column: Any, *where: Any, order: tuple[Any, ...] = ()) -> ScalarSelect[Any]:
    # One probe of an index for each row. Asked whether there is one, PostgreSQL might rather read all runs at once.
    return select(column).where(*where).order_by(*order).limit(1).scalar_subquery()


_other = run.alias("other")
_newest_slot = _first(_other.c.slot_at, _other.c.schedule_id == run.c.schedule_id, order=(desc(_other.c.slot_at),))
_cursor = _first(schedule.c.next_slot_at, schedule.c.id == run.c.schedule_id)
_known_job = _first(job.c.id, job.c.id == run.c.job_id)
_known_schedule = _first(schedule.c.id, schedule.c.id == run.c.schedule_id)

_awaiting = run.alias("awaiting")
# A run that waits goes by the latest slot at or before its own, of its upstreams and perhaps of its own schedule: when
# that went, it would go by another one. Served by rota_dependency_upstream, rota_run_awaiting, and rota_run_slot.
_is_built_on = or_(
    exists()
    .where(
        dependency.c.upstream_id == run.c.job_id,
        _awaiting.c.awaiting_job_id == dependency.c.job_id,
        is_latest_for(_awaiting.c.slot_at),
    )
    .correlate(run),
    exists()
    .where(
        _awaiting.c.schedule_id == run.c.schedule_id,
        _awaiting.c.slot_at == NEXT_SLOT,
        _awaiting.c.awaiting_job_id.is_not(None),
    )
    .correlate(run),
)

# A period goes by the latest slot at its end, of those that it runs after and that have none. They are worked on oldest
# first: what comes after the slot of the oldest is asked for later. Served by rota_period_unfinished.
_oldest_end = (
    select(period.c.end_at)
    .where(period.c.job_id == dependency.c.job_id, period.c.unfinished_at > FIRST)
    .order_by(period.c.unfinished_at)
    .limit(1)
    .correlate(dependency)
    .scalar_subquery()
)
_is_built_on_by_period = (
    exists()
    .where(
        dependency.c.upstream_id == run.c.job_id,
        run.c.slot_at.is_not(None),
        or_(NEXT_SLOT.is_(None), _oldest_end < NEXT_SLOT),
        _oldest_end.is_not(None),
    )
    .correlate(run)
)
# What is unfinished may wait with its run, for a person or for others. Served by the primary key.
_is_of_period = (
    exists()
    .where(period.c.id == run.c.period_id, period.c.run_id == run.c.id, period.c.unfinished_at.is_not(None))
    .correlate(run)
)

# Of these runs, lock those that may go. Served by the primary key; each question by rota_run_slot, or the primary keys
# of jobs and schedules.
LOCK_REMOVABLE = (
    select(run.c.id)
    .where(
        run.c.id.in_(bindparam("ids", expanding=True)),
        run.c.finished_at.is_not(None),
        # A job that is deleted is never asked for a run again: another one of its name has its own keys.
        or_(run.c.active_key.is_(None), ~HOLDS_KEY_BEYOND, _known_job.is_(None)),
        or_(_known_schedule.is_(None), _newest_slot > run.c.slot_at),
        or_(_cursor.is_(None), func.coalesce(run.c.slot_last_at, run.c.slot_at) < _cursor),
        ~_is_built_on,
        ~_is_built_on_by_period,
        ~_is_of_period,
    )
    .order_by(run.c.id)
    .with_for_update(skip_locked=True)
)
# Their attempts and output go with them. Served by the primary key.
REMOVE_RUNS = delete(run).where(run.c.id.in_(bindparam("ids", expanding=True)))
# Served by rota_event_run.
REMOVE_RUN_EVENTS = delete(event).where(event.c.run_id.in_(bindparam("ids", expanding=True)))

# The oldest events of a kind. Served by rota_event_kind, whose condition is repeated as it stands.
FIND_OLD_EVENTS = (
    select(event.c.id, (event.c.at < db_now_plus(bindparam("minus_seconds", type_=Number))).label("is_old"))
    .where(event.c.kind == bindparam("kind", type_=String), event.c.kind != text("'run'"))
    .order_by(event.c.id)
    .limit(EVENTS_MAX)
)
REMOVE_EVENTS = delete(event).where(event.c.id.in_(bindparam("ids", expanding=True)))
# The oldest commands. Numbers rise with time. Served by the primary key, in its order, and so is the next one.
FIND_OLD_COMMANDS = (
    select(
        command.c.id,
        (command.c.answered_at < db_now_plus(bindparam("minus_seconds", type_=Number))).label("is_old"),
    )
    .order_by(command.c.id)
    .limit(COMMANDS_MAX)
)
REMOVE_COMMANDS = delete(command).where(
    command.c.id.in_(bindparam("ids", expanding=True)), command.c.state != CommandState.PENDING.value
)
# Served by rota_event_kind.
FIND_STEP = (
    select(event.c.id)
    .where(
        event.c.kind == text("'clock'"),
        event.c.kind != text("'run'"),
        event.c.at > db_now_plus(bindparam("minus_seconds", type_=Number)),
        event.c.at <= db_now(),
    )
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Removed:
    """What one batch did."""

    runs: int
    after: int  # where the next batch begins
    is_over: bool  # nothing behind it is old enough


def is_clock_fresh(database: Database) -> bool:
    """Tell whether the database's clock stepped within a day: what seems old by it may be young."""
    step = {"minus_seconds": -AFTER_STEP_SECONDS}
    return database.read(lambda connection: connection.execute(FIND_STEP, step).first()) is not None


def remove_runs(
    database: Database, default: Mapping[str, float | None], *, after: int = 0, limit: int = REMOVED_MAX
) -> Removed:
    """Remove up to ``limit`` of the next runs after the number ``after`` that were kept long enough.

    ``default`` says for each end how long (seconds, or None for ever) where the job does not. A group goes whole, once
    all of its runs were kept long enough, also one that has more than ``limit``. Safe on any number of nodes at once,
    and to be done again after a crash: what is gone is gone with all that belongs to it.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def find(connection: Connection) -> tuple[Removed, list[AnyRow]]:
        keeps = {row.id: read_keep(row.keep) for row in connection.execute(READ_KEEPS)}
        keeping = Keeping(default, keeps)
        if keeping.least_seconds is None:
            return Removed(0, 0, is_over=True), []
        rows = connection.execute(READ_NEXT, {"after": after}).all()
        found, old = _choose(connection, rows, keeping, limit)
        return found, _leave_newest(connection, rows, old)

    def remove(connection: Connection) -> int:
        locked = set(connection.execute(LOCK_REMOVABLE, {"ids": [row.id for row in old]}).scalars())
        staying = {row.group_id for row in old if row.group_id and row.id not in locked}
        ids = [row.id for row in old if row.id in locked and row.group_id not in staying]
        if ids:
            connection.execute(REMOVE_RUNS, {"ids": ids})
            connection.execute(REMOVE_RUN_EVENTS, {"ids": ids})
        return len(ids)

    found, old = database.read(find)
    if not old:
        return found
    return Removed(database.write(remove, repeatable=True), found.after, found.is_over)


def _leave_newest(connection: Connection, rows: Sequence[AnyRow], old: Sequence[AnyRow]) -> list[AnyRow]:
    """Return those of ``old``, whole groups, that are not the newest run, or group, of a job that there still is."""
    jobs = {row.id: row for row in connection.execute(READ_JOBS, {"job_ids": sorted({row.job_id for row in old})})}
    last_read = {row.job_id: row for row in rows}
    has_newer: dict[tuple[int, str | None], bool] = {}
    left: list[AnyRow] = []
    staying: set[str] = set()
    for row in reversed(old):  # what is newer than one of a group is newer than those before it
        known = jobs.get(row.job_id)
        if known is None:
            left.append(row)
            continue
        which = (row.job_id, row.group_id)
        if which not in has_newer:
            last = last_read.get(row.job_id)
            has_newer[which] = (
                last is not None and last.id > row.id and (row.group_id is None or last.group_id != row.group_id)
            )
            if not has_newer[which]:
                asked = {"job_id": row.job_id, "group_id": row.group_id or ""}
                has_newer[which] = (connection.execute(FIND_NEWEST, asked).scalar() or 0) > row.id
        if known.breaker_run_id != row.id and has_newer[which]:
            left.append(row)
        elif row.group_id:
            staying.add(row.group_id)
        if row.group_id is None:
            has_newer[which] = True  # than the ones before it is this one
    return [row for row in reversed(left) if row.group_id not in staying]


def _choose(
    connection: Connection, rows: Sequence[AnyRow], keeping: Keeping, limit: int
) -> tuple[Removed, list[AnyRow]]:
    """Choose, of rows in the order of their numbers, those that were kept long enough, as many as one batch takes.

    Of a group it is all of its runs, also those behind these rows, or none.
    """
    least = keeping.least_seconds
    assert least is not None
    firsts: dict[int | str, AnyRow] = {}  # of each run, or group, the first one that was kept long enough
    is_young, stopped_at = True, None
    for row in rows:
        is_young = is_young and row.enqueued_at is not None and row.enqueued_at > row.now - timedelta(seconds=least)
        which = row.group_id or row.id
        if which in firsts or not _is_old(row, keeping):
            continue
        if len(firsts) >= limit:
            stopped_at = row
            break
        firsts[which] = row
    groups = _read_old_groups(connection, [row.group_id for row in firsts.values() if row.group_id], keeping)
    old: list[AnyRow] = []
    attempts = 0
    for row in firsts.values():
        unit = [row] if not row.group_id else groups.get(row.group_id, [])
        attempts += sum(one.attempt for one in unit)
        if old and (len(old) + len(unit) > limit or attempts > ATTEMPTS_MAX):
            stopped_at = row
            break
        old += unit
    old.sort(key=lambda row: row.id)
    if stopped_at is not None:
        return Removed(0, stopped_at.id - 1, is_over=False), old
    # Numbers rise with time: behind so many that are young, all are.
    is_over = len(rows) < READ_MAX or is_young
    return Removed(0, 0 if is_over else rows[-1].id, is_over), old


def _is_old(row: AnyRow, keeping: Keeping) -> bool:
    seconds = keeping.seconds(row.job_id, row.state)
    if seconds is None or row.finished_at is None:
        return False
    return row.finished_at <= row.now - timedelta(seconds=seconds)


def _read_old_groups(connection: Connection, group_ids: Sequence[str], keeping: Keeping) -> dict[str, list[AnyRow]]:
    """Return all runs of those of the groups of which each was kept long enough."""
    if not group_ids:
        return {}
    groups: dict[str, list[AnyRow]] = {}
    for row in connection.execute(READ_GROUPS, {"group_ids": group_ids}):
        groups.setdefault(row.group_id, []).append(row)
    return {group_id: members for group_id, members in groups.items() if all(_is_old(row, keeping) for row in members)}


def remove_events(database: Database) -> int:
    """Remove up to 500 events of each kind that concern no run and are half a year old; return how many went.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def find(connection: Connection) -> list[int]:
        ids: list[int] = []
        for kind in KINDS:
            given = {"kind": kind, "minus_seconds": -KEEP_EVENTS_SECONDS}
            ids += [row.id for row in connection.execute(FIND_OLD_EVENTS, given) if row.is_old]
        return ids

    ids = sorted(database.read(find))
    for start in range(0, len(ids), EVENTS_MAX):
        some = {"ids": ids[start : start + EVENTS_MAX]}
        database.write(lambda connection: connection.execute(REMOVE_EVENTS, some), repeatable=True)  # noqa: B023 - at once
    return len(ids)


def remove_commands(database: Database) -> int:
    """Remove up to 500 commands that were answered a month ago and before; return how many went.

    What nobody has answered stays.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """
    given = {"minus_seconds": -KEEP_COMMANDS_SECONDS}
    rows = database.read(lambda connection: connection.execute(FIND_OLD_COMMANDS, given).all())
    ids = [row.id for row in rows if row.is_old]
    if ids:
        database.write(lambda connection: connection.execute(REMOVE_COMMANDS, {"ids": ids}), repeatable=True)
    return len(ids)
