"""Limits under whole workers that are killed: never one more than is allowed, and no place is lost with a node."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from rota.execution.linux import boottime
from rota.store.tables import permit, run
from tests.cluster.cluster import Cluster, Worker, descendants_of
from tests.cluster.many_runs import count_states, wait_for_all, wait_for_notes, wait_slowly
from tests.cluster.test_outlives import WAITS

LIMIT = 3
WORKERS = 5
SETTINGS = {"slots": 4, "lease_seconds": 3.0, "poll_seconds": 0.5}


def check_limit_while_workers_are_killed(cluster: Cluster, runs: int, kills: int) -> None:
    cluster.add_shell("limited", "note start; sleep 0.05; note end", max_running=LIMIT, lost_max=1000)
    cluster.enqueue("limited", runs)
    numbers = itertools.count()
    workers = [cluster.begin(f"w{next(numbers)}", **SETTINGS).ready() for _ in range(WORKERS)]
    died_at: dict[int, float] = {}
    waits: list[float] = []

    for kill in range(kills):
        wait_for_notes(cluster, "start", runs * (kill + 1) // (kills + 2), 300)
        victim = workers.pop(0)
        pids, killed_at = kill_whole(victim)
        died_at |= dict.fromkeys(pids, killed_at)
        places = places_of(cluster, victim.folder.name)
        workers.append(cluster.begin(f"w{next(numbers)}", **SETTINGS))
        if (taken_at := wait_until_taken_again(cluster, places)) is not None:
            waits.append(taken_at - killed_at)
        workers[-1].ready()
    states = wait_for_all(cluster, "limited", 600)

    lives = lives_of(cluster, died_at)
    print(f"{runs} runs, {kills} nodes killed, places taken again after {', '.join(f'{wait:.1f}' for wait in waits)} s")
    assert states == {"succeeded": runs}
    assert most_at_once(lives) == LIMIT
    assert waits or kills < 10, "no killed node held a place"
    assert max(waits, default=0.0) <= SETTINGS["lease_seconds"] + 2
    assert {entry.run_id for entry in cluster.ledger.entries("end")} == {run_id for run_id, *_ in lives}
    assert len({run_id for run_id, *_ in lives}) == runs
    for worker in workers:
        assert worker.stop() == 0


def kill_whole(worker: Worker) -> tuple[list[int], float]:
    """Kill a worker with all that hangs below it, as a machine that loses its power; say which processes died, when."""
    pids: list[int] = []
    # Jobs begin and end all the time: who has gone is left out, who has come meanwhile is stopped too.
    while (found := [worker.pid, *descendants_of(worker.pid)]) != pids or not all(map(is_stopped, found)):
        pids = found
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
    return pids, worker.kill(*pids[1:])


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, has ended, or waits for a child that was stopped before its exec."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZD"
    return False


def lives_of(cluster: Cluster, died_at: dict[int, float]) -> list[tuple[int, float, float]]:
    """From when to when each process of a job lived, by what the jobs themselves have written."""
    ends = {(entry.run_id, entry.attempt): entry.at for entry in cluster.ledger.entries("end")}
    lives: list[tuple[int, float, float]] = []
    for entry in cluster.ledger.entries("start"):
        end = ends.get((entry.run_id, entry.attempt))
        if end is None:  # it died with its node; one that was forked while we looked, a moment later
            end = died_at.get(entry.pid) or min((at for at in died_at.values() if at >= entry.at), default=entry.at)
        lives.append((entry.run_id, entry.at, end))
    return lives


def most_at_once(lives: list[tuple[int, float, float]]) -> int:
    # At the same hundredth of a second, what ends goes before what begins.
    moments = sorted([(start, 1) for _, start, _ in lives] + [(end, -1) for _, _, end in lives])
    return max(itertools.accumulate(change for _, change in moments))


def places_of(cluster: Cluster, name: str) -> dict[int, datetime]:
    """Which places runs of that node hold, and since when."""
    statement = (
        select(permit.c.number, permit.c.taken_at)
        .join(run, run.c.claim_id == permit.c.claim_id)
        .where(run.c.node == name, run.c.state == "running")
    )
    return {row.number: row.taken_at for row in cluster.database.read(lambda c: c.execute(statement).all())}


def wait_until_taken_again(cluster: Cluster, places: dict[int, datetime]) -> float | None:
    """Wait until others have these places; return when. None: there are none, or not enough runs to take them."""
    statement = select(permit.c.number, permit.c.taken_at)

    def are_taken() -> bool:
        rows = cluster.database.read(lambda c: c.execute(statement).all())
        return not any(places.get(row.number) == row.taken_at for row in rows)

    def look() -> bool:
        return are_taken() or not count_states(cluster, "limited")["ready"]

    if places:
        wait_slowly(cluster, look, f"places {places} are taken again", 60)
    return boottime() if places and are_taken() else None


def test_a_limit_of_three_is_never_four_while_workers_are_killed(cluster: Cluster) -> None:
    check_limit_while_workers_are_killed(cluster, runs=150, kills=2)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.every_database
def test_a_limit_of_three_is_never_four_over_two_thousand_runs_while_workers_are_killed(cluster: Cluster) -> None:
    check_limit_while_workers_are_killed(cluster, runs=2000, kills=15)


def test_places_that_a_killed_node_held_are_taken_again_within_its_lease_and_two_seconds(cluster: Cluster) -> None:
    cluster.add_shell("limited", WAITS, max_running=LIMIT)
    victim = cluster.start("a", **SETTINGS)
    held = cluster.enqueue("limited", LIMIT)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == LIMIT, "all places are taken by one node")
    survivor = cluster.start("b", **SETTINGS)
    waiting = cluster.enqueue("limited", LIMIT)

    _, killed_at = kill_whole(victim)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == 2 * LIMIT, "as many have started elsewhere")

    again = cluster.ledger.entries("start")[LIMIT:]
    assert max(entry.at for entry in again) - killed_at <= SETTINGS["lease_seconds"] + 2
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(*held, *waiting) == {"succeeded"}
    assert len(cluster.ledger.entries("end")) == 2 * LIMIT
    assert survivor.trouble() == []


def test_jobs_that_share_mutexes_never_overlap_and_never_wait_for_each_other_for_ever(cluster: Cluster) -> None:
    cluster.add_shell("one", "note start; sleep 0.02; note end", mutexes='["a", "b"]')
    cluster.add_shell("two", "note start; sleep 0.02; note end", mutexes='["b", "a"]')
    run_ids = cluster.enqueue("one", 20) + cluster.enqueue("two", 20)
    workers = [cluster.begin(f"w{number}", **SETTINGS).ready() for number in range(3)]

    assert cluster.wait_for_end(*run_ids, seconds=60) == {"succeeded"}

    assert most_at_once(lives_of(cluster, {})) == 1
    assert [worker.stop() for worker in workers] == [0, 0, 0]
