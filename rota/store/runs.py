"""Runs, read: one, many, what they wrote, and whether they have ended.

Invariant: reading changes nothing and never refuses a row for what stands in it. Called by the doors, and by whoever
waits for a run. What people do to runs is in ``interventions``; making them is in ``creation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, desc, select

from rota.errors import NotFound
from rota.model.ending import FOR_EVER
from rota.model.states import FINISHED, AttemptState
from rota.store.database import Database
from rota.store.events import READ_RUN_EVENTS, show_event
from rota.store.shown import show_document, shown
from rota.store.tables import attempt, job, output, run
from rota.store.types import Instant

LIST_MAX = 1000

_RUN = [*shown(run.c), job.c.retries.label("job_retries")]
_RUNS = select(*_RUN).outerjoin(job, job.c.id == run.c.job_id)
READ_RUNS = _RUNS.where(run.c.id.in_(bindparam("ids", expanding=True)))
# Served by the index on the run.
READ_ATTEMPTS = (
    select(*shown(attempt.c))
    .where(attempt.c.run_id.in_(bindparam("run_ids", expanding=True)))
    .order_by(attempt.c.run_id, attempt.c.attempt)
)
READ_ENDED = select(run.c.state, run.c.reason, run.c.reason_text, run.c.result).where(run.c.id == bindparam("id"))
_PIECE = [output.c.stream, output.c.position, output.c.data]
READ_PIECES = (
    select(*_PIECE)
    .join(attempt, output.c.attempt_id == attempt.c.id)
    .where(attempt.c.run_id == bindparam("run_id"), attempt.c.attempt == bindparam("attempt"))
    .order_by(output.c.stream.desc(), output.c.position)  # stdout before stderr
)
READ_NUMBERS = select(attempt.c.attempt).where(attempt.c.run_id == bindparam("run_id")).order_by(attempt.c.attempt)
RUN_EXISTS = select(run.c.id).where(run.c.id == bindparam("run_id"))

# Each condition on its own, joined once per combination and kept: the texts stay few.
_CONDITIONS = {
    "job": run.c.job == bindparam("job"),
    "schedule": run.c.schedule == bindparam("schedule"),
    "states": run.c.state.in_(bindparam("states", expanding=True)),
    "since": run.c.enqueued_at >= bindparam("since", type_=Instant()),
    "before": run.c.id < bindparam("before"),
}
_lists: dict[tuple[str, ...], Select[Any]] = {}


def _list_statement(names: Iterable[str]) -> Select[Any]:
    """Build, once per combination of conditions, the list of runs: newest first, paged by id."""
    key = tuple(sorted(names))
    if key not in _lists:
        _lists[key] = (
            _RUNS.where(*(_CONDITIONS[name] for name in key)).order_by(desc(run.c.id)).limit(bindparam("limit"))
        )
    return _lists[key]


def read_run(database: Database, run_id: int) -> dict[str, Any]:
    """Return how a run is shown, with its attempts and its history.

    Raises:
        NotFound: there is no such run.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = connection.execute(READ_RUNS, {"ids": [run_id]}).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        return _show_all(connection, [row])[0]

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
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return up to ``limit`` runs, newest first; ``before`` is the last id of the page before."""
    given: dict[str, Any] = {
        "job": job,
        "schedule": schedule,
        "states": list(states) or None,
        "since": since,
        "before": before,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    statement = _list_statement(wanted)

    def read(connection: Connection) -> list[dict[str, Any]]:
        return _show_all(connection, connection.execute(statement, wanted | {"limit": min(limit, LIST_MAX)}).all())

    return database.read(read)


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


def _show_run(row: Row[Any], attempts: Sequence[Row[Any]], events: list[dict[str, Any]]) -> dict[str, Any]:
    retries = row.job_retries
    return {
        "id": row.id,
        "job": row.job,
        "schedule": row.schedule,
        "key": row.run_key,
        "state": row.state,
        "reason": {"code": row.reason, "text": row.reason_text},
        "args": show_document(row.args),
        "result": show_document(row.result),
        "error": _error_of(attempts),
        "priority": row.priority,
        "pool": row.pool,
        "on": "any",
        "node": row.node,
        "target_node": row.target_node,
        "environment": None,
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
        "progress": None,
        "checkpoint": None,
        "requested_by": row.requested_by,
        "cancel_asked_at": row.cancel_asked_at,
        "cancel_asked_by": row.cancel_asked_by,
        "attempts": [_show_attempt(found) for found in attempts],
        "events": events,
    }


def _error_of(attempts: Sequence[Row[Any]]) -> dict[str, Any] | None:
    """Say what went wrong in the last attempt, if it is over and something did."""
    if not attempts or attempts[-1].state not in {AttemptState.FAILED.value, AttemptState.LOST.value}:
        return None
    last = attempts[-1]
    return {
        "type": last.error_type,
        "message": last.error_message or last.reason_text,
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
        "boot_id": row.boot_id,
        "pid": row.pid,
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
    return Ended(row.state, finished, row.reason, row.reason_text, show_document(row.result))


def read_output(
    database: Database, run_id: int, *, attempt_number: int | None = None, stream: str | None = None
) -> bytes:
    """Return what an attempt wrote, the last one unless told; standard output first, then standard error.

    Where the middle was left out, a line in its place says how much it was.

    Raises:
        NotFound: there is no such run, or it has no such attempt.
    """

    def read(connection: Connection) -> Sequence[Row[Any]]:
        if connection.execute(RUN_EXISTS, {"run_id": run_id}).scalar() is None:
            raise NotFound("run", run_id)
        numbers = connection.execute(READ_NUMBERS, {"run_id": run_id}).scalars().all()
        if attempt_number is not None and attempt_number not in numbers:
            raise NotFound("attempt", attempt_number, f"run {run_id} has {len(numbers)} attempts")
        if not numbers:
            return []
        wanted = numbers[-1] if attempt_number is None else attempt_number
        return connection.execute(READ_PIECES, {"run_id": run_id, "attempt": wanted}).all()

    pieces = [piece for piece in database.read(read) if stream is None or piece.stream == stream]
    return join_pieces((piece.stream, piece.position, bytes(piece.data)) for piece in pieces)


def join_pieces(pieces: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Put the kept pieces of each stream together, with a line for what lies between them."""
    text = bytearray()
    last_stream, end = "", 0
    for stream, position, data in pieces:
        if stream != last_stream:
            last_stream, end = stream, 0
        if position > end:
            before = b"" if not text or text.endswith(b"\n") else b"\n"
            text += before + f"[... {position - end} bytes of {stream} left out ...]\n".encode()
        text += data
        end = position + len(data)
    return bytes(text)
