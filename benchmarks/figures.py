"""The figures: each measured end to end against a real database, with the rows counted afterwards."""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from benchmarks.adoption import measure_adoption
from benchmarks.looking_on import measure_looking_on
from benchmarks.machine import fork_rate, measure_guarding, posix_spawn_rate
from benchmarks.warm import measure_warm
from rota import Rota
from rota.store.database import Database
from rota.store.migrate import upgrade
from rota.store.tables import attempt, run

JOB = "no-op"
INLINE_JOBS = {"thread": "no_op", "async": "no_op_async"}  # executor: function
PICK_UPS = 50
ADOPTED = 100


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and where it comes from."""

    name: str
    value: float
    unit: str
    how: str

    @property
    def shown(self) -> str:
        return f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:,.2f}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_all(
    url: str, *, runs: int, slots: int, idle_seconds: float, machine: bool, say: Callable[[str], None]
) -> list[Figure]:
    """Measure everything on the empty database at ``url``."""
    database = Database(url)
    figures: list[Figure] = []
    try:
        upgrade(database)
        rota = Rota(url)
        rota.jobs.add(JOB, command=["/bin/true"])
        if machine:
            say("the machine")
            figures.append(Figure("fork and exit", fork_rate(), "/s", "from a small Python process"))
            figures.append(Figure("posix_spawn of /bin/true", posix_spawn_rate(), "/s", "spawned and waited for"))
            figures.extend(guarding_figures())
            say("Python jobs, warm and cold")
            figures.extend(warm_figures())
        say("enqueue one by one")
        figures.append(enqueue_one_by_one(rota, database, 500))
        say(f"enqueue {runs} in bulk")
        figures.append(enqueue_in_bulk(rota, database, runs - 500))
        say(f"drain {runs} no-op commands")
        figures.append(drain(url, database, runs, slots, reuse=1000))
        say("drain without using guardians again")
        rota.enqueue_many([{"job": JOB}] * (runs // 10))
        figures.append(drain(url, database, runs // 10, slots, reuse=1))
        for executor, function in INLINE_JOBS.items():
            say(f"drain no-op Python jobs, executor {executor}")
            variables = {"PYTHONPATH": str(Path(__file__).parents[1])}
            call = f"benchmarks.no_op_jobs:{function}"
            rota.jobs.add(f"no-op-{executor}", call=call, executor=executor, variables=variables)
            rota.enqueue_many([{"job": f"no-op-{executor}"}] * (runs // 4))
            figures.append(drain(url, database, runs // 4, slots, reuse=1000, executor=executor))
        say("pick-up")
        figures.extend(pick_up(url, rota, database, slots))
        say("looking on")
        figures.extend(looking_on(url, rota))
        say("adoption")
        figures.append(adoption(url, rota, database))
        say(f"idle for {idle_seconds:g} s")
        figures.append(idle(url, slots, idle_seconds))
        count = text("select count(*) from rota_violations")
        broken = database.read(lambda connection: connection.execute(count).scalar())
        assert broken == 0, f"rota_violations has {broken} rows"
        rota.close()
    finally:
        database.close()
    return figures


def guarding_figures() -> list[Figure]:
    """What guarding costs, without a database."""
    guarding = measure_guarding()
    killed = "SIGKILL of the guardian until the job's process has ended, 20 times"
    return [
        Figure("memory of the nursery", guarding.nursery_bytes / 1e6, "MB", "resident, with 20 guardians"),
        Figure("memory of a guardian", guarding.guardian_bytes / 1e6, "MB", "private, while its job runs; worst of 20"),
        Figure("job of a killed guardian gone, worst", guarding.gone_seconds_worst * 1000, "ms", killed),
    ]


def warm_figures() -> list[Figure]:
    """What a no-op Python job costs, isolated, without a database."""
    found = measure_warm(count=500, cold_count=40)
    size = f"of a parent of {found.parent_bytes / 1e6:.0f} MB"
    return [
        Figure("fork and exit of a warm parent", found.forks, "/s", f"{size}, one after the other"),
        Figure("no-op Python jobs, warm", found.warm, "/s", f"16 at a time, {found.share:.2f} of the fork rate"),
        Figure("no-op Python jobs, cold", found.cold, "/s", "16 at a time, an interpreter for each"),
    ]


def enqueue_one_by_one(rota: Rota, database: Database, count: int) -> Figure:
    before = _count(database)
    began = time.perf_counter()
    for _ in range(count):
        rota.enqueue(JOB)
    seconds = time.perf_counter() - began
    assert _count(database) - before == count
    return Figure("enqueue one by one", count / seconds, "/s", f"{count} transactions from one client")


def enqueue_in_bulk(rota: Rota, database: Database, count: int) -> Figure:
    before = _count(database)
    began = time.perf_counter()
    rota.enqueue_many([{"job": JOB}] * count)
    seconds = time.perf_counter() - began
    assert _count(database) - before == count
    return Figure("enqueue in bulk", count / seconds, "/s", f"{count} runs, 1,000 a transaction")


def drain(url: str, database: Database, count: int, slots: int, *, reuse: int, executor: str | None = None) -> Figure:
    """Have one worker run all that is ready; every run must be there with its attempt and its end."""
    began = time.perf_counter()
    with worker(url, slots=slots, reuse=reuse, run_until="idle") as process:
        read_line(process)
        started = time.perf_counter()
        read_line(process)
        process.wait()
    seconds = time.perf_counter() - started
    unfinished = database.read(
        lambda connection: connection.execute(
            select(func.count()).select_from(run).where(run.c.state != "succeeded")
        ).scalar_one()
    )
    ended = database.read(
        lambda connection: connection.execute(
            select(func.count()).select_from(attempt).where(attempt.c.state == "succeeded", attempt.c.exit_code == 0)
        ).scalar_one()
    )
    assert unfinished == 0, f"{unfinished} runs have not succeeded"
    assert ended == _count(database), "an attempt is missing"
    reused = "guardians used again" if reuse > 1 else "a new guardian for each"
    whole = time.perf_counter() - began
    if executor is not None:
        how = f"{count} runs by one worker in one executor process; attempt and end recorded ({whole:.1f} s in all)"
        return Figure(f"no-op Python jobs, executor {executor}", count / seconds, "/s", how)
    how = f"{count} runs of /bin/true by one worker, {reused}; attempt, output and end recorded ({whole:.1f} s in all)"
    return Figure("no-op commands" + ("" if reuse > 1 else ", no reuse"), count / seconds, "/s", how)


def pick_up(url: str, rota: Rota, database: Database, slots: int) -> list[Figure]:
    """How long an idle worker takes from the enqueue to the start mark, and to the recorded end."""
    ids: list[int] = []
    with worker(url, slots=slots, reuse=1000, run_until="stopped") as process:
        read_line(process)
        for _ in range(PICK_UPS):
            time.sleep(0.1)  # so that the worker is asleep again
            handle = rota.enqueue(JOB)
            handle.wait(timeout=30)
            ids.append(handle.id)
        process.send_signal(signal.SIGTERM)
        process.wait()
    rows = database.read(
        lambda connection: connection.execute(
            select(run.c.enqueued_at, run.c.started_at, run.c.finished_at).where(run.c.id.in_(ids))
        ).all()
    )
    starts = [(row.started_at - row.enqueued_at).total_seconds() * 1000 for row in rows]
    ends = [(row.finished_at - row.enqueued_at).total_seconds() * 1000 for row in rows]
    how = f"{PICK_UPS} single runs, an idle worker, by the database's clock"
    return [
        Figure("pick-up, median", statistics.median(starts), "ms", how + ": insert to start mark"),
        Figure("pick-up, worst", max(starts), "ms", how),
        Figure("enqueue to recorded end, median", statistics.median(ends), "ms", how),
    ]


def looking_on(url: str, rota: Rota) -> list[Figure]:
    """How soon somebody who follows a run has what its job writes."""
    with worker(url, slots=1, reuse=1000, run_until="stopped") as process:
        read_line(process)
        found = measure_looking_on(rota)
        process.send_signal(signal.SIGTERM)
        process.wait()
    how = f"{len(found)} lines, from when they were written until `rota run logs -f` has them"
    return [
        Figure("output seen, median", statistics.median(found), "s", how),
        Figure("output seen, worst", max(found), "s", how),
    ]


def adoption(url: str, rota: Rota, database: Database) -> Figure:
    def start(state: str) -> contextlib.AbstractContextManager[object]:
        return worker(url, slots=ADOPTED, reuse=1000, run_until="stopped", state=state)

    seconds = measure_adoption(rota, database, start, ADOPTED)
    how = f"{ADOPTED} jobs, their worker killed: from the new one's first query to the last one taken over"
    return Figure("adoption", seconds, "s", how)


def idle(url: str, slots: int, seconds: float) -> Figure:
    """How many statements a worker sends with nothing to do, beyond its start and its goodbye."""
    counts: list[int] = []
    for watched in (1.0, 1.0 + seconds):
        with worker(url, slots=slots, reuse=1000, run_until="stopped") as process:
            read_line(process)
            time.sleep(watched)
            process.send_signal(signal.SIGTERM)
            counts.append(int(read_line(process)["statements"]))
            process.wait()
    return Figure(
        "idle statements", (counts[1] - counts[0]) / seconds * 60, "/min", f"one worker over {seconds:g} s, lease 60 s"
    )


@contextlib.contextmanager
def worker(
    url: str,
    *,
    slots: int,
    reuse: int,
    run_until: str,
    pools: Sequence[str] = ("default",),
    state: str | None = None,  # the folder of a worker before
) -> Generator[subprocess.Popen[str]]:
    """Start a worker process and kill it should it be left."""
    with tempfile.TemporaryDirectory(prefix="rota-bench-", dir="/tmp") as folder:
        given = {
            "url": url,
            "folder": state or str(Path(folder) / "state"),
            "slots": slots,
            "reuse": reuse,
            "lease": 60.0,
            "run_until": run_until,
            "pools": list(pools),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(given)], stdout=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def read_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read what a worker says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the worker ended early with {process.wait()}")
    return json.loads(line)


def _count(database: Database) -> int:
    return database.read(lambda connection: connection.execute(select(func.count()).select_from(run)).scalar_one())
