"""The database is away for a while, at every point of a job's life: each runs once, and its end is there afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rota.execution.linux import boottime
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import open_cluster
from tests.conftest import SERVERS, assert_no_violations, migrate
from tests.execution.harness import wait_until
from tests.servers import STARTERS, MariaDB, PostgreSQL

Away = Callable[[], AbstractContextManager[None]]
UNTIL = 'note start; while [ ! -e "$FOLDER/{0}" ]; do sleep 0.05; done; note end; echo done'


@contextlib.contextmanager
def locked(path: str) -> Generator[None]:
    """A file cannot be stopped; while somebody else writes, nobody can."""
    holder = sqlite3.connect(path, isolation_level=None, timeout=30)
    holder.execute("begin exclusive")
    try:
        yield
    finally:
        holder.execute("rollback")
        holder.close()


@contextlib.contextmanager
def stopped(server: PostgreSQL | MariaDB, cluster: Cluster) -> Generator[None]:
    cluster.database.close()
    server.process.stop()
    try:
        yield
    finally:
        server.process.start()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "mysql"])
def outage(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Cluster, Away]]:
    """A cluster on a database of its own, and what takes that away."""
    servers = request.config.stash[SERVERS]
    if request.param not in servers.kinds:
        pytest.skip(f"{request.param} is left out on request")
    if request.param in servers.missing:
        pytest.skip(servers.missing[request.param])
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/rota.db"
        migrate(url)
        with open_cluster(url, folder) as cluster:
            yield cluster, lambda: locked(f"{folder}/rota.db")
        assert_no_violations(url)
        return
    with STARTERS[request.param](prepare=migrate) as server:
        assert isinstance(server, PostgreSQL | MariaDB)
        url = server.create_database()
        with open_cluster(url, folder, spared=lambda: {server.process.pid}) as cluster:
            yield cluster, lambda: stopped(server, cluster)
        assert_no_violations(url)


def let_pass(seconds: float) -> None:
    """What is tested is what happens by itself while this time passes."""
    until = boottime() + seconds
    wait_until(lambda: boottime() >= until, "time passes", seconds + 5)


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("seconds", "lease_seconds"),
    [(3.0, 30.0), pytest.param(60.0, 300.0, marks=[pytest.mark.long, pytest.mark.timeout(300)])],
)
def test_within_its_lease_each_job_runs_once_and_its_end_is_stored(
    outage: tuple[Cluster, Away], seconds: float, lease_seconds: float
) -> None:
    cluster, away = outage
    names = ("through", "within", "before")
    for name in names:
        cluster.add_shell(name, UNTIL.format(name))
    workers = [cluster.start(name, lease_seconds=lease_seconds) for name in "ab"]
    through, within = (cluster.enqueue(name)[0] for name in names[:2])
    for run_id in (through, within):
        cluster.wait_for_note("start", run_id)
    (before,) = cluster.enqueue("before")  # somewhere between its claim and its start

    with away():
        (cluster.folder / "within").touch()
        cluster.wait_for_note("end", within)
        let_pass(seconds)
    (cluster.folder / "through").touch()
    (cluster.folder / "before").touch()

    run_ids = (through, within, before)
    assert cluster.wait_for_end(*run_ids, seconds=lease_seconds + 60) == {"succeeded"}
    for run_id in run_ids:
        assert len(cluster.ledger.entries("start", run_id=run_id)) == 1
        assert [(a.state, a.stdout_bytes) for a in cluster.attempts(run_id)][-1] == ("succeeded", len("done\n"))
    assert [worker.process.poll() for worker in workers] == [None, None]


@pytest.mark.every_database
def test_longer_than_its_lease_a_job_is_stopped_before_another_node_may_start_it(outage: tuple[Cluster, Away]) -> None:
    cluster, away = outage
    cluster.add_shell("waits", UNTIL.format("go"))
    cluster.start("a", lease_seconds=6.0)
    (run_id,) = cluster.enqueue("waits")
    started = cluster.wait_for_note("start", run_id)

    with away():
        died_at = cluster.wait_for_death(started.pid, seconds=60)
    cluster.start("b", lease_seconds=6.0)

    again = cluster.wait_for_note("start", run_id, attempt=2, seconds=60)
    assert died_at < again.at
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [a.state for a in cluster.attempts(run_id)][-1] == "succeeded"


def test_longer_than_the_lease_an_executor_process_is_killed_before_another_node_may_start_its_runs(
    outage: tuple[Cluster, Away],
) -> None:
    cluster, away = outage
    cluster.add_job("stays", "call", "tests.cluster.inline_jobs:stay", executor="thread")
    cluster.start("a", lease_seconds=6.0)
    run_ids = cluster.enqueue("stays", 3)
    started = [cluster.wait_for_note("start", run_id) for run_id in run_ids]

    with away():
        died_at = cluster.wait_for_death(started[0].pid, seconds=60)
    cluster.start("b", lease_seconds=6.0)

    again = [cluster.wait_for_note("start", run_id, attempt=2, seconds=60) for run_id in run_ids]
    assert died_at < min(entry.at for entry in again)
    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
