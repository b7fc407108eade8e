"""Real cgroups for tests: a directory of their own in the machine's tree, which they remove."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rota.execution.cgroup import clear, remove
from tests.execution.harness import wait_until

LIMIT_SECONDS = 20.0


def find_tree() -> Path:
    """Give where cgroup v2 is mounted and may be written to, or skip the test and say why."""
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = [Path(words[4]) for words in fields if words[words.index("-") + 1] == "cgroup2"]
    if not mounts:
        pytest.skip("NOT TESTED: no cgroup v2 is mounted on this machine")
    if not os.access(mounts[0], os.W_OK) or os.geteuid() != 0:
        pytest.skip(f"NOT TESTED: cgroups may not be made in {mounts[0]} by this user; root may")
    return mounts[0]


@contextmanager
def given_directory() -> Iterator[Path]:
    """Prepare a directory as an operator would, and remove it with all that is in it."""
    path = find_tree() / f"rota-test-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED: {path} cannot be made: {error.strerror}")
    try:
        yield path
    finally:
        clear(str(path), LIMIT_SECONDS)
        remove(str(path))
        assert not path.exists()


def attempts_in(cgroups: Path | str) -> list[Path]:
    """The cgroups of attempts that are there."""
    return sorted(Path(cgroups).glob("run-*"))


def the_attempt_in(cgroups: Path | str) -> Path:
    """The only one, as soon as a process is in it."""
    (path,) = wait_until(lambda: [path for path in attempts_in(cgroups) if pids_in(path)], "a job is in its cgroup")
    return path


def pids_in(path: Path) -> list[int]:
    try:
        return [int(word) for word in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def facts_of(path: Path) -> dict[str, str]:
    """What cgroup.events says."""
    return dict(line.split() for line in (path / "cgroup.events").read_text().splitlines())


def cgroup_of(pid: int) -> str:
    """The path of a process's cgroup, from the root of the tree."""
    (line,) = [line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")]
    return line[3:]
