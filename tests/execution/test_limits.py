"""What a job may use: the limits hold, whoever asks for what cannot be had is told, and their ends are told apart."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rota.execution.limits import CPU_GRACE_SECONDS, explain_end
from tests.execution.harness import Harness, is_alive
from tests.execution.test_executors import executor_of, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
MIB = 1024 * 1024
PYTHON = (sys.executable, "-I", "-S", "-c")


def test_limits_are_those_that_were_ordered(harness: Harness) -> None:
    limits = {"memory_max_bytes": 512 * MIB, "cpu_max_seconds": 7.0, "open_files_max": 32, "nice": 5, "ionice": [2, 6]}

    outcome = harness.run(
        "bash", "-c", "ulimit -Sv; ulimit -Hv; ulimit -St; ulimit -Sn; ulimit -Hn; nice", limits=limits
    )

    told = [int(word) for word in outcome.stdout.head.split()]
    assert told == [512 * 1024, 512 * 1024, 7, 32, 32, 5]


def test_how_urgent_its_disk_access_is_can_be_ordered(harness: Harness) -> None:
    assert harness.run("ionice", limits={"ionice": [3, 0]}).stdout.head == b"idle\n"
    assert harness.run("ionice", limits={"ionice": [2, 6]}).stdout.head == b"best-effort: prio 6\n"


def test_the_umask_is_the_one_that_was_ordered(harness: Harness, folder: Path) -> None:
    harness.run("touch", str(folder / "private"), umask=0o077)
    harness.run("touch", str(folder / "usual"))

    assert [(folder / name).stat().st_mode & 0o777 for name in ("private", "usual")] == [0o600, 0o644]


@as_root
def test_a_job_has_the_groups_that_were_ordered_and_none_of_its_worker(harness: Harness) -> None:
    first, second, *_ = [group for group in grp.getgrall() if group.gr_gid != 0]
    told = "id -u; id -g; id -G"

    of_user = harness.run("sh", "-c", told, user="nobody", limits={"groups": [first.gr_name, second.gr_name]})
    of_root = harness.run("sh", "-c", told, limits={"groups": [first.gr_name]})

    nobody = pwd.getpwnam("nobody").pw_uid
    assert of_user.stdout.head.decode() == f"{nobody}\n{first.gr_gid}\n{first.gr_gid} {second.gr_gid}\n"
    assert of_root.stdout.head.decode() == f"0\n{first.gr_gid}\n{first.gr_gid}\n"


@pytest.mark.parametrize(
    ("limits", "values", "words"),
    [
        ({"groups": ["no such group"]}, {}, "there is no group 'no such group'"),
        ({"open_files_max": 1 << 30}, {}, "setting open_files_max 1073741824 failed"),
        pytest.param({"nice": -5}, {"user": "nobody"}, None, marks=as_root),
        pytest.param({"processes_max": 40}, {}, "Linux does not count the processes of root", marks=as_root),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_and_the_job_not_started(
    harness: Harness, limits: dict[str, Any], values: dict[str, Any], words: str | None
) -> None:
    outcome = harness.run("true", limits=limits, **values)

    if words is None:
        assert outcome.exit_code == 0, outcome  # the rights of the worker are enough
    else:
        assert outcome.ended == "not_started"
        assert words in (outcome.error_message or "")


def test_a_job_that_uses_up_its_cpu_time_is_told_apart_with_the_figures(harness: Harness) -> None:
    limits = {"cpu_max_seconds": 1.0}

    outcome = harness.run(*PYTHON, "while True: pass", limits=limits)
    in_shell = harness.run("sh", "-c", 'sh -c "while :; do :; done"; exit $?', limits=limits)

    assert (outcome.ended, outcome.signal, outcome.error_type) == ("signalled", signal.SIGXCPU, "CpuLimit")
    assert 0.5 < outcome.cpu_seconds < 1.0 + CPU_GRACE_SECONDS  # Linux measures it, and counts ticks for the limit
    assert (outcome.error_message or "").startswith(f"it used {outcome.cpu_seconds:.1f} s, and cpu_max is 1 s")
    assert (in_shell.exit_code, in_shell.error_type) == (128 + signal.SIGXCPU, "CpuLimit")


@pytest.mark.parametrize(("cpu_seconds", "is_explained"), [(0.74, True), (0.96, False), (1.2, False)])
def test_less_cpu_time_than_the_limit_is_explained_by_how_the_kernel_counts(
    cpu_seconds: float, is_explained: bool
) -> None:
    kind, said = explain_end(
        -signal.SIGXCPU,
        {"cpu_max_seconds": 1.0},
        cpu_seconds=cpu_seconds,
        own_cpu_seconds=cpu_seconds,
        memory_bytes_max=MIB,
        memory_kills=0,
        leftovers=0,
    )

    assert (kind, "the kernel counts whole clock ticks" in (said or "")) == ("CpuLimit", is_explained)


def test_a_job_that_holds_off_the_first_warning_is_killed_and_told_apart_too(harness: Harness) -> None:
    program = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"

    outcome = harness.run(*PYTHON, program, limits={"cpu_max_seconds": 1.0})

    assert (outcome.signal, outcome.error_type) == (signal.SIGKILL, "CpuLimit")


def test_a_callable_that_gets_no_more_memory_says_so_with_the_figures(harness: Harness) -> None:
    call = (sys.executable, "-P", "-m", "rota.execution.python_job", "tests.cluster.callables:eat")

    outcome = harness.run(*call, expects_result=True, limits={"memory_max_bytes": 200 * MIB})

    assert (outcome.ended, outcome.error_type) == ("exited", "MemoryError")
    limit = "it asked for more address space than memory_max allows, 200.0 MiB a process"
    peak = f"its memory peaked at {outcome.memory_bytes_max / MIB:.1f} MiB, which counts only what was in use"
    assert outcome.error_message == f"{limit}; {peak}"
    assert "in eat" in (outcome.traceback or "")


def test_a_command_that_fails_close_to_its_memory_limit_is_told_with_both_figures(harness: Harness) -> None:
    program = "held = bytearray(80 << 20); bytearray(1 << 30)"

    outcome = harness.run(*PYTHON, program, limits={"memory_max_bytes": 128 * MIB})

    assert outcome.exit_code == 1
    assert (outcome.error_message or "").endswith("and memory_max is 128.0 MiB of address space")


def test_a_kill_from_outside_is_told_as_that(harness: Harness) -> None:
    order = harness.start("sleep", "1000")
    os.kill(harness.started(order).pid, signal.SIGKILL)

    outcome = harness.ended(order)

    assert (outcome.ended, outcome.signal, outcome.error_type) == ("signalled", signal.SIGKILL, None)
    assert "from outside Rota" in (outcome.error_message or "")
    assert "its memory peaked at" in (outcome.error_message or "")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A control group with 64 MiB of memory; a job that enters it is killed by the kernel when it takes more."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        path = Path(base, f"rota-test-{os.getpid()}")
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / limit).write_text(str(64 * MIB))
            for swap, least in (("memory.memsw.limit_in_bytes", 64 * MIB), ("memory.swap.max", 0)):
                if (path / swap).exists():
                    (path / swap).write_text(str(least))
            yield path
            return
        except OSError:
            continue
        finally:
            path.rmdir()
    pytest.skip("no control group with a limit of memory can be made here, so the kernel kills nobody for want of it")


def test_a_job_that_the_kernel_kills_for_want_of_memory_is_told_apart(harness: Harness, small_cgroup: Path) -> None:
    eat = f"echo $$ > {small_cgroup}/cgroup.procs; exec {sys.executable} -I -S -c 'bytearray(1 << 28)'"

    outcome = harness.run("sh", "-c", eat)
    in_shell = harness.run("sh", "-c", 'sh -c "$0"; exit $?', eat)

    assert (outcome.ended, outcome.signal, outcome.error_type) == ("signalled", signal.SIGKILL, "OutOfMemory")
    peak = f"its memory peaked at {outcome.memory_bytes_max / MIB:.1f} MiB"
    assert outcome.error_message == f"killed while the kernel killed 1 process for want of memory; {peak}"
    assert (in_shell.exit_code, in_shell.error_type) == (128 + signal.SIGKILL, "OutOfMemory")


def test_so_is_an_executor_process(harness: Harness, small_cgroup: Path) -> None:
    pid = executor_of(harness, "thread")
    (small_cgroup / "cgroup.procs").write_text(str(pid))

    outcome = run(harness, "thread", "eat", {"size": 1 << 28})

    assert (outcome.ended, outcome.error_type) == ("lease_over", "ExecutorLost")
    killed = "killed by signal 9 while the kernel killed 1 process for want of memory"
    assert outcome.error_message == f"its executor process ended, {killed}"


def processes_of(user: str) -> list[int]:
    """Which processes of a user live: zombies are their reaper's."""
    uid = pwd.getpwnam(user).pw_uid
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if folder.stat().st_uid == uid and is_alive(int(folder.name)):
                found.append(int(folder.name))
    return found


FORK_BOMB = "bomb() { while :; do bomb & done; }; bomb"  # a shell that cannot fork ends, with 2


@pytest.mark.usefixtures("alone_as_nobody")
@as_root
def test_a_fork_bomb_ends_within_its_limit_and_leaves_no_process(harness: Harness) -> None:
    outcome = harness.run("/bin/sh", "-c", FORK_BOMB, user="nobody", limits={"processes_max": 40})

    assert (outcome.ended, outcome.exit_code, outcome.error_type) == ("exited", 2, None)
    assert outcome.leftovers < 40  # none, when all of them have met the limit and ended
    assert "processes_max is 40" in (outcome.error_message or "")
    assert processes_of("nobody") == []
    assert harness.run("true", user="nobody").exit_code == 0


@pytest.mark.usefixtures("alone_as_nobody")
@as_root
def test_a_fork_bomb_that_never_gives_up_ends_at_its_time_limit(harness: Harness) -> None:
    bomb = f"trap '' TERM; while :; do ({FORK_BOMB}) & wait $!; done"  # of bash, which tries again

    outcome = harness.run(
        "bash", "-c", bomb, user="nobody", limits={"processes_max": 40}, timeout_seconds=1.0, grace_seconds=1.0
    )

    assert outcome.ended == "timeout"
    assert processes_of("nobody") == []
    assert harness.run("true", user="nobody").exit_code == 0


def test_what_a_job_reads_from_and_writes_to_disks_is_counted_with_its_children(harness: Harness, folder: Path) -> None:
    path = folder / "file"
    write = f"dd if=/dev/zero of={path} bs=1M count=8 conv=fsync status=none"

    outcome = harness.run("sh", "-c", f"{write}; true")
    nothing = harness.run("true")

    if outcome.written_bytes == 0:
        pytest.skip(f"{folder} is not on a disk")
    assert outcome.written_bytes is not None
    assert outcome.written_bytes >= 8 * MIB
    assert nothing.written_bytes == 0
    assert outcome.read_bytes is not None
