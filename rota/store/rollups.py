"""Roll-ups: how many runs of each job, and attempts on each node, ended how in each quarter of an hour, hour and day.

Invariant: a tally is folded in the transaction that removes it, by one node at a time, so that each counts once. What
is read here adds the tallies that nobody has folded yet: it is exact at any moment, whether nodes live or not. All of
them are those of UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Table,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    union,
    union_all,
    update,
)

from rota import crash
from rota.model.spread import spread_evenly
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.tables import job_rollup, node_rollup, tally
from rota.store.tallies import QUARTER_SECONDS, quarter_of
from rota.store.turns import ROLLUPS, take_turn
from rota.store.types import AnyRow, Id, Instant, Number, Word, db_now_plus, encode_rows, given_rows

FOLD_MAX = 2000  # tallies in one transaction
ALL_JOBS = 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unit(StrEnum):
    """How long the stretches are that a roll-up counts."""

    QUARTER = "quarter"  # of an hour
    HOUR = "hour"
    DAY = "day"


KEEP_SECONDS = {Unit.QUARTER: 8 * 86400.0, Unit.HOUR: 100 * 86400.0}  # days are kept for ever
JOBS_MAX = 100  # of which one batch removes what was kept long enough
QUARTERS = {Unit.QUARTER: 1, Unit.HOUR: 4, Unit.DAY: 96}


# Served by the primary key.
FIND_TALLIES = select(tally).order_by(tally.c.id).limit(FOLD_MAX)
_folded = given_rows("folded", id="id")
REMOVE_TALLIES = delete(tally).where(tally.c.id.in_(select(_folded.c.id)))

BAD_STATES = (RunState.FAILED, RunState.LOST, RunState.MISSED)
_unit = bindparam("unit", type_=Word)
_first, _end = bindparam("first", type_=Instant()), bindparam("end", type_=Instant())
_quarter = quarter_of(job_rollup.c.start_at)
# What is folded, added up by so many quarters of an hour, and what is not, in one statement: in between, tallies may be
# folded. Served by the primary keys.
READ_OF_JOBS = union_all(
    select(
        job_rollup.c.job_id,
        func.min(_quarter).label("quarter"),
        null().label("quarter_last"),
        job_rollup.c.state,
        cast(func.sum(job_rollup.c.ended_count), Id).label("ended_count"),
        func.sum(job_rollup.c.delay_seconds).label("delay_seconds"),
        cast(func.sum(job_rollup.c.delay_count), Id).label("delay_count"),
        literal(0.0).label("busy_seconds"),
    )
    .where(
        job_rollup.c.unit == _unit,
        job_rollup.c.job_id.in_(bindparam("job_ids", expanding=True)),
        job_rollup.c.start_at >= _first,
        job_rollup.c.start_at < _end,
    )
    .group_by(job_rollup.c.job_id, job_rollup.c.state, _quarter // bindparam("together", type_=Id)),
    select(
        case((bindparam("of_all", type_=Boolean), ALL_JOBS), else_=tally.c.job_id),
        tally.c.quarter,
        tally.c.quarter_last,
        tally.c.state,
        tally.c.ended_count,
        tally.c.delay_seconds,
        tally.c.delay_count,
        literal(0.0),
    ).where(
        tally.c.node == "",
        or_(bindparam("of_all", type_=Boolean), tally.c.job_id.in_(bindparam("job_ids", expanding=True))),
    ),
)
READ_OF_NODES = union_all(
    select(
        node_rollup.c.node,
        quarter_of(node_rollup.c.start_at).label("quarter"),
        null().label("quarter_last"),
        node_rollup.c.state,
        node_rollup.c.ended_count,
        node_rollup.c.busy_seconds,
        literal(0.0).label("delay_seconds"),
        literal(0).label("delay_count"),
    ).where(
        node_rollup.c.unit == _unit,
        node_rollup.c.node.in_(bindparam("nodes", expanding=True)),
        node_rollup.c.start_at >= _first,
        node_rollup.c.start_at < _end,
    ),
    select(
        tally.c.node,
        tally.c.quarter,
        tally.c.quarter_last,
        tally.c.state,
        tally.c.ended_count,
        tally.c.busy_seconds,
        literal(0.0),
        literal(0),
    ).where(tally.c.node.in_(bindparam("nodes", expanding=True))),
)
# Those of which something ended badly in this time: in what is folded, and in what is not.
_bad_states = [state.value for state in BAD_STATES]
_IS_BAD = (
    job_rollup.c.unit == _unit,
    job_rollup.c.state.in_(_bad_states),
    job_rollup.c.start_at >= _first,
    job_rollup.c.start_at < _end,
    job_rollup.c.ended_count > 0,
)
_IS_BAD_YET = (
    tally.c.node == "",
    tally.c.state.in_(_bad_states),
    func.coalesce(tally.c.quarter_last, tally.c.quarter) >= quarter_of(_first),
    tally.c.quarter < quarter_of(_end),
    tally.c.ended_count > 0,
)
# The jobs. Served by rota_job_rollup_state.
FIND_TROUBLED = union(select(job_rollup.c.job_id).where(*_IS_BAD), select(tally.c.job_id).where(*_IS_BAD_YET))


def is_troubled(job_id: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a job is one of them. Served by the primary key of the roll-ups, where few jobs are asked about."""
    return or_(
        exists().where(job_rollup.c.job_id == job_id, *_IS_BAD),
        job_id.in_(select(tally.c.job_id).where(*_IS_BAD_YET)),
    )


_old = db_now_plus(-bindparam("keep_seconds", type_=Number))
# Jobs of which something is counted. Served by the primary key, as the next two are.
FIND_COUNTED = (
    select(job_rollup.c.job_id)
    .where(job_rollup.c.unit == _unit, job_rollup.c.job_id > bindparam("after"))
    .distinct()
    .order_by(job_rollup.c.job_id)
    .limit(JOBS_MAX)
)
REMOVE_OF_JOBS = delete(job_rollup).where(
    job_rollup.c.unit == _unit,
    job_rollup.c.job_id.in_(bindparam("job_ids", expanding=True)),
    job_rollup.c.start_at < _old,
)
REMOVE_OF_NODES = delete(node_rollup).where(node_rollup.c.unit == _unit, node_rollup.c.start_at < _old)


class _Fold:
    """The statements that add to one of the two tables. Served by its primary key."""

    def __init__(self, table: Table, parameter: str, key: Mapping[str, str], numbers: Mapping[str, str]) -> None:
        given = given_rows(parameter, **key, **numbers)
        same = [table.c[name] == given.c[name] for name in key]
        self._parameter = parameter
        self._begin = insert(table).from_select(
            [*key, *numbers],
            select(*(given.c[name] for name in key), *(literal(0) for _ in numbers)).where(~exists().where(*same)),
        )
        self._add = update(table).where(*same).values({name: table.c[name] + given.c[name] for name in numbers})

    def run(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        given = {self._parameter: encode_rows(rows)}
        connection.execute(self._begin, given)
        connection.execute(self._add, given)


_FOLD_JOBS = _Fold(
    job_rollup,
    "of_jobs",
    {"unit": "word", "job_id": "id", "start_at": "instant", "state": "word"},
    {"ended_count": "id", "delay_seconds": "number", "delay_count": "id"},
)
_FOLD_NODES = _Fold(
    node_rollup,
    "of_nodes",
    {"unit": "word", "node": "name", "start_at": "instant", "state": "word"},
    {"ended_count": "id", "busy_seconds": "number"},
)


@dataclass(slots=True)
class Count:
    """What is counted of one state in one stretch of time."""

    ended_count: int = 0
    busy_seconds: float = 0.0  # of attempts on a node
    delay_seconds: float = 0.0  # from when runs might start to when they did, together
    delay_count: int = 0  # of so many runs

    def add(self, row: AnyRow, ended_count: int, *, is_first: bool = True) -> None:
        """Add what a row says; its seconds once, where it is spread over several stretches."""
        self.ended_count += ended_count
        if is_first:
            self.busy_seconds += row.busy_seconds
            self.delay_seconds += row.delay_seconds
            self.delay_count += row.delay_count


@dataclass(slots=True)
class Counts:
    """Counts by whose they are (the id of a job, or the name of a node), where their stretch begins, and state."""

    unit: Unit
    found: dict[tuple[int | str, datetime, str], Count] = field(
        default_factory=dict[tuple[int | str, datetime, str], Count]
    )

    def add(self, row: AnyRow, *subjects: int | str) -> None:
        """Add what a row says of a stretch, or of many, to each of these."""
        first = int(row.quarter)  # a decimal number on MariaDB
        quarters = {first: row.ended_count}
        if row.quarter_last is not None:
            quarters = spread_evenly(first, int(row.quarter_last), row.ended_count)
        for number, (quarter, count) in enumerate(quarters.items()):
            start = _EPOCH + timedelta(seconds=QUARTER_SECONDS * (quarter - quarter % QUARTERS[self.unit]))
            for subject in subjects:
                self.of(subject, start, row.state).add(row, count, is_first=number == 0)

    def of(self, subject: int | str, start: datetime, state: str) -> Count:
        """Return a count, made when there is none."""
        return self.found.setdefault((subject, start, state), Count())

    def rows(self, subject: str) -> Iterable[dict[str, Any]]:
        """Return them as rows of their table, in the order of its key."""
        for (whose, start, state), count in sorted(self.found.items(), key=lambda one: one[0]):
            yield {"unit": self.unit.value, subject: whose, "start_at": start, "state": state} | asdict(count)


def fold_tallies(database: Database) -> bool:
    """Fold the oldest tallies, in one transaction; return whether there are more.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def fold(connection: Connection) -> bool:
        if not take_turn(connection, ROLLUPS, wait=False):
            return False
        rows = connection.execute(FIND_TALLIES).all()
        if not rows:
            return False
        of_jobs, of_nodes = [Counts(unit) for unit in Unit], [Counts(unit) for unit in Unit]
        for row in rows:
            for counts in of_nodes if row.node else of_jobs:
                counts.add(row, *((row.node,) if row.node else (row.job_id, ALL_JOBS)))
        _FOLD_JOBS.run(connection, [one for counts in of_jobs for one in counts.rows("job_id")])
        _FOLD_NODES.run(connection, [one for counts in of_nodes for one in counts.rows("node")])
        crash.at("fold.added")
        connection.execute(REMOVE_TALLIES, {"folded": encode_rows({"id": row.id} for row in rows)})
        crash.at("fold.written")
        return len(rows) == FOLD_MAX

    has_more = database.write(fold, repeatable=True)
    crash.at("fold.committed")
    return has_more


def remove_counts(database: Database, unit: Unit, *, after: int = -1) -> int | None:
    """Remove what is counted by ``unit`` and was kept long enough, of the next jobs after the id ``after``.

    Return where the next batch begins; None: all jobs were looked through.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """
    wanted: dict[str, Any] = {"unit": unit.value, "keep_seconds": KEEP_SECONDS[unit]}

    def remove(connection: Connection) -> int | None:
        job_ids = connection.execute(FIND_COUNTED, {"unit": unit.value, "after": after}).scalars().all()
        if job_ids:
            connection.execute(REMOVE_OF_JOBS, wanted | {"job_ids": job_ids})
        if after < 0:
            connection.execute(REMOVE_OF_NODES, wanted)
        crash.at("counts.removed")
        return job_ids[-1] if len(job_ids) == JOBS_MAX else None

    behind = database.write(remove, repeatable=True)
    crash.at("counts.committed")
    return behind


def read_job_counts(
    connection: Connection, unit: Unit, job_ids: Collection[int], first: datetime, end: datetime, *, together: int = 1
) -> Counts:
    """Return what is counted of these jobs in the stretches that begin in [first, end).

    What is folded comes ``together`` quarters of an hour at a time, as that of the first stretch of these.
    """
    wanted = {
        "unit": unit.value, "job_ids": list(job_ids), "of_all": False, "first": first, "end": end, "together": together,
    }  # fmt: skip
    return _read(connection.execute(READ_OF_JOBS, wanted), unit, first, end)


def read_all_counts(connection: Connection, unit: Unit, first: datetime, end: datetime) -> Counts:
    """Return what is counted of all jobs together, as those of the id ``ALL_JOBS``, likewise."""
    wanted = {
        "unit": unit.value, "job_ids": [ALL_JOBS], "of_all": True, "first": first, "end": end, "together": 1,
    }  # fmt: skip
    return _read(connection.execute(READ_OF_JOBS, wanted), unit, first, end)


def read_node_counts(
    connection: Connection, unit: Unit, nodes: Collection[str], first: datetime, end: datetime
) -> Counts:
    """Return what is counted of the attempts on these nodes in the stretches that begin in [first, end)."""
    wanted = {"unit": unit.value, "nodes": list(nodes), "first": first, "end": end}
    return _read(connection.execute(READ_OF_NODES, wanted), unit, first, end)


def _read(rows: Iterable[AnyRow], unit: Unit, first: datetime, end: datetime) -> Counts:
    counts = Counts(unit)
    for row in rows:
        counts.add(row, row[0])
    counts.found = {key: count for key, count in counts.found.items() if first <= key[1] < end and count.ended_count}
    return counts
