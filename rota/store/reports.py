"""Reports: what runs say and write while they run.

Invariant: a report counts only under the claim it belongs to, and only while its run is running; what comes too late
changes nothing. It is made for people who look on: the end of an attempt replaces what was written here by head and
tail. Called by workers and stand-ins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, bindparam, case, delete, func, insert, select, update

from rota.model.run import Piece, Report
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.leases import lock_free
from rota.store.tables import attempt, output, run
from rota.store.types import db_now, encode_rows, given_rows, in_portions

# Kept of a stream while its job runs: the first bytes and the last ones. The rest goes when the next report comes.
LIVE_BYTES_MAX = 1024 * 1024

# Whose reports still count, with the attempt they belong to. Served by the unique claims of both.
FIND_REPORTING = (
    select(run.c.claim_id, attempt.c.id)
    .join(attempt, attempt.c.claim_id == run.c.claim_id)
    .where(run.c.claim_id.in_(bindparam("claim_ids", expanding=True)), run.c.state == RunState.RUNNING.value)
    .order_by(run.c.id)
)

_reports = given_rows(
    "reports", claim_id="token", has_progress="flag", progress="number", progress_message="text", checkpoint="text"
)
# Served by the unique claim. The state is spelt so that MySQL and MariaDB do not begin with all that runs: they would
# lock it, and wait for what other nodes have locked.
KEEP_REPORTS = (
    update(run)
    .where(run.c.claim_id == _reports.c.claim_id, func.coalesce(run.c.state, "") == RunState.RUNNING.value)
    .values(
        progress=case((_reports.c.has_progress, _reports.c.progress), else_=run.c.progress),
        progress_message=case((_reports.c.has_progress, _reports.c.progress_message), else_=run.c.progress_message),
        progress_at=case((_reports.c.has_progress, db_now()), else_=run.c.progress_at),
        checkpoint=case((_reports.c.checkpoint.is_not(None), _reports.c.checkpoint), else_=run.c.checkpoint),
    )
)

# A report that is written a second time, after a lost COMMIT, or by another worker that begins from the start.
# Served by the primary key.
CLEAR_PIECES = delete(output).where(
    output.c.attempt_id == bindparam("of_attempt"),
    output.c.stream == bindparam("of_stream"),
    output.c.position >= bindparam("from_position"),
)
# All that attempts have written: what was kept meanwhile, or long enough. Served by the primary key.
FORGET_OUTPUT = delete(output).where(output.c.attempt_id.in_(bindparam("attempt_ids", expanding=True)))
# What lies between the first and the last bytes. Served by the primary key.
FORGET_MIDDLE = delete(output).where(
    and_(
        output.c.attempt_id == bindparam("of_attempt"),
        output.c.stream == bindparam("of_stream"),
        output.c.position >= bindparam("head_end"),
        output.c.position < bindparam("tail_start"),
    )
)


def keep_reports(database: Database, reports: Mapping[str, Report]) -> frozenset[str]:
    """Keep what the attempts of these claims have told: progress and checkpoint of the run, and new output.

    All of it in one transaction, unless it is so large that a server would not take the statements. Return the claims
    whose run somebody keeps locked, of whose reports nothing was kept: tell them again.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def keep(connection: Connection, portion: Sequence[Report]) -> frozenset[str]:
        told = [report.claim_id for report in portion if report.has_progress or report.checkpoint is not None]
        free, locked = lock_free(connection, told) if told else ([], frozenset[str]())
        portion = [report for report in portion if report.claim_id not in locked]
        found = connection.execute(FIND_REPORTING, {"claim_ids": [report.claim_id for report in portion]})
        attempt_ids = {row.claim_id: row.id for row in found}
        live = [report for report in portion if report.claim_id in attempt_ids]
        if said := [report for report in live if report.claim_id in free]:
            connection.execute(KEEP_REPORTS, {"reports": encode_rows(_row_of(report) for report in said)})
        for report in live:
            _keep_pieces(connection, attempt_ids[report.claim_id], report.pieces)
        return locked

    locked: set[str] = set()
    for portion in in_portions(reports.values(), _size_of):
        locked |= database.write(lambda c: keep(c, portion), repeatable=True)  # noqa: B023 - called at once
    return frozenset(locked)


def _keep_pieces(connection: Connection, attempt_id: int, pieces: Sequence[Piece]) -> None:
    for stream in {piece.stream for piece in pieces}:
        mine = sorted((piece for piece in pieces if piece.stream == stream), key=lambda piece: piece.position)
        of = {"of_attempt": attempt_id, "of_stream": stream}
        connection.execute(CLEAR_PIECES, of | {"from_position": mine[0].position})
        end = mine[-1].position + len(mine[-1].data)
        half = LIVE_BYTES_MAX // 2
        if end > LIVE_BYTES_MAX:
            connection.execute(FORGET_MIDDLE, of | {"head_end": half, "tail_start": end - half})
    if pieces:
        connection.execute(insert(output).values([row_of_piece(attempt_id, piece) for piece in pieces]))


def row_of_piece(attempt_id: int, piece: Piece) -> dict[str, object]:
    """Put a piece of output into the columns of ``rota_output``."""
    marks = json.dumps(piece.marks, separators=(",", ":")) if piece.marks else None
    return {
        "attempt_id": attempt_id,
        "stream": piece.stream,
        "position": piece.position,
        "data": piece.data,
        "marks": marks,
    }


def _row_of(report: Report) -> dict[str, object]:
    return {
        "claim_id": report.claim_id,
        "has_progress": report.has_progress,
        "progress": report.progress,
        "progress_message": report.progress_message,
        "checkpoint": report.checkpoint,
    }


def _size_of(report: Report) -> int:
    return len(report.checkpoint or "") + sum(len(piece.data) + 24 * len(piece.marks) for piece in report.pieces)
