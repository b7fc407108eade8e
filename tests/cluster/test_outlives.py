"""Runs outlive their worker: it is killed and started again, and no job notices."""

from __future__ import annotations

from sqlalchemy import text

from rota.store.interventions import cancel_run
from tests.cluster.cluster import Cluster, parent_of
from tests.execution.harness import is_alive

WAITS = 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end; echo done'
JOBS = 20
LEASE_SECONDS = 15.0  # the next worker has time to start on a machine that is busy


def wait_for_renewal(cluster: Cluster, *run_ids: int) -> None:
    """Wait until each lease ends later than it does now: somebody renews it."""
    before = {run_id: cluster.run(run_id).lease_ends_at for run_id in run_ids}
    cluster.wait(
        lambda: all(cluster.run(run_id).lease_ends_at > end for run_id, end in before.items()), "leases are renewed"
    )


def times_taken_over(cluster: Cluster) -> int:
    told = text("select count(*) from rota_event where text like 'its worker is gone, and its job goes on: a has%'")
    return cluster.database.read(lambda c: c.execute(told).scalar_one())


def test_twenty_runs_go_on_while_their_worker_is_killed_and_started_again_twice(cluster: Cluster) -> None:
    cluster.add_shell("waits", WAITS)
    worker = cluster.start("a", slots=JOBS, lease_seconds=LEASE_SECONDS)
    run_ids = cluster.enqueue("waits", JOBS)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == JOBS, "all have started")

    for times in (1, 2):
        worker.kill()
        worker = cluster.start("a", slots=JOBS, lease_seconds=LEASE_SECONDS)
        cluster.wait(lambda: times_taken_over(cluster) == times * JOBS, "all are taken over")  # noqa: B023
        wait_for_renewal(cluster, *run_ids)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    for run_id in run_ids:
        tried = [(each.state, each.exit_code, each.stdout_bytes) for each in cluster.attempts(run_id)]
        assert tried == [("succeeded", 0, len("done\n"))], cluster.events(run_id)
    assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == JOBS
    assert worker.trouble() == []


def test_a_worker_beside_it_takes_over_what_runs_and_no_other_node_does(cluster: Cluster) -> None:
    cluster.add_shell("waits", WAITS)
    first = cluster.start("a", lease_seconds=LEASE_SECONDS)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)
    cluster.start("b", lease_seconds=LEASE_SECONDS, state_dir=first.values["state_dir"], slots=1)
    cluster.start("elsewhere", lease_seconds=LEASE_SECONDS)

    first.kill()
    cluster.wait(lambda: cluster.run(run_id).node == "b", "its neighbour has it")
    wait_for_renewal(cluster, run_id)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [(tried.state, tried.node) for tried in cluster.attempts(run_id)] == [("succeeded", "a")]
    assert len(cluster.ledger.entries("start")) == 1


def test_a_run_that_was_taken_over_is_cancelled_at_once(cluster: Cluster) -> None:
    cluster.add_shell("waits", WAITS)
    first = cluster.start("a")
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)
    holder = cluster.run(run_id).holder
    first.kill()
    cluster.start("a")
    cluster.wait(lambda: "its worker is gone" in cluster.events(run_id)[-1], "it is taken over")
    assert cluster.run(run_id).holder != holder  # by which a node sees at once that it is to cancel something

    cancel_run(cluster.database, run_id, actor="ann@desk")

    assert cluster.wait_for_end(run_id) == {"cancelled"}
    assert not is_alive(started.pid)


def test_what_another_node_took_away_meanwhile_is_stopped_and_not_counted(cluster: Cluster) -> None:
    cluster.add_shell("waits", f"test $ROTA_ATTEMPT -gt 1 || {{ {WAITS}; }}")
    first = cluster.start("a", lease_seconds=60.0)
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)
    first.kill()
    over = text("update rota_run set lease_ends_at = enqueued_at where id = :id")
    cluster.database.write(lambda c: c.execute(over, {"id": run_id}), repeatable=True)
    cluster.start("b")
    assert cluster.wait_for_end(run_id) == {"succeeded"}

    cluster.start("a", lease_seconds=60.0)

    cluster.wait_for_death(started.pid, parent_of(started.pid))
    assert [(tried.attempt, tried.state) for tried in cluster.attempts(run_id)] == [(1, "lost"), (2, "succeeded")]
    assert cluster.run(run_id).state == "succeeded"
