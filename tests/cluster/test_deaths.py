"""Ways in which a job, or what guards it, dies or is stopped: state and reason of each, as in the table of the docs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rota.store.interventions import cancel_run
from tests.cluster.cluster import Cluster, descendants_of, parent_of
from tests.cluster.ledger import Entry
from tests.cluster.test_outlives import wait_for_renewal
from tests.cluster.test_takeover import STAYS_ONCE, detached_by, start_on_first

# It ignores TERM, as all that it has detached does: a daemon in a session of its own, orphaned, that holds the output.
CLINGS = (
    "trap '' TERM HUP INT\n"
    'setsid sh -c "setsid sh -c \'trap \\"\\" TERM HUP; echo daemon \\$\\$; while :; do sleep 0.1; done\' &" &\n'
    "note start\n"
)


def begin(cluster: Cluster, line: str = STAYS_ONCE, **columns: object) -> tuple[int, Entry]:
    cluster.add_shell("job", line, **columns)
    cluster.start("a", lease_seconds=3.0)
    (run_id,) = cluster.enqueue("job")
    return run_id, cluster.wait_for_note("start", run_id)


def told_of(cluster: Cluster, run_id: int) -> list[tuple[str, str]]:
    return [(attempt.state, attempt.reason) for attempt in cluster.attempts(run_id)]


def test_a_job_whose_guardian_is_killed_dies_with_it_and_is_started_again_at_once(cluster: Cluster) -> None:
    run_id, started = begin(cluster)
    cluster.wait_for_note("detached", run_id)

    os.kill(parent_of(started.pid), signal.SIGKILL)

    cluster.wait_for_death(started.pid, detached_by(cluster, started))
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert told_of(cluster, run_id) == [("lost", "lease_over"), ("succeeded", "ended_well")]
    first, _ = cluster.attempts(run_id)
    assert first.reason_text == "the guardian of attempt 1 on a died, and its job with it; any node may start it again"
    assert cluster.run(run_id).losses == 1


def test_one_that_may_run_once_only_ends_lost_with_its_guardian(cluster: Cluster) -> None:
    run_id, started = begin(cluster, delivery="at_most_once")
    cluster.wait_for_note("detached", run_id)

    os.kill(parent_of(started.pid), signal.SIGKILL)

    assert cluster.wait_for_end(run_id) == {"lost"}
    cluster.wait_for_death(started.pid, detached_by(cluster, started))
    assert told_of(cluster, run_id) == [("lost", "lost")]
    assert "the guardian of attempt 1 on a died, and its job with it" in cluster.run(run_id).reason_text


def test_the_job_of_a_stopped_guardian_dies_before_it_is_started_again(cluster: Cluster) -> None:
    run_id, started = begin(cluster)
    cluster.wait_for_note("detached", run_id)
    guardian_pid = parent_of(started.pid)

    os.kill(guardian_pid, signal.SIGSTOP)

    gone_at = cluster.wait_for_death(started.pid, detached_by(cluster, started))
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert gone_at < cluster.wait_for_note("start", run_id, attempt=2).at
    assert told_of(cluster, run_id) == [("lost", "lease_over"), ("succeeded", "ended_well")]
    assert "a fell silent with attempt 1: its lease ended" in cluster.attempts(run_id)[0].reason_text
    os.kill(guardian_pid, signal.SIGCONT)
    cluster.wait(lambda: cluster.attempts(run_id)[0].orphan_at, "what it tells late is kept as an orphan")


def test_the_job_of_a_stopped_worker_dies_before_another_node_starts_it_and_the_worker_goes_on(
    cluster: Cluster,
) -> None:
    first, _, run_id, started = start_on_first(cluster)

    first.signal(signal.SIGSTOP)

    gone_at = cluster.wait_for_death(started.pid, detached_by(cluster, started))
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert gone_at < cluster.wait_for_note("start", run_id, attempt=2).at
    assert [(a.state, a.reason, a.node) for a in cluster.attempts(run_id)] == [
        ("lost", "lease_over", "a"),
        ("succeeded", "ended_well", "b"),
    ]
    first.signal(signal.SIGCONT)
    cluster.wait(lambda: cluster.attempts(run_id)[0].orphan_at, "what it tells late is kept as an orphan")
    assert first.stop() == 0
    assert first.trouble() == []


@pytest.mark.parametrize("by", ["timeout", "cancel"])
def test_a_stopped_job_keeps_its_lease_until_its_time_limit_or_a_cancellation(cluster: Cluster, by: str) -> None:
    line = "note start; while :; do sleep 0.1; done"
    run_id, started = begin(cluster, line, **({"timeout_seconds": 8.0} if by == "timeout" else {}))

    os.kill(started.pid, signal.SIGSTOP)
    wait_for_renewal(cluster, run_id)
    if by == "cancel":
        cancel_run(cluster.database, run_id, actor="ann@desk")

    assert cluster.wait_for_end(run_id) == {"cancelled" if by == "cancel" else "failed"}
    assert cluster.run(run_id).reason == by
    assert cluster.run(run_id).attempt == 1
    cluster.wait_for_death(started.pid)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_of_a_job_that_clings_to_life_nothing_is_left_five_seconds_after_the_grace(
    cluster: Cluster, delivery: str
) -> None:
    run_id, started = begin(cluster, f"{CLINGS} while :; do sleep 0.1; done", delivery=delivery)
    (daemon,) = cluster.wait(lambda: daemons_of(started.pid), "it has detached a daemon")

    cancel_run(cluster.database, run_id, actor="ann@desk")

    # The grace is a second here, and the cancellation reaches the node within two: the rest is what is promised.
    cluster.wait_for_death(started.pid, daemon, seconds=1 + 2 + 5)
    assert cluster.wait_for_end(run_id) == {"cancelled"}
    assert cluster.run(run_id).reason_text.startswith("cancelled by ann@desk; attempt 1 on a was stopped")


def test_a_run_ends_when_its_job_does_although_a_daemon_holds_its_output(cluster: Cluster) -> None:
    run_id, started = begin(cluster, f"{CLINGS} until test -e $FOLDER/go; do sleep 0.02; done; exit 0")
    (daemon,) = cluster.wait(lambda: daemons_of(started.pid), "it has detached a daemon")

    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert cluster.attempts(run_id)[0].stdout_bytes == len(f"daemon {daemon}\n")
    cluster.wait_for_death(daemon)


def daemons_of(pid: int) -> list[int]:
    """The processes below the guardian of ``pid`` that have left its session."""

    def is_daemon(one: int) -> bool:
        try:
            return os.getsid(one) == one and b"while" in Path(f"/proc/{one}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    return [one for one in descendants_of(parent_of(pid)) if one != pid and is_daemon(one)]
