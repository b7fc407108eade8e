"""Jobs go on while their machine has no worker: a stand-in renews their leases and brings their ends home."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rota.engine.settings import NodeSettings
from rota.engine.stand_in import program
from rota.execution.linux import children_of
from rota.store.interventions import cancel_run, freeze_run, thaw_run
from tests.cluster.cluster import Cluster, Worker, parent_of
from tests.cluster.test_outlives import WAITS, wait_for_renewal
from tests.execution.harness import is_alive
from tests.execution.test_freezing import are_held

LEASE_SECONDS = 15.0  # a stand-in is sent for at once, and has time to start on a machine that is busy
STILL_LEASE_SECONDS = 30.0  # one for a worker that stands still is sent for after half a lease: the same time is left


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stand_ins(nursery_pid: int) -> list[int]:
    return [pid for pid in children_of(nursery_pid) if name_of(pid) == "rota-stand-in" and is_alive(pid)]


def stand_in_log(worker: Worker) -> str:
    path = worker.guardians / "stand-in.log"
    return path.read_text() if path.exists() else ""


def start_one(cluster: Cluster, **values: object) -> tuple[Worker, int, int]:
    """Start a worker with a job that waits; return it, the run and the nursery."""
    cluster.add_shell("waits", WAITS)
    worker = cluster.start("a", **{"lease_seconds": LEASE_SECONDS} | values)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)
    return worker, run_id, worker.nursery_pid


def leave(worker: Worker) -> None:
    worker.signal(signal.SIGTERM)
    assert worker.exit_status() == 0


def wait_for_stand_in(cluster: Cluster, nursery_pid: int, *run_ids: int) -> int:
    (pid,) = cluster.wait(lambda: stand_ins(nursery_pid), "a stand-in is there")
    wait_for_renewal(cluster, *run_ids)
    return pid


def test_a_worker_that_is_told_to_leave_goes_at_once_and_its_job_runs_to_its_end(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)

    leave(worker)
    assert cluster.run(run_id).state == "running"
    stand_in_pid = wait_for_stand_in(cluster, nursery_pid, run_id)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    (tried,) = cluster.attempts(run_id)
    assert (tried.state, tried.exit_code, tried.stdout_bytes) == ("succeeded", 0, len("done\n"))
    assert len(cluster.ledger.entries("start")) == 1
    assert any("a stand-in on" in told for told in cluster.events(run_id))
    cluster.wait_for_death(stand_in_pid, nursery_pid)
    assert "nothing is left" in stand_in_log(worker)
    assert worker.trouble() == []


def test_the_same_after_the_worker_was_killed(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)

    worker.kill()
    wait_for_stand_in(cluster, nursery_pid, run_id)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [tried.state for tried in cluster.attempts(run_id)] == ["succeeded"]


def test_what_ends_before_the_stand_in_is_there_is_brought_home_too(cluster: Cluster) -> None:
    worker, run_id, _ = start_one(cluster)
    leave(worker)

    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [tried.state for tried in cluster.attempts(run_id)] == ["succeeded"]
    cluster.wait(lambda: not list((worker.guardians / "journal").iterdir()), "the journal is empty")


def test_a_worker_that_comes_back_takes_everything_over_and_the_stand_in_leaves(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)
    leave(worker)
    stand_in_pid = wait_for_stand_in(cluster, nursery_pid, run_id)
    holder = cluster.run(run_id).holder

    again = cluster.start("a", lease_seconds=LEASE_SECONDS)

    cluster.wait(lambda: cluster.run(run_id).holder != holder, "the worker has it")
    cluster.wait_for_death(stand_in_pid)
    assert "a worker is back" in stand_in_log(worker)
    wait_for_renewal(cluster, run_id)
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert len(cluster.ledger.entries("start")) == 1
    assert again.trouble() == []


def test_a_run_is_cancelled_while_a_stand_in_sees_to_it(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)
    started = cluster.wait_for_note("start", run_id)
    leave(worker)
    wait_for_stand_in(cluster, nursery_pid, run_id)

    cancel_run(cluster.database, run_id, actor="ann@desk")

    assert cluster.wait_for_end(run_id) == {"cancelled"}
    assert not is_alive(started.pid)


def test_a_stand_in_that_is_killed_is_followed_by_another(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)
    leave(worker)
    first = wait_for_stand_in(cluster, nursery_pid, run_id)

    os.kill(first, signal.SIGKILL)

    cluster.wait_for_death(first)
    second = wait_for_stand_in(cluster, nursery_pid, run_id)
    assert second != first
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [tried.state for tried in cluster.attempts(run_id)] == ["succeeded"]


def test_one_stand_in_sees_to_the_jobs_of_two_workers(cluster: Cluster) -> None:
    first, run_id, nursery_pid = start_one(cluster, slots=1)
    second = cluster.start("b", lease_seconds=LEASE_SECONDS, state_dir=first.values["state_dir"], slots=1)
    (other_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", other_id)
    nursery_pids = [nursery_pid, second.nursery_pid]

    for worker in (first, second):
        worker.signal(signal.SIGSTOP)  # so that neither takes over from the other
    for worker in (first, second):
        worker.kill()
    wait_for_renewal(cluster, run_id, other_id)
    cluster.wait(lambda: len([pid for n in nursery_pids for pid in stand_ins(n)]) == 1, "there is one")
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id, other_id) == {"succeeded"}
    assert len(cluster.ledger.entries("start")) == 2


def test_nobody_can_read_the_url_of_the_database_in_the_list_of_processes(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)
    leave(worker)
    pid = wait_for_stand_in(cluster, nursery_pid, run_id)

    told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{nursery_pid}/environ").read_bytes()

    assert str(cluster.database.url.database).encode() not in told
    (cluster.folder / "go").touch()
    cluster.wait_for_end(run_id)


def test_jobs_end_before_another_node_may_start_them_where_no_stand_in_can_be(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster, lease_seconds=4.0)
    started = cluster.wait_for_note("start", run_id)
    for pid in (nursery_pid, worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.exit_status()

    died = cluster.wait_for_death(started.pid, parent_of(started.pid))

    cluster.start("b", lease_seconds=LEASE_SECONDS)
    again = cluster.wait_for_note("start", run_id, attempt=2)
    assert died < again.at
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}


@pytest.mark.skipif(os.geteuid() != 0, reason="making a namespace of processes needs root")
def test_as_process_1_of_a_container_a_worker_drains(cluster: Cluster) -> None:
    cluster.add_shell("waits", WAITS)
    worker = cluster.start("a", lease_seconds=LEASE_SECONDS, as_process_1=True)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)

    (inside,) = children_of(worker.pid)
    os.kill(inside, signal.SIGTERM)
    cluster.wait_for_log(worker, "draining")
    (cluster.folder / "go").touch()

    assert worker.exit_status() == 0
    assert [tried.state for tried in cluster.attempts(run_id)] == ["succeeded"]


def test_a_frozen_run_stays_frozen_while_its_worker_is_gone_and_goes_on_when_it_is_thawed(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster)
    started = cluster.wait_for_note("start", run_id)
    freeze_run(cluster.database, run_id, actor="ann@desk")
    cluster.wait(lambda: are_held([started.pid]), "it is frozen")

    leave(worker)
    wait_for_stand_in(cluster, nursery_pid, run_id)
    (cluster.folder / "go").touch()
    assert are_held([started.pid])
    thaw_run(cluster.database, run_id, actor="ann@desk")

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert "ann@desk asked to freeze it; a is to hold its processes" in cluster.events(run_id)
    assert cluster.run(run_id).freeze_asked_at is None


def test_a_job_goes_on_while_its_worker_stands_still_and_is_taken_back_when_it_goes_on(cluster: Cluster) -> None:
    worker, run_id, nursery_pid = start_one(cluster, lease_seconds=STILL_LEASE_SECONDS)

    worker.signal(signal.SIGSTOP)
    stand_in_pid = wait_for_stand_in(cluster, nursery_pid, run_id)
    worker.signal(signal.SIGCONT)

    cluster.wait_for_log(worker, f"this worker stood still: run {run_id} goes on without it")
    cluster.wait_for_log(worker, f"run {run_id} of job waits goes on")
    cluster.wait_for_death(stand_in_pid)
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert len(cluster.attempts(run_id)) == len(cluster.ledger.entries("start")) == 1
    assert worker.trouble() == []


def test_what_ends_while_its_worker_stands_still_is_recorded_meanwhile_and_once(cluster: Cluster) -> None:
    worker, run_id, _ = start_one(cluster, lease_seconds=STILL_LEASE_SECONDS)

    worker.signal(signal.SIGSTOP)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    worker.signal(signal.SIGCONT)
    (next_id,) = cluster.enqueue("waits")
    assert cluster.wait_for_end(next_id) == {"succeeded"}
    (tried,) = cluster.attempts(run_id)
    assert (tried.state, tried.orphan_at) == ("succeeded", None)
    assert worker.trouble() == []


def test_a_stand_in_whose_folder_was_removed_leaves_and_is_not_sent_for_again(cluster: Cluster) -> None:
    start = program(NodeSettings(database_url=cluster.url, state_dir=cluster.folder), cluster.folder / "removed")

    ended = subprocess.run(start.argv, input=start.stdin, env=dict(os.environ), stderr=subprocess.PIPE, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")  # at any other status the nursery starts another
