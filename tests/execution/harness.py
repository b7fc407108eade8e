"""A crew with real processes, the waiting around it, and a worker that can be stopped and killed."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rota.execution.crew import Crew
from rota.execution.linux import boottime
from rota.execution.order import CrewEvent, Ended, GuardianLost, Order, Outcome, Started

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 20.0  # for events that come in milliseconds, on a machine that is busy


def wait_until(condition: Callable[[], Any], what: str, seconds: float = LIMIT_SECONDS, pause: float = 0.002) -> Any:
    """Look again and again until something is so, and give what was seen.

    With a `pause`: MariaDB tells the same of its transactions for as long as it is asked more often than each 0.1 s.
    """
    give_up_at = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < give_up_at, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return seen


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_files(folder: Path | str) -> int:
    return len(list(Path(folder).iterdir()))


def make_order(*argv: str, **values: Any) -> Order:
    lease_seconds = values.setdefault("lease_seconds", 60.0)
    values.setdefault("deadline", boottime() + lease_seconds)
    values.setdefault("environment", {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    values.setdefault("claim_id", uuid.uuid4().hex)
    return Order(run_id=7, job="job", attempt=1, fence=3, argv=argv, **values)


class Harness:
    """A crew, and the waiting around it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.crew = Crew(folder, **settings)
        self.crew.open()
        self.seen: list[CrewEvent] = []

    def start(self, *argv: str, **values: Any) -> Order:
        order = make_order(*argv, **values)
        self.crew.start(order)
        return order

    def next_event(self, order: Order, kind: type) -> Any:
        """Wait for the event of this kind about this order."""
        give_up_at = time.monotonic() + LIMIT_SECONDS
        while True:
            for event in self.seen:
                claim_id = event.outcome.claim_id if isinstance(event, Ended) else event.claim_id
                if isinstance(event, kind) and claim_id == order.claim_id:
                    self.seen.remove(event)
                    return event
            assert time.monotonic() < give_up_at, f"no {kind.__name__} for {order.argv}, but {self.seen}"
            self.seen += self.crew.poll(0.5)

    def started(self, order: Order) -> Started:
        return self.next_event(order, Started)

    def ended(self, order: Order) -> Outcome:
        """Wait for the end of an attempt, and acknowledge it."""
        outcome = self.next_event(order, Ended).outcome
        self.crew.acknowledge([order.claim_id])
        return outcome

    def lost(self, order: Order) -> GuardianLost:
        return self.next_event(order, GuardianLost)

    def run(self, *argv: str, **values: Any) -> Outcome:
        return self.ended(self.start(*argv, **values))


WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.execution.harness import Harness
harness = Harness(Path({folder!r}), **{settings!r})
order = harness.start(*{argv!r}, **{values!r})
started = harness.started(order)
print(harness.crew.nursery_pid, started.guardian_pid, started.pid, order.claim_id, flush=True)
while True:
    for event in harness.crew.poll(60):
        print("event", flush=True)
"""


class WorkerProcess:
    """A crew in a process of its own, with one job: to be stopped and killed."""

    def __init__(self, folder: Path, *argv: str, settings: dict[str, Any] | None = None, **values: Any) -> None:
        facts = {"root": str(ROOT), "folder": str(folder), "settings": settings or {}}
        program = WORKER.format(**facts, argv=argv, values=values)
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        self.nursery_pid, self.guardian_pid, self.job_pid = (int(word) for word in words[:3])
        self.claim_id = words[3]

    def wait_for_end(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "event\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
