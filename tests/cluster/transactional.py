"""Callables of transactional jobs, and where they are killed: at a point of their transaction that is counted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from rota import Skip, current_run

KEEP = text("insert into kept (run_id, n, attempt) values (:run_id, :n, :attempt)")


class Points:
    """Counts the points of a connection's transaction, and kills this process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at
        self.names: list[str] = []

    def watch(self, engine: Any) -> None:
        event.listen(engine, "before_cursor_execute", lambda *facts: self.pass_by(f"before {facts[2][:40]}"))
        event.listen(engine, "after_cursor_execute", lambda *facts: self.pass_by(f"after {facts[2][:40]}"))
        event.listen(engine, "commit", lambda *_: self.pass_by("before commit"))
        event.listen(engine, "invalidate", lambda *_: self.pass_by("after commit"))

    def pass_by(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            Path(os.environ["FOLDER"], f"killed-{os.environ['ROTA_RUN_ID']}").write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)


def keep(kill_at: int = 0, rows: int = 3) -> int:
    """Keep some rows; be killed at a point of the transaction."""
    run = current_run()
    Points(kill_at).watch(run.connection.engine)
    for n in range(rows):
        run.connection.execute(KEEP, {"run_id": run.run_id, "n": n, "attempt": run.attempt})
    return rows


def keep_and(how: str) -> Any:
    """Keep a row, and end in another way than well."""
    run = current_run()
    run.connection.execute(KEEP, {"run_id": run.run_id, "n": 0, "attempt": run.attempt})
    match how:
        case "raise":
            raise ValueError("no")
        case "skip":
            raise Skip("nothing")
        case "result":
            return object()
        case "commit":
            run.connection.commit()
        case "rollback":
            run.connection.rollback()
        case "statement":
            run.connection.execute(text("commit"))
        case "wait":
            Path(os.environ["FOLDER"], "waits").touch()
            while True:
                signal.pause()
        case "part":
            with run.connection.begin_nested() as part:
                run.connection.execute(KEEP, {"run_id": run.run_id, "n": 1, "attempt": run.attempt})
                part.rollback()
        case "linger" | "wait and linger":  # the process goes on when all is committed
            if how != "linger":
                Path(os.environ["FOLDER"], "waits").touch()
                _wait_for("go")
            threading.Thread(target=_wait_for, args=("leave",)).start()
        case other:
            raise AssertionError(other)
    return how


def _wait_for(name: str) -> None:
    while not Path(os.environ["FOLDER"], name).exists():
        threading.Event().wait(0.02)


def keep_when_stopped() -> None:
    """Keep a row as soon as the run is to be stopped, and return."""
    run = current_run()
    assert not run.cancelled
    Path(os.environ["FOLDER"], "waits").touch()
    while not run.cancelled:
        time.sleep(0.01)
    run.connection.execute(KEEP, {"run_id": run.run_id, "n": 0, "attempt": run.attempt})


def keep_when_told() -> None:
    """Keep a row, and end when there is a file."""
    run, folder = current_run(), Path(os.environ["FOLDER"])
    run.connection.execute(KEEP, {"run_id": run.run_id, "n": 0, "attempt": run.attempt})
    event.listen(run.connection.engine, "invalidate", lambda *_: (folder / f"over-{run.attempt}").touch())
    (folder / f"kept-{run.attempt}").touch()
    _wait_for(f"go-{run.attempt}")


def keep_and_lose(how: str) -> None:
    """Keep a row; in the first attempt the database, or its answer to COMMIT, is lost."""
    run = current_run()
    connection = run.connection
    connection.execute(KEEP, {"run_id": run.run_id, "n": 0, "attempt": run.attempt})
    if run.attempt > 1:
        return
    if how == "lock":  # somebody else has it; waited for a second at most
        wait = {"postgresql": "set local lock_timeout = '1s'", "mysql": "set session innodb_lock_wait_timeout = 1"}
        connection.execute(text(wait[connection.dialect.name]))
        connection.execute(text("update kept set n = 8 where run_id = 0"))
    commit = connection.engine.dialect.do_commit

    def lose(raw: Any) -> None:
        if how == "answer":
            commit(raw)
        raw.dbapi_connection.close()
        driver = connection.dialect.loaded_dbapi
        raise driver.OperationalError(*([2013] if connection.dialect.name == "mysql" else []), "connection lost")

    connection.engine.dialect.do_commit = lose
