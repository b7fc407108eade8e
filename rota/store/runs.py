"""Runs, read: one, many, what they wrote, and whether they have ended.

Invariant: reading changes nothing and never refuses a row for what stands in it. Called by the doors, and by whoever
waits for a run. What people do to runs is in ``interventions``; making them is in ``creation``. Long for its
statements, which are read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Row, Select, and_, bindparam, desc, func, literal, or_, select

from rota.errors import NotFound
from rota.model.ending import FOR_EVER
from rota.model.pages import Page
from rota.model.placement import RunsOn
from rota.model.run import Piece
from rota.model.states import FINISHED, AttemptState, Delivery, RunState
from rota.model.uniqueness import show_unique_for
from rota.store.database import Database
from rota.store.durations import read_durations
from rota.store.events import READ_RUN_EVENTS, show_event
from rota.store.groups import read_completeness, show_completeness
from rota.store.keys import SHOWN_KEY, show_key_until
from rota.store.shown import show_document, shown
from rota.store.tables import attempt, job, output, run
from rota.store.types import AnyRow, Id, Instant, Number, db_now_plus

LIST_MAX = 1000
COMPLETION_SECONDS_MAX = 10.0
MARK_MAX_US = 10 * 366 * 86_400 * 1_000_000  # into an attempt: no clock shows what was written by hand beyond

_RUN = [*shown(run.c), *SHOWN_KEY, job.c.retries.label("job_retries")]
_RUNS = select(*_RUN).outerjoin(job, job.c.id == run.c.job_id)
READ_RUNS = _RUNS.where(run.c.id.in_(bindparam("ids", expanding=True)))
# Served by the index on the run.
READ_ATTEMPTS = (
    select(*shown(attempt.c))
    .where(attempt.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .order_by(attempt.c.run_id, attempt.c.attempt)
)
# A transactional job ends its run itself; how its process ended, and what it wrote, is told a moment later.
_is_completed = or_(
    run.c.delivery != Delivery.TRANSACTIONAL.value,
    attempt.c.id.is_(None),
    attempt.c.state != AttemptState.SUCCEEDED.value,
    attempt.c.seconds.is_not(None),
    attempt.c.finished_at < db_now_plus(literal(-COMPLETION_SECONDS_MAX, Number)),
)
READ_ENDED = (
    select(run.c.state, run.c.reason, run.c.reason_text, run.c.result, _is_completed.label("is_completed"))
    .outerjoin(attempt, attempt.c.claim_id == run.c.claim_id)
    .where(run.c.id == bindparam("id"))
)
_end = output.c.position + func.length(output.c.data)
# What is new of an attempt's output. Served by the primary key.
READ_PIECES = (
    select(output.c.stream, output.c.position, output.c.data, output.c.marks)
    .where(
        output.c.attempt_id == bindparam("attempt_id"),
        or_(
            and_(output.c.stream == "stdout", _end > bindparam("stdout_seen", type_=Id)),
            and_(output.c.stream == "stderr", _end > bindparam("stderr_seen", type_=Id)),
        ),
    )
    .order_by(output.c.stream, output.c.position)
)
READ_NUMBERS = (
    select(attempt.c.id, attempt.c.attempt, *shown([attempt.c.started_at]))
    .where(attempt.c.run_id == bindparam("run_id"))
    .order_by(attempt.c.attempt)
)
RUN_EXISTS = select(run.c.id).where(run.c.id == bindparam("run_id"))

_running = run.alias("running")
# Each condition on its own, joined once per combination and kept: the texts stay few.
_CONDITIONS = {
    "job": run.c.job == bindparam("job"),
    "job_id": run.c.job_id == bindparam("job_id"),  # served by rota_run_job
    # Served by rota_run_lease: by themselves they are few, while the list in its order would be read to its end.
    "is_running": run.c.id.in_(select(_running.c.id).where(_running.c.lease_ends_at.is_not(None))),
    "from_id": run.c.id >= bindparam("from_id"),
    "schedule": run.c.schedule == bindparam("schedule"),
    "states": run.c.state.in_(bindparam("states", expanding=True)),
    "since": run.c.enqueued_at >= bindparam("since", type_=Instant()),
    "until": run.c.enqueued_at < bindparam("until", type_=Instant()),
    "before": run.c.id < bindparam("before"),
    "group_id": run.c.group_id == bindparam("group_id"),
    # Of a job, by the moments that runs are for. Served by rota_run_moment, in the order of the list.
    "first": run.c.moment_at >= bindparam("first", type_=Instant()),
    "end": run.c.moment_at < bindparam("end", type_=Instant()),
    "last_moment": and_(
        run.c.moment_at <= bindparam("last_moment", type_=Instant()),
        or_(run.c.moment_at < bindparam("last_moment", type_=Instant()), run.c.id < bindparam("last_id")),
    ),
}
_lists: dict[tuple[str, ...], Select[Any]] = {}
# Conditions that an index serves in the order of the list, or that few rows pass: with these, it is read at once. With
# any other it is looked for, so many ids at a time, since no row may pass it for millions.
_SERVED = frozenset({"job_id", "before", "group_id", "is_running"})
READ_MOMENT = select(run.c.moment_at).where(run.c.id == bindparam("id"))
READ_JOB_ID = select(job.c.id).where(job.c.name == bindparam("name"))
# Each is one look at an end of the primary key; SQLite reads all of it for two in one.
READ_BOUNDS = select(
    select(func.min(run.c.id)).scalar_subquery().label("first"),
    select(func.max(run.c.id)).scalar_subquery().label("last"),
)
WINDOW = 10_000  # ids looked at in one statement; in those that follow, up to WINDOW_MAX
WINDOW_MAX = 1_000_000


def _list_statement(names: Iterable[str]) -> Select[Any]:
    """Build, once per combination of conditions, the list of runs: newest first, paged by id; or by moment and id."""
    key = tuple(sorted(name for name in names if name in _CONDITIONS))
    if key not in _lists:
        order = (desc(run.c.moment_at), desc(run.c.id)) if "first" in key else (desc(run.c.id),)
        _lists[key] = _RUNS.where(*(_CONDITIONS[name] for name in key)).order_by(*order).limit(bindparam("limit"))
    return _lists[key]


def read_run(database: Database, run_id: int) -> dict[str, Any]:
    """Return how a run is shown, with its attempts and its history, and how long its job usually takes; of one of a
    group, how complete that is.

    Raises:
        NotFound: there is no such run.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = connection.execute(READ_RUNS, {"ids": [run_id]}).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        usual = read_durations(connection, row.job_id)
        groups = read_completeness(connection, [row.group_id] if row.group_id is not None else [])
        return _show_all(connection, [row])[0] | {
            "expected_seconds": usual.expected_seconds if usual else None,
            "completeness": show_completeness(groups.get(row.group_id or "")),
        }

    return database.read(read)


def read_runs(database: Database, run_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return how these runs are shown, in the order given; numbers that nobody has are left out."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = connection.execute(READ_RUNS, {"ids": list(run_ids)}).all()
        by_id = {row.id: row for row in rows}
        return _show_all(connection, [by_id[run_id] for run_id in run_ids if run_id in by_id])

    return database.read(read)


def list_runs(
    database: Database,
    *,
    job: str | None = None,
    schedule: str | None = None,
    states: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    group: str | None = None,
    limit: int = 50,
    within: int | None = None,
    span: tuple[datetime, datetime] | None = None,
    is_brief: bool = False,
) -> Page[dict[str, Any]]:
    """Return up to ``limit`` runs, newest first; ``before`` is the ``next`` of the page before.

    Of a job that was deleted and made anew, the runs of the one that is there. With ``within``, no more than so many
    ids are looked at for what passes filters that no index serves: a page may be empty then, and have a ``next``.
    With ``span``, those of ``job`` for moments in [start, end), latest moment first. ``is_brief``: without attempts,
    events and the error.

    Raises:
        NotFound: with ``span``, the run ``before`` is not kept any more.
    """
    assert span is None or job is not None
    given: dict[str, Any] = {
        "schedule": schedule,
        "states": list(states) or None,
        "since": since,
        "until": until,
        "before": before,
        "group_id": group,
        "limit": min(limit, LIST_MAX) + 1,
    }
    wanted = {name: value for name, value in given.items() if value is not None}

    def read(connection: Connection) -> Page[dict[str, Any]]:
        filters = dict(wanted)
        if job is not None:
            job_id = connection.execute(READ_JOB_ID, {"name": job}).scalar()
            filters |= {"job": job} if job_id is None else {"job_id": job_id}
        if filters.get("states") == [RunState.RUNNING.value]:
            del filters["states"]
            filters["is_running"] = True
        most: int = filters["limit"] - 1
        left: int | None = None
        if span is not None:
            if "job_id" not in filters:
                return Page()
            rows = _read_span(connection, filters, span)
        elif filters.keys() - {"limit"} <= _SERVED:
            rows = list(connection.execute(_list_statement(filters), filters).all())
        else:
            rows, left = _look_for(connection, filters, within)
        if len(rows) > most:
            del rows[most:]
            left = int(rows[-1].id)
        return Page([_show_brief(row) for row in rows] if is_brief else _show_all(connection, rows), left)

    return database.read(read)


def _read_span(connection: Connection, filters: Mapping[str, Any], span: tuple[datetime, datetime]) -> list[Row[Any]]:
    wanted = {name: value for name, value in filters.items() if name != "before"}
    wanted |= {"first": span[0], "end": span[1]}
    if "before" in filters:
        moment = connection.execute(READ_MOMENT, {"id": filters["before"]}).scalar()
        if moment is None:
            raise NotFound("run", filters["before"], "begin with the first page again")
        wanted |= {"last_moment": moment, "last_id": filters["before"]}
    return list(connection.execute(_list_statement(wanted), wanted).all())


def _look_for(
    connection: Connection, filters: Mapping[str, Any], within: int | None
) -> tuple[list[Row[Any]], int | None]:
    """Look for runs among the newest ids, then among more of those before; tell where to go on, None: there are no
    more."""
    bounds = connection.execute(READ_BOUNDS).one()
    if bounds.first is None:
        return [], None
    upper = min(filters.get("before", bounds.last + 1), bounds.last + 1)
    lowest = bounds.first if within is None else max(bounds.first, upper - within)
    statement = _list_statement({*filters, "before", "from_id"})
    rows: list[Row[Any]] = []
    window = WINDOW
    while upper > lowest and len(rows) < filters["limit"]:
        lower = max(lowest, upper - window)
        given = {"before": upper, "from_id": lower, "limit": filters["limit"] - len(rows)}
        rows += connection.execute(statement, {**filters, **given}).all()
        upper, window = lower, min(window * 2, WINDOW_MAX)
    return rows, upper if upper > bounds.first else None


def _show_brief(row: Row[Any]) -> dict[str, Any]:
    shown_run = _show_run(row, (), [])
    return {name: value for name, value in shown_run.items() if name not in {"attempts", "events", "error"}}


def _show_all(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    attempts: dict[int, list[Row[Any]]] = {row.id: [] for row in rows}
    events: dict[int, list[dict[str, Any]]] = {row.id: [] for row in rows}
    if rows:
        run_ids = {"run_ids": list(attempts)}
        for found in connection.execute(READ_ATTEMPTS, run_ids):
            attempts[found.run_id].append(found)
        for found in connection.execute(READ_RUN_EVENTS, run_ids):
            events[found.run_id].append(show_event(found))
    return [_show_run(row, attempts[row.id], events[row.id]) for row in rows]


def _show_period(row: Row[Any]) -> dict[str, Any] | None:
    if row.period is None:
        return None
    return {
        "name": row.period,
        "start": row.period_start_at,
        "end": row.period_end_at,
        "range_start": row.range_start_at,
        "range_end": row.range_end_at,
    }


def _show_run(row: Row[Any], attempts: Sequence[Row[Any]], events: list[dict[str, Any]]) -> dict[str, Any]:
    retries = row.job_retries if row.retries is None else row.retries
    return {
        "id": row.id,
        "job": row.job,
        "schedule": row.schedule,
        "key": row.run_key,
        "unique_for": show_unique_for(row.unique_seconds),
        "key_until": show_key_until(row),
        "state": row.state,
        "reason": {"code": row.reason, "text": row.reason_text},
        "args": show_document(row.args),
        "result": show_document(row.result),
        "error": _error_of(attempts),
        "priority": row.priority,
        "concurrency_key": row.concurrency_key,
        "pool": row.pool,
        "on": (RunsOn.ANY if row.group_id is None else RunsOn.ALL).value,
        "node": row.node,
        "target_node": row.target_node,
        "group": row.group_id,
        "environment": _spell_environment(row),
        "period": _show_period(row),
        "slot": row.slot_at,
        "slot_count": row.slot_count,
        "slot_last": row.slot_last_at,
        "run_at": row.run_at,
        "start_by": row.start_by,
        "enqueued_at": row.enqueued_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "attempt": row.attempt,
        "max_attempts": retries + 1 if isinstance(retries, int) and retries != FOR_EVER else None,
        "retries": "forever" if row.retries == FOR_EVER else row.retries,
        "retry_delay": row.retry_delay_seconds,
        "progress": _progress_of(row),
        "checkpoint": show_document(row.checkpoint),
        "requested_by": row.requested_by,
        "cancel_asked_at": row.cancel_asked_at,
        "cancel_asked_by": row.cancel_asked_by,
        "freeze_asked_at": row.freeze_asked_at,
        "freeze_asked_by": row.freeze_asked_by,
        "attempts": [_show_attempt(found) for found in attempts],
        "events": events,
    }


def _progress_of(row: Row[Any]) -> dict[str, Any] | None:
    if row.progress_at is None:
        return None
    return {"fraction": row.progress, "message": row.progress_message, "at": row.progress_at}


def _spell_environment(row: Row[Any]) -> str | None:
    """Say what an attempt was claimed for, as a job asks for it; None is the worker's own, or no attempt yet."""
    return None if row.environment is None else f"{row.environment}=={row.environment_version}"


def _error_of(attempts: Sequence[Row[Any]]) -> dict[str, Any] | None:
    """Say what went wrong in the last attempt, if it is over and something did."""
    if not attempts or attempts[-1].state not in {AttemptState.FAILED.value, AttemptState.LOST.value}:
        return None
    last = attempts[-1]
    return {
        "type": last.error_type,
        # Without a type it is a remark on how the process ended, which the reason says in full.
        "message": (last.error_type and last.error_message) or last.reason_text,
        "traceback": last.traceback,
    }


def _show_attempt(row: Row[Any]) -> dict[str, Any]:
    error = None
    if row.error_type or row.error_message:
        error = {"type": row.error_type, "message": row.error_message, "traceback": row.traceback}
    return {
        "attempt": row.attempt,
        "state": row.state,
        "reason": {"code": row.reason, "text": row.reason_text} if row.reason else None,
        "node": row.node,
        "environment": _spell_environment(row),
        "boot_id": row.boot_id,
        "pid": row.pid,
        "executor": row.executor,
        "claim_id": row.claim_id,
        "fence": row.fence,
        "claimed_at": row.claimed_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "exit_code": row.exit_code,
        "signal": row.exit_signal,
        "error": error,
        "result": show_document(row.result),
        "seconds": row.seconds,
        "cpu_seconds": row.cpu_seconds,
        "memory_bytes_max": row.memory_bytes_max,
        "read_bytes": row.read_bytes,
        "written_bytes": row.written_bytes,
        "stdout_bytes": row.stdout_bytes,
        "stderr_bytes": row.stderr_bytes,
        "orphan_at": row.orphan_at,
        "orphan": show_document(row.orphan),
    }


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a run stands, for those who wait for it."""

    state: str
    is_finished: bool
    is_written: bool  # all that it wrote is there too
    reason: str
    text: str
    result: Any


def read_ended(database: Database, run_id: int) -> Ended:
    """Return where a run stands: one statement, cheap enough to ask again and again.

    Raises:
        NotFound: there is no such run.
    """
    row = database.read(lambda connection: connection.execute(READ_ENDED, {"id": run_id}).one_or_none())
    if row is None:
        raise NotFound("run", run_id)
    finished = row.state in {state.value for state in FINISHED}
    return Ended(
        row.state, finished, finished and bool(row.is_completed), row.reason, row.reason_text, show_document(row.result)
    )


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is kept of an attempt's output now."""

    attempt: int | None  # None: there is none yet
    started_at: str | None
    pieces: tuple[Piece, ...]


def read_transcript(
    database: Database, run_id: int, *, attempt_number: int | None = None, seen: Mapping[str, int] | None = None
) -> Transcript:
    """Return what an attempt wrote, the last one unless told: of each stream what ends after the position ``seen``.

    Raises:
        NotFound: there is no such run, or it has no such attempt.
    """
    seen = seen or {}

    def read(connection: Connection) -> Transcript:
        if connection.execute(RUN_EXISTS, {"run_id": run_id}).scalar() is None:
            raise NotFound("run", run_id)
        attempts = connection.execute(READ_NUMBERS, {"run_id": run_id}).all()
        wanted = [row for row in attempts if attempt_number in (None, row.attempt)]
        if attempt_number is not None and not wanted:
            count = len(attempts)
            raise NotFound("attempt", attempt_number, f"run {run_id} has {count} attempt{'' if count == 1 else 's'}")
        if not wanted:
            return Transcript(None, None, ())
        last = wanted[-1]
        positions = {"attempt_id": last.id, "stdout_seen": seen.get("stdout", 0), "stderr_seen": seen.get("stderr", 0)}
        rows = connection.execute(READ_PIECES, positions).all()
        return Transcript(last.attempt, last.started_at, tuple(_piece_of(row) for row in rows))

    return database.read(read)


def _piece_of(row: AnyRow) -> Piece:
    marks = show_document(row.marks)  # as it is, where it was written by hand
    usable: list[tuple[int, int]] = []
    if isinstance(marks, list):
        for mark in cast("list[Any]", marks):
            match mark:
                case [int(position), int(at)] if position >= 0 and 0 <= at <= MARK_MAX_US:
                    usable.append((position, at))
                case _:
                    pass
    return Piece(row.stream, row.position, bytes(row.data), tuple(usable))
