"""Nursery and guardians stay small: every fork of a guardian pays for what they import and hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from rota.execution.control import AFTER_SECONDS_MAX
from rota.execution.keeper import EXECUTOR_LOST
from rota.execution.linux import children_of
from rota.model.durations import DURATION_SECONDS_MAX
from rota.model.ending import EXECUTOR_LOST_ERROR
from tests.execution.harness import ROOT, Harness, wait_until

MIB = 1024 * 1024

HEAVY = set(
    "asyncio contextlib dataclasses inspect logging pathlib subprocess tempfile threading traceback typing".split()
)


def test_the_nursery_imports_few_modules() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rota.execution.nursery; print(*sorted(sys.modules))"
    )

    modules = subprocess.run(
        [sys.executable, "-X", "utf8", "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    ours = {name for name in modules if name.startswith("rota")}
    assert HEAVY & set(modules) == set()
    assert ours <= {
        "rota",
        "rota.crash",
        "rota.execution",
        *(
            f"rota.execution.{name}"
            for name in (
                "attempt cgroup control door guardian journal keeper limits linux masking nursery output spawn "
                "stand_in sweep warm_birth wire"
            ).split()
        ),
    }


def _kilobytes(pid: int, file: str, field: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(field)


def test_nursery_and_guardian_are_small_and_have_one_thread(harness: Harness) -> None:
    order = harness.start("sleep", "1000")
    guardian_pid = harness.started(order).guardian_pid
    nursery_pid = harness.crew.nursery_pid

    assert _kilobytes(nursery_pid, "status", "VmRSS") < 15 * 1024
    assert _kilobytes(guardian_pid, "smaps_rollup", "Private_Dirty") < 3 * 1024
    for pid in (nursery_pid, guardian_pid):
        assert _kilobytes(pid, "status", "Threads") == 1
        # Not in the worker's session: its terminal and its end are none of their business.
        assert os.getsid(pid) == pid
    harness.crew.stop(order.claim_id, "cancelled", 5)
    harness.ended(order)


def held_by(pid: int) -> set[str]:
    """What its descriptors stand for; what it closes meanwhile it does not hold."""
    held: set[str] = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(str(path.readlink()))
    return held


def test_neither_holds_the_worker_s_environment_or_descriptors(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("ROTA_DB", "postgresql://user:secret@host/db")
    secret = (folder / "secret").open("w")
    os.set_inheritable(secret.fileno(), True)
    harness = Harness(folder / "w")
    order = harness.start("sleep", "1000")
    started = harness.started(order)

    for pid in (harness.crew.nursery_pid, started.guardian_pid, started.pid):
        held = held_by(pid)
        assert str(folder / "secret") not in held
        assert b"secret@host" not in Path(f"/proc/{pid}/environ").read_bytes()

    harness.crew.stop(order.claim_id, "cancelled", 5)
    harness.ended(order)
    harness.crew.close()
    secret.close()


def test_a_guardian_holds_no_connection_of_another(harness: Harness) -> None:
    orders = [harness.start("sleep", "1000") for _ in range(4)]
    pids = [harness.started(order).guardian_pid for order in orders]

    held = [
        {link for path in Path(f"/proc/{pid}/fd").iterdir() if "socket" in (link := str(path.readlink()))}
        for pid in pids
    ]

    # Each its connection to the worker and the ear towards its job.
    assert [len(links) for links in held] == [2, 2, 2, 2]
    assert len(set.union(*held)) == 8
    for order in orders:
        harness.crew.stop(order.claim_id, "cancelled", 5)
        harness.ended(order)


def test_two_hundred_guardians_at_once_and_none_of_them_stays(harness: Harness) -> None:
    orders = [harness.start("sleep", "1000") for _ in range(200)]
    for order in orders:
        harness.started(order)

    assert len(children_of(harness.crew.nursery_pid)) == 200
    for order in orders:
        harness.crew.stop(order.claim_id, "cancelled", 5)
    for order in orders:
        harness.ended(order)

    harness.crew.close()
    wait_until(lambda: not Path(f"/proc/{harness.crew.nursery_pid}").exists(), "all have left")


def test_what_they_may_not_import_and_so_repeat_is_what_the_model_says() -> None:
    assert AFTER_SECONDS_MAX == DURATION_SECONDS_MAX
    assert EXECUTOR_LOST == EXECUTOR_LOST_ERROR
