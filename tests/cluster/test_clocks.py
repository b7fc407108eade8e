"""Whole workers below a wrong clock: ahead, behind, and jumping while they work. Only the database's clock decides.

A small library, built here and loaded before all others, moves the wall clock of a worker and of what it starts, by as
much as a file says at that moment. The clocks that never step are left alone, and so are waits, jobs, the database's
server and this process, which looks at it all with the right time.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select

from rota.execution.linux import boottime
from rota.model.run import NewRun
from rota.store.creation import enqueue_runs, request_ids
from rota.store.database import now_of
from rota.store.tables import attempt, event, job, node, run, schedule
from rota.store.wakeup import announce
from tests.cluster.cluster import PATH, ROOT, Cluster, descendants_of
from tests.cluster.test_outlives import WAITS

LEASE_SECONDS = 3.0
OFF_SECONDS = 600
SLOTS = 4  # of each schedule, a second apart
SCHEDULES = 3
LEDGER_SECONDS = 0.01  # what is written there is cut off after two digits

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *seconds_ahead;

__attribute__((constructor)) static void open_offset(void)
{
    const char *path = getenv("WRONG_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *seconds_ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        seconds_ahead = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && seconds_ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *seconds_ahead;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    int status = clock_gettime(CLOCK_REALTIME, &exact);
    (void)zone;
    if (status == 0) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return status;
}

time_t time(time_t *told)
{
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return -1;
    if (told)
        *told = exact.tv_sec;
    return exact.tv_sec;
}
"""


class WrongClock:
    """A wall clock that is put forward and back while processes go by it."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._path = folder / "offset"
        self.put(0)
        self.environ = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._path)}

    def put(self, seconds_ahead: int) -> None:
        # Into the same file: whoever has it mapped sees it at once.
        with self._path.open("r+b" if self._path.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds_ahead))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        why = "NOT TESTED with a wrong clock, which takes a C compiler by the name of cc"
        warnings.warn(why, stacklevel=1)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("clock")
    source, built = folder / "clock.c", folder / "clock.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(source)], check=True)
    return built


@pytest.fixture
def wrong_clock(folder: Path, library: Path) -> WrongClock:
    return WrongClock(folder, library)


@pytest.fixture
def has_its_own_clock(database_kind: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("the database's clock is that of each process there")


@pytest.fixture
def has_the_machines_clock(database_kind: str) -> None:
    if database_kind != "sqlite":
        pytest.skip("the database has a clock of its own there")


def test_what_goes_by_the_wall_clock_sees_it_moved_and_no_wait_and_no_other_clock_does(wrong_clock: WrongClock) -> None:
    program = (
        "import sys, threading, time\n"
        "for line in sys.stdin:\n"
        "    assert not threading.Event().wait(0.01)\n"
        "    time.sleep(0.01)\n"
        "    print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env={"PATH": PATH} | wrong_clock.environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds_ahead in (0, OFF_SECONDS, -OFF_SECONDS):
            wrong_clock.put(seconds_ahead)
            before = (time.time() + seconds_ahead, time.monotonic(), boottime())
            process.stdin.write("\n")
            process.stdin.flush()
            seen = tuple(map(float, process.stdout.readline().split()))
            after = (time.time() + seconds_ahead, time.monotonic(), boottime())
            assert all(low <= now <= high for low, now, high in zip(before, seen, after, strict=True))
        process.stdin.close()


def add_schedules(cluster: Cluster, count: int, *, every: float, slots: int, first_in: float) -> datetime:
    """Add schedules of the job ``due`` with so many slots; return the first one."""

    def add(connection: Connection) -> datetime:
        first = now_of(connection).replace(microsecond=0) + timedelta(seconds=first_in)
        job_id = connection.execute(select(job.c.id).where(job.c.name == "due")).scalar_one()
        values = {
            "job_id": job_id, "kind": "every", "expression": str(every), "zone": "UTC", "anchor_at": first,
            "next_slot_at": first, "end_at": first + timedelta(seconds=every * (slots - 1)), "delay_seconds": 0.0,
            "catch_up": "all", "catch_up_limit": 100, "overlap": "allow", "args": "{}", "cursor_version": 1,
            "revision": 1, "created_at": first, "updated_at": first,
        }  # fmt: skip
        connection.execute(insert(schedule), [values | {"name": f"in{first_in}-{number}"} for number in range(count)])
        announce(connection)
        return first

    return cluster.database.write(add, repeatable=False)


def enqueue(cluster: Cluster, wanted: NewRun) -> int:
    def work(connection: Connection) -> int:
        announce(connection)
        return enqueue_runs(connection, [wanted], request_ids(1))[0]

    return cluster.database.write(work, repeatable=False)


def rows_of(cluster: Cluster, statement: Any) -> list[Any]:
    return list(cluster.database.read(lambda c: c.execute(statement).all()))


def runs_of(cluster: Cluster, name: str) -> list[Any]:
    return rows_of(cluster, select(run).where(run.c.job == name).order_by(run.c.slot_at, run.c.id))


def wait_for_skew(cluster: Cluster, name: str, seconds_ahead: int) -> None:
    """Wait until the node's row says how far its clock is off."""
    statement = select(node.c.skew_seconds).where(node.c.name == name)

    def is_told() -> bool:
        skew = cluster.database.read(lambda c: c.execute(statement).scalar())
        return skew is not None and abs(skew - seconds_ahead) < 1.0

    cluster.wait(is_told, f"the clock of {name} is seen to be {seconds_ahead} s ahead")


def ask(cluster: Cluster, *words: str, status: int | None = 0) -> str:
    """Ask the command line, on a machine with the right time; None: whatever its exit status."""
    asked = subprocess.run(
        [sys.executable, "-m", "rota", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        cwd=cluster.folder, env={"PATH": PATH, "PYTHONPATH": str(ROOT), "ROTA_DB": cluster.url, "COLUMNS": "250"},
    )  # fmt: skip
    assert status in (None, asked.returncode), asked.stdout + asked.stderr
    return asked.stdout


def clocks_found(cluster: Cluster) -> list[tuple[str, str]]:
    """Which nodes ``rota check`` finds to have a wrong clock, and what it says of them."""
    findings = json.loads(ask(cluster, "check", "--json", status=None))["findings"]
    return [(found["subject"], found["text"]) for found in findings if found["code"] == "node_clock"]


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param((OFF_SECONDS,), id="ahead", marks=pytest.mark.long),
        pytest.param((-OFF_SECONDS,), id="behind", marks=pytest.mark.long),
        pytest.param((OFF_SECONDS, -OFF_SECONDS, 0), id="jumping"),
    ],
)
def test_a_node_with_a_wrong_clock_starts_nothing_early_takes_and_loses_nothing_and_is_told(
    cluster: Cluster, wrong_clock: WrongClock, offsets: tuple[int, ...]
) -> None:
    cluster.add_shell("long", WAITS)
    cluster.add_shell("due", "note due")
    cluster.add_shell("unserved", "note unserved", pool="nobody")
    right = cluster.start("right", lease_seconds=LEASE_SECONDS, slots=2)
    long_runs = cluster.enqueue("long", 2)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == 2, "one node is full")
    wrong_clock.put(offsets[0])
    wrong = cluster.start("wrong", lease_seconds=LEASE_SECONDS, environ=wrong_clock.environ)
    long_runs += cluster.enqueue("long", 2)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == 4, "the other one has the rest")
    leases_were_over_at = cluster.database.read(now_of) + timedelta(seconds=LEASE_SECONDS + 1)

    first = add_schedules(cluster, SCHEDULES, every=1, slots=SLOTS, first_in=2)
    add_schedules(cluster, 1, every=1, slots=1, first_in=OFF_SECONDS / 2)
    waiting = enqueue(cluster, NewRun("due", in_seconds=OFF_SECONDS / 2))
    windowed = enqueue(cluster, NewRun("unserved", start_within_seconds=OFF_SECONDS / 2))
    for seconds_ahead in offsets:
        wrong_clock.put(seconds_ahead)
        wait_for_skew(cluster, "wrong", seconds_ahead)
        listed = ask(cluster, "node", "list")
        found = clocks_found(cluster)
        assert f"{seconds_ahead:+.1f} s" in listed
        assert [subject for subject, _ in found] == (["wrong"] if seconds_ahead else [])
        if seconds_ahead:
            way = "ahead of" if seconds_ahead > 0 else "behind"
            assert f"the clock of node wrong is 10m {way} the database's" in found[0][1]
    decided = select(func.count()).where(run.c.slot_at.is_not(None), run.c.state == "succeeded")
    cluster.wait(
        lambda: cluster.database.read(lambda c: c.execute(decided).scalar()) >= SCHEDULES * SLOTS, "all slots have run"
    )
    cluster.wait(lambda: cluster.database.read(now_of) >= leases_were_over_at, "leases that nobody renewed were over")
    (cluster.folder / "go").touch()
    states = cluster.wait_for_end(*long_runs)

    # No slot early: by the database's moments, and by the machine's own of what has started.
    of_slots = [row for row in runs_of(cluster, "due") if row.slot_at is not None]
    wanted = [first + timedelta(seconds=number) for number in range(SLOTS) for _ in range(SCHEDULES)]
    assert [(row.slot_at, row.slot_count) for row in of_slots] == [(slot_at, 1) for slot_at in wanted]
    begun = {entry.run_id: entry.at for entry in cluster.ledger.entries("due")}
    assert sorted(begun) == sorted(row.id for row in of_slots)
    assert len(cluster.ledger.entries("due")) == len(begun)
    wall_less_boottime = time.time() - boottime()
    for row in of_slots:
        (tried,) = cluster.attempts(row.id)
        assert row.slot_at <= row.enqueued_at <= tried.claimed_at
        assert begun[row.id] + wall_less_boottime >= row.slot_at.timestamp() - 2 * LEDGER_SECONDS
    assert cluster.run(waiting).state == "waiting"
    assert cluster.run(windowed).state == "ready"
    # No run stolen, from either.
    assert states == {"succeeded"}
    assert [(a.node, a.state) for run_id in long_runs for a in cluster.attempts(run_id)] == [
        ("right", "succeeded"), ("right", "succeeded"), ("wrong", "succeeded"), ("wrong", "succeeded")
    ]  # fmt: skip
    assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == 4
    assert right.trouble() == wrong.trouble() == []


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
@pytest.mark.parametrize(
    ("dies", "seconds_ahead"),
    [("wrong", OFF_SECONDS), ("right", -OFF_SECONDS)],
    ids=["a node that is ahead dies", "one that is behind takes over"],
)
def test_the_lease_of_a_node_that_dies_ends_by_the_databases_clock_whoever_of_them_has_a_wrong_one(
    cluster: Cluster, wrong_clock: WrongClock, dies: str, seconds_ahead: int
) -> None:
    wrong_clock.put(seconds_ahead)
    environs = {"wrong": wrong_clock.environ, "right": {}}
    cluster.add_shell("stays", "note start; test $ROTA_ATTEMPT -gt 1 || sleep 300")
    victim = cluster.start(dies, lease_seconds=LEASE_SECONDS, environ=environs.pop(dies))
    (run_id,) = cluster.enqueue("stays")
    cluster.wait_for_note("start", run_id)
    ((lives, environ),) = environs.items()
    survivor = cluster.start(lives, lease_seconds=LEASE_SECONDS, environ=environ)
    for name, seconds in (("wrong", seconds_ahead), ("right", 0)):
        wait_for_skew(cluster, name, seconds)

    killed_at = victim.kill(*descendants_of(victim.pid))
    lease_ended_at = cluster.run(run_id).lease_ends_at
    again = cluster.wait_for_note("start", run_id, attempt=2)

    assert again.at - killed_at <= LEASE_SECONDS + 2
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    lost, succeeded = cluster.attempts(run_id)
    assert [(a.node, a.state) for a in (lost, succeeded)] == [(dies, "lost"), (lives, "succeeded")]
    assert lost.finished_at >= lease_ended_at
    assert succeeded.claimed_at >= lease_ended_at
    assert survivor.trouble() == []


def wait_for_step(cluster: Cluster, text: str) -> None:
    """Wait until that is the last that was told of the database's clock."""
    steps = select(event.c.text).where(event.c.kind == "clock").order_by(event.c.id.desc()).limit(1)
    cluster.wait(lambda: text in str(cluster.database.read(lambda c: c.execute(steps).scalar())), text)


@pytest.mark.only_on("sqlite")
def test_on_sqlite_a_machine_whose_clock_jumps_holds_what_is_late_keeps_its_runs_and_fires_nothing_twice(
    cluster: Cluster, wrong_clock: WrongClock
) -> None:
    cluster.add_shell("long", WAITS)
    cluster.add_shell("due", "note due")
    cluster.start("a", lease_seconds=15.0, poll_seconds=0.2, environ=wrong_clock.environ)
    (long_run,) = cluster.enqueue("long")
    cluster.wait_for_note("start", long_run)
    add_schedules(cluster, SCHEDULES, every=1, slots=SLOTS, first_in=1)
    add_schedules(cluster, 1, every=1, slots=1, first_in=OFF_SECONDS / 2)
    cluster.wait(lambda: len(cluster.ledger.entries("due")) > SCHEDULES, "slots are fired")

    wrong_clock.put(OFF_SECONDS)
    wait_for_step(cluster, f"stepped forward by {OFF_SECONDS // 60}m")
    due_while_ahead = runs_of(cluster, "due")
    wrong_clock.put(0)
    wait_for_step(cluster, f"stepped back by {OFF_SECONDS // 60}m")
    cluster.wait(lambda: len(cluster.ledger.entries("due")) >= SCHEDULES * SLOTS, "all slots have run")
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(long_run) == {"succeeded"}
    assert [a.state for a in cluster.attempts(long_run)] == ["succeeded"]
    assert not any(row.schedule.startswith(f"in{OFF_SECONDS / 2}") for row in due_while_ahead)
    attempts = rows_of(cluster, select(func.count()).select_from(attempt).where(attempt.c.run_id != long_run))
    assert attempts == [(SCHEDULES * SLOTS,)]
    assert len(cluster.ledger.entries("due")) == SCHEDULES * SLOTS
