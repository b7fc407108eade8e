"""Nodes that drain and pools that are paused, with real workers: what runs goes on, and nothing is started."""

from __future__ import annotations

import signal

from rota.client import Rota
from tests.cluster.cluster import Cluster
from tests.cluster.test_looking_on import UNTIL

POLL = {"poll_seconds": 0.1}


def test_a_drained_worker_runs_on_claims_nothing_stays_drained_over_a_restart_and_is_resumed(cluster: Cluster) -> None:
    cluster.add_shell("long", f"note begin; {UNTIL.format('go')}; note end")
    cluster.add_shell("short", "note short")
    first = cluster.start("a", slots=4, **POLL)
    (running,) = cluster.enqueue("long")
    cluster.wait_for_note("begin", running)
    with Rota(cluster.url, actor="ann@desk") as rota:
        rota.nodes.drain("a")
        cluster.wait_for_log(first, "asked to drain: no new claims until `rota node resume a`")
        (held,) = cluster.enqueue("short")
        first.signal(signal.SIGTERM)  # leaves its job to the next worker of this machine
        assert first.exit_status() == 0

        second = cluster.start("a", slots=4, **POLL)
        cluster.wait_for_log(second, "asked to drain: no new claims until `rota node resume a`")
        cluster.wait_for_log(second, f"run {running} of job long goes on")  # it adopts all the same
        (cluster.folder / "go").touch()
        assert cluster.wait_for_end(running) == {"succeeded"}
        assert cluster.states([held]) == {"ready"}
        assert rota.nodes.show("a")["state"] == "draining"
        assert "drains since" in rota.why.run(held)["because"][0]

        rota.nodes.resume("a")
        assert cluster.wait_for_end(held) == {"succeeded"}

    assert len(cluster.ledger.entries("begin", run_id=running)) == 1
    assert [found.node for found in cluster.attempts(held)] == ["a"]
    assert first.trouble() == second.trouble() == []


def test_a_paused_pool_starts_nothing_on_any_worker_while_what_runs_there_goes_on(cluster: Cluster) -> None:
    cluster.add_shell("long", f"note begin; {UNTIL.format('go')}; note end")
    cluster.add_shell("short", "note short")
    cluster.add_shell("beacon", "note beacon", pool="other")
    workers = [cluster.start(name, slots=4, pools=["default", "other"], **POLL) for name in ("a", "b")]
    (running,) = cluster.enqueue("long")
    cluster.wait_for_note("begin", running)
    with Rota(cluster.url, actor="ann@desk") as rota:
        rota.pools.pause("default")
        held = cluster.enqueue("short", 10)
        beacons = cluster.enqueue("beacon", 20)  # both workers look and claim meanwhile

        assert cluster.wait_for_end(*beacons) == {"succeeded"}
        (cluster.folder / "go").touch()
        assert cluster.wait_for_end(running) == {"succeeded"}
        assert cluster.states(held) == {"ready"}

        rota.pools.resume("default")
        assert cluster.wait_for_end(*held) == {"succeeded"}

    assert [worker.trouble() for worker in workers] == [[], []]
