"""Stopping jobs: by a time limit, on request, and by the end of the lease; nothing of a job stays."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from mmap import mmap
from pathlib import Path

import pytest

from rota.execution.attempt import SLOT, Attempt, Post
from rota.execution.linux import boottime
from rota.execution.order import order_message
from tests.execution.harness import ROOT, Harness, is_alive, make_order, wait_until

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def _read_pids(path: Path, count: int) -> list[int]:
    def words() -> list[str]:
        return path.read_text().split() if path.exists() else []

    wait_until(lambda: len(words()) == count, f"{count} pids in {path}")
    return [int(word) for word in words()]


def test_a_time_limit_sends_term_and_the_job_may_end_in_order(harness: Harness) -> None:
    outcome = harness.run("sh", "-c", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done", timeout_seconds=0.3)

    assert (outcome.ended, outcome.exit_code, outcome.stdout.head) == ("timeout", 0, b"bye\n")
    assert re.fullmatch(r"it ran for \d+\.\d s, and its timeout is 0\.3 s", outcome.error_message or "")


def test_a_job_that_is_stopped_at_the_deadline_of_its_run_has_ended_as_that(harness: Harness) -> None:
    outcome = harness.run("sleep", "1000", timeout_seconds=0.2, limited_by="deadline")

    assert (outcome.ended, outcome.signal) == ("deadline", signal.SIGTERM)


def test_a_job_that_ignores_term_is_killed_after_the_grace(harness: Harness) -> None:
    outcome = harness.run("sh", "-c", STUBBORN, timeout_seconds=0.2, grace_seconds=0.3)

    assert (outcome.ended, outcome.signal) == ("timeout", signal.SIGKILL)
    assert outcome.seconds >= 0.5
    assert outcome.stdout.head == b"ready\n"
    ran, limit, killed = re.split("; |, and ", outcome.error_message or "", maxsplit=2)
    assert re.fullmatch(r"it ran for \d+\.\d s", ran)
    assert (limit, killed) == (
        "its timeout is 0.2 s", "it did not end within 0.3 s of being told to, and was killed",
    )  # fmt: skip


def test_term_reaches_the_whole_group(harness: Harness, folder: Path) -> None:
    child = f"trap 'echo child > {folder}/child; exit' TERM; echo x; while :; do sleep 0.02; done"
    order = harness.start("sh", "-c", f"sh -c \"{child}\" & trap 'wait; exit 0' TERM; echo $! > {folder}/pid; wait")
    _read_pids(folder / "pid", 1)
    wait_until(lambda: harness.crew.poll(0.1) or True, "started")

    # The child has its trap once it has said x, which is captured; give it the stop only when it runs.
    wait_until(lambda: _traps_term(_read_pids(folder / "pid", 1)[0]), "the child traps TERM")
    harness.crew.stop(order.claim_id, "cancelled", 10)

    assert harness.ended(order).ended == "cancelled"
    assert (folder / "child").read_text() == "child\n"


def _traps_term(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


@pytest.mark.parametrize("why", ["cancelled", "released", "timeout", "lease_over"])
def test_a_job_is_stopped_on_request_and_its_end_says_why(harness: Harness, why: str) -> None:
    order = harness.start("sleep", "1000")
    harness.started(order)

    harness.crew.stop(order.claim_id, why, 5)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.signal) == (why, signal.SIGTERM)


def test_a_second_stop_with_less_grace_counts(harness: Harness) -> None:
    order = harness.start("sh", "-c", STUBBORN)
    pid = harness.started(order).pid
    wait_until(lambda: Path(f"/proc/{pid}/status").exists() and _ignores_term(pid), "TERM is ignored")

    harness.crew.stop(order.claim_id, "cancelled", 1000)
    harness.crew.stop(order.claim_id, "released", 0)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.signal) == ("cancelled", signal.SIGKILL)


def _ignores_term(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


def test_a_stopped_job_is_continued_so_that_it_can_end(harness: Harness) -> None:
    order = harness.start("sleep", "1000")
    os.kill(harness.started(order).pid, signal.SIGSTOP)

    harness.crew.stop(order.claim_id, "cancelled", 1000)

    assert harness.ended(order).signal == signal.SIGTERM


def test_no_daemon_outlives_its_job(harness: Harness, folder: Path) -> None:
    daemon = (
        f'setsid sh -c \'setsid sh -c "trap \\"\\" TERM HUP; echo \\$\\$ >> {folder}/pids; sleep 1000 & wait" &\' &'
    )

    order = harness.start("sh", "-c", f"{daemon} {daemon} sleep 1000")
    pids = _read_pids(folder / "pids", 2)
    harness.crew.stop(order.claim_id, "cancelled", 0.1)

    outcome = harness.ended(order)
    assert not any(is_alive(pid) for pid in pids)
    assert outcome.leftovers >= 4


def test_an_end_before_the_stop_is_told_as_it_was(harness: Harness) -> None:
    order = harness.start("sh", "-c", "exit 5")
    wait_until(lambda: any(type(event).__name__ == "Ended" for event in _more(harness)), "the end")

    harness.crew.stop(order.claim_id, "cancelled", 5)

    assert harness.ended(order).ended == "exited"


def test_a_stop_that_comes_together_with_the_end_does_not_change_it(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    order = harness.start("sh", "-c", f"read line < {folder}/go; exit 5")
    started = harness.started(order)
    os.kill(started.guardian_pid, signal.SIGSTOP)
    (folder / "go").write_text("now\n")
    wait_until(lambda: not is_alive(started.pid), "the job has ended")

    harness.crew.stop(order.claim_id, "cancelled", 5)
    os.kill(started.guardian_pid, signal.SIGCONT)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.exit_code) == ("exited", 5)


def _more(harness: Harness) -> list[object]:
    harness.seen += harness.crew.poll(0.1)
    return list(harness.seen)


def test_a_lease_that_is_not_renewed_stops_the_job_before_it_ends(harness: Harness) -> None:
    deadline = boottime() + 2.0

    # Margin 0.5, grace a third of the lease: TERM 1.5 s before the end.
    order = harness.start(
        "sh", "-c", "trap 'echo term' TERM; while :; do sleep 0.02; done", lease_seconds=3.0, deadline=deadline
    )
    outcome = harness.ended(order)

    assert (outcome.ended, outcome.signal, outcome.stdout.head) == ("lease_over", signal.SIGKILL, b"term\n")
    assert boottime() < deadline


def test_a_renewed_lease_lets_the_job_go_on(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    deadline = boottime() + 2.5
    order = harness.start("sh", "-c", f"read line < {folder}/go", lease_seconds=3.0, deadline=deadline)
    harness.started(order)

    harness.crew.renewed([order.claim_id], boottime() + 60)
    wait_until(lambda: harness.crew.poll(0.1) == [] and boottime() > deadline, "the first lease is over")
    (folder / "go").write_text("now\n")

    assert harness.ended(order).ended == "exited"


def test_a_job_is_not_started_when_its_lease_is_about_to_end(harness: Harness, folder: Path) -> None:
    outcome = harness.run("touch", str(folder / "ran"), lease_seconds=3.0, deadline=boottime() + 1.0)

    assert (outcome.ended, outcome.error_type) == ("not_started", "LeaseOver")
    assert not (folder / "ran").exists()


def test_guardians_answer_for_their_claims_while_the_job_is_busy(harness: Harness) -> None:
    orders = [harness.start("sh", "-c", "while :; do :; done") for _ in range(3)]
    for order in orders:
        harness.started(order)

    since = boottime()
    assert harness.crew.answered(since) == frozenset()
    harness.crew.ask()
    harness.seen += harness.crew.poll(0)
    wait_until(lambda: not harness.crew.poll(0.1) and len(harness.crew.answered(since)) == 3, "all answer")

    for order in orders:
        harness.crew.stop(order.claim_id, "cancelled", 0)
    for order in orders:
        harness.ended(order)


def test_a_silent_guardian_does_not_answer(harness: Harness) -> None:
    order = harness.start("sleep", "1000")
    guardian_pid = harness.started(order).guardian_pid
    os.kill(guardian_pid, signal.SIGSTOP)

    since = boottime()
    harness.crew.ask()
    assert harness.crew.poll(0.3) == []

    assert harness.crew.answered(since) == frozenset()
    os.kill(guardian_pid, signal.SIGCONT)
    harness.crew.stop(order.claim_id, "cancelled", 5)
    harness.ended(order)


RETURNED = """
import pathlib, signal, sys
from rota.execution.report import report_result
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
report_result('"done"')
pathlib.Path(sys.argv[1]).touch()
signal.sigwait([signal.SIGTERM])  # nothing can come before it waits
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("exit_code", "ended"), [(0, "exited"), (1, "released")])
def test_a_callable_that_has_returned_when_it_is_stopped_is_not_done_again(
    harness: Harness, folder: Path, exit_code: int, ended: str
) -> None:
    mark = folder / "returned"
    order = harness.start(
        sys.executable,
        "-c",
        RETURNED,
        str(mark),
        str(exit_code),
        environment={"PYTHONPATH": str(ROOT)},
        expects_result=True,
    )
    harness.started(order)
    wait_until(mark.exists, "the result to be reported")

    harness.crew.stop(order.claim_id, "released", 10.0)
    outcome = harness.ended(order)

    assert (outcome.ended, outcome.exit_code, outcome.result) == (ended, exit_code, '"done"')


def test_the_clock_is_read_again_soon_however_far_ahead_the_lease_ends(folder: Path) -> None:
    """What it waits for is counted by a clock that stands still while the host sleeps; its limits are not."""
    order = make_order("true", lease_seconds=1000.0, timeout_seconds=900.0)
    slot, wake = mmap(-1, SLOT.size), os.open(os.devnull, os.O_WRONLY)
    post = Post(str(folder), "one", nofile=(64, 64), output_bytes_max=1, slot=slot, wake=wake)

    attempt = Attempt(order_message(order, None), b"", post, str(folder / "control"))

    assert 0 < attempt._wait_seconds(boottime()) <= 5.0
    os.close(wake)


def test_a_guardian_that_was_held_up_stops_nothing_that_ended_before_its_time_was_up(folder: Path) -> None:
    """Stopped between its look at the process and its look at the clock, it sees the lease over first."""
    order = make_order("true", lease_seconds=10.0, timeout_seconds=5.0)
    slot, wake = mmap(-1, SLOT.size), os.open(os.devnull, os.O_WRONLY)
    post = Post(str(folder), "one", nofile=(64, 64), output_bytes_max=1, slot=slot, wake=wake)
    attempt = Attempt(order_message(order, None), b"", post, str(folder / "control"))
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    attempt.pid, attempt.pidfd = process.pid, os.pidfd_open(process.pid)
    process.kill()
    select.select([attempt.pidfd], [], [])

    attempt._keep_time(boottime() + 1000)

    assert attempt._stop_why is None
    process.wait()
    os.close(attempt.pidfd)
    os.close(wake)
