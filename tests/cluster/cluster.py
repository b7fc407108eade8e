"""Several workers on one database, each as if on a machine of its own, and what the tests look at and do to them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from rota.execution.linux import boottime, children_of
from rota.model.run import NewRun
from rota.store.creation import enqueue_runs, request_ids
from rota.store.database import Database
from rota.store.tables import attempt, event, job, run
from rota.store.types import db_now
from rota.store.wakeup import announce
from tests.cluster.ledger import NOTE, Entry, Ledger
from tests.execution.harness import is_alive, wait_until

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 30.0  # a limit for what takes moments, on a machine that is busy
PATH = "/usr/local/bin:/usr/bin:/bin"
TROUBLE = re.compile(r" (ERROR|CRITICAL) |Traceback \(most recent call last\)")


class Worker:
    """One worker process with its own state folder, and what hangs below it."""

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.folder = folder
        self.settings_path = folder / "settings.json"
        self.log_path = folder / "log"
        self.values = values | {"log": str(self.log_path)}
        self.goes_by = ""  # the name that the cluster knows it by, once it works
        folder.mkdir(exist_ok=True)
        # In a namespace of processes of its own, as in a container.
        alone = ["unshare", "--pid", "--fork", "--mount-proc"] if self.values.pop("as_process_1", False) else []
        # An installation of its own, to be replaced while jobs run.
        library = self.values.pop("library", None)
        environ: dict[str, str] = self.values.pop("environ", {})  # beside what every worker is given
        self.write_settings()
        with (folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*alone, sys.executable, "-P", "-m", "tests.cluster.worker_process", str(self.settings_path)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={"PATH": PATH, "PYTHONPATH": f"{library}:{ROOT}" if library else str(ROOT), **environ},
            )  # fmt: skip

    def write_settings(self, **changes: Any) -> None:
        self.values |= changes
        self.settings_path.write_text(json.dumps(self.values))

    def ready(self) -> Worker:
        """Wait until it works."""
        self.wait_for_start()
        assert self.goes_by, f"the worker did not start: {(self.folder / 'stderr').read_text()}{self.log()}"
        return self

    def wait_for_start(self) -> None:
        """Wait until it works, or has ended."""
        assert self.process.stdout is not None
        if not self.goes_by:
            self.goes_by = self.process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def nursery_pid(self) -> int:
        (pid,) = [child for child in children_of(self.pid) if is_alive(child)]
        return pid

    @property
    def guardians(self) -> Path:
        """The folder of its guardians: of one database, since the tests give a worker one only."""
        (folder,) = Path(self.values["state_dir"]).glob("g*/")
        return folder

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def trouble(self) -> list[str]:
        """Return the lines of the log, and of what it printed by itself, that tell of something that went wrong."""
        said = self.log() + (self.folder / "stderr").read_text()
        nursery = (self.guardians / "nursery.log").read_text()
        return [line for line in said.splitlines() if TROUBLE.search(line)] + nursery.splitlines()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """Drain, and return the exit status."""
        self.signal(signal.SIGINT)
        return self.exit_status(seconds)

    def give_back(self) -> None:
        """Have it stop its jobs and give their runs back. Two different signals: two equal ones may become one."""
        self.signal(signal.SIGINT)
        self.signal(signal.SIGQUIT)

    def exit_status(self, seconds: float = WAIT_SECONDS) -> int:
        status = self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def kill(self, *others: int) -> float:
        """Kill the worker, and ``others`` with it: nobody of them sees another die. Return when it was."""
        return self._end((self.pid, *others))

    def _end(self, pids: tuple[int, ...]) -> float:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        at = boottime()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.exit_status()
        return at


class Cluster:
    """Workers, jobs and runs on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.database = Database(url)
        self.ledger = Ledger(folder / "ledger")
        self.workers: list[Worker] = []

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.wait_for_start()  # before it hears signals, it may have inherited that they are ignored
                worker.give_back()
        for worker in self.workers:
            try:
                worker.exit_status(8)
            except subprocess.TimeoutExpired:
                warnings.warn(f"a worker had to be killed in the end:\n{worker.log()[-2000:]}", stacklevel=1)
                worker.process.kill()
                worker.exit_status()
        self.database.close()

    # -- making things

    def begin(self, name: str, **values: Any) -> Worker:
        """Begin to start a worker; ``ready`` waits for it. Started again under its name it is the same machine.

        ``goes_by=None`` has it find a name for itself.
        """
        values.setdefault("database_url", self.url)
        values = {
            "name": values.pop("goes_by", name),
            "state_dir": str(self.folder / name),
            "grace_seconds": 1.0,
            **values,
        }
        worker = Worker(self.folder / name, values)
        self.workers.append(worker)
        return worker

    def start(self, name: str, **values: Any) -> Worker:
        return self.begin(name, **values).ready()

    def add_job(self, name: str, kind: str, target: str, **columns: Any) -> None:
        """Insert a job's row as it is, checked by nobody."""
        variables = {"LEDGER": str(self.ledger.path), "FOLDER": str(self.folder), "PYTHONPATH": str(ROOT)}
        values = {
            "name": name, "kind": kind, "target": target, "pool": "default", "delivery": "at_least_once", "retries": 0,
            "lost_max": 5, "retry_delay_seconds": 0.0, "backoff": "fixed", "retry_delay_max_seconds": 3600.0,
            "priority": 0, "variables": json.dumps(variables), "revision": 1,
        }  # fmt: skip
        statement = insert(job).values(created_at=db_now(), updated_at=db_now())
        self.database.write(lambda connection: connection.execute(statement, values | columns), repeatable=False)

    def add_shell(self, name: str, line: str, **columns: Any) -> None:
        """Add a job whose shell can ``note`` in the ledger."""
        self.add_job(name, "shell", NOTE + line, **columns)

    def enqueue(self, name: str, count: int = 1, *, args: Mapping[str, Any] | None = None) -> list[int]:
        def work(connection: Any) -> list[int]:
            announce(connection)
            wanted = [NewRun(name, args=json.dumps(args or {}), requested_by="test")] * count
            return enqueue_runs(connection, wanted, request_ids(count))

        return self.database.write(work, repeatable=False)

    # -- looking

    def run(self, run_id: int) -> Any:
        return self.database.read(lambda c: c.execute(select(run).where(run.c.id == run_id)).one())

    def events(self, run_id: int) -> list[str]:
        """What was told of a run, in order."""
        statement = select(event.c.text).where(event.c.run_id == run_id).order_by(event.c.id)
        return [told or "" for told in self.database.read(lambda c: c.execute(statement).scalars().all())]

    def attempts(self, run_id: int) -> list[Any]:
        statement = select(attempt).where(attempt.c.run_id == run_id).order_by(attempt.c.attempt)
        return list(self.database.read(lambda c: c.execute(statement).all()))

    def states(self, run_ids: Iterable[int]) -> set[str]:
        statement = select(run.c.state).where(run.c.id.in_(list(run_ids))).distinct()
        return set(self.database.read(lambda c: c.execute(statement).scalars().all()))

    # -- waiting

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        try:
            return wait_until(condition, what, seconds)
        except AssertionError as error:
            logs = "\n".join(f"--- {worker.folder.name}\n{worker.log()[-4000:]}" for worker in self.workers)
            raise AssertionError(f"{error}\n{self.ledger.path.read_text()[-2000:]}\n{logs}") from None

    def wait_for_end(self, *run_ids: int, seconds: float = WAIT_SECONDS) -> set[str]:
        """Wait until all of these have finished, and return their states."""
        going = {"waiting", "ready", "running"}
        self.wait(lambda: not self.states(run_ids) & going, f"runs {run_ids[:5]} have finished", seconds)
        return self.states(run_ids)

    def wait_for_note(
        self, what: str, run_id: int | None = None, *, attempt: int | None = None, seconds: float = WAIT_SECONDS
    ) -> Entry:
        said = f"{what!r} of run {run_id}, attempt {attempt}, is in the ledger"
        return self.wait(lambda: self.ledger.entries(what, run_id=run_id, attempt=attempt), said, seconds)[0]

    def wait_for_log(self, worker: Worker, text: str, seconds: float = WAIT_SECONDS) -> None:
        self.wait(lambda: text in worker.log(), f"{text!r} in the log of {worker.folder.name}", seconds)

    def wait_for_death(self, *pids: int, seconds: float = WAIT_SECONDS) -> float:
        """Wait until none of these lives, and return when that was seen."""
        self.wait(lambda: not any(is_alive(pid) for pid in pids), f"{pids} are dead", seconds)
        return boottime()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants_of(pid: int) -> list[int]:
    found = children_of(pid)
    return found + [further for child in found for further in descendants_of(child)]
