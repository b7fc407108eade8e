"""What a long history costs: claiming and ending a run beside few runs, and beside a million that have ended."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from sqlalchemy import String, cast, func, insert, literal, null, select, update

from benchmarks.figures import JOB, Figure
from rota import Rota
from rota.model.run import End, NodeIdentity
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.leases import claim_runs, mark_started
from rota.store.migrate import upgrade
from rota.store.tables import attempt, run
from rota.store.types import db_now, db_now_plus

PORTION = 10_000
CYCLES = 1000
READY = 20  # runs that wait meanwhile
LEASE_SECONDS = 60.0


def measure_history(url: str, *, runs: int, say: Callable[[str], None]) -> list[Figure]:
    """Measure on the empty database at ``url``, and with so many ended runs in it."""
    database = Database(url)
    try:
        upgrade(database)
        rota = Rota(url)
        rota.jobs.add(JOB, command=["/bin/true"])
        rota.enqueue_many([(JOB, None)] * READY)
        cycles = min(CYCLES, runs)
        say(f"claim and end {cycles} runs, one by one")
        young = cycle(rota, database, cycles)
        say(f"let {runs} runs come, go on and end")
        for first in range(0, runs, PORTION):
            live(rota, database, min(PORTION, runs - first))
        assert count_ended(database) == runs + cycles
        say(f"claim and end {cycles} more")
        old = cycle(rota, database, cycles)
        rota.close()
    finally:
        database.close()
    figures: list[Figure] = []
    for name, seconds_young, seconds_old in (("claim", young[0], old[0]), ("end", young[1], old[1])):
        for word, percent in (("median", 50), ("99th percentile", 99)):
            before, after = percentile(seconds_young, percent), percentile(seconds_old, percent)
            how = f"{word} of {cycles}; {before * 1000:.2f} ms before"
            figures.append(Figure(f"{name} beside {runs:,} ended runs, {word}", after * 1000, "ms", how))
            figures.append(Figure(f"{name}: {word} beside them to that before", after / before, "", "the two above"))
    return figures


def percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1]


def cycle(rota: Rota, database: Database, count: int) -> tuple[list[float], list[float]]:
    """Claim and end one run after the other, each time asking for another; return the seconds of claims and ends."""
    identity = NodeIdentity("bench", "bench", "bench")
    claiming: list[float] = []
    ending: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        (claim,) = claim_runs(database, identity, ["default"], 1, LEASE_SECONDS)
        claiming.append(time.perf_counter() - began)
        mark_started(database, [claim.claim_id])
        began = time.perf_counter()
        delivered = end_runs(database, [End(claim.claim_id, claim.run_id, "exited", exit_code=0)])
        ending.append(time.perf_counter() - began)
        assert delivered.applied == {claim.claim_id}
        rota.enqueue(JOB)
    return claiming, ending


def live(rota: Rota, database: Database, count: int) -> None:
    """Have that many runs asked for, and take them through the states of a life in as few statements as can be."""
    ids = [handle.id for handle in rota.enqueue_many([(JOB, None)] * count)]
    these = run.c.id.between(min(ids), max(ids))
    claim_id = literal("old-", String) + cast(run.c.id, String)
    running = {
        "state": RunState.RUNNING.value, "claim_id": claim_id, "node": "bench", "holder": "bench", "attempt": 1,
        "fence": 1, "started_at": db_now(), "lease_ends_at": db_now_plus(literal(LEASE_SECONDS)), "reason": "claimed",
    }  # fmt: skip
    ended = {
        "state": RunState.SUCCEEDED.value, "finished_at": db_now(), "lease_ends_at": null(), "reason": "ended_well",
    }  # fmt: skip
    columns = ["run_id", "attempt", "state", "claim_id", "fence", "node", "claimed_at", "finished_at"]
    values = select(
        run.c.id, literal(1), literal(RunState.SUCCEEDED.value), run.c.claim_id, literal(1), literal("bench"),
        run.c.enqueued_at, run.c.finished_at,
    )  # fmt: skip
    for statement in (
        update(run).where(these).values(running),
        update(run).where(these).values(ended),
        insert(attempt).from_select(columns, values.where(these)),
    ):
        database.write(lambda connection: connection.execute(statement), repeatable=False)  # noqa: B023 - called at once


def count_ended(database: Database) -> int:
    ended = select(func.count()).select_from(run).where(run.c.state == RunState.SUCCEEDED.value)
    return database.read(lambda connection: connection.execute(ended).scalar_one())
