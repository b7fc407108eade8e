"""Many jobs that run after one: how long after its end all of them may start."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import func, select

from benchmarks.figures import JOB, Figure
from rota import Rota
from rota.model.run import End, NodeIdentity
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.leases import claim_runs
from rota.store.migrate import upgrade
from rota.store.tables import run
from rota.store.upstreams import look_at_upstreams

NODE = NodeIdentity("bench", "bench", "boot")
LEASE_SECONDS = 60.0


def measure_dependants(url: str, *, dependants: int, say: Callable[[str], None]) -> list[Figure]:
    """Measure with so many dependants on the empty database at ``url``."""
    database = Database(url)
    rota = Rota(url)
    try:
        upgrade(database)
        say(f"{dependants} jobs after one, a run of each waits for it")
        rota.jobs.add(JOB, command=["/bin/true"])
        rota.enqueue(JOB)
        for number in range(dependants):
            rota.jobs.add(f"after-{number}", command=["/bin/true"], after=[JOB])
        rota.enqueue_many([(f"after-{number}", {}) for number in range(dependants)])
        _let_go(database)
        (claim,) = claim_runs(database, NODE, ["default"], 10, LEASE_SECONDS)
        began = time.perf_counter()
        end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded")])
        told = time.perf_counter()
        _let_go(database)
        seconds = time.perf_counter() - began
        ready = database.read(lambda c: c.execute(select(func.count()).where(run.c.state == "ready")).scalar_one())
        assert ready == dependants
        return [
            Figure("end with dependants", told - began, "s", f"one run, for which {dependants} of other jobs wait"),
            Figure("dependants ready", seconds, "s", f"from before that end until all {dependants} may be claimed"),
        ]
    finally:
        rota.close()
        database.close()


def _let_go(database: Database) -> None:
    """Do what the scheduler does about waiting runs, until nothing is left to do now."""
    while True:
        looked = look_at_upstreams(database)
        advanced = advance_runs(database)
        if not (looked.ready or looked.again or advanced.ready):
            return
