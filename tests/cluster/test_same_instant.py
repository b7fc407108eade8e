"""Thousands of runs that are due at the same instant: leases of what runs for long are renewed in time all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, func, insert, select

from rota.model.run import NewRun
from rota.store.creation import enqueue_runs, request_ids
from rota.store.database import now_of
from rota.store.tables import attempt, job, run, schedule
from rota.store.types import db_now
from rota.store.wakeup import announce
from tests.cluster.cluster import Cluster
from tests.cluster.many_runs import LOOK_SECONDS, count_states
from tests.cluster.test_outlives import WAITS

LONG_JOBS = 2  # on each node


def enqueue_for_one_instant(cluster: Cluster, job: str, count: int, in_seconds: float) -> datetime:
    """Ask for runs that are all due then, which is still ahead when all of them are there; return when."""

    def work(connection: Connection) -> datetime:
        due_at = now_of(connection) + timedelta(seconds=in_seconds)
        enqueue_runs(connection, [NewRun(job, run_at=due_at, requested_by="test")] * count, request_ids(count))
        announce(connection)
        return due_at

    due_at = cluster.database.write(work, repeatable=False)
    assert cluster.database.read(now_of) < due_at
    return due_at


def schedule_for_one_instant(cluster: Cluster, name: str, count: int, in_seconds: float) -> datetime:
    """Add so many schedules of the job that are all due then, as at midnight; return when."""

    def work(connection: Connection) -> datetime:
        due_at = now_of(connection) + timedelta(seconds=in_seconds)
        job_id = connection.execute(select(job.c.id).where(job.c.name == name)).scalar_one()
        rows = [
            {
                "name": f"s{number}", "job_id": job_id, "kind": "every", "expression": "86400", "zone": "UTC",
                "anchor_at": due_at, "next_slot_at": due_at, "delay_seconds": 0.0, "catch_up": "latest",
                "catch_up_limit": 100, "overlap": "skip", "args": "{}", "cursor_version": 1, "revision": 1,
                "created_at": due_at, "updated_at": due_at,
            }
            for number in range(count)
        ]  # fmt: skip
        connection.execute(insert(schedule), rows)
        announce(connection)
        return due_at

    return cluster.database.write(work, repeatable=False)


def watch_leases(cluster: Cluster, run_ids: list[int], job: str, count: int, seconds: float) -> float:
    """Look at these leases, by the database's clock, until all runs of a job have succeeded; return the least left."""
    statement = select(run.c.lease_ends_at, db_now().label("now")).where(
        run.c.id.in_(run_ids), run.c.state == "running"
    )
    least: list[float] = []

    def have_succeeded() -> bool:
        rows = cluster.database.read(lambda c: c.execute(statement).all())
        assert len(rows) == len(run_ids), "a lease was lost"
        least.append(min((row.lease_ends_at - row.now).total_seconds() for row in rows))
        time.sleep(LOOK_SECONDS)
        return count_states(cluster, job)["succeeded"] == count

    cluster.wait(have_succeeded, f"all runs of {job} have succeeded", seconds)
    return min(least)


Ask = Callable[[Cluster, str, int, float], datetime]


def check_one_instant(
    cluster: Cluster,
    nodes: int,
    count: int,
    *,
    lease_seconds: float,
    in_seconds: float,
    ask: Ask = enqueue_for_one_instant,
) -> None:
    cluster.add_shell("short", "note short")
    names = [f"w{number}" for number in range(nodes)]
    for name in names:
        cluster.add_shell(f"long-{name}", WAITS, pool=name)
    begun = [cluster.begin(name, pools=("default", name), slots=6, lease_seconds=lease_seconds) for name in names]
    workers = [worker.ready() for worker in begun]
    long_runs = [run_id for name in names for run_id in cluster.enqueue(f"long-{name}", LONG_JOBS)]
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == len(long_runs), "long jobs run on every node", 60)

    due_at = ask(cluster, "short", count, in_seconds)
    least_left = watch_leases(cluster, long_runs, "short", count, 1200)
    (cluster.folder / "go").touch()
    states = cluster.wait_for_end(*long_runs)

    first, last, tried = cluster.database.read(
        lambda c: c.execute(
            select(func.min(attempt.c.claimed_at), func.max(attempt.c.finished_at), func.count())
            .join(run, run.c.id == attempt.c.run_id)
            .where(run.c.job == "short")
        ).one()
    )
    print(
        f"{count} runs due at once, {nodes} workers: all had ended {(last - due_at).total_seconds():.1f} s later; "
        f"the least that was left of a lease of {lease_seconds:g} s: {least_left:.1f} s"
    )
    assert first >= due_at
    assert least_left > lease_seconds / 3
    assert states == {"succeeded"}
    assert all(len(cluster.attempts(run_id)) == 1 for run_id in long_runs)
    assert tried == count
    done = [entry.run_id for entry in cluster.ledger.entries("short")]
    assert len(done) == len(set(done)) == count
    assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == len(long_runs)
    assert [line for worker in workers for line in worker.trouble()] == []
    assert [worker.stop() for worker in workers] == [0] * nodes


def test_five_hundred_runs_due_at_the_same_instant_make_no_renewal_late(cluster: Cluster) -> None:
    check_one_instant(cluster, nodes=3, count=500, lease_seconds=9.0, in_seconds=3.0)


@pytest.mark.only_on("postgresql")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_runs_due_at_the_same_instant_make_no_renewal_late(cluster: Cluster) -> None:
    check_one_instant(cluster, nodes=8, count=10_000, lease_seconds=15.0, in_seconds=15.0)


def test_a_hundred_schedules_due_at_the_same_instant_are_run_once_each_and_no_renewal_is_late(
    cluster: Cluster,
) -> None:
    check_one_instant(cluster, nodes=2, count=100, lease_seconds=9.0, in_seconds=2.0, ask=schedule_for_one_instant)
    assert every_schedule_has_one_run(cluster, 100)


@pytest.mark.only_on("postgresql")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_schedules_due_at_the_same_instant_are_run_once_each_and_no_renewal_is_late(
    cluster: Cluster,
) -> None:
    check_one_instant(cluster, nodes=8, count=10_000, lease_seconds=15.0, in_seconds=15.0, ask=schedule_for_one_instant)
    assert every_schedule_has_one_run(cluster, 10_000)


def every_schedule_has_one_run(cluster: Cluster, count: int) -> bool:
    numbers = select(func.count(), func.count(run.c.schedule_id.distinct())).where(run.c.slot_at.is_not(None))
    return tuple(cluster.database.read(lambda c: c.execute(numbers).one())) == (count, count)
