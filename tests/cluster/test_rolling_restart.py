"""Every worker is restarted in turn below thousands of short runs, told to or killed: each of them runs once."""

from __future__ import annotations

import signal

import pytest
from sqlalchemy import func, select

from rota.store.tables import attempt, run
from tests.cluster.cluster import Cluster
from tests.cluster.many_runs import wait_for_all, wait_for_notes

# The lease leaves the next worker time to start on a machine that is busy.
SETTINGS = {"slots": 4, "lease_seconds": 15.0, "poll_seconds": 0.5}


@pytest.mark.one_case
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("workers_count", "runs_count"),
    [(3, 300), pytest.param(5, 5000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])],
)
def test_while_all_workers_are_restarted_in_turn_each_short_run_runs_once(
    cluster: Cluster, number: signal.Signals, workers_count: int, runs_count: int
) -> None:
    cluster.add_shell("short", "note start; note end")
    begun = {name: cluster.begin(name, **SETTINGS) for name in "abcde"[:workers_count]}
    workers = {name: worker.ready() for name, worker in begun.items()}
    run_ids: list[int] = []

    for name in workers:  # there is work to be done at each restart, however quick they are
        portion = runs_count // workers_count
        wait_for_notes(cluster, "start", len(run_ids), 300)
        run_ids += cluster.enqueue("short", portion)
        wait_for_notes(cluster, "start", len(run_ids) - portion * 4 // 5, 300)
        workers[name].signal(number)
        assert len(cluster.ledger.entries("end")) < len(run_ids)
        assert workers[name].exit_status() == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        workers[name] = cluster.start(name, **SETTINGS)
    states = wait_for_all(cluster, "short", 600)

    assert states == {"succeeded": runs_count}
    for what in ("start", "end"):
        assert sorted(entry.run_id for entry in cluster.ledger.entries(what)) == run_ids
    losses, retries = cluster.database.read(
        lambda c: c.execute(select(func.sum(run.c.losses), func.sum(run.c.retries_used))).one()
    )
    tried = dict(
        cluster.database.read(
            lambda c: c.execute(select(attempt.c.state, func.count()).group_by(attempt.c.state)).all()
        )
    )
    print(f"{runs_count} runs, {workers_count} workers, {number.name}: attempts {tried}")
    assert retries == 0
    assert tried["succeeded"] == runs_count
    assert tried.keys() <= {"succeeded", "released", "lost"}
    if number is signal.SIGTERM:  # one that is killed may have claimed what it has not started
        assert losses == 0, "\n".join(worker.log()[-2000:] for worker in cluster.workers)
    assert [line for worker in workers.values() for line in worker.trouble()] == []
    assert [worker.stop() for worker in workers.values()] == [0] * workers_count
