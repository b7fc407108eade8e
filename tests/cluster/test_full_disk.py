"""A full disk below a worker's folder: what ends meanwhile is neither lost nor done twice, and the worker lives."""

from __future__ import annotations

import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.test_outlives import WAITS

SIZE_BYTES = 256 * 1024


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, with little room."""
    path = folder / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(path)], capture_output=True, check=False
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
