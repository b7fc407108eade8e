"""What a worker makes of its signals, with real jobs under it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, NullPool, create_engine

from rota.execution.linux import boottime
from rota.store.dialects import WakeUp
from tests.cluster.cluster import Cluster, Worker
from tests.execution.harness import is_alive

UNTIL_TOLD = 'while [ ! -e "$FOLDER/go" ]; do sleep 0.02; done; note end'  # ends once ``tell_to_go`` was called


def tell_to_go(cluster: Cluster) -> None:
    (cluster.folder / "go").touch()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stopped_worker_lets_its_job_finish_claims_nothing_more_and_exits_with_0(
    cluster: Cluster, number: signal.Signals
) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    worker = cluster.start("a")
    (running,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", running)

    worker.signal(number)
    cluster.wait_for_log(worker, "draining")
    (late,) = cluster.enqueue("waits")
    tell_to_go(cluster)
    status = worker.exit_status()

    assert status == 0
    assert cluster.run(running).state == "succeeded"
    assert (cluster.run(late).state, cluster.run(late).attempt) == ("ready", 0)
    assert len(cluster.ledger.entries("start")) == 1
    assert worker.trouble() == []


def test_a_second_signal_gives_the_runs_back_and_another_worker_starts_them_within_two_seconds(
    cluster: Cluster,
) -> None:
    line = 'trap "" TERM; note start; test $ROTA_ATTEMPT -gt 1 || while true; do sleep 1; done; note end'
    cluster.add_shell("stubborn", line)
    first = cluster.start("a")
    run_ids = cluster.enqueue("stubborn", 3)
    started = [cluster.wait_for_note("start", run_id) for run_id in run_ids]
    second = cluster.start("b")

    first.signal(signal.SIGINT)
    cluster.wait_for_log(first, "draining")
    told_at = boottime()
    first.signal(signal.SIGINT)

    again = [cluster.wait_for_note("start", run_id, attempt=2) for run_id in run_ids]
    # Where nobody wakes the other worker it finds the runs at its next look.
    unheard = cluster.database.dialect.poll_seconds if cluster.database.dialect.wake_up is WakeUp.POLL else 0.0
    assert max(entry.at for entry in again) - told_at <= 2.0 + unheard
    assert first.exit_status() == 0
    assert not any(is_alive(entry.pid) for entry in started)
    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    for run_id in run_ids:
        assert [(a.state, a.node) for a in cluster.attempts(run_id)] == [("released", "a"), ("succeeded", "b")]
        assert (cluster.run(run_id).retries_used, cluster.run(run_id).losses) == (0, 0)
    assert first.trouble() == second.trouble() == []


def test_a_run_that_is_not_done_when_the_drain_is_over_is_given_back(cluster: Cluster) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    worker = cluster.start("a", drain_timeout_seconds=0.5)
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)

    status = worker.stop()

    assert status == 0
    assert not is_alive(started.pid)
    assert (cluster.run(run_id).state, cluster.run(run_id).retries_used) == ("ready", 0)
    assert [a.state for a in cluster.attempts(run_id)] == ["released"]
    assert worker.trouble() == []


def test_a_run_that_may_start_once_is_lost_when_its_worker_stops_it_to_leave(cluster: Cluster) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}", delivery="at_most_once")
    worker = cluster.start("a", drain_timeout_seconds=0.5)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)

    worker.stop()

    assert cluster.run(run_id).state == "lost"
    assert "a stopped attempt 1 to give it back" in cluster.run(run_id).reason_text
    assert worker.trouble() == []


def test_nothing_starts_any_more_once_the_runs_have_been_given_back(cluster: Cluster) -> None:
    cluster.add_shell("stays", "note start; sleep 300")
    cluster.enqueue("stays", 40)
    worker = cluster.start("a", slots=40)
    cluster.wait_for_note("start")

    # In the middle of starting: some have been claimed and not yet started.
    worker.give_back()
    status = worker.exit_status()

    assert status == 0
    started = cluster.ledger.entries("start")
    assert not any(is_alive(entry.pid) for entry in started)
    run_ids = range(1, 41)
    assert cluster.states(run_ids) == {"ready"}
    assert {a.state for run_id in run_ids for a in cluster.attempts(run_id)} <= {"released"}


def seen(connection: Connection, statement: str) -> bool:
    found = connection.exec_driver_sql(statement).first()
    connection.commit()
    return found is not None


@contextlib.contextmanager
def no_claim_can_end(cluster: Cluster, worker: Worker) -> Iterator[None]:
    """Have one run asked for that the worker is about to claim, and cannot before the block ends."""
    url = cluster.database.url
    match url.get_backend_name():
        case "sqlite":
            holder = sqlite3.connect(str(url.database), isolation_level=None)
            cluster.enqueue("stays")
            holder.execute("begin immediate")  # the worker hears of the run some milliseconds later
            statements = Path(worker.values["statements"])
            cluster.wait(lambda: statements.read_text().endswith("begin immediate\n"), "it wants to write")
            yield
            holder.execute("rollback")
            holder.close()
        case backend:
            engine = create_engine(url, poolclass=NullPool)
            with engine.begin() as holder, engine.connect() as watcher:
                watcher.exec_driver_sql("update rota_job set state = 'paused'")
                watcher.commit()
                cluster.enqueue("stays")
                if backend == "postgresql":
                    holder.exec_driver_sql("lock table rota_event in exclusive mode")
                    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like 'INSERT%%'"
                else:
                    holder.exec_driver_sql("lock tables rota_event write")
                    waiting = "select 1 from information_schema.processlist where state like 'Waiting for table%%'"
                watcher.exec_driver_sql("update rota_job set state = 'active'")
                watcher.commit()
                cluster.wait(lambda: seen(watcher, waiting), "it waits for the lock")
                yield
                if backend != "postgresql":
                    holder.exec_driver_sql("unlock tables")


def test_what_was_being_claimed_when_the_worker_was_told_to_leave_is_given_back_unstarted(cluster: Cluster) -> None:
    cluster.add_shell("stays", "note start; sleep 300")
    worker = cluster.start("a", statements=str(cluster.folder / "statements"))

    with no_claim_can_end(cluster, worker):
        worker.signal(signal.SIGINT)
        cluster.wait_for_log(worker, "draining")
    status = worker.exit_status()

    assert status == 0
    assert cluster.ledger.entries("start") == []
    assert cluster.run(1).state == "ready"
    assert {a.state for a in cluster.attempts(1)} <= {"released"}
    assert worker.trouble() == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_worker_reads_its_settings_again_and_keeps_the_old_ones_when_they_are_broken(
    cluster: Cluster, number: signal.Signals
) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    worker = cluster.start("a", slots=1)
    run_ids = cluster.enqueue("waits", 4)
    (first,) = cluster.wait(lambda: cluster.ledger.entries("start"), "the first has started")

    worker.write_settings(slots=3)
    worker.signal(number)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == 3, "three have started")
    worker.settings_path.write_text("{")
    worker.signal(number)
    cluster.wait_for_log(worker, "the old one stays in force")
    worker.write_settings(slots=0)
    worker.signal(number)
    cluster.wait_for_log(worker, "a node takes at least one run")

    assert is_alive(first.pid)
    assert len(cluster.ledger.entries("start")) == 3
    tell_to_go(cluster)
    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    assert len(worker.trouble()) == 2


def test_settings_that_take_long_to_read_hold_up_no_renewal(cluster: Cluster) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    worker = cluster.start("a", slots=1, lease_seconds=3.0)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)
    worker.settings_path.unlink()
    os.mkfifo(worker.settings_path)  # whoever opens it waits for somebody who writes

    worker.signal(signal.SIGHUP)
    for _ in range(3):  # one may have been under way
        before = cluster.run(run_id).lease_ends_at
        cluster.wait(lambda: cluster.run(run_id).lease_ends_at > before, "the lease is renewed")  # noqa: B023
    worker.write_settings(slots=2)
    cluster.wait_for_log(worker, "2 slots")

    tell_to_go(cluster)
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert len(cluster.attempts(run_id)) == 1
    assert worker.trouble() == []


def test_a_worker_opens_its_log_anew_and_leaves_its_jobs_alone(cluster: Cluster) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    worker = cluster.start("a")
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)
    old = rotate(worker)

    worker.signal(signal.SIGUSR2)

    cluster.wait_for_log(worker, "log files are open anew")
    assert "node a:" in old.read_text()
    assert "log files" not in old.read_text()
    assert is_alive(started.pid)
    tell_to_go(cluster)
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [a.state for a in cluster.attempts(run_id)] == ["succeeded"]


def rotate(worker: Worker) -> Path:
    return worker.log_path.rename(worker.log_path.with_suffix(".1"))


def test_a_pass_ends_when_all_that_was_due_is_done(cluster: Cluster) -> None:
    cluster.add_shell("quick", "note start")
    # By the time it fails, the pass has looked and found nothing else to do.
    cluster.add_shell("fails_once", "note start; test $ROTA_ATTEMPT -gt 1 || { sleep 0.5; exit 1; }", retries=1)
    run_ids = [*cluster.enqueue("quick", 20), *cluster.enqueue("fails_once")]

    status = cluster.begin("a", until="idle", poll_seconds=0.1).exit_status()

    assert status == 0
    assert cluster.states(run_ids) == {"succeeded"}
    assert len(cluster.ledger.entries("start")) == 22


def test_two_passes_that_overlap_start_nothing_twice_and_the_later_one_says_that_it_was_not_alone(
    cluster: Cluster,
) -> None:
    cluster.add_shell("waits", f"note start; {UNTIL_TOLD}")
    cluster.add_shell("quick", "note start")
    (slow,) = cluster.enqueue("waits")
    first = cluster.start("a", until="idle", slots=1)
    cluster.wait_for_note("start", slow)
    quick = cluster.enqueue("quick", 5)

    second = cluster.begin("b", until="idle", state_dir=str(first.folder))
    second_status = second.exit_status()
    assert cluster.states(quick) == {"succeeded"}
    tell_to_go(cluster)
    first_status = first.exit_status()

    assert (first_status, second_status) == (0, 3)
    assert cluster.states([slow]) == {"succeeded"}
    assert sorted(entry.run_id for entry in cluster.ledger.entries("start")) == sorted([slow, *quick])
    assert first.trouble() == second.trouble() == []
