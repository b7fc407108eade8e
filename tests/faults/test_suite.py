"""The fault suite itself runs: a short plan on one database, and nothing is lost, doubled, or left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from faults.checker import PROMISES
from faults.network import NAMESPACE_PREFIX
from tests.conftest import SERVERS
from tests.execution.harness import wait_until

ROOT = Path(__file__).parents[2]


def left_behind(pid: int) -> list[str]:
    """What has the pid of a suite in its name, or names such a thing among its arguments."""
    mark = f"{NAMESPACE_PREFIX}{pid}-"
    folders = [str(path) for path in Path(tempfile.gettempdir()).glob(f"{mark}*")]
    namespaces = [str(path) for path in Path("/run/netns").glob(f"{mark}*")]
    links = [str(path) for path in Path("/sys/class/net").glob(f"rf{pid}*")]
    processes: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if mark in said:
            processes.append(said)
    return folders + namespaces + links + processes


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "faults", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_short_run_loses_nothing_doubles_nothing_and_leaves_nothing_behind(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    kinds = [kind for kind in request.config.stash[SERVERS].kinds if kind not in request.config.stash[SERVERS].missing]
    kind = "postgresql" if "postgresql" in kinds else kinds[0]
    file = tmp_path / "faults.json"
    options = (
        "--database",
        kind,
        "--seed",
        "7",
        "--seconds",
        "20",
        "--lease",
        "3",
        "--hosts",
        "3",
        "--json",
        str(file),
    )

    suite = start(*options)
    said, _ = suite.communicate(timeout=280)

    assert file.exists(), said
    found = json.loads(file.read_text())
    assert {promise: found["counts"][promise] for promise in PROMISES} == dict.fromkeys(PROMISES, 0), found["findings"]
    assert found["faults"] >= 3
    assert found["counts"]["runs"] > 100
    assert left_behind(suite.pid) == []


@pytest.mark.parametrize("isolation", ["auto", "processes"])
def test_a_suite_that_is_interrupted_undoes_everything_and_what_a_killed_one_leaves_the_next_one_removes(
    isolation: str,
) -> None:
    options = ("--database", "sqlite", "--hosts", "2", "--seconds", "60", "--isolation", isolation)
    interrupted, killed = start(*options), start(*options)
    for suite in (interrupted, killed):
        wait_for_hosts(suite)

    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=60)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)

    assert interrupted.returncode == 130
    assert left_behind(interrupted.pid) == []
    assert left_behind(killed.pid) != []
    following = start("--database", "sqlite", "--hosts", "1", "--seconds", "60", "--isolation", isolation)
    wait_for_hosts(following)
    wait_until(lambda: left_behind(killed.pid) == [], "what the killed suite left is gone")
    following.send_signal(signal.SIGTERM)
    following.communicate(timeout=60)
    assert left_behind(following.pid) == []


def wait_for_hosts(suite: subprocess.Popen[str]) -> None:
    """Wait until a suite says that its hosts are up."""
    assert suite.stdout is not None
    said: list[str] = []
    for line in suite.stdout:
        said.append(line)
        if "hosts are up" in line:
            return
    raise AssertionError("".join(said))
