"""A full disk, below a worker's folder or below the database: nothing is lost or done twice, and the worker lives."""

from __future__ import annotations

import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert

from rota.errors import DatabaseUnavailable
from rota.store.tables import event
from rota.store.types import db_now
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import open_cluster
from tests.cluster.test_outlives import WAITS
from tests.conftest import SERVERS, assert_no_violations, migrate
from tests.servers import MariaDB, PostgreSQL, mariadb_server, postgresql_server

SIZE_BYTES = 256 * 1024
SERVER_BYTES = 192 << 20  # a server with two databases has about 90 MiB, half of it in its log
LINES_MAX = 30
FULL = {"postgresql": "No space left on device", "mysql": "is full"}  # what the server says of it


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, with little room."""
    with mounted_disk(folder / "small", SIZE_BYTES) as path:
        yield path


@contextmanager
def mounted_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        why = f"NOT TESTED with a full disk, which takes the right to mount one: {mounted.stderr.decode().strip()}"
        warnings.warn(why, stacklevel=1)
        pytest.skip(why)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all that is left."""
    path = disk / "ballast"
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4096"], capture_output=True, check=False)
    assert b"No space left" in filled.stderr
    return path


def test_what_ends_without_a_worker_on_a_full_disk_is_told_to_the_next_one_and_not_done_again(
    cluster: Cluster, small_disk: Path
) -> None:
    cluster.add_shell("waits", WAITS)
    worker = cluster.start("a", state_dir=str(small_disk))
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)
    journal = worker.guardians / "journal"
    worker.kill(worker.nursery_pid)  # so that no stand-in comes either
    ballast = fill(small_disk)
    untouched = journal.stat().st_mtime_ns

    (cluster.folder / "go").touch()
    cluster.wait_for_note("end", run_id)
    cluster.wait(lambda: journal.stat().st_mtime_ns > untouched, "its guardian has tried to keep the end")

    assert cluster.run(run_id).state == "running"
    again = cluster.start("a", state_dir=str(small_disk))
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    (attempt,) = cluster.attempts(run_id)
    assert (attempt.state, attempt.reason, attempt.exit_code) == ("succeeded", "ended_well", 0)
    assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == 1
    # It works on, as long as the disk is full and when it is not any more.
    assert cluster.wait_for_end(*cluster.enqueue("waits")) == {"succeeded"}
    ballast.unlink()
    assert cluster.wait_for_end(*cluster.enqueue("waits")) == {"succeeded"}
    assert list(journal.iterdir()) == []
    assert again.stop() == 0


def test_an_end_that_its_worker_is_slow_to_take_outlasts_a_full_disk(cluster: Cluster, small_disk: Path) -> None:
    cluster.add_shell("waits", WAITS)
    worker = cluster.start("a", state_dir=str(small_disk))
    (run_id,) = cluster.enqueue("waits")
    cluster.wait_for_note("start", run_id)
    journal = worker.guardians / "journal"
    fill(small_disk)
    untouched = journal.stat().st_mtime_ns

    worker.signal(signal.SIGSTOP)
    (cluster.folder / "go").touch()
    cluster.wait(lambda: journal.stat().st_mtime_ns > untouched, "its guardian has tried to keep the end")
    worker.signal(signal.SIGCONT)

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert [attempt.state for attempt in cluster.attempts(run_id)] == ["succeeded"]
    assert len(cluster.ledger.entries("start")) == 1
    assert "Traceback" not in worker.log()
    assert cluster.wait_for_end(*cluster.enqueue("waits")) == {"succeeded"}


@pytest.fixture(params=["postgresql", "mariadb"])
def full_server(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[PostgreSQL | MariaDB, Path]]:
    """A server of its own on a disk of its own."""
    servers = request.config.stash[SERVERS]
    if request.param not in servers.kinds or request.param in servers.missing:
        pytest.skip(f"takes {request.param}")
    folder.chmod(0o755)
    start = postgresql_server if request.param == "postgresql" else mariadb_server
    with mounted_disk(folder / "disk", SERVER_BYTES) as disk, start(prepare=migrate, place=disk) as server:
        yield server, disk


def write_until_refused(write: Callable[[int], object], sizes: Sequence[int]) -> str:
    """Write less each time, until there is no room for anything; return what is said then."""
    left = list(sizes)
    while True:
        try:
            write(left[0])
        except DatabaseUnavailable as error:
            left.pop(0)
            if not left:
                return str(error)


def fill_tables(cluster: Cluster) -> str:
    """Take what room there is in the tables themselves: neither a run nor an event goes in any more."""

    def tell(size: int) -> None:
        statement = insert(event).values(at=db_now(), kind="test", text="x" * size)
        cluster.database.write(lambda connection: connection.execute(statement), repeatable=False)

    args = {"filled": "x" * 1000}
    said = write_until_refused(lambda count: cluster.enqueue("never", count, args=args), [100, 10, 1])
    write_until_refused(tell, [1000, 100, 1])
    return said


def test_on_a_full_disk_of_the_database_jobs_run_on_and_all_goes_on_by_itself_when_there_is_room(
    full_server: tuple[PostgreSQL | MariaDB, Path], folder: Path
) -> None:
    server, disk = full_server
    url = server.create_database()
    with open_cluster(url, folder, spared=lambda: {server.process.pid}) as cluster:
        cluster.add_shell("waits", WAITS)
        cluster.add_shell("quick", "note quick")
        cluster.add_shell("never", "true", pool="unserved")
        worker = cluster.start("a")
        (run_id,) = cluster.enqueue("waits")
        cluster.wait_for_note("start", run_id)

        ballast = fill(disk)
        assert FULL[cluster.database.dialect.name] in fill_tables(cluster)
        (cluster.folder / "go").touch()
        cluster.wait_for_note("end", run_id)
        cluster.wait_for_log(worker, "round 4 in a row failed")
        assert FULL[cluster.database.dialect.name] in worker.log()
        assert cluster.run(run_id).state == "running"  # it can still be read, and its lease goes on
        ballast.unlink()

        assert cluster.wait_for_end(run_id) == {"succeeded"}
        assert [attempt.state for attempt in cluster.attempts(run_id)] == ["succeeded"]
        quick = cluster.enqueue("quick", 3)
        assert cluster.wait_for_end(*quick) == {"succeeded"}
        assert sorted(entry.run_id for entry in cluster.ledger.entries("quick")) == quick
        assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == 1
        assert "the database answers again" in worker.log()
        assert len(worker.log().splitlines()) <= LINES_MAX
        assert worker.trouble() == []
        assert worker.stop() == 0
    assert_no_violations(url)
    server.drop_database(url)
