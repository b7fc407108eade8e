"""Numbers of runs that no double tells apart, through a worker, its guardians, the journal and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rota.store.interventions import cancel_run
from tests.cluster.cluster import Cluster
from tests.cluster.test_outlives import WAITS
from tests.store.large_ids import begin_ids_at

FIRST = 2**53 + 1


@pytest.mark.every_database
def test_runs_of_large_numbers_are_run_once_each_taken_over_cancelled_and_shown(cluster: Cluster) -> None:
    first = begin_ids_at(cluster.url, FIRST)["rota_run"]
    cluster.add_shell("waits", WAITS)
    cluster.add_shell("quick", "note start; echo $ROTA_RUN_ID")
    worker = cluster.start("a")
    waiting = cluster.enqueue("waits", 2)
    assert waiting == [first, first + 1]  # a double takes them for one
    for run_id in waiting:
        cluster.wait_for_note("start", run_id)
    quick = cluster.enqueue("quick", 3)
    assert cluster.wait_for_end(*quick) == {"succeeded"}

    worker.kill()
    again = cluster.start("a")
    cancel_run(cluster.database, waiting[0], actor="test")
    assert cluster.wait_for_end(waiting[0]) == {"cancelled"}
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(waiting[1]) == {"succeeded"}

    assert sorted(entry.run_id for entry in cluster.ledger.entries("start")) == [*waiting, *quick]
    assert [len(cluster.attempts(run_id)) for run_id in (*waiting, *quick)] == [1] * 5
    environ = {"PATH": os.environ["PATH"], "HOME": str(cluster.folder), "ROTA_DB": cluster.url}
    shown = subprocess.run(
        [sys.executable, "-m", "rota", "run", "show", str(quick[0]), "--json"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["id"] == quick[0]
    printed = subprocess.run(
        [sys.executable, "-m", "rota", "run", "logs", str(quick[2])],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(quick[2]) in printed.stdout
    assert again.trouble() == []
    assert again.stop() == 0
