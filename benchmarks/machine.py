"""What this machine can do: forks, spawns, and no-op commands through a crew alone, without a database.

Printed beside the figures of Rota, so that those of two machines can be compared. Run as
``python -m benchmarks.machine``.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from rota.execution.crew import Crew, GuardianLost, Started
from rota.execution.delegation import prepare
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


def crew_rate(count: int = 2000, *, slots: int = 16, reuse: int = 1000, cgroups: str = "") -> float:
    """Measure no-op commands a second under guardians, ``slots`` at a time, each acknowledged as soon as it ended.

    With ``cgroups``, a directory of cgroup v2, each gets a cgroup there. The ends are counted: an attempt that did not
    end well raises.
    """
    with tempfile.TemporaryDirectory(prefix="rota-", dir="/tmp") as folder:
        crew = Crew(Path(folder) / "crew", reuse=reuse, cgroups=cgroups)
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


@dataclass(frozen=True, slots=True)
class Guarding:
    """What guarding costs a machine, and how soon the job of a killed guardian is gone."""

    nursery_bytes: int  # resident
    guardian_bytes: int  # private to one that waits for its job
    gone_seconds_median: float
    gone_seconds_worst: float


def measure_guarding(count: int = 20) -> Guarding:
    """Start ``count`` sleeping jobs, look at the memory, and kill their guardians one after the other."""
    gone: list[float] = []
    with tempfile.TemporaryDirectory(prefix="rota-", dir="/tmp") as folder:
        crew = Crew(Path(folder) / "crew")
        crew.open()
        try:
            for number in range(count):
                crew.start(_order(number, "/bin/sleep", "60"))
            started: list[Started] = []
            while len(started) < count:
                started += [event for event in crew.poll(5) if isinstance(event, Started)]
            nursery = _memory(crew.nursery_pid, "status", "VmRSS")
            guardians = [
                _memory(event.guardian_pid, "smaps_rollup", "Private_Dirty")
                + _memory(event.guardian_pid, "smaps_rollup", "Private_Clean")
                for event in started
            ]
            for event in started:
                job = os.pidfd_open(event.pid)
                begun = time.perf_counter()
                os.kill(event.guardian_pid, signal.SIGKILL)
                if not select.select([job], [], [], 10)[0]:
                    raise RuntimeError(f"the job {event.pid} of a killed guardian is still there after 10 s")
                gone.append(time.perf_counter() - begun)
                os.close(job)
            lost = 0
            while lost < count:
                lost += sum(isinstance(event, GuardianLost) for event in crew.poll(5))
        finally:
            crew.close()
    return Guarding(nursery, max(guardians), statistics.median(gone), max(gone))


def compare_cgroups(rounds: int = 5) -> None:
    """Measure with a cgroup for each attempt and without, by turns, below what ROTA_CGROUP names."""
    given = os.environ.get("ROTA_CGROUP", "")
    if not given.startswith("/"):
        print("not measured: attempts with cgroups; name a directory for them in ROTA_CGROUP")
        return
    cgroups = prepare(Path(given)).folder
    for slots, count in ((16, 1000), (1, 500)):
        rates: dict[str, list[float]] = {"": [], cgroups: []}
        for _ in range(rounds):
            for where, measured in rates.items():
                measured.append(crew_rate(count, slots=slots, cgroups=where))
        without, within = (statistics.median(measured) for measured in rates.values())
        print(f"{f'{slots} at a time, without and with cgroups':<44} {without:>7.0f} /s {within:>7.0f} /s")


def _memory(pid: int, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/{file} has no {name}")


def _noop_order(number: int) -> Order:
    return _order(number, NOOP)


def _order(number: int, *argv: str) -> Order:
    return Order(
        job="bench",
        claim_id=uuid.uuid4().hex,
        run_id=number,
        attempt=1,
        fence=1,
        argv=argv,
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
    compare_cgroups()
    guarding = measure_guarding()
    print(f"{'memory of the nursery, resident':<44} {guarding.nursery_bytes / 1e6:>7.1f} MB")
    print(f"{'memory of a waiting guardian, private':<44} {guarding.guardian_bytes / 1e6:>7.1f} MB")
    print(f"{'job of a killed guardian gone, worst of 20':<44} {guarding.gone_seconds_worst * 1000:>7.1f} ms")


if __name__ == "__main__":
    main()
