"""Five schedulers at once, one of them killed: every slot once, none before its time, none late because of the kill.

There is no leader to lose: whichever node looks first decides. Lateness is by the database's clock, from the slot to
its row; the bound of two seconds is the promise.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, func, insert, select

from rota.store.database import now_of
from rota.store.tables import job, run, schedule
from rota.store.wakeup import announce
from tests.cluster.cluster import Cluster

SCHEDULES = 20
SECONDS = 6
LATE_SECONDS_MAX = 2.0


def add_schedules(cluster: Cluster, count: int = SCHEDULES, every: int = 1) -> datetime:
    """Add schedules that are due each second, from two seconds from now on; return their first slot."""
    cluster.add_shell("due", "true", pool="unserved")

    def add(connection: Connection) -> datetime:
        first = now_of(connection).replace(microsecond=0) + timedelta(seconds=3)
        job_id = connection.execute(select(job.c.id).where(job.c.name == "due")).scalar_one()
        connection.execute(
            insert(schedule),
            [
                {
                    "name": f"s{number}", "job_id": job_id, "kind": "every", "expression": str(every), "zone": "UTC",
                    "anchor_at": first, "next_slot_at": first, "delay_seconds": 0.0, "catch_up": "latest",
                    "catch_up_limit": 100, "overlap": "allow", "args": "{}", "cursor_version": 1, "revision": 1,
                    "created_at": first, "updated_at": first,
                }
                for number in range(count)
            ],
        )  # fmt: skip
        announce(connection)
        return first

    return cluster.database.write(add, repeatable=False)


def rows(cluster: Cluster, until: datetime) -> dict[str, list[tuple[datetime, datetime, int]]]:
    found: dict[str, list[tuple[datetime, datetime, int]]] = defaultdict(list)
    statement = (
        select(run.c.schedule, run.c.slot_at, run.c.enqueued_at, run.c.slot_count)
        .where(run.c.slot_at < until)
        .order_by(run.c.slot_at)
    )
    for row in cluster.database.read(lambda c: c.execute(statement).all()):
        found[row.schedule].append((row.slot_at, row.enqueued_at, row.slot_count))
    return found


def test_five_schedulers_decide_each_slot_once_and_in_time_although_one_is_killed(cluster: Cluster) -> None:
    workers = [cluster.start(name, pools=("nobody",)) for name in "abcde"]
    first = add_schedules(cluster)
    half, until = first + timedelta(seconds=SECONDS / 2), first + timedelta(seconds=SECONDS)

    def wait_for(moment: datetime) -> None:
        cluster.wait(lambda: cluster.database.read(now_of) >= moment, f"the database's clock shows {moment}")

    wait_for(half)
    victim = workers[0]  # there since before the others, and so the leader if there were one
    victim.kill()
    wait_for(until + timedelta(seconds=LATE_SECONDS_MAX))

    found = rows(cluster, until)
    assert len(found) == SCHEDULES
    for slots in found.values():
        assert [slot for slot, _, _ in slots] == [first + timedelta(seconds=number) for number in range(SECONDS)]
        assert {count for _, _, count in slots} == {1}
        late = [(decided - slot).total_seconds() for slot, decided, _ in slots]
        assert min(late) >= 0
        assert max(late) <= LATE_SECONDS_MAX
    assert [worker.trouble() for worker in workers if worker is not victim] == [[]] * 4


@pytest.mark.parametrize("flood", [2000, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_flood_of_slots_takes_no_lease_from_what_runs(cluster: Cluster, flood: int) -> None:
    cluster.add_shell("long", 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done')
    workers = [cluster.start(name, lease_seconds=3.0) for name in "ab"]
    (run_id,) = cluster.enqueue("long")
    cluster.wait(lambda: cluster.ledger.entries("start"), "it runs")

    add_schedules(cluster, flood, every=3600)
    fired = select(func.count()).where(run.c.slot_at.is_not(None))
    cluster.wait(lambda: cluster.database.read(lambda c: c.execute(fired).scalar()) == flood, "all are fired", 90)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert len(cluster.attempts(run_id)) == 1
    of_each = select(func.count(), func.count(run.c.schedule_id.distinct())).where(run.c.slot_at.is_not(None))
    assert tuple(cluster.database.read(lambda c: c.execute(of_each).one())) == (flood, flood)
    assert [line for worker in workers for line in worker.trouble()] == []
