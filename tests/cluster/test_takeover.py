"""Workers and guardians that die or are stopped while a job runs: what the others do, by the ledger and its clock.

The promise is a start within the lease and two seconds. That is what is asserted: the bound is on the whole system and
generous, since a worker looks at the instant at which a lease ends.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys

import pytest

from rota.execution.linux import boottime
from tests.cluster.cluster import WAIT_SECONDS, Cluster, Worker, descendants_of, parent_of
from tests.cluster.ledger import Entry
from tests.execution.harness import is_alive

LEASE_SECONDS = 3.0
# Its first attempt stays until it is killed, with something detached; any later one ends at once.
STAYS_ONCE = "setsid sleep 300 & note start; note detached $!; test $ROTA_ATTEMPT -gt 1 || sleep 300; kill $!; note end"

# A system outside that has a column for the fence, and takes no lower one than it has seen.
WRITES_UNDER_ITS_FENCE = """
import os, sqlite3, sys
outside = sqlite3.connect(os.environ["FOLDER"] + "/outside.db", isolation_level=None)
mine = {"fence": int(os.environ["ROTA_FENCE"]), "attempt": int(os.environ["ROTA_ATTEMPT"])}
done = outside.execute("update held set fence = :fence, attempt = :attempt where fence <= :fence", mine)
sys.exit(0 if done.rowcount else 1)
"""


def start_on_first(cluster: Cluster, line: str = STAYS_ONCE, **columns: object) -> tuple[Worker, Worker, int, Entry]:
    """Start worker a, have it run a job, start worker b; return them, the run and the job's start."""
    cluster.add_shell("stays", line, **columns)
    first = cluster.start("a", lease_seconds=LEASE_SECONDS, slots=1)
    (run_id,) = cluster.enqueue("stays")
    started = cluster.wait_for_note("start", run_id)
    cluster.wait_for_note("detached", run_id)
    return first, cluster.start("b", lease_seconds=LEASE_SECONDS), run_id, started


def detached_by(cluster: Cluster, started: Entry) -> int:
    (entry,) = cluster.ledger.entries("detached", run_id=started.run_id, attempt=started.attempt)
    return entry.pid


def test_a_run_whose_worker_and_guardian_were_killed_starts_elsewhere_within_its_lease_and_two_seconds(
    cluster: Cluster,
) -> None:
    first, second, run_id, started = start_on_first(cluster)
    detached = detached_by(cluster, started)

    killed_at = first.kill(parent_of(started.pid))
    gone_at = cluster.wait_for_death(started.pid, detached)
    started_again = cluster.wait_for_note("start", run_id, attempt=2)

    assert gone_at < started_again.at
    assert started_again.at - killed_at <= LEASE_SECONDS + 2
    assert started_again.fence > started.fence
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [(a.state, a.node) for a in cluster.attempts(run_id)] == [("lost", "a"), ("succeeded", "b")]
    run = cluster.run(run_id)
    assert (run.retries_used, run.losses, run.attempt) == (0, 1, 2)
    assert len(cluster.ledger.entries("start")) == 2
    assert second.trouble() == []


def test_killed_with_its_nursery_a_job_dies_at_once_and_what_it_detached_when_the_next_worker_starts_there(
    cluster: Cluster,
) -> None:
    first, second, run_id, started = start_on_first(cluster)
    detached = detached_by(cluster, started)

    killed_at = first.kill(first.nursery_pid, parent_of(started.pid))
    gone_at = cluster.wait_for_death(started.pid)
    started_again = cluster.wait_for_note("start", run_id, attempt=2)

    assert gone_at < started_again.at
    assert started_again.at - killed_at <= LEASE_SECONDS + 2
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert is_alive(detached)
    next_there = cluster.start("a", lease_seconds=LEASE_SECONDS)
    cluster.wait_for_death(detached)
    assert [a.state for a in cluster.attempts(run_id)] == ["lost", "succeeded"]
    assert next_there.trouble() == second.trouble() == []


def test_a_nursery_that_is_the_last_to_live_clears_up_a_deep_tree_before_it_leaves(cluster: Cluster) -> None:
    deeper = 'D=$((D - 1)); if [ $D -gt 0 ]; then setsid sh -c "$DEEPER"; :; else sleep 300; fi'
    cluster.add_shell("deep", f"export D=12 DEEPER='{deeper}'; note start; sh -c \"$DEEPER\"; :")
    worker = cluster.start("a", lease_seconds=LEASE_SECONDS)
    (run_id,) = cluster.enqueue("deep")
    started = cluster.wait_for_note("start", run_id)
    tree = cluster.wait(lambda: found if len(found := descendants_of(started.pid)) == 13 else (), "it is deep")

    worker.kill(parent_of(started.pid))

    cluster.wait_for_death(started.pid, *tree)


def stop_past_the_lease(cluster: Cluster, run_id: int, started: Entry, *stopped: int) -> Entry:
    """Stop these processes until another worker has the run; return its start there. Then let them go on."""
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    stopped_at = boottime()
    gone_at = cluster.wait_for_death(started.pid, detached_by(cluster, started))
    started_again = cluster.wait_for_note("start", run_id, attempt=2)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert gone_at < started_again.at, "the job lived beyond its lease"
    assert started_again.at - stopped_at <= LEASE_SECONDS + 2
    return started_again


def assert_the_late_end_is_an_orphan(cluster: Cluster, run_id: int) -> None:
    cluster.wait(lambda: cluster.attempts(run_id)[0].orphan_at, "the late end is kept")
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    first, second = cluster.attempts(run_id)
    assert (first.state, first.node, second.state, second.node) == ("lost", "a", "succeeded", "b")
    assert '"kind": "lease_over"' in first.orphan
    run = cluster.run(run_id)
    assert (run.claim_id, run.retries_used, run.losses) == (second.claim_id, 0, 1)


def test_a_guardian_stopped_past_its_lease_loses_its_run_and_its_end_is_kept_as_an_orphan(cluster: Cluster) -> None:
    first, second, run_id, started = start_on_first(cluster)

    stop_past_the_lease(cluster, run_id, started, parent_of(started.pid))

    assert_the_late_end_is_an_orphan(cluster, run_id)
    assert second.trouble() == first.trouble() == []
    assert (first.stop(), second.stop()) == (0, 0)


def test_a_guardian_and_its_worker_stopped_past_the_lease_lose_the_run_and_the_worker_goes_on(cluster: Cluster) -> None:
    first, second, run_id, started = start_on_first(cluster)

    stop_past_the_lease(cluster, run_id, started, first.pid, parent_of(started.pid))

    assert_the_late_end_is_an_orphan(cluster, run_id)
    assert second.stop() == 0
    cluster.add_shell("next", "note next")
    assert cluster.wait_for_end(*cluster.enqueue("next")) == {"succeeded"}
    assert second.trouble() == first.trouble() == []


def test_a_guardian_that_stays_stopped_holds_no_slot_after_its_lease(cluster: Cluster) -> None:
    cluster.add_shell("stays", STAYS_ONCE)
    alone = cluster.start("a", lease_seconds=LEASE_SECONDS, slots=1)
    (run_id,) = cluster.enqueue("stays")
    started = cluster.wait_for_note("start", run_id)
    guardian = parent_of(started.pid)

    os.kill(guardian, signal.SIGSTOP)

    assert cluster.wait_for_end(run_id) == {"succeeded"}  # in the one slot there is
    os.kill(guardian, signal.SIGCONT)
    cluster.wait(lambda: cluster.attempts(run_id)[0].orphan_at, "the late end is kept")
    assert [a.state for a in cluster.attempts(run_id)] == ["lost", "succeeded"]
    assert alone.stop() == 0


def test_a_job_that_nobody_is_left_to_kill_is_refused_by_what_has_seen_a_higher_fence(cluster: Cluster) -> None:
    (cluster.folder / "write.py").write_text(WRITES_UNDER_ITS_FENCE)
    with sqlite3.connect(cluster.folder / "outside.db") as outside:
        outside.execute("create table held (fence integer, attempt integer)")
        outside.execute("insert into held values (0, 0)")
    waits = 'test $ROTA_ATTEMPT -gt 1 || while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done'
    write = f'if "{sys.executable}" "$FOLDER/write.py"; then note written; else note refused; fi'
    cluster.add_shell("writes", f"note start; {waits}; {write}")
    first = cluster.start("a", lease_seconds=LEASE_SECONDS, slots=1)
    (run_id,) = cluster.enqueue("writes")
    started = cluster.wait_for_note("start", run_id)
    stopped = (first.pid, first.nursery_pid, parent_of(started.pid))
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)

    cluster.start("b", lease_seconds=LEASE_SECONDS)
    written = cluster.wait_for_note("written", run_id, attempt=2)
    assert is_alive(started.pid)
    (cluster.folder / "go").touch()
    refused = cluster.wait_for_note("refused", run_id, attempt=1)

    assert refused.fence < written.fence
    with sqlite3.connect(cluster.folder / "outside.db") as outside:
        assert outside.execute("select * from held").fetchall() == [(written.fence, 2)]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [attempt.state for attempt in cluster.attempts(run_id)] == ["lost", "succeeded"]


def test_a_run_that_may_run_once_only_ends_lost_when_its_worker_died_after_the_start_mark(cluster: Cluster) -> None:
    first, second, run_id, started = start_on_first(cluster, delivery="at_most_once")

    first.kill(parent_of(started.pid))

    assert cluster.wait_for_end(run_id) == {"lost"}
    # What comes after it shows that somebody would have started it.
    cluster.add_shell("next", "note next")
    assert cluster.wait_for_end(*cluster.enqueue("next")) == {"succeeded"}
    assert len(cluster.ledger.entries("start")) == 1
    (attempt,) = cluster.attempts(run_id)
    assert (cluster.run(run_id).state, cluster.run(run_id).reason, attempt.state) == ("lost", "lost", "lost")
    assert second.trouble() == []


def test_an_end_that_came_while_no_worker_was_there_is_delivered_by_the_next_one_and_then_forgotten(
    cluster: Cluster,
) -> None:
    line = 'note start; note detached $$; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end'
    cluster.add_shell("waits", line)
    first = cluster.start("a")
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)
    guardian, journal = parent_of(started.pid), first.guardians / "journal"

    first.kill()
    (cluster.folder / "go").touch()
    cluster.wait_for_death(guardian)
    assert len(list(journal.glob("*.end"))) == 1
    cluster.start("a")

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [(a.state, a.exit_code) for a in cluster.attempts(run_id)] == [("succeeded", 0)]
    cluster.wait(lambda: not list(journal.glob("*.end")), "the journal is empty")


def test_an_end_that_comes_after_the_next_worker_has_started_there_is_delivered_too(cluster: Cluster) -> None:
    line = 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end'
    cluster.add_shell("waits", line)
    first = cluster.start("a", lease_seconds=60.0)
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)

    first.kill()
    cluster.start("a", lease_seconds=60.0)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [a.state for a in cluster.attempts(run_id)] == ["succeeded"]
    assert len(cluster.ledger.entries("start")) == 1


@pytest.mark.parametrize(
    ("seconds", "lease_seconds"),
    [(7.0, 3.0), pytest.param(60.0, 5.0, marks=[pytest.mark.long, pytest.mark.timeout(180)])],
)
def test_a_long_job_in_one_call_of_c_keeps_its_lease_and_runs_once(
    cluster: Cluster, seconds: float, lease_seconds: float
) -> None:
    cluster.add_job("burn", "call", "tests.cluster.callables:burn")
    workers = [cluster.start(name, lease_seconds=lease_seconds) for name in "ab"]
    (run_id,) = cluster.enqueue("burn", args={"seconds": seconds})

    assert cluster.wait_for_end(run_id, seconds=seconds + WAIT_SECONDS) == {"succeeded"}

    (started,), (ended,) = cluster.ledger.entries("start"), cluster.ledger.entries("end")
    assert ended.at - started.at >= seconds - 0.1
    assert [a.state for a in cluster.attempts(run_id)] == ["succeeded"]
    assert [line for worker in workers for line in worker.trouble()] == []
