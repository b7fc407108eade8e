"""How long a line that a job writes takes until somebody who follows the run has it."""

from __future__ import annotations

import time

from rota import Rota

JOB = "tells"
RUNS = 3
LINES = 12
# Each line is the moment at which it was written; the first one comes at the start, when nobody is told at once.
LINE = f"n=0; while [ $n -lt {LINES} ]; do read now rest < /proc/uptime; echo $now; n=$((n + 1)); sleep 0.37; done"


def measure_looking_on(rota: Rota) -> list[float]:
    """Return the seconds that each line took, of some runs one after the other; a worker is there."""
    rota.jobs.add(JOB, command=["/bin/sh", "-c", LINE])
    found: list[float] = []
    for _ in range(RUNS):
        for output in rota.enqueue(JOB).follow():
            seen_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            found += [seen_at - float(line) for part in output.parts for line in part.data.split()]
    assert len(found) == RUNS * LINES, f"{len(found)} lines were seen"
    return found
