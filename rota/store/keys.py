"""Keys of runs: who holds one, and until when.

Invariant: ``active_key`` stands in at most one run of a job, the one that a request with that key gets instead of a new
one. An unfinished run holds its key, and a finished one as long as ``unique_seconds`` says. That time is over without
anybody writing it down: whoever asks for a run of the key then takes it away, in the transaction that makes the new
run, so that no sweep has to come first.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, null, or_, select, update

from rota.model.instants import format_instant
from rota.model.uniqueness import FOR_EVER
from rota.store.tables import run
from rota.store.types import AnyRow, db_now, db_now_plus, encode_rows, given_rows

UNTIL_END = "end"

_seconds = func.coalesce(run.c.unique_seconds, 0.0)
# Whether a run holds its key beyond its end.
HOLDS_KEY_BEYOND = or_(_seconds < 0, run.c.enqueued_at > db_now_plus(-_seconds))

_keys = given_rows("wanted", job_id="id", run_key="name")
_is_wanted = (run.c.job_id == _keys.c.job_id, run.c.active_key == _keys.c.run_key)
# Served by rota_run_active_key, and so is the next one.
FIND_KEYED = select(run.c.id, run.c.job_id, run.c.active_key, run.c.state).where(*_is_wanted)
# Let go of keys whose time is over. Of two who ask at once, the second one waits for the first, and finds nothing.
LET_GO = update(run).where(*_is_wanted, run.c.finished_at.is_not(None), ~HOLDS_KEY_BEYOND).values(active_key=null())
# A key for one node, whose run has ended.
HOLD_FOR_ALL_NODES = (
    update(run)
    .where(run.c.id == bindparam("of_id"), run.c.active_key == bindparam("of_key"), run.c.finished_at.is_not(None))
    .values(active_key=run.c.run_key)
)

# What it takes to show until when a key holds.
SHOWN_KEY = [run.c.enqueued_at.label("asked_at"), db_now().label("now")]


def let_go_of_keys(connection: Connection, wanted: Iterable[tuple[int, str]]) -> bool:
    """Take these keys (job, key) from finished runs that hold them no longer; return whether there was one."""
    rows = encode_rows({"job_id": job_id, "run_key": key} for job_id, key in wanted)
    return connection.execute(LET_GO, {"wanted": rows}).rowcount > 0


def find_holders(connection: Connection, wanted: Iterable[tuple[int, str]]) -> dict[tuple[int, str], AnyRow]:
    """Return the runs that hold these keys (job, key)."""
    rows = encode_rows({"job_id": job_id, "run_key": key} for job_id, key in wanted)
    return {(row.job_id, row.active_key): row for row in connection.execute(FIND_KEYED, {"wanted": rows})}


def hold_for_all_nodes(connection: Connection, rows: Iterable[AnyRow]) -> None:
    """Let finished runs for a node that is forgotten hold their keys for all nodes: by its name they are not found.

    Each key once, and what others hold stays theirs. ``rows`` have id, job_id, run_key and active_key.
    """
    wanted = {(row.job_id, row.run_key): row for row in rows if row.run_key is not None and row.active_key is not None}
    if not wanted:
        return
    held = find_holders(connection, wanted)
    for which in sorted(wanted.keys() - held.keys()):
        row = wanted[which]
        connection.execute(HOLD_FOR_ALL_NODES, {"of_id": row.id, "of_key": row.active_key})


def show_key_until(row: Any) -> str | None:
    """Say until when the run in ``row`` holds its key: a moment, ``end``, ``forever``; None: it does not."""
    if row.active_key is None:
        return None
    seconds = row.unique_seconds
    if seconds is not None and seconds < 0:
        return FOR_EVER
    until = None
    if seconds is not None and row.asked_at is not None and row.asked_at + timedelta(seconds=seconds) > row.now:
        until = format_instant(row.asked_at + timedelta(seconds=seconds))
    return until or (UNTIL_END if row.finished_at is None else None)
