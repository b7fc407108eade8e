"""A scene in which somebody is to die at a crash point, and what must be so at its end."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from rota.crash import AT_VARIABLE, NOTE_VARIABLE
from tests.cluster.cluster import PATH, ROOT, Cluster, Worker
from tests.cluster.ledger import Entry
from tests.execution.harness import is_alive

LEASE_SECONDS = 3.0  # of who dies, where others have to wait for its end
# Of whom nobody waits for: of a machine that is busy, guardians are not to stop a job before anybody renews.
LEASE_SECONDS_LONG = 30.0
LIMIT_SECONDS = 90.0
LOOK_SECONDS = 0.05
LEAST, MOST = "at_least_once", "at_most_once"
SUCCEEDED, LOST = "succeeded", "lost"
# Long enough to be seen twice, and until it may end.
WORKS = (
    "note start; i=0; "
    'while [ $i -lt 4 ] || [ ! -e "$FOLDER/go" ]; do i=$((i + 1)); sleep 0.05; note beat; done; note end'
)

tried: set[str] = set()


def points(which: Mapping[str, str], deliveries: tuple[str, ...] = (LEAST, MOST)) -> Any:
    """Have a test run for each point, and say how an at_most_once run ends that a process died with there.

    Every third one with one delivery is a part of all tests, `make test-crash` tries them all with both.
    """
    tried.update(which)
    cases: list[Any] = []
    for number, (point, once) in enumerate(which.items()):
        for delivery in deliveries:
            is_chosen = number % 3 == 0 and delivery == deliveries[number // 3 % len(deliveries)]
            marks = [] if is_chosen else [pytest.mark.long]
            expected = once if delivery == MOST else SUCCEEDED
            cases.append(pytest.param(point, delivery, expected, marks=marks, id=f"{point}-{delivery}"))
    return pytest.mark.parametrize(("point", "delivery", "expected"), cases)


def each_point(*names: str) -> Any:
    """Have a test run for each point, where no run of a job is at stake: the first one always."""
    tried.update(names)
    cases = [pytest.param(name, marks=[pytest.mark.long] if number else []) for number, name in enumerate(names)]
    return pytest.mark.parametrize("point", cases)


class Scene:
    """A cluster in which somebody is to die, and what must be so at the end."""

    def __init__(self, cluster: Cluster, point: str, delivery: str) -> None:
        self.cluster = cluster
        self.point = point
        self.delivery = delivery
        self.note = cluster.folder / "crashed"
        self.variables = {AT_VARIABLE: point, NOTE_VARIABLE: str(self.note)}
        self.survivors: list[Worker] = []

    # -- who acts

    def add_job(self) -> None:
        self.cluster.add_shell("job", WORKS, delivery=self.delivery)

    def doomed(self, name: str = "a", lease_seconds: float = LEASE_SECONDS_LONG, **values: Any) -> Worker:
        """Begin to start a worker which, or whose guardians, are to die at the point."""
        return self.cluster.begin(name, lease_seconds=lease_seconds, environ=dict(self.variables), **values)

    def survivor(self, name: str) -> Worker:
        worker = self.cluster.begin(name, lease_seconds=LEASE_SECONDS_LONG)
        self.survivors.append(worker)
        return worker

    def go(self) -> None:
        """Let the job end."""
        (self.cluster.folder / "go").touch()

    def start_job(self, worker: Worker) -> tuple[int, Entry]:
        """Have ``worker`` start the job; return the run and its start."""
        worker.ready()
        self.add_job()
        (run_id,) = self.cluster.enqueue("job")
        return run_id, self.cluster.wait_for_note("start", run_id)

    def die_doing(self, *words: str) -> None:
        """Have another program die at the point."""
        assert self.do(*words, **self.variables) == -signal.SIGKILL
        self.wait_for_crash()

    def do(self, *words: str, **variables: str) -> int:
        """Have another program of this Python do something, and return its status."""
        environment = {"PATH": PATH, "PYTHONPATH": str(ROOT), "HOME": str(self.cluster.folder), **variables}
        return subprocess.run([sys.executable, *words], env=environment, check=False).returncode

    # -- what is seen

    def wait_for_crash(self) -> int:
        """Wait until somebody has died at the point, and return who."""

        def noted() -> list[str]:
            told = self.note.read_text() if self.note.exists() else ""
            return told.split() if told.endswith("\n") else []

        point, pid = self.wait(noted, f"{self.point} is reached")
        assert point == self.point
        self.wait(lambda: not is_alive(int(pid)), "who has noted it is dead")
        return int(pid)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait as the cluster does, but look less often: these tests wait for seconds, and several at once."""

        def look() -> Any:
            seen = condition()
            if not seen:
                time.sleep(LOOK_SECONDS)
            return seen

        return self.cluster.wait(look, what, LIMIT_SECONDS)

    def wait_for_end(self, *run_ids: int) -> set[str]:
        """Wait until all of these have finished, and return their states."""
        going = {"waiting", "ready", "running"}
        self.wait(lambda: not self.cluster.states(run_ids) & going, f"runs {run_ids} have finished")
        return self.cluster.states(run_ids)

    def wait_for_crash_of(self, worker: Worker) -> None:
        assert self.wait_for_crash() == worker.pid
        assert worker.exit_status() == -signal.SIGKILL

    def check(self, *run_ids: int, expected: str = SUCCEEDED) -> None:
        """Wait for the end of these runs, and see that the promises were kept."""
        assert self.wait_for_end(*run_ids) == {expected}
        for run_id in run_ids:
            entries = self.cluster.ledger.entries(run_id=run_id)
            executions = [list(group) for group in of_each_process(entries)]
            assert [first.what for first, *_ in executions] == ["start"] * len(executions)
            for before, after in itertools.pairwise(executions):
                assert before[-1].at <= after[0].at, "two executions at the same time"
            whole = [execution for execution in executions if execution[-1].what == "end"]
            attempts = self.cluster.attempts(run_id)
            assert self.cluster.run(run_id).attempt == len(attempts)
            if self.delivery == MOST:
                assert len(executions) <= 1
            if expected == SUCCEEDED:
                assert len(whole) == 1 or (whole and self.delivery == LEAST)
                assert attempts[-1].state == "succeeded"
            else:
                assert attempts[-1].started_at is not None, "lost without a start mark"
        for worker in self.survivors:
            assert "Traceback" not in worker.log() + (worker.folder / "stderr").read_text()


def of_each_process(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Take apart what each execution has noted, in the order of their beginnings."""
    by_process: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        by_process.setdefault((entry.attempt, entry.pid), []).append(entry)
    yield from sorted(by_process.values(), key=lambda noted: noted[0].at)
