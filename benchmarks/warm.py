"""No-op Python jobs, isolated: forked by a warm parent, beside what forking costs a process of that size, and cold.

Through a crew alone, without a database. Run as ``python -m benchmarks.warm``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rota.execution.command import argv_for_call
from rota.execution.crew import Crew, Ended
from rota.execution.linux import boottime
from rota.execution.order import Order

ROOT = Path(__file__).parents[1]
LEASE_SECONDS = 60.0
TARGET = "no_op_jobs:no_op"
WARM_SHARE_MIN = 0.9  # of the measured jobs: the rest were started while a parent was renewed

# It tells by whom it was forked, so that what was measured is known.
JOBS = """
{imports}
import os
def no_op(): return os.getppid()
"""

LARGER = "import asyncio, sqlalchemy.dialects.postgresql, psycopg, rich.table"

# A process that has imported what a warm parent has, forking children that end at once.
FORKS = """
import gc, os, sys, time
import rota.execution.warm_parent, no_op_jobs
gc.freeze()
count = int(sys.argv[1])
begun = time.perf_counter()
for _ in range(count):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
rate = count / (time.perf_counter() - begun)
resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
print(rate, resident)
"""


@dataclass(frozen=True, slots=True)
class WarmFigures:
    """What was measured with parents of one size. Rates a second."""

    parent_bytes: int
    forks: float  # and exits, one after the other
    warm: float
    cold: float

    @property
    def share(self) -> float:
        """How much of the fork rate is left when each fork is a job under its guardian."""
        return self.warm / self.forks


def measure_warm(imports: str = "", *, count: int = 2000, cold_count: int = 100, slots: int = 16) -> WarmFigures:
    """Measure with jobs whose module imports what ``imports`` says. Raises if a job did not end well, or not warm."""
    with tempfile.TemporaryDirectory(prefix="rota-", dir="/tmp") as folder:
        (Path(folder) / "no_op_jobs.py").write_text(JOBS.format(imports=imports))
        environment = {"PATH": os.defpath, "PYTHONPATH": f"{folder}:{ROOT}", "ROTA_ARGS": "{}"}
        program = [sys.executable, "-P", "-c", FORKS, str(min(count, 500))]
        before, resident = _fork_rate(program, environment)
        crew = Crew(Path(folder) / "crew")
        crew.open()
        try:
            cold, _ = _rate(crew, cold_count, slots, lambda: _order(environment, call=None))
            _await_parent(crew, environment, slots)
            warm, parents = _rate(crew, count, slots, lambda: _order(environment, call=TARGET))
        finally:
            crew.close()
        after, _ = _fork_rate(program, environment)
    forked = sum(number for number in parents.values() if number > 1)
    if forked < WARM_SHARE_MIN * count:
        raise RuntimeError(f"only {forked} of {count} jobs were forked by a warm parent")
    return WarmFigures(resident, (before + after) / 2, warm, cold)


def _fork_rate(program: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Measure forks and exits a second, and give the size of what was forked. Before and after, since machines vary."""
    told = subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout.split()
    return float(told[0]), int(told[1])


def _await_parent(crew: Crew, environment: dict[str, str], slots: int) -> None:
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        _, parents = _rate(crew, slots, slots, lambda: _order(environment, call=TARGET))
        if parents.most_common(1)[0][1] == slots:
            return
    raise RuntimeError("no warm parent came: see warm.log")


def _rate(crew: Crew, count: int, slots: int, make: Callable[[], Order]) -> tuple[float, Counter[str]]:
    """Run jobs, ``slots`` at a time, each acknowledged as soon as it ended; count by which process they were forked."""
    parents: Counter[str] = Counter()
    begun = time.perf_counter()
    started = ended = 0
    while ended < count:
        while started < count and started - ended < slots:
            crew.start(make())
            started += 1
        outcomes = [event.outcome for event in crew.poll(5) if isinstance(event, Ended)]
        for outcome in outcomes:
            if outcome.exit_code != 0 or outcome.result is None:
                raise RuntimeError(f"a no-op failed: {outcome}")
            parents[outcome.result] += 1
        crew.acknowledge(outcome.claim_id for outcome in outcomes)
        ended += len(outcomes)
    return count / (time.perf_counter() - begun), parents


def _order(environment: dict[str, str], *, call: str | None) -> Order:
    return Order(
        job="bench",
        claim_id=uuid.uuid4().hex,
        run_id=1,
        attempt=1,
        fence=1,
        argv=argv_for_call(TARGET),
        environment=environment,
        deadline=boottime() + LEASE_SECONDS,
        lease_seconds=LEASE_SECONDS,
        expects_result=True,
        call=call,
    )


def main() -> None:
    """Measure and print."""
    for name, imports in (("small", ""), ("larger", LARGER)):
        for slots in (16, 1):
            found = measure_warm(imports, slots=slots, count=2000 if slots > 1 else 500)
            print(
                f"{name:<7} parent of {found.parent_bytes / 1e6:>4.0f} MB, {slots:>2} at a time: "
                f"fork and exit {found.forks:>5.0f} /s, warm {found.warm:>4.0f} /s "
                f"({found.share:.2f} of that), cold {found.cold:>3.0f} /s"
            )


if __name__ == "__main__":
    main()
