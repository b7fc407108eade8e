"""Jobs in executor processes under whole workers: each runs once, whatever dies, stops or leaves."""

from __future__ import annotations

import os
import signal

import pytest

from rota import Conflict, Rota
from rota.execution.linux import boottime
from rota.store.history import why_run
from tests.cluster.cluster import PATH, ROOT, Cluster, Worker, parent_of
from tests.cluster.ledger import Entry
from tests.execution.harness import is_alive

JOBS = "tests.cluster.inline_jobs"
LEASE_SECONDS = 3.0  # where it is to end
LONG_LEASE_SECONDS = 9.0  # where it is not, on a machine that is busy
pytestmark = pytest.mark.one_case

KINDS = ("thread", "async")


def start(cluster: Cluster, name: str = "a", **values: object) -> Worker:
    settings = {"import_dirs": [str(ROOT)], "environment": {"PATH": PATH}, "lease_seconds": LONG_LEASE_SECONDS}
    return cluster.start(name, **settings | values)


def add(cluster: Cluster, kind: str, name: str, function: str, **columns: object) -> None:
    function = function if kind == "thread" else f"{function}_async"
    cluster.add_job(name, "call", f"{JOBS}:{function}", executor=kind, **columns)


def start_on_first(cluster: Cluster, kind: str, **columns: object) -> tuple[Worker, Worker, int, Entry]:
    """Start worker a, have it run a job, start worker b; return them, the run and the job's start."""
    add(cluster, kind, "stays", "stay", **columns)
    first = start(cluster, slots=4, lease_seconds=LEASE_SECONDS)
    (run_id,) = cluster.enqueue("stays")
    started = cluster.wait_for_note("start", run_id)
    return first, start(cluster, "b", lease_seconds=LEASE_SECONDS), run_id, started


def assert_run_again_after(cluster: Cluster, run_id: int, started: Entry, gone_at: float, at: float) -> None:
    """The code was gone before the next attempt began, which was within the lease and two seconds."""
    again = cluster.wait_for_note("start", run_id, attempt=2)
    assert gone_at < again.at
    assert again.at - at <= LEASE_SECONDS + 2
    assert again.fence > started.fence
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    attempt = cluster.attempts(run_id)[0]
    assert (attempt.state, attempt.node) == ("lost", "a")
    assert len(cluster.ledger.entries("start", run_id=run_id)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_small_runs_is_run_once_each(cluster: Cluster, kind: str) -> None:
    add(cluster, kind, "quick", "quick")
    workers = [start(cluster, name, slots=16) for name in ("a", "b")]
    run_ids = cluster.enqueue("quick", 500)

    assert cluster.wait_for_end(*run_ids) == {"succeeded"}

    entries = cluster.ledger.entries("start")
    assert sorted(entry.run_id for entry in entries) == sorted(run_ids)
    assert 1 <= len({entry.pid for entry in entries}) <= 2
    (attempt,) = cluster.attempts(run_ids[0])
    assert attempt.pid in {entry.pid for entry in entries}
    assert attempt.executor == kind
    assert cluster.run(run_ids[0]).result == str(run_ids[0])
    told = why_run(cluster.database, run_ids[0])["because"]
    assert any(f"it shared an executor process ({kind}, pid {attempt.pid})" in line for line in told)
    assert [worker.trouble() for worker in workers] == [[], []]


@pytest.mark.parametrize("kind", KINDS)
def test_leases_are_renewed_while_runs_go_on_which_cannot_be_frozen(cluster: Cluster, kind: str) -> None:
    add(cluster, kind, "stays", "stay")
    start(cluster)
    (run_id,) = cluster.enqueue("stays")
    cluster.wait_for_note("start", run_id)
    first_end = cluster.run(run_id).lease_ends_at

    with Rota(cluster.url) as rota, pytest.raises(Conflict, match="cannot be frozen"):
        rota.runs[run_id].freeze()
    cluster.wait(lambda: cluster.run(run_id).lease_ends_at > first_end, "its lease was renewed")
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert cluster.run(run_id).attempt == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_executor_costs_its_runs_an_attempt_and_the_worker_nothing(cluster: Cluster, kind: str) -> None:
    add(cluster, kind, "stays", "stay")
    add(cluster, kind, "once", "stay", delivery="at_most_once")
    worker = start(cluster)
    run_ids = cluster.enqueue("stays", 3)
    (once,) = cluster.enqueue("once")
    pids = {cluster.wait_for_note("start", run_id).pid for run_id in [*run_ids, once]}
    (pid,) = pids

    os.kill(pid, signal.SIGKILL)

    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    assert cluster.wait_for_end(once) == {"lost"}
    assert [cluster.run(run_id).attempt for run_id in run_ids] == [2, 2, 2]
    assert "its executor process ended, killed by signal 9" in cluster.run(once).reason_text
    assert worker.process.poll() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_executor_is_killed_before_its_lease_ends(cluster: Cluster, kind: str) -> None:
    first, _, run_id, started = start_on_first(cluster, kind)

    stopped_at = boottime()
    os.kill(started.pid, signal.SIGSTOP)
    gone_at = cluster.wait_for_death(started.pid)

    # Its lease may have been renewed for an answer that it gave just before.
    assert_run_again_after(cluster, run_id, started, gone_at, stopped_at + LEASE_SECONDS / 3)
    assert first.process.poll() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_worker_s_executor_is_killed_before_the_lease_ends(cluster: Cluster, kind: str) -> None:
    first, _, run_id, started = start_on_first(cluster, kind)

    stopped_at = boottime()
    first.signal(signal.SIGSTOP)
    gone_at = cluster.wait_for_death(started.pid)

    assert_run_again_after(cluster, run_id, started, gone_at, stopped_at)
    first.signal(signal.SIGCONT)
    cluster.wait_for_log(first, "orphans")
    assert cluster.states([run_id]) == {"succeeded"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_worker_and_keeper_are_stood_in_for_by_the_nursery(cluster: Cluster, kind: str) -> None:
    first, _, run_id, started = start_on_first(cluster, kind)
    keeper = parent_of(started.pid)

    stopped_at = boottime()
    first.signal(signal.SIGSTOP)
    os.kill(keeper, signal.SIGSTOP)
    gone_at = cluster.wait_for_death(started.pid)

    assert_run_again_after(cluster, run_id, started, gone_at, stopped_at)
    os.kill(keeper, signal.SIGCONT)
    first.signal(signal.SIGCONT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", ["worker", "worker and keeper", "keeper"])
def test_the_executor_of_a_killed_worker_or_keeper_dies_at_once(cluster: Cluster, kind: str, dead: str) -> None:
    first, _, run_id, started = start_on_first(cluster, kind)
    keeper = parent_of(started.pid)

    killed_at = boottime()
    if dead == "keeper":
        os.kill(keeper, signal.SIGKILL)
    else:
        first.kill(*([keeper] if dead == "worker and keeper" else []))
    gone_at = cluster.wait_for_death(started.pid)

    assert_run_again_after(cluster, run_id, started, gone_at, killed_at)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_run_that_ignores_it_ends_when_its_process_is_killed(cluster: Cluster, kind: str) -> None:
    add(cluster, kind, "stays", "stay")
    add(cluster, kind, "quick", "quick")
    start(cluster, grace_seconds=0.3)
    (run_id,) = cluster.enqueue("stays")
    pid = cluster.wait_for_note("start", run_id).pid

    with Rota(cluster.url) as rota:
        rota.runs[run_id].cancel()

    assert cluster.wait_for_end(run_id) == {"cancelled"}
    assert not is_alive(pid)
    (quick,) = cluster.enqueue("quick")
    assert cluster.wait_for_end(quick) == {"succeeded"}


def test_a_timeout_of_a_task_ends_it_as_that(cluster: Cluster) -> None:
    add(cluster, "async", "obedient", "stay", timeout_seconds=0.2)
    start(cluster)
    (run_id,) = cluster.enqueue("obedient")

    assert cluster.wait_for_end(run_id) == {"failed"}
    assert cluster.run(run_id).reason == "timeout"


@pytest.mark.parametrize("kind", KINDS)
def test_on_term_a_worker_waits_for_what_ends_within_its_grace(cluster: Cluster, kind: str) -> None:
    add(cluster, kind, "stays", "stay")
    first = start(cluster, grace_seconds=20.0)
    (run_id,) = cluster.enqueue("stays")
    cluster.wait_for_note("start", run_id)

    first.signal(signal.SIGTERM)
    cluster.wait_for_log(first, "1 runs in executor processes may take 20 s to end")
    (cluster.folder / "go").touch()

    assert first.exit_status() == 0
    assert cluster.run(run_id).state == "succeeded"
    assert first.trouble() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_on_term_what_does_not_end_is_killed_and_given_back_by_its_delivery(
    cluster: Cluster, kind: str, delivery: str
) -> None:
    add(cluster, kind, "stays", "stay", delivery=delivery)
    first = start(cluster, grace_seconds=0.3)
    (run_id,) = cluster.enqueue("stays")
    started = cluster.wait_for_note("start", run_id)

    first.signal(signal.SIGTERM)

    assert first.exit_status() == 0
    assert not is_alive(started.pid)
    run = cluster.run(run_id)
    assert (run.state, run.losses) == (("ready", 0) if delivery == "at_least_once" else ("lost", 1))
    assert first.trouble() == []


def test_a_row_written_by_hand_fails_its_run_with_a_reason_and_no_other(cluster: Cluster) -> None:
    add(cluster, "thread", "quick", "quick")
    cluster.add_job("fibre", "call", f"{JOBS}:quick", executor="fibre")
    cluster.add_job("shell", "shell", "true", executor="thread")
    cluster.add_job("limited", "call", f"{JOBS}:quick", executor="async", nice=5)
    start(cluster)

    ends = {name: cluster.enqueue(name)[0] for name in ("fibre", "shell", "limited", "quick")}

    cluster.wait_for_end(*ends.values())
    states = {name: cluster.run(run_id).state for name, run_id in ends.items()}
    assert states == {"fibre": "failed", "shell": "failed", "limited": "failed", "quick": "succeeded"}
    assert "one of process, thread, async" in cluster.run(ends["fibre"]).reason_text
    assert "only a Python function can have it" in cluster.run(ends["shell"]).reason_text
    assert "cannot have this of its own" in cluster.run(ends["limited"]).reason_text
