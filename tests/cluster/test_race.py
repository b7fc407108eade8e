"""Many workers, few runs to each: whoever is quicker has it, and nobody else."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster

WORKERS = 10
RUNS = 1000


@pytest.mark.every_database
def test_ten_workers_racing_for_a_thousand_runs_start_each_exactly_once(cluster: Cluster) -> None:
    cluster.add_shell("noop", "note start")
    run_ids = cluster.enqueue("noop", RUNS)
    workers = [cluster.begin(f"w{number}", slots=4, poll_seconds=1.0) for number in range(WORKERS)]

    states = cluster.wait_for_end(*run_ids, seconds=90)
    statuses = [worker.ready().stop() for worker in workers]

    started = cluster.ledger.entries("start")
    assert sorted(entry.run_id for entry in started) == sorted(run_ids)
    assert {(entry.attempt, entry.fence) for entry in started} == {(1, 1)}
    assert states == {"succeeded"}
    assert statuses == [0] * WORKERS
    assert [line for worker in workers for line in worker.trouble()] == []
