"""An old backup is put back below a worker that lives on."""

from __future__ import annotations

import pytest

from rota.store.nodes import list_nodes
from tests.cluster.cluster import Cluster
from tests.store.backup import Backup

LEASE_SECONDS = 3.0


@pytest.mark.parametrize("knows_worker", [True, False])
def test_a_worker_lives_through_a_backup_that_is_put_back_and_stops_what_nobody_knows(
    cluster: Cluster, *, knows_worker: bool
) -> None:
    cluster.add_shell("short", "note did")
    cluster.add_shell("long", 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end')
    backup = Backup(cluster.url)
    worker = cluster.start("a", slots=3, lease_seconds=LEASE_SECONDS, poll_seconds=0.2)
    known = cluster.enqueue("short", 2)
    assert cluster.wait_for_end(*known) == {"succeeded"}
    if knows_worker:
        backup = Backup(cluster.url)
    (forgotten,) = cluster.enqueue("long")
    cluster.wait_for_note("start", forgotten)
    process = cluster.ledger.entries("start", run_id=forgotten)[0].pid

    backup.put_back()
    made = cluster.enqueue("short", 4)
    cluster.wait_for_death(process)  # its lease could not be renewed
    assert cluster.wait_for_end(*made) == {"succeeded"}

    assert forgotten in made  # a number for the second time
    assert cluster.ledger.entries("end") == []
    assert [len(cluster.attempts(run_id)) for run_id in made] == [1] * 4
    did = [len(cluster.ledger.entries("did", run_id=run_id)) for run_id in made]
    assert did == ([1, 1, 1, 1] if knows_worker else [2, 2, 1, 1])  # with those that had the numbers before
    cluster.wait(lambda: [node["state"] for node in list_nodes(cluster.database)] == ["alive"], "its name is its again")
    # Whoever looked before that was right to say that no node is there.
    assert [line for line in worker.trouble() if "rota.health" not in line] == []
    assert worker.stop() == 0
