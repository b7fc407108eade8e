"""Ten years of hours with days, months and years above them: building the ledger, finding work, doing an hour again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, func, select, update

from benchmarks.figures import Figure
from rota import Rota
from rota.model.run import End, NodeIdentity
from rota.store.database import Database, now_of
from rota.store.endings import end_runs
from rota.store.leases import claim_runs
from rota.store.migrate import upgrade
from rota.store.periods import look_at_periods
from rota.store.tables import period
from rota.store.types import db_now

NODE = NodeIdentity("bench", "bench", "boot")
LEASE_SECONDS = 60.0
STEPS = 100


def measure_periods(url: str, *, years: int, say: Callable[[str], None]) -> list[Figure]:
    """Measure with so many years on the empty database at ``url``."""
    database = Database(url)
    rota = Rota(url)
    try:
        upgrade(database)
        now = database.read(now_of)
        start = datetime(now.year - years, 1, 1, tzinfo=UTC)
        rota.jobs.add("hours", command=["/bin/true"], period="hour", period_start=start)
        above = "hours"
        for unit in ("day", "month", "year"):
            rota.jobs.add(f"{unit}s", command=["/bin/true"], period=unit, period_start=start, rolls_up=[above])
            above = f"{unit}s"
        rota.jobs.add("export", command=["/bin/true"], period="day", period_start=start, after=["days"])
        say(f"the ledger of {years} years of hours, days, months and years")
        began = time.perf_counter()
        while look_at_periods(database).added:
            pass
        built = time.perf_counter() - began
        rows = database.read(lambda c: c.execute(select(func.count()).select_from(period)).scalar_one())
        hours = (now - start) // timedelta(hours=1)
        assert rows > hours
        say("the next piece of work at the beginning of it, and when all but the last days are done")
        first = _work(database)
        _finish_before(database, now - timedelta(days=10))
        last = _work(database)
        hour = start + timedelta(days=years * 365 // 2, hours=7)
        began = time.perf_counter()
        touched = rota.periods.reprocess("hours", f"{hour:%Y-%m-%dT%H}")
        seconds = time.perf_counter() - began
        assert {one["job"]: one["count"] for one in touched["jobs"]} == dict.fromkeys(
            ("hours", "days", "months", "years", "export"), 1
        )
        beside = f"beside {rows:,} periods"
        return [
            Figure("ledger built", built, "s", f"{rows:,} periods, of which {hours:,} are hours"),
            *_figures("first", first, f"{beside} of which none is done"),
            *_figures("last", last, f"{beside} of which most are done"),
            Figure(
                "hour done again", seconds * 1000, "ms", f"it, its day, month and year, and an export: 5 of {rows:,}"
            ),
        ]
    finally:
        rota.close()
        database.close()


def _figures(which: str, looks: list[tuple[float, float]], beside: str) -> list[Figure]:
    found, made = zip(*looks, strict=True)
    return [
        Figure(f"next work found, {which}", statistics.median(found), "ms", f"up to when its run is made, {beside}"),
        Figure(f"next work made, {which}", statistics.median(made), "ms", f"the whole look, {beside}"),
        Figure(f"next work made, {which}, worst", max(made), "ms", f"of {STEPS}"),
    ]


def _work(database: Database) -> list[tuple[float, float]]:
    """Carry out some periods one after the other; return the milliseconds until the next was found, and its run made.

    That begins with taking note of the end of the one before, and finishing it.
    """
    looks: list[tuple[float, float]] = []
    found_at = [0.0]

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO rota_run "):
            found_at[0] = time.perf_counter()

    event.listen(database.engine, "before_cursor_execute", note)
    look_at_periods(database)
    for _ in range(STEPS):
        claims = claim_runs(database, NODE, ["default"], 10, LEASE_SECONDS)
        assert claims
        end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded") for claim in claims])
        began = time.perf_counter()
        looked = look_at_periods(database)  # takes note of the end, and wakes the next one
        looked = looked if looked.ready else look_at_periods(database)
        ended = time.perf_counter()
        assert looked.ready
        looks.append(((found_at[0] - began) * 1000, (ended - began) * 1000))
    event.remove(database.engine, "before_cursor_execute", note)
    return looks


def _finish_before(database: Database, moment: datetime) -> None:
    """Let what ended before then count as done, as if it had been carried out."""
    done = (
        update(period)
        .where(period.c.end_at <= moment, period.c.run_id.is_(None))
        .values(state="processed", reason="done", reason_text="for the benchmark", finished_at=db_now())
    )
    database.write(lambda connection: connection.execute(done), repeatable=True)
