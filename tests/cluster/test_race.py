"""Many workers, few runs to each: whoever is quicker has it, and nobody else."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.cluster.cluster import Cluster

WORKERS = 10
RUNS = 1000


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


@pytest.mark.parametrize("count", [12, pytest.param(25, marks=[pytest.mark.long, pytest.mark.every_database])])
def test_workers_that_start_at_once_get_a_name_each_and_start_each_run_once(cluster: Cluster, count: int) -> None:
    cluster.add_shell("noop", "note start")
    run_ids = cluster.enqueue("noop", 10 * count)
    # As in containers of one machine: nobody has given them a name.
    workers = [cluster.begin(f"w{number}", goes_by=None, slots=2) for number in range(count)]

    names = [worker.ready().goes_by for worker in workers]
    states = cluster.wait_for_end(*run_ids, seconds=90)
    for worker in workers:
        worker.signal(signal.SIGINT)
    statuses = [worker.exit_status() for worker in workers]

    host = socket.gethostname()
    assert set(names) == {host, *(f"{host}:{number}" for number in range(2, count + 1))}
    assert sorted(entry.run_id for entry in cluster.ledger.entries("start")) == sorted(run_ids)
    assert states == {"succeeded"}
    assert statuses == [0] * count
    assert [line for worker in workers for line in worker.trouble()] == []
