"""A chain of jobs on several workers, of which one dies: each slot starts when the one that it builds on is done."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from rota.model.schedule import ScheduleSpec
from rota.store.database import now_of
from rota.store.jobs import edit_job
from rota.store.schedules import add_schedule
from rota.store.tables import run, schedule
from tests.cluster.cluster import Cluster, descendants_of
from tests.execution.harness import is_alive

CHAIN = ("load", "report", "export")
SLOTS = 10
LEASE_SECONDS = 3.0
WAIT_SECONDS = 90.0


@pytest.mark.one_case
@pytest.mark.parametrize("options", [{"overlap": "queue"}, {"overlap": "allow"}, {"in_order": True}], ids=str)
def test_each_slot_of_a_chain_starts_behind_what_it_builds_on_although_nodes_die(
    cluster: Cluster, options: dict[str, object]
) -> None:
    for name in CHAIN:
        cluster.add_shell(name, "note start; sleep 0.2; note end", retries=3, retry_delay_seconds=0.0)
    for name, upstream in zip(CHAIN[1:], CHAIN, strict=False):
        after = {"after": [upstream]}
        edit_job(cluster.database, name, lambda spec, after=after: spec.edited(**after), actor="test")
    end = cluster.database.read(now_of) + timedelta(seconds=SLOTS + 2)
    for name in CHAIN:
        spec = ScheduleSpec.checked(name, job=name, every="1s", catch_up="all", end=end.isoformat(), **options)
        add_schedule(cluster.database, spec, actor="test")
    workers = [cluster.start(name, slots=3, lease_seconds=LEASE_SECONDS) for name in "abc"]
    cluster.wait(lambda: len(cluster.ledger.entries("end")) >= 3 * len(CHAIN), "the chain runs")
    workers[0].kill(*descendants_of(workers[0].pid))  # the machine is gone
    cluster.wait(lambda: not _going(cluster), "all slots have come, and ended", WAIT_SECONDS)

    rows = cluster.database.read(lambda c: c.execute(select(run)).all())
    assert {row.state for row in rows} == {"succeeded"}
    by_slot: dict[str, list[datetime]] = {
        name: sorted(row.slot_at for row in rows if row.job == name) for name in CHAIN
    }
    # Each slot that has been decided has one run. Those of an upstream may be decided a moment later.
    assert all(len(slots) == len(set(slots)) >= SLOTS for slots in by_slot.values())
    runs = {(row.job, row.slot_at): row.id for row in rows}
    ends = {entry.run_id: entry.at for entry in reversed(cluster.ledger.entries("end"))}  # the first of each
    for name, upstream in zip(CHAIN[1:], CHAIN, strict=False):
        for slot in by_slot[name]:
            before = max(one for one in by_slot[upstream] if one <= slot)
            started = min(entry.at for entry in cluster.ledger.entries("start", run_id=runs[name, slot]))
            assert ends[runs[upstream, before]] <= started, f"{name} of {slot} started too early"
    assert [worker.trouble() for worker in workers[1:]] == [[], []]
    assert all(is_alive(worker.pid) for worker in workers[1:])


def _going(cluster: Cluster) -> int:
    """Count the runs that have not ended, and the schedules that are not over."""
    runs = select(func.count()).where(run.c.finished_at.is_(None)).scalar_subquery()
    schedules = select(func.count()).where(schedule.c.next_slot_at.is_not(None)).scalar_subquery()
    return cluster.database.read(lambda c: c.execute(select(runs + schedules)).scalar_one())
