"""Guardians, nurseries and workers that die or are stopped: no job stays unguarded, and no end is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rota.execution import crew as crew_module
from rota.execution.linux import boottime
from rota.execution.order import Ended
from tests.execution.harness import ROOT, Harness, WorkerProcess, count_files, is_alive, wait_until

# A job that detaches a grandchild, and tells both pids.
DETACHING = "setsid sleep 1000 & echo $$ $! > {0}/new; mv {0}/new {0}/pids; exec sleep 1000"

# A crew whose nursery may make no more processes for a while; not as root, whom that does not bind.
WITHOUT_PROCESSES = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.execution.harness import Harness
harness = Harness(Path({folder!r}))
nursery, limit = harness.crew.nursery_pid, resource.RLIMIT_NPROC
_, before = resource.prlimit(nursery, limit, (0, resource.prlimit(nursery, limit)[1]))
outcome = harness.run("true")
print(outcome.ended, outcome.error_type)
resource.prlimit(nursery, limit, (before, before))
outcome = harness.run("true")
print(outcome.ended, outcome.error_type)
harness.crew.close()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")


def _detached_pids(folder: Path) -> list[int]:
    wait_until((folder / "pids").exists, "the job has told its pids")
    return [int(word) for word in (folder / "pids").read_text().split()]


def _gone(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


def test_a_killed_guardian_takes_the_whole_tree_of_its_job_along_and_no_other(harness: Harness, folder: Path) -> None:
    other = harness.start("sleep", "1000")
    other_pid = harness.started(other).pid
    order = harness.start("sh", "-c", DETACHING.format(folder))
    guardian_pid = harness.started(order).guardian_pid
    pids = _detached_pids(folder)

    os.kill(guardian_pid, signal.SIGKILL)

    # The worker has not looked yet: this is the work of the death signal and the nursery.
    wait_until(lambda: _gone(pids), "the tree is gone")
    lost = harness.lost(order)
    assert (lost.run_id, lost.attempt, lost.fence, lost.has_started) == (7, 1, 3, True)
    assert is_alive(other_pid)
    assert harness.crew.claim_ids == {other.claim_id}
    harness.crew.stop(other.claim_id, "cancelled", 5)
    harness.ended(other)


def test_with_the_nursery_killed_the_worker_goes_on_and_starts_another(harness: Harness) -> None:
    idle = harness.start("true")
    idle_pid = harness.started(idle).guardian_pid
    running = harness.start("sleep", "1000")
    running_pid = harness.started(running).guardian_pid
    assert running_pid != idle_pid
    harness.ended(idle)
    nursery_pid = harness.crew.nursery_pid

    os.kill(nursery_pid, signal.SIGKILL)

    wait_until(lambda: harness.crew.poll(0.05) == [] and not is_alive(idle_pid), "idle guardians are let go")
    assert harness.run("true").exit_code == 0
    assert harness.crew.nursery_pid != nursery_pid
    harness.crew.stop(running.claim_id, "cancelled", 5)
    assert harness.ended(running).ended == "cancelled"
    wait_until(lambda: not is_alive(running_pid), "a guardian without its nursery is not used again")


def test_with_nursery_and_guardian_killed_nothing_of_the_job_lives_on(harness: Harness, folder: Path) -> None:
    order = harness.start("sh", "-c", DETACHING.format(folder))
    guardian_pid = harness.started(order).guardian_pid
    job_pid, detached_pid = _detached_pids(folder)

    os.kill(harness.crew.nursery_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(harness.crew.nursery_pid), "the nursery is dead")
    os.kill(guardian_pid, signal.SIGKILL)

    wait_until(lambda: not is_alive(job_pid), "the job dies of its death signal")
    assert is_alive(detached_pid)
    harness.lost(order)
    wait_until(lambda: not is_alive(detached_pid), "the worker has swept what was detached")


def test_a_nursery_that_dies_before_it_cleared_up_after_a_guardian_is_stood_in_for(
    harness: Harness, folder: Path
) -> None:
    order = harness.start("sh", "-c", DETACHING.format(folder))
    guardian_pid = harness.started(order).guardian_pid
    _, detached_pid = _detached_pids(folder)
    os.kill(harness.crew.nursery_pid, signal.SIGSTOP)

    os.kill(guardian_pid, signal.SIGKILL)
    harness.lost(order)
    assert is_alive(detached_pid)
    os.kill(harness.crew.nursery_pid, signal.SIGKILL)

    wait_until(lambda: harness.crew.poll(0.05) == [] and not is_alive(detached_pid), "the worker has swept")


def test_with_worker_nursery_and_guardian_killed_the_next_worker_sweeps(folder: Path) -> None:
    worker = WorkerProcess(folder / "w", "sh", "-c", DETACHING.format(folder))
    job_pid, detached_pid = _detached_pids(folder)
    for pid in (worker.process.pid, worker.nursery_pid, worker.guardian_pid):
        os.kill(pid, signal.SIGSTOP)  # so that none of them sees another one die
    for pid in (worker.process.pid, worker.nursery_pid, worker.guardian_pid):
        os.kill(pid, signal.SIGKILL)
    worker.kill()
    wait_until(lambda: not is_alive(job_pid), "the job dies of its death signal")
    assert is_alive(detached_pid)

    harness = Harness(folder / "w")
    bystander = harness.start("sleep", "1000")
    bystander_pid = harness.started(bystander).pid
    swept = harness.crew.sweep()

    assert swept >= 1
    wait_until(lambda: not is_alive(detached_pid), "it is swept")
    assert is_alive(bystander_pid)
    assert count_files(folder / "w" / "c") == 1
    harness.crew.stop(bystander.claim_id, "cancelled", 5)
    harness.ended(bystander)
    harness.crew.close()


def test_the_job_of_a_stopped_guardian_is_killed_before_its_lease_ends(harness: Harness, folder: Path) -> None:
    deadline = boottime() + 2.5
    order = harness.start("sh", "-c", DETACHING.format(folder), lease_seconds=3.0, deadline=deadline)
    guardian_pid = harness.started(order).guardian_pid
    pids = _detached_pids(folder)

    os.kill(guardian_pid, signal.SIGSTOP)

    wait_until(lambda: _gone(pids), "the tree is gone")
    assert boottime() < deadline
    assert harness.crew.poll(0.1) == []
    os.kill(guardian_pid, signal.SIGCONT)
    outcome = harness.ended(order)
    assert (outcome.ended, outcome.signal) == ("lease_over", signal.SIGKILL)


def test_it_is_also_killed_when_the_worker_is_stopped_too(folder: Path) -> None:
    started_at = boottime()
    worker = WorkerProcess(
        folder / "w", "sh", "-c", DETACHING.format(folder), lease_seconds=6.0, deadline=started_at + 6.0
    )
    pids = _detached_pids(folder)

    os.kill(worker.process.pid, signal.SIGSTOP)
    os.kill(worker.guardian_pid, signal.SIGSTOP)

    wait_until(lambda: _gone(pids), "the tree is gone")
    assert boottime() < started_at + 6.0
    os.kill(worker.guardian_pid, signal.SIGCONT)
    os.kill(worker.process.pid, signal.SIGCONT)
    worker.wait_for_end()
    worker.kill()
    harness = Harness(folder / "w")
    outcome = wait_until(harness.crew.recover, "the end is on disk")[0]
    assert (outcome.claim_id, outcome.ended) == (worker.claim_id, "lease_over")
    harness.crew.close()


def test_the_end_of_a_job_that_ended_well_under_a_stopped_guardian_is_the_truth(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    order = harness.start("sh", "-c", f"read line < {folder}/go; exit 6", lease_seconds=3.0, deadline=boottime() + 2.5)
    started = harness.started(order)
    os.kill(started.guardian_pid, signal.SIGSTOP)

    (folder / "go").write_text("now\n")
    wait_until(lambda: not is_alive(started.pid), "the job has ended")
    wait_until(lambda: boottime() > order.deadline, "its lease is over")
    os.kill(started.guardian_pid, signal.SIGCONT)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.exit_code) == ("exited", 6)


def test_a_job_outlives_its_worker_and_its_end_is_found_on_disk(folder: Path) -> None:
    os.mkfifo(folder / "go")
    worker = WorkerProcess(folder / "w", "sh", "-c", f"echo before; read line < {folder}/go; echo after; exit 3")

    worker.kill()
    wait_until(lambda: is_alive(worker.job_pid), "the job lives")
    harness = Harness(folder / "w")
    assert harness.crew.recover() == []
    (folder / "go").write_text("now\n")

    (outcome,) = wait_until(harness.crew.recover, "the end is on disk")
    assert (outcome.claim_id, outcome.run_id, outcome.attempt, outcome.fence) == (worker.claim_id, 7, 1, 3)
    assert (outcome.ended, outcome.exit_code, outcome.stdout.head) == ("exited", 3, b"before\nafter\n")
    assert [found.claim_id for found in harness.crew.recover()] == [worker.claim_id]
    harness.crew.forget(worker.claim_id)
    assert harness.crew.recover() == []
    wait_until(
        lambda: not is_alive(worker.guardian_pid) and not is_alive(worker.nursery_pid), "guardian and nursery leave"
    )
    harness.crew.close()


def test_a_job_without_a_worker_is_still_killed_before_its_lease_ends(folder: Path) -> None:
    started_at = boottime()
    worker = WorkerProcess(folder / "w", "sleep", "1000", lease_seconds=6.0, deadline=started_at + 6.0)

    worker.kill()

    wait_until(lambda: not is_alive(worker.job_pid), "the job is killed")
    assert boottime() < started_at + 6.0
    harness = Harness(folder / "w")
    (outcome,) = wait_until(harness.crew.recover, "the end is on disk")
    assert outcome.ended == "lease_over"
    harness.crew.close()


def test_an_end_that_is_not_acknowledged_goes_to_disk_and_leaves_it_when_it_is(harness: Harness) -> None:
    order = harness.start("true")
    harness.next_event(order, Ended)

    path = harness.folder / "journal" / f"{order.claim_id}.end"
    wait_until(path.exists, "the end is on disk")
    assert harness.crew.recover() == []  # this crew holds it already
    harness.crew.acknowledge([order.claim_id])

    wait_until(lambda: not path.exists(), "the end is forgotten")
    assert harness.run("true").exit_code == 0


def test_an_end_that_was_in_no_worker_s_hands_when_it_died_is_kept(folder: Path) -> None:
    # 1 MiB of output does not fit the socket: the guardian is in the middle of telling it to a worker that is stopped.
    worker = WorkerProcess(
        folder / "w", "sh", "-c", f"until test -e {folder}/go; do sleep 0.01; done; head -c 2000000 /dev/zero"
    )
    os.kill(worker.process.pid, signal.SIGSTOP)
    (folder / "go").write_text("")
    path = folder / "w" / "journal" / f"{worker.claim_id}.end"
    wait_until(path.exists, "the end is on disk although the worker is stopped")

    worker.kill()

    harness = Harness(folder / "w")
    (outcome,) = harness.crew.recover()
    assert outcome.stdout.bytes_total == 2_000_000
    harness.crew.close()


def test_a_guardian_that_dies_after_it_told_the_end_changes_nothing(harness: Harness) -> None:
    order = harness.start("true")
    guardian_pid = harness.started(order).guardian_pid
    outcome = harness.next_event(order, Ended).outcome
    path = harness.folder / "journal" / f"{order.claim_id}.end"
    wait_until(path.exists, "the end is on disk")

    os.kill(guardian_pid, signal.SIGKILL)
    assert harness.crew.poll(0.2) == []

    assert outcome.exit_code == 0
    harness.crew.acknowledge([order.claim_id])
    assert not path.exists()
    assert harness.crew.claim_ids == frozenset()


def test_a_journal_that_cannot_be_read_is_set_aside(harness: Harness) -> None:
    journal = harness.folder / "journal"
    (journal / "abc.end").write_bytes(b"\0\0\0\2\0\0\0\0{}")
    (journal / "abd.end").write_bytes(b"\0\0\0")

    assert harness.crew.recover() == []

    assert sorted(path.name for path in journal.iterdir()) == ["abc.end.unreadable", "abd.end.unreadable"]


def test_guardians_leave_when_the_crew_closes_and_when_they_are_idle(folder: Path, monkeypatch) -> None:
    harness = Harness(folder / "w")
    first = harness.start("true")
    guardian_pid = harness.started(first).guardian_pid
    harness.ended(first)
    monkeypatch.setattr(crew_module, "IDLE_SECONDS", 0.0)
    wait_until(lambda: harness.crew.poll(0.01) == [] and not is_alive(guardian_pid), "the idle guardian leaves")
    monkeypatch.undo()

    second = harness.start("true")
    guardian_pid = harness.started(second).guardian_pid
    harness.ended(second)
    harness.crew.close()

    wait_until(lambda: not is_alive(guardian_pid) and not is_alive(harness.crew.nursery_pid), "all leave")


def test_an_order_that_no_guardian_took_is_not_started(harness: Harness, folder: Path) -> None:
    os.kill(harness.crew.nursery_pid, signal.SIGSTOP)
    order = harness.start("touch", str(folder / "ran"))

    os.kill(harness.crew.nursery_pid, signal.SIGKILL)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.error_type) == ("not_started", "GuardianNotStarted")
    assert not (folder / "ran").exists()
    assert harness.run("true").exit_code == 0


@as_root
@pytest.mark.usefixtures("alone_as_nobody")
def test_an_order_for_which_no_guardian_could_be_forked_is_not_started(folder: Path) -> None:
    (folder / "w").mkdir()
    shutil.chown(folder / "w", "nobody")
    program = WITHOUT_PROCESSES.format(root=str(ROOT), folder=str(folder / "w"))

    # This Python may lie where only root reads.
    nobody = (
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    )
    told = subprocess.run([*nobody, sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert told.stdout.splitlines() == ["not_started GuardianNotStarted", "exited None"], told.stderr
    assert "Resource temporarily unavailable" in (folder / "w" / "nursery.log").read_text()


def test_the_job_of_a_killed_guardian_is_gone_at_once(harness: Harness, folder: Path) -> None:
    took: list[float] = []
    for _ in range(5):
        order = harness.start("sh", "-c", DETACHING.format(folder))
        started = harness.started(order)
        pids = _detached_pids(folder)
        (folder / "pids").unlink()

        begun = time.monotonic()
        os.kill(started.guardian_pid, signal.SIGKILL)
        wait_until(lambda pids=pids: _gone(pids), "the tree is gone")
        took.append(time.monotonic() - begun)
        harness.lost(order)

    # Not a timed assertion: a tree that waits for a lease or a poll would take seconds.
    assert min(took) < 1.0


def test_a_disk_that_takes_neither_an_end_nor_the_log_costs_nobody_the_end(folder: Path) -> None:
    os.mkfifo(folder / "go")
    worker = WorkerProcess(folder / "w", "sh", "-c", f"read line < {folder}/go; exit 3")
    journal = folder / "w" / "journal"
    path = journal / f"{worker.claim_id}.end"
    for pid in (worker.nursery_pid, worker.guardian_pid):  # no byte more into any file
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    untouched = journal.stat().st_mtime_ns

    worker.kill()
    (folder / "go").write_text("now\n")
    wait_until(lambda: journal.stat().st_mtime_ns > untouched, "the guardian has tried to keep the end")
    tried_at = journal.stat().st_mtime_ns
    wait_until(lambda: journal.stat().st_mtime_ns > tried_at + 1e9, "it has tried again")

    assert not path.exists()
    resource.prlimit(worker.guardian_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(path.exists, "it is kept as soon as there is room")
    harness = Harness(folder / "w")
    (outcome,) = harness.crew.recover()
    assert (outcome.claim_id, outcome.exit_code) == (worker.claim_id, 3)
    harness.crew.close()
