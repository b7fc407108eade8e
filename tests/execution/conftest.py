"""Crews with real processes, each in a folder of its own; no test may leave a process behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.execution.linux import children_of
from tests.execution.harness import Harness

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of unix sockets end at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rota-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a virtual environment with nothing in it, not even pip."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin/python")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Be the subreaper while a test runs, so that no process can hide, and fail when one is left."""
    libc = ctypes.CDLL(None)
    before = set(children_of(os.getpid()))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    give_up_at = time.monotonic() + 5
    while (left := set(children_of(os.getpid())) - before) and time.monotonic() < give_up_at:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    names = [Path(f"/proc/{pid}/cmdline").read_bytes()[-100:] for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not left, f"processes are left behind: {names}"


@pytest.fixture
def harness(folder: Path, no_process_is_left: None) -> Iterator[Harness]:
    made = Harness(folder / "w")
    yield made
    made.crew.close()
    assert (made.folder / "nursery.log").read_text() == ""
