"""Whole workers whose attempts get cgroups: what they say of it, and what is left when they come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.client import Rota
from rota.store.interventions import cancel_run, freeze_run
from tests.cluster.cluster import Cluster, Worker, parent_of
from tests.cluster.ledger import Entry
from tests.execution.cgroups import attempts_in, facts_of, given_directory, pids_in, the_attempt_in
from tests.execution.harness import is_alive

# A process without a mark, in a session of its own, and a job that waits.
ESCAPES = (
    "env -i setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' >/dev/null 2>&1 & note escaped $!; note start; "
    "until test -e $FOLDER/go; do sleep 0.02; done; echo done"
)


@pytest.fixture
def given() -> Iterator[Path]:
    with given_directory() as path:
        yield path


def start(cluster: Cluster, given: Path, lease_seconds: float = 15.0) -> tuple[Worker, int, Entry, list[int]]:
    """Start a worker, and a job of which a process has escaped; return the run, its start and all of its processes."""
    cluster.add_shell("escapes", ESCAPES)
    worker = cluster.start("a", cgroup=str(given), lease_seconds=lease_seconds)
    (run_id,) = cluster.enqueue("escapes")
    started = cluster.wait_for_note("start", run_id)
    return worker, run_id, started, pids_in(the_attempt_in(given / "rota"))


def test_a_node_says_that_its_jobs_run_in_cgroups_and_another_why_they_do_not(cluster: Cluster, given: Path) -> None:
    start(cluster, given)
    cluster.start("b", cgroup="off")
    (cluster.folder / "go").touch()

    with Rota(cluster.url) as rota:
        assert rota.nodes.show("a")["cgroups"].startswith(f"used: {given}/rota (")
        assert rota.nodes.show("b")["cgroups"] == "off, as the setting cgroup says"
        counts = rota.check()["counts"]
    assert (counts["nodes"], counts["cgroups"]) == (2, 1)


def test_a_directory_that_was_named_and_cannot_be_used_keeps_the_worker_from_starting(cluster: Cluster) -> None:
    worker = cluster.begin("a", cgroup=str(cluster.folder))

    assert worker.exit_status() != 0
    said = (worker.folder / "stderr").read_text()
    assert f"cgroup '{cluster.folder}' cannot be used: {cluster.folder} is no directory of cgroup v2" in said
    with Rota(cluster.url) as rota:
        assert rota.nodes.list() == []


def test_the_next_worker_freezes_and_ends_whole_what_the_one_before_has_started(cluster: Cluster, given: Path) -> None:
    first, run_id, started, pids = start(cluster, given)
    assert len(pids) >= 2
    first.signal(signal.SIGTERM)
    assert first.exit_status() == 0
    path = the_attempt_in(given / "rota")

    second = cluster.start("a", cgroup=str(given), lease_seconds=15.0)
    cluster.wait_for_log(second, f"run {run_id} of job escapes goes on")
    assert is_alive(started.pid)
    freeze_run(cluster.database, run_id, actor="test")
    cluster.wait(lambda: facts_of(path)["frozen"] == "1", "it is held")
    cancel_run(cluster.database, run_id, actor="test")

    assert cluster.wait_for_end(run_id) == {"cancelled"}
    assert not any(is_alive(pid) for pid in pids)
    cluster.wait(lambda: attempts_in(given / "rota") == [], "its cgroup is removed")
    assert first.trouble() == second.trouble() == []


def test_what_escaped_from_the_dead_is_gone_before_the_next_worker_begins(cluster: Cluster, given: Path) -> None:
    first, run_id, started, pids = start(cluster, given, 4.0)
    first.kill(first.nursery_pid, parent_of(started.pid))
    cluster.wait_for_death(started.pid)
    assert any(is_alive(pid) for pid in pids)  # no mark, no parent: nobody else would find it

    cluster.start("a", cgroup=str(given), lease_seconds=4.0)

    assert not any(is_alive(pid) for pid in pids)
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    cluster.wait(lambda: attempts_in(given / "rota") == [], "its cgroup is removed")
