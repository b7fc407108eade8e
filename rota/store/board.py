"""The board: what jobs, or nodes, had at which time, have now, and will have.

Invariant: what is read does not grow with the ledger. What ended comes from the roll-ups. Where cells are shorter than
what these count, runs are looked at one by one, by the index on their moments, of those jobs that have few enough in
the window, which the roll-ups tell beforehand; what these count beyond that is spread over its quarter of an hour.
Unfinished runs come by an index of their own, up to a bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from rota.errors import RotaError
from rota.model.board import Window, Zoom, choose_window
from rota.model.calendars import Calendar
from rota.model.spread import spread_evenly
from rota.model.states import JobState
from rota.store import rollups
from rota.store.calendars import load_calendars
from rota.store.database import Database, now_of
from rota.store.firing import names_of_calendars, rule_of
from rota.store.forecast import COMING
from rota.store.rollups import (
    FIND_TROUBLED,
    Counts,
    Unit,
    read_all_counts,
    read_job_counts,
    read_node_counts,
)
from rota.store.tables import job, node, run, schedule
from rota.store.types import AnyRow, Instant, seconds_since_1970

RUNS_MAX = 20_000  # that are looked at one by one
UNFINISHED_MAX = 20_000
AHEAD_MAX = 3_000  # coming slots
LOOKED_AT_FOR_TROUBLE = 2000  # jobs
ALL = ""  # the name of the row that counts all of them
_HOUR = timedelta(hours=1)
_SECONDS = {Unit.QUARTER: 900, Unit.HOUR: 3600, Unit.DAY: 86400}
_cell = (seconds_since_1970(run.c.moment_at) - bindparam("start_seconds")) // bindparam("cell_seconds")

_JOB = (job.c.id, job.c.name, job.c.state)
# Served by the unique name.
READ_JOBS = (
    select(*_JOB)
    .where(job.c.name > bindparam("after"), func.lower(job.c.name).like(func.lower(bindparam("pattern")), escape="!"))
    .order_by(job.c.name)
    .limit(bindparam("limit"))
)
# Of the next jobs those that are troubled: enough where many are. Where few are, those are found first.
_next = READ_JOBS.limit(LOOKED_AT_FOR_TROUBLE).subquery("next_jobs")
READ_NEXT_TROUBLED = (
    select(_next).where(rollups.is_troubled(_next.c.id)).order_by(_next.c.name).limit(bindparam("limit"))
)
READ_TROUBLED = READ_JOBS.where(job.c.id.in_(FIND_TROUBLED))
# Served by the unique name.
READ_NODES = (
    select(node.c.name, node.c.state)
    .where(node.c.name > bindparam("after"))
    .order_by(node.c.name)
    .limit(bindparam("limit"))
)
# What ended, by cells. Served by rota_run_moment.
READ_CELLS = (
    select(
        run.c.job_id,
        _cell.label("cell"),
        run.c.state,
        func.count().label("number"),
        func.min(run.c.id).label("run_id"),
    )
    .where(
        run.c.job_id.in_(bindparam("job_ids", expanding=True)),
        run.c.moment_at >= bindparam("first", type_=Instant()),
        run.c.moment_at < bindparam("end", type_=Instant()),
        run.c.finished_at.is_not(None),
        run.c.slot_count == 1,
    )
    .group_by(run.c.job_id, _cell, run.c.state)
)
# Served by rota_run_unfinished.
READ_UNFINISHED = (
    select(run.c.job_id, run.c.state, run.c.moment_at, run.c.id, run.c.node)
    .where(run.c.job_id.in_(bindparam("job_ids", expanding=True)), run.c.finished_at.is_(None))
    .limit(UNFINISHED_MAX)
)
# Served by rota_run_lease.
READ_RUNNING = (
    select(run.c.node, func.count().label("number"))
    .where(run.c.lease_ends_at.is_not(None), run.c.node.in_(bindparam("nodes", expanding=True)))
    .group_by(run.c.node)
)
# The schedules of these jobs that will fire. Served by rota_schedule_job.
READ_COMING = COMING.where(schedule.c.job_id.in_(bindparam("job_ids", expanding=True))).limit(AHEAD_MAX)


@dataclass(slots=True)
class Cell:
    """What falls into one stretch of time."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    run_id: int | None = None  # the only one; None: there are more, or it is not known
    coming_at: datetime | None = None  # the first slot to come

    def add(self, state: str, count: int, run_id: int | None = None) -> None:
        self.run_id = run_id if not self.counts and count == 1 else None
        self.counts[state] = self.counts.get(state, 0) + count


@dataclass(slots=True)
class Line:
    """One job, or one node."""

    name: str
    state: str | None
    cells: dict[int, Cell] = field(default_factory=dict[int, Cell])
    before: dict[str, int] = field(default_factory=dict[str, int])  # not finished, and for an earlier time
    later: dict[str, int] = field(default_factory=dict[str, int])

    def cell(self, number: int) -> Cell:
        return self.cells.setdefault(number, Cell())


@dataclass(frozen=True, slots=True)
class Board:
    """Lines by time."""

    window: Window
    now: datetime
    all: Line
    lines: list[Line]
    next: str | None  # the name after which the next page begins
    is_cut: bool  # there is more than is looked at: of what is not finished, or of what will come


def read_job_board(
    database: Database,
    zoom: Zoom,
    *,
    start: datetime | None = None,
    part: str = "",
    after: str = "",
    limit: int,
    is_troubled: bool = False,
) -> Board:
    """Return the board of the jobs whose names contain ``part``, in the order of their names; case does not matter.

    ``is_troubled``: only those of which something failed, was lost or missed in this time.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def read(connection: Connection) -> Board:
        now = now_of(connection)
        window = choose_window(zoom, now, start)
        found = _find_jobs(connection, window, part, after, limit + 1, is_troubled=is_troubled)
        shown = found[:limit]
        lines = {row.id: Line(row.name, row.state) for row in shown}
        everything = Line(ALL, None)
        _fill_all(connection, window, now, everything)
        is_cut = _fill_jobs(connection, window, now, lines) if lines else False
        return Board(
            window, now, everything, list(lines.values()), shown[-1].name if len(found) > limit else None, is_cut
        )

    return database.read(read)


def read_node_board(
    database: Database, zoom: Zoom, *, start: datetime | None = None, after: str = "", limit: int
) -> Board:
    """Return the board of the nodes, in the order of their names: how the attempts on each ended, by when they did.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def read(connection: Connection) -> Board:
        now = now_of(connection)
        window = choose_window(zoom, now, start)
        found = connection.execute(READ_NODES, {"after": after, "limit": limit + 1}).all()
        shown = found[:limit]
        lines = {row.name: Line(row.name, row.state) for row in shown}
        everything = Line(ALL, None)
        if lines:
            counts = read_node_counts(connection, _unit_of(zoom), list(lines), *_counted(window))
            for (name, moment, state), count in counts.found.items():
                for line in (lines[str(name)], everything):
                    _put(line, window, now, moment, counts.unit, state, count.ended_count)
            if 0 <= (cell := window.cell_of(now)) < zoom.cell_count:
                for row in connection.execute(READ_RUNNING, {"nodes": list(lines)}):
                    for line in (lines[row.node], everything):
                        line.cell(cell).add("running", row.number)
        return Board(
            window, now, everything, list(lines.values()), shown[-1].name if len(found) > limit else None, False
        )

    return database.read(read)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How runs ended in each hour, and how late they started: of all jobs, by the hours that they are for."""

    now: datetime
    start: datetime
    end: datetime
    ended: dict[datetime, dict[str, int]]  # by hour and state; an hour in which nothing ended is not there
    delays: dict[datetime, tuple[float, int]]  # seconds together, of how many first attempts


def read_throughput(database: Database, hours: int) -> Throughput:
    """Return what ended in the last hours, this one among them.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def read(connection: Connection) -> Throughput:
        now = now_of(connection)
        end = now.replace(minute=0, second=0, microsecond=0) + _HOUR
        start = end - hours * _HOUR
        found = Throughput(now, start, end, {}, {})
        for (_, hour, state), count in read_all_counts(connection, Unit.HOUR, start, end).found.items():
            of_hour = found.ended.setdefault(hour, {})
            of_hour[state] = of_hour.get(state, 0) + count.ended_count
            seconds, number = found.delays.get(hour, (0.0, 0))
            found.delays[hour] = (seconds + count.delay_seconds, number + count.delay_count)
        return found

    return database.read(read)


def _find_jobs(
    connection: Connection, window: Window, part: str, after: str, limit: int, *, is_troubled: bool
) -> Sequence[AnyRow]:
    wanted: dict[str, Any] = {"after": after, "pattern": _pattern(part), "limit": limit}
    if not is_troubled:
        return connection.execute(READ_JOBS, wanted).all()
    first, end = _counted(window)
    wanted |= {"unit": _unit_of(window.zoom).value, "first": first, "end": end}
    found = connection.execute(READ_NEXT_TROUBLED, wanted).all()
    return found if len(found) == limit else connection.execute(READ_TROUBLED, wanted).all()


def _pattern(part: str) -> str:
    return "%" + re.sub(r"([!%_])", r"!\1", part) + "%"


def _unit_of(zoom: Zoom) -> Unit:
    return next((unit for unit in (Unit.DAY, Unit.HOUR) if zoom.cell_seconds % _SECONDS[unit] == 0), Unit.QUARTER)


def _counted(window: Window) -> tuple[datetime, datetime]:
    """Return the window, widened to whole stretches of what is counted for it."""
    seconds = _SECONDS[_unit_of(window.zoom)]
    before = timedelta(seconds=window.start_seconds % seconds)
    behind = timedelta(seconds=-(window.start_seconds + window.zoom.cell_seconds * window.zoom.cell_count) % seconds)
    return window.start - before, window.end + behind


def _fill_all(connection: Connection, window: Window, now: datetime, line: Line) -> None:
    counts = read_all_counts(connection, _unit_of(window.zoom), *_counted(window))
    for (_, moment, state), count in counts.found.items():
        _put(line, window, now, moment, counts.unit, state, count.ended_count)


def _put(line: Line, window: Window, now: datetime, moment: datetime, unit: Unit, state: str, count: int) -> None:
    """Put what is counted of a stretch that begins at ``moment`` into its cells, none of which is still to come."""
    first, last = window.cell_of(moment), window.cell_of(moment + timedelta(seconds=_SECONDS[unit])) - 1
    if moment <= now:  # else it was done before its time
        last = min(last, window.cell_of(now))
    for cell, share in spread_evenly(first, max(first, last), count).items():
        if 0 <= cell < window.zoom.cell_count:
            line.cell(cell).add(state, share)


def _fill_jobs(connection: Connection, window: Window, now: datetime, lines: dict[int, Line]) -> bool:
    zoom = window.zoom
    together = max(1, zoom.cell_seconds // _SECONDS[Unit.QUARTER])
    counts = read_job_counts(connection, _unit_of(zoom), list(lines), *_counted(window), together=together)
    if zoom.counts_runs:
        _take_runs(connection, window, lines, counts)
    for (job_id, moment, state), count in counts.found.items():
        if count.ended_count > 0:
            _put(lines[int(job_id)], window, now, moment, counts.unit, state, count.ended_count)
    is_cut = _fill_unfinished(connection, window, lines)
    return _fill_coming(connection, window, now, lines) or is_cut


def _take_runs(connection: Connection, window: Window, lines: dict[int, Line], counts: Counts) -> None:
    """Put the runs of jobs that have few enough into their cells, and leave in ``counts`` what is not among them."""
    totals: dict[int, int] = dict.fromkeys(lines, 0)
    for (job_id, _, _), count in counts.found.items():
        totals[int(job_id)] += max(0, count.ended_count)
    few: list[int] = []
    left = RUNS_MAX
    for job_id, total in sorted(totals.items(), key=lambda one: one[1]):
        left -= total
        if total and left >= 0:
            few.append(job_id)
    if not few:
        return
    first, end = _counted(window)
    wanted = {
        "job_ids": few,
        "first": first,
        "end": end,
        "start_seconds": window.start_seconds,
        "cell_seconds": window.zoom.cell_seconds,
    }
    for row in connection.execute(READ_CELLS, wanted):
        cell = int(row.cell)  # a decimal number on MariaDB
        if 0 <= cell < window.zoom.cell_count:
            lines[row.job_id].cell(cell).add(row.state, row.number, row.run_id)
        moment = window.start_of(cell)
        quarter = moment - timedelta(minutes=moment.minute % 15)
        counts.of(row.job_id, quarter, row.state).ended_count -= row.number


def _fill_unfinished(connection: Connection, window: Window, lines: dict[int, Line]) -> bool:
    rows = connection.execute(READ_UNFINISHED, {"job_ids": list(lines)}).all()
    for row in rows:
        line = lines[row.job_id]
        cell = window.cell_of(row.moment_at) if row.moment_at is not None else 0
        if 0 <= cell < window.zoom.cell_count:
            line.cell(cell).add(row.state, 1, row.id)
        else:
            beside = line.before if cell < 0 else line.later
            beside[row.state] = beside.get(row.state, 0) + 1
    return len(rows) == UNFINISHED_MAX


def _fill_coming(connection: Connection, window: Window, now: datetime, lines: dict[int, Line]) -> bool:
    """Put the first coming slot of each cell there; return whether some were left out."""
    if window.end <= now:
        return False
    active = [job_id for job_id, line in lines.items() if line.state == JobState.ACTIVE.value]
    if not active:
        return False
    rows = connection.execute(READ_COMING, {"until": window.end, "job_ids": active}).all()
    known = load_calendars(connection, names_of_calendars(rows))
    left = AHEAD_MAX
    for row in rows:
        try:
            slots = _first_of_cells(row, known, window, max(now, window.start), left)
        except (RotaError, ValueError, TypeError, ArithmeticError, LookupError):
            continue  # the schedule is set aside when it fires, and told of there
        for cell, slot in slots:
            one = lines[row.job_id].cell(cell)
            one.coming_at = slot if one.coming_at is None else min(slot, one.coming_at)
        left -= len(slots)
        if left <= 0:
            return True
    return False


def _first_of_cells(
    row: AnyRow, known: Mapping[str, Calendar], window: Window, after: datetime, limit: int
) -> list[tuple[int, datetime]]:
    rule = rule_of(row, known)
    found: list[tuple[int, datetime]] = []
    slot = row.next_slot_at if row.next_slot_at > after else rule.timing.next(after)
    while slot is not None and slot < window.end and len(found) < limit:
        cell = window.cell_of(slot)
        if cell >= 0 and rule.closed(slot) is None:
            found.append((cell, slot))
        slot = rule.timing.next(window.start_of(cell + 1) - timedelta(microseconds=1))
    return found
