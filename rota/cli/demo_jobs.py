"""What the demo's Python job runs; in a module of its own, so that a job's process imports nothing else for it."""

from __future__ import annotations

import os
import platform


def count_machine(folder: str = "/") -> dict[str, object]:
    """Report a few facts as the run's result: what a function returns is kept as JSON."""
    facts = os.statvfs(folder)
    free_gib = facts.f_bavail * facts.f_frsize / 2**30
    return {"machine": platform.machine(), "processors": os.cpu_count(), "free_gib": round(free_gib, 1)}
