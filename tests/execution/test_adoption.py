"""A run outlives its worker: its guardian goes on, and lets in another worker of the same folder."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from rota.execution.door import DOOR_FOLDER, Door, knock
from rota.execution.linux import boottime
from rota.execution.order import Adopted, Ended, GuardianLost, Started
from tests.execution.harness import Harness, WorkerProcess, is_alive, wait_until


def doors(folder: Path) -> list[str]:
    return [path.name for path in (folder / DOOR_FOLDER).iterdir() if not path.name.startswith(".")]


def orphan(folder: Path, script: str, **values: object) -> WorkerProcess:
    """Give a guardian a job, and kill the worker."""
    worker = WorkerProcess(folder, "sh", "-c", script, **values)
    worker.kill()
    wait_until(lambda: doors(folder), "its guardian has a door")
    return worker


def next_of(harness: Harness, kind: type) -> object:
    def look() -> object:
        harness.seen += harness.crew.poll(0.05)
        return next((event for event in harness.seen if isinstance(event, kind)), None)

    return wait_until(look, f"{kind.__name__} is told")


def test_another_worker_takes_over_a_job_and_gets_its_whole_end(folder: Path) -> None:
    waits = f"echo before; until test -e {folder}/go; do sleep 0.01; done; echo after; exit 3"
    first = orphan(folder / "w", waits, lease_seconds=30.0)
    harness = Harness(folder / "w")

    harness.crew.adopt()

    adopted = next_of(harness, Adopted)
    assert isinstance(adopted, Adopted)
    assert (adopted.claim_id, adopted.run_id, adopted.job, adopted.attempt, adopted.fence) == (
        (first.claim_id, 7, "job", 1, 3)
    )
    assert adopted.lease_seconds == 30.0
    assert boottime() < adopted.deadline <= boottime() + 30.0
    started = next_of(harness, Started)
    assert isinstance(started, Started)
    assert (started.pid, started.guardian_pid) == (first.job_pid, first.guardian_pid)
    assert doors(folder / "w") == []

    (folder / "go").touch()
    ended = next_of(harness, Ended)
    assert isinstance(ended, Ended)
    assert (ended.outcome.ended, ended.outcome.exit_code) == ("exited", 3)
    assert ended.outcome.stdout.head == b"before\nafter\n"
    harness.crew.acknowledge([first.claim_id])
    assert harness.crew.claim_ids == frozenset()
    wait_until(lambda: not is_alive(first.guardian_pid), "its nursery was another's, so it is not used again")
    wait_until(lambda: not is_alive(first.nursery_pid), "nor is that nursery")
    harness.crew.close()


def test_an_order_is_carried_out_although_its_worker_died_before_there_was_a_guardian(folder: Path) -> None:
    first = Harness(folder / "w")
    nursery_pid = first.crew.nursery_pid
    os.kill(nursery_pid, signal.SIGSTOP)
    order = first.start("sh", "-c", "exit 3", lease_seconds=30.0)
    first.crew.close()
    os.kill(nursery_pid, signal.SIGCONT)

    second = Harness(folder / "w")
    (ended,) = wait_until(second.crew.recover, "its end is on disk")
    assert (ended.claim_id, ended.ended, ended.exit_code) == (order.claim_id, "exited", 3)
    second.crew.forget(order.claim_id)
    second.crew.close()


def test_it_obeys_the_new_worker(folder: Path) -> None:
    first = orphan(folder / "w", "exec sleep 1000", lease_seconds=3.0)
    harness = Harness(folder / "w")
    harness.crew.adopt()
    next_of(harness, Started)

    asked_at = boottime()
    harness.crew.ask()
    wait_until(lambda: harness.crew.poll(0.05) or harness.crew.answered(asked_at), "it gives a sign of life")
    harness.crew.renewed([first.claim_id], boottime() + 1000.0)
    harness.crew.stop(first.claim_id, "cancelled", 5.0)

    ended = next_of(harness, Ended)
    assert isinstance(ended, Ended)
    assert ended.outcome.ended == "cancelled"
    harness.crew.acknowledge([first.claim_id])
    harness.crew.close()


def test_one_worker_of_two_gets_it(folder: Path) -> None:
    first = orphan(folder / "w", "exec sleep 1000")
    both = [Harness(folder / "w"), Harness(folder / "w")]
    os.kill(first.guardian_pid, signal.SIGSTOP)  # so that both are at its door before it opens

    for harness in both:
        harness.crew.adopt()
    os.kill(first.guardian_pid, signal.SIGCONT)

    def look() -> list[Adopted]:
        for harness in both:
            harness.seen += harness.crew.poll(0.05)
        return [event for harness in both for event in harness.seen if isinstance(event, Adopted)]

    wait_until(look, "one has it")
    for harness in both:
        harness.seen += harness.crew.poll(0.2)
    assert len(look()) == 1
    assert [len(harness.crew.claim_ids) for harness in both] in ([1, 0], [0, 1])
    for harness in both:
        harness.crew.stop(first.claim_id, "released", 0.0)
        harness.crew.close()
    wait_until(lambda: not is_alive(first.guardian_pid), "it is stopped, and its end is on disk")


def test_while_its_worker_lives_nobody_else_is_let_in(folder: Path) -> None:
    worker = WorkerProcess(folder / "w", "sleep", "1000")
    harness = Harness(folder / "w")

    assert doors(folder / "w") == []
    harness.crew.adopt()
    assert harness.crew.poll(0.1) == []

    worker.kill()
    wait_until(lambda: doors(folder / "w"), "now it has a door")
    os.kill(worker.job_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(worker.guardian_pid), "its end is on disk")
    harness.crew.close()


def test_a_worker_that_goes_again_leaves_it_to_the_next(folder: Path) -> None:
    first = orphan(folder / "w", f"until test -e {folder}/go; do sleep 0.01; done")
    for _ in range(2):
        harness = Harness(folder / "w")
        harness.crew.adopt()
        next_of(harness, Started)
        harness.crew.close()
        wait_until(lambda: doors(folder / "w"), "it has a door again")
    harness = Harness(folder / "w")
    harness.crew.adopt()
    next_of(harness, Adopted)

    (folder / "go").touch()

    ended = next_of(harness, Ended)
    assert isinstance(ended, Ended)
    assert (ended.outcome.claim_id, ended.outcome.exit_code) == (first.claim_id, 0)
    harness.crew.acknowledge([first.claim_id])
    harness.crew.close()


def test_an_end_without_a_worker_goes_to_disk_and_the_door_goes(folder: Path) -> None:
    first = orphan(folder / "w", f"until test -e {folder}/go; do sleep 0.01; done")

    (folder / "go").touch()

    harness = Harness(folder / "w")
    (outcome,) = wait_until(harness.crew.recover, "the end is on disk")
    assert (outcome.claim_id, outcome.exit_code) == (first.claim_id, 0)
    wait_until(lambda: not doors(folder / "w"), "the door goes")
    harness.crew.close()


def test_a_guardian_that_dies_after_it_was_taken_over_is_lost_and_its_job_killed(folder: Path) -> None:
    first = orphan(folder / "w", "exec sleep 1000")
    harness = Harness(folder / "w")
    harness.crew.adopt()
    next_of(harness, Started)

    os.kill(first.guardian_pid, signal.SIGKILL)

    lost = next_of(harness, GuardianLost)
    assert isinstance(lost, GuardianLost)
    assert (lost.claim_id, lost.has_started) == (first.claim_id, True)
    wait_until(lambda: not is_alive(first.job_pid), "the job is killed")
    harness.crew.close()


def test_the_door_of_a_dead_guardian_is_removed(folder: Path) -> None:
    first = orphan(folder / "w", "exec sleep 1000")
    os.kill(first.guardian_pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(first.job_pid), "the job is killed")
    assert len(doors(folder / "w")) == 1

    assert knock(str(folder / "w")) == []

    assert doors(folder / "w") == []


def test_who_has_gone_again_before_he_is_let_in_is_not_let_in(folder: Path) -> None:
    (folder / DOOR_FOLDER).mkdir()
    door = Door(str(folder), "a")
    assert door.let_in() is None

    (connection,) = knock(str(folder))
    connection.close()
    let_in = door.let_in()

    assert isinstance(let_in, socket.socket)  # it finds the connection ended, as with any worker that dies
    assert let_in.recv(1) == b""
    let_in.close()
    door.close()


def test_while_there_is_no_room_for_a_door_it_is_tried_now_and_then_however_much_the_job_writes(folder: Path) -> None:
    chatters = f"while :; do echo x; echo x >> {folder}/wrote; sleep 0.002; done"
    first = WorkerProcess(folder / "w", "sh", "-c", chatters, lease_seconds=60.0)
    (folder / "w" / DOOR_FOLDER).rmdir()
    wrote = folder / "wrote"
    wait_until(wrote.exists, "it writes")

    first.kill()
    so_far = wrote.stat().st_size
    wait_until(lambda: wrote.stat().st_size > so_far + 2 * 500, "it has written 500 lines more")

    tries = (folder / "w" / "nursery.log").read_text().count("Traceback")
    assert 1 <= tries < 50  # one a second, on a machine that is busy
    (folder / "w" / DOOR_FOLDER).mkdir()
    wait_until(lambda: doors(folder / "w"), "its guardian has a door")
    harness = Harness(folder / "w")
    harness.crew.adopt()
    next_of(harness, Adopted)
    harness.crew.stop(first.claim_id, "cancelled", 0.0)
    next_of(harness, Ended)
    harness.crew.acknowledge([first.claim_id])
    harness.crew.close()
