"""How long a new worker takes until it has taken over the jobs of the one before, killed with all of them running."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, select

from rota import Rota
from rota.store.database import Database
from rota.store.tables import event, node, run

JOB = "stays"
LIMIT_SECONDS = 120.0

Start = Callable[[str], contextlib.AbstractContextManager[object]]  # a worker with this state folder


def measure_adoption(rota: Rota, database: Database, start: Start, count: int) -> float:
    """Return the seconds from the new worker's registration, its first query, to the last run taken over."""
    with tempfile.NamedTemporaryFile(prefix="rota-bench-") as started:
        line = f"echo >> {started.name}; exec sleep 1000"
        rota.jobs.add(JOB, command=["/bin/sh", "-c", line])
        return _measure(rota, database, start, count, Path(started.name))


def _measure(rota: Rota, database: Database, start: Start, count: int, started: Path) -> float:
    run_ids = [handle.id for handle in rota.enqueue_many([{"job": JOB}] * count)]
    with tempfile.TemporaryDirectory(prefix="rota-bench-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        state = str(Path(folder) / "state")
        with start(state):
            _wait(lambda: started.stat().st_size == count, "all of them run")
        with start(state):  # the one before was killed
            _wait(lambda: _taken_over(database)[0] == count, "all of them are taken over")
            for run_id in run_ids:
                rota.runs[run_id].cancel()
            _wait(lambda: _running(database) == 0, "all of them are stopped")
    _, last_at = _taken_over(database)
    began_at = database.read(lambda c: c.execute(select(func.max(node.c.started_at))).scalar_one())
    return (last_at - began_at).total_seconds()


def _running(database: Database) -> int:
    statement = select(func.count()).select_from(run).where(run.c.state == "running", run.c.job == JOB)
    return database.read(lambda connection: connection.execute(statement).scalar_one())


def _taken_over(database: Database) -> tuple[int, object]:
    told = event.c.text.like("its worker is gone%has taken it over")
    statement = select(func.count(), func.max(event.c.at)).where(told)
    return tuple(database.read(lambda connection: connection.execute(statement).one()))  # type: ignore[return-value]


def _wait(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"not within {LIMIT_SECONDS:g} s: {what}")
        time.sleep(0.05)
