"""What this machine can do: forks, spawns, and no-op commands through a crew alone, without a database.

Printed beside the figures of Rota, so that those of two machines can be compared. Run as
``python -m benchmarks.machine``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from rota.execution.crew import Crew
from rota.execution.linux import boottime
from rota.execution.order import Ended, Order

NOOP = "/bin/true"
LEASE_SECONDS = 60.0

# In a small interpreter of its own: the price of a fork depends on the size of the process.
FORKS = """
import os, sys, time
count = int(sys.argv[1])
begun = time.perf_counter()
for _ in range(count):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
print(count / (time.perf_counter() - begun))
"""


def fork_rate(count: int = 1000) -> float:
    """Measure forks a second of a process of 10 MB, one after the other, each child ending at once."""
    command = [sys.executable, "-I", "-S", "-c", FORKS, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def posix_spawn_rate(count: int = 1000) -> float:
    """Measure no-op commands a second by posix_spawn, one after the other: the least that starting one costs here."""
    begun = time.perf_counter()
    for _ in range(count):
        pid = os.posix_spawn(NOOP, [NOOP], {}, setsigdef=[signal.SIGPIPE])
        os.waitpid(pid, 0)
    return count / (time.perf_counter() - begun)


def crew_rate(count: int = 2000, *, slots: int = 16, reuse: int = 1000) -> float:
    """Measure no-op commands a second under guardians, ``slots`` at a time, each acknowledged as soon as it ended.

    The ends are counted: an attempt that did not end well raises.
    """
    with tempfile.TemporaryDirectory(prefix="rota-", dir="/tmp") as folder:
        crew = Crew(Path(folder) / "crew", reuse=reuse)
        crew.open()
        try:
            begun = time.perf_counter()
            started = ended = 0
            while ended < count:
                while started < count and started - ended < slots:
                    crew.start(_noop_order(started))
                    started += 1
                outcomes = [event.outcome for event in crew.poll(5) if isinstance(event, Ended)]
                if any(outcome.exit_code != 0 for outcome in outcomes):
                    raise RuntimeError(f"a no-op failed: {outcomes}")
                crew.acknowledge(outcome.claim_id for outcome in outcomes)
                ended += len(outcomes)
            return count / (time.perf_counter() - begun)
        finally:
            crew.close()


def _noop_order(number: int) -> Order:
    return Order(
        claim_id=uuid.uuid4().hex,
        run_id=number,
        attempt=1,
        fence=1,
        argv=(NOOP,),
        environment={"PATH": os.defpath},
        deadline=boottime() + LEASE_SECONDS,
        lease_seconds=LEASE_SECONDS,
    )


def main() -> None:
    """Measure and print."""
    figures = (
        ("forks of a 10 MB process", fork_rate()),
        ("posix_spawn of /bin/true", posix_spawn_rate()),
        ("under guardians, 16 at a time, reused", crew_rate()),
        ("under guardians, 16 at a time, not reused", crew_rate(reuse=1)),
        ("under guardians, 1 at a time, reused", crew_rate(1000, slots=1)),
    )
    for name, rate in figures:
        print(f"{name:<44} {rate:>7.0f} /s")


if __name__ == "__main__":
    main()
