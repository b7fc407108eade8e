"""Many schedules: adding them, firing those that are due, and costing nothing while none is."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select, update

from benchmarks.figures import JOB, Figure, read_line, worker
from rota import Rota
from rota.store.database import Database, now_of
from rota.store.migrate import upgrade
from rota.store.tables import run, schedule

NOBODY = "nobody"  # a pool without jobs: its worker fires and claims nothing
START_SECONDS = 2.0  # what a worker does when it begins is not its rest
LEAD_SECONDS = 5.0


def measure_schedules(
    url: str, *, schedules: int, per_second: int, seconds: float, say: Callable[[str], None]
) -> list[Figure]:
    """Measure with so many schedules on the empty database at ``url``."""
    database = Database(url)
    try:
        upgrade(database)
        rota = Rota(url)
        rota.jobs.add(JOB, command=["/bin/true"])
        say(f"add {schedules} schedules")
        figures = [add(rota, database, schedules, per_second)]
        say(f"an idle scheduler for {seconds:g} s, none due")
        figures.append(rest(url, seconds))
        say(f"{per_second} due each second for {seconds:g} s")
        figures.extend(fire(url, database, schedules, per_second, seconds))
        rota.close()
        return figures
    finally:
        database.close()


def add(rota: Rota, database: Database, count: int, per_second: int) -> Figure:
    """Add schedules that are due ``per_second`` of them each second, the first in a day."""
    anchor = database.read(now_of).replace(microsecond=0) + timedelta(days=1)
    period = count / per_second
    requests = [
        {"key": f"s{number}", "job": JOB, "every": period, "anchor": anchor + timedelta(seconds=number / per_second)}
        for number in range(count)
    ]
    began = time.perf_counter()
    rota.schedules.add_many(requests)
    seconds = time.perf_counter() - began
    assert database.read(lambda c: c.execute(select(func.count()).select_from(schedule)).scalar_one()) == count
    return Figure("add schedules in bulk", seconds, "s", f"{count}, 1,000 a transaction, each checked, with its event")


def rest(url: str, seconds: float) -> Figure:
    """How much processor time the scheduler takes while none of them is due."""
    with worker(url, slots=1, reuse=1, run_until="stopped", pools=[NOBODY]) as process:
        read_line(process)
        time.sleep(START_SECONDS)
        before = _cpu_seconds(process.pid)
        time.sleep(seconds)  # what is measured is how little happens while time passes
        used = _cpu_seconds(process.pid) - before
        process.send_signal(signal.SIGTERM)
        process.wait()
    return Figure(
        "idle scheduler", used / seconds * 60, "CPU s/min", f"over {seconds:g} s, none due, its process alone"
    )


def fire(url: str, database: Database, count: int, per_second: int, seconds: float) -> list[Figure]:
    """How late slots are decided, by the database's clock; nobody claims the runs."""
    period = timedelta(seconds=count / per_second)
    # Bring the first slots near, the anchors with them: the grid is the same, only nearer.
    begins = database.read(now_of).replace(microsecond=0) + timedelta(seconds=LEAD_SECONDS)
    first = database.read(lambda c: c.execute(select(func.min(schedule.c.next_slot_at))).scalar_one())
    rows = database.read(lambda c: c.execute(select(schedule.c.id, schedule.c.next_slot_at)).all())
    shift = first - begins
    _move(database, [(row.id, row.next_slot_at - shift, row.next_slot_at - shift - period) for row in rows])
    with worker(url, slots=1, reuse=1, run_until="stopped", pools=[NOBODY]) as process:
        read_line(process)
        late_start = database.read(now_of) - begins
        time.sleep(max(0.0, seconds - late_start.total_seconds()))  # slots come due by the real clock
        cpu_seconds = _cpu_seconds(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait()
    until = begins + timedelta(seconds=seconds - 2.0)
    after = (
        begins + max(late_start, timedelta(0)) + timedelta(seconds=1)
    )  # what was due before it began is another matter
    made = database.read(
        lambda c: c.execute(
            select(run.c.slot_at, run.c.enqueued_at).where(run.c.slot_at >= after, run.c.slot_at < until)
        ).all()
    )
    expected = round((until - after).total_seconds() * per_second)
    assert abs(len(made) - expected) <= per_second, f"{len(made)} slots were decided, not {expected}"
    late = sorted((row.enqueued_at - row.slot_at).total_seconds() for row in made)
    assert late[0] >= 0, "a slot was decided before its time"
    how = f"{len(made)} slots of {count} schedules, {per_second} a second, by the database's clock; runs unclaimed"
    return [
        Figure("lateness of a slot, median", statistics.median(late) * 1000, "ms", how),
        Figure("lateness of a slot, p99", late[int(len(late) * 0.99)] * 1000, "ms", how),
        Figure("scheduler while firing", cpu_seconds, "CPU s", f"over {seconds:g} s, its process alone"),
    ]


def _move(database: Database, wanted: list[tuple[int, object, object]]) -> None:
    from sqlalchemy import bindparam

    statement = (
        update(schedule)
        .where(schedule.c.id == bindparam("of_id"))
        .values(
            next_slot_at=bindparam("slot"), anchor_at=bindparam("grid"), cursor_version=schedule.c.cursor_version + 1
        )
    )
    rows = [{"of_id": of_id, "slot": slot, "grid": grid} for of_id, slot, grid in wanted]
    for start in range(0, len(rows), 5000):
        chunk = rows[start : start + 5000]
        database.write(lambda c, chunk=chunk: c.execute(statement, chunk), repeatable=True)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
