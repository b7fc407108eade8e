"""A cluster per test, on each database; no test may leave a process behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rota.execution.linux import boottime, children_of
from tests.cluster.cluster import Cluster

PR_SET_CHILD_SUBREAPER = 36
LEAVE_SECONDS = 10.0


@contextlib.contextmanager
def no_process_left(spared: Callable[[], set[int]]) -> Iterator[None]:
    """Be the subreaper for a while, so that no process can hide, and fail when one is left that is not spared."""
    libc = ctypes.CDLL(None)
    before = set(children_of(os.getpid()))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        before |= spared()
        left = _reap(before, LEAVE_SECONDS)
        names = [Path(f"/proc/{pid}/cmdline").read_bytes()[-100:] for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        _reap(before, LEAVE_SECONDS)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not left, f"processes are left behind: {names}"


def _reap(before: set[int], seconds: float) -> set[int]:
    give_up_at = boottime() + seconds
    while (left := set(children_of(os.getpid())) - before) and boottime() < give_up_at:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    return left


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of unix sockets end at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rota-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def open_cluster(url: str, folder: Path, *, spared: Callable[[], set[int]] = set) -> Iterator[Cluster]:
    with no_process_left(spared):
        cluster = Cluster(url, folder)
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def cluster(database_url: str, folder: Path) -> Iterator[Cluster]:
    with open_cluster(database_url, folder) as made:
        yield made
