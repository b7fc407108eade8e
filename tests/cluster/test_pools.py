"""Pools by rule and placement, with real workers."""

from __future__ import annotations

import signal

from rota.client import Rota
from rota.engine.zone_data import zone_data_version
from tests.cluster.cluster import Cluster

POLL = {"poll_seconds": 0.1}


def test_labels_that_change_at_hup_let_a_worker_serve_another_pool(cluster: Cluster) -> None:
    cluster.add_shell("train", "note train", pool="gpus")
    cluster.add_shell("serve", "note serve", pool="eu")
    with Rota(cluster.url) as rota:
        rota.pools.create("gpus", labels={"gpu": "yes"})
        rota.pools.create("eu", labels=["zone=eu"])
        worker = cluster.start("a", slots=4, labels={"gpu": "yes"}, **POLL)
        (trained,) = cluster.enqueue("train")
        assert cluster.wait_for_end(trained) == {"succeeded"}

        worker.write_settings(labels={"zone": "eu"})
        worker.signal(signal.SIGHUP)
        cluster.wait_for_log(worker, "read the configuration again")
        (served,) = cluster.enqueue("serve")
        assert cluster.wait_for_end(served) == {"succeeded"}
        (held,) = cluster.enqueue("train")
        (last,) = cluster.enqueue("serve")
        assert cluster.wait_for_end(last) == {"succeeded"}

        view = rota.nodes.show("a")
        assert (view["pools"], view["labels"]) == (["default", "eu"], {"zone": "eu"})
        assert view["zone_data_version"] == zone_data_version()
        assert view["skew_seconds"] is None or abs(view["skew_seconds"]) < 60
        assert cluster.states([held]) == {"ready"}
        rota.pools.add("gpus", "a")  # nobody tells the worker: it looks by itself
        assert cluster.wait_for_end(held) == {"succeeded"}
    assert worker.trouble() == []


def test_a_node_that_a_job_excludes_never_takes_it_and_another_one_comes_first_after_a_bad_end(
    cluster: Cluster,
) -> None:
    cluster.add_shell("not-on-a", "note there", exclude='["a"]')
    cluster.add_shell("anywhere", "note there")
    cluster.add_shell("fails-once", "note there; test $ROTA_ATTEMPT -gt 1", retries=1, retry_node="other")
    workers = [cluster.start(name, slots=4, **POLL) for name in ("a", "b")]

    excluded = cluster.enqueue("not-on-a", 10)
    free = cluster.enqueue("anywhere", 10)
    retried = cluster.enqueue("fails-once", 4)
    assert cluster.wait_for_end(*excluded, *free, *retried, seconds=60) == {"succeeded"}

    assert {tried.node for run_id in excluded for tried in cluster.attempts(run_id)} == {"b"}
    nodes = [[tried.node for tried in cluster.attempts(run_id)] for run_id in retried]
    assert all(len(tried) == 2 and len(set(tried)) == 2 for tried in nodes)
    assert [worker.trouble() for worker in workers] == [[], []]
