"""A job on all nodes of its pool, with real workers: one that is down runs late in its window, or misses it alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert, select

from rota.client import Rota
from rota.store.database import now_of
from rota.store.tables import job, run, schedule
from rota.store.wakeup import announce
from tests.cluster.cluster import Cluster

POLL = {"poll_seconds": 0.1}
GOING = {"waiting", "ready", "running"}


def add_schedule(cluster: Cluster, every: float, window: float) -> None:
    """Add a schedule of the job that is due in a moment, and again and again."""

    def add(connection: Connection) -> None:
        first = now_of(connection) + timedelta(seconds=0.5)
        job_id = connection.execute(select(job.c.id)).scalar_one()
        values = {
            "name": "s", "job_id": job_id, "kind": "every", "expression": str(every), "zone": "UTC",
            "anchor_at": first, "next_slot_at": first, "delay_seconds": 0.0, "catch_up": "latest",
            "catch_up_limit": 100, "overlap": "skip", "args": "{}", "cursor_version": 1, "revision": 1,
            "start_within_seconds": window, "created_at": first, "updated_at": first,
        }  # fmt: skip
        connection.execute(insert(schedule), values)
        announce(connection)

    cluster.database.write(add, repeatable=False)


def rows(cluster: Cluster) -> dict[str, list[Any]]:
    """The runs of each node, in the order of their slots."""
    found: dict[str, list[Any]] = {}
    for row in cluster.database.read(lambda c: c.execute(select(run).order_by(run.c.slot_at)).all()):
        found.setdefault(row.target_node, []).append(row)
    return found


def has_ended(cluster: Cluster, name: str, number: int = 0) -> bool:
    of_node = rows(cluster).get(name, [])
    return len(of_node) > number and of_node[number].state not in GOING


def test_a_node_that_is_down_and_back_inside_its_window_runs_and_the_group_is_complete(cluster: Cluster) -> None:
    cluster.add_shell("sweep", "note ran", runs_on="all")
    workers = {name: cluster.start(name, **POLL) for name in "abc"}
    assert workers["c"].stop() == 0
    add_schedule(cluster, every=3600, window=600)

    cluster.wait(lambda: has_ended(cluster, "a") and has_ended(cluster, "b"), "the others have ended")
    (of_c,) = rows(cluster)["c"]
    with Rota(cluster.url) as rota:
        group = rota.runs.group(of_c.group_id)
        before = group.show()
        workers["c"] = cluster.start("c", **POLL)
        after = group.wait(60).show()

    assert (before["state"], before["summary"]) == ("running", "2 of 3 succeeded, c has not started")
    assert (after["state"], after["summary"]) == ("succeeded", "all 3 succeeded")
    assert {name: [row.node for row in of_node] for name, of_node in rows(cluster).items()} == {
        name: [name] for name in "abc"
    }
    assert len(cluster.ledger.entries("ran")) == 3
    assert [worker.trouble() for worker in workers.values()] == [[], [], []]


def test_a_node_that_stays_away_misses_it_alone_and_runs_the_next_slot(cluster: Cluster) -> None:
    cluster.add_shell("sweep", "note ran", runs_on="all")
    workers = {name: cluster.start(name, **POLL) for name in "abc"}
    workers["c"].kill(workers["c"].nursery_pid)
    add_schedule(cluster, every=8, window=6)

    cluster.wait(lambda: has_ended(cluster, "c"), "the window of its run has passed")
    first = {name: of_node[0] for name, of_node in rows(cluster).items()}
    with Rota(cluster.url) as rota:
        summary = rota.schedules["s"].show()["last_group"]["summary"]
        why = rota.why.schedule("s", first["c"].slot_at.isoformat())
    cluster.start("c", **POLL)
    # Of the slots from now on, one at least comes while it is there.
    back = len(rows(cluster)["c"])
    cluster.wait(lambda: has_ended(cluster, "c", back), "it has run, or missed, a slot that came after it")

    assert {name: row.state for name, row in first.items()} == {"a": "succeeded", "b": "succeeded", "c": "missed"}
    assert "it is for node c, which" in first["c"].reason_text
    assert summary == "2 of 3 succeeded, c missed it"
    assert any(said.startswith(f"c: run {first['c'].id} is missed") for said in why["because"])
    assert rows(cluster)["c"][back].state == "succeeded"
    assert {len({row.slot_at for row in of_node}) == len(of_node) for of_node in rows(cluster).values()} == {True}
