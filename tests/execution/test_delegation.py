"""Which directory a worker takes for cgroups: in the kernel's own tree, marked as systemd does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.errors import ConfigError
from rota.execution import delegation
from rota.execution.delegation import NotGiven, choose, enable, find_delegation, find_own, prepare
from tests.execution.cgroups import given_directory, pids_in
from tests.execution.harness import ROOT, wait_until

# A worker's beginning: in a cgroup, as a user, and with what it was told.
BEGIN = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from rota.execution.delegation import find_delegation
into, user, setting = sys.argv[1:]
open(into + "/cgroup.procs", "w").write("0")
os.setgid(int(user)); os.setuid(int(user))
print(find_delegation(setting).text)
"""
NOBODY = 65534


@pytest.fixture
def given() -> Iterator[Path]:
    with given_directory() as path:
        yield path


def begin(into: Path, *, user: int = 0, setting: str = "auto") -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN, str(into), str(user), setting], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def delegate(path: Path, user: int) -> None:
    """Give a directory away as systemd does."""
    os.setxattr(path, "user.delegate", b"1")
    for one in (path, *(path / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
        os.chown(one, user, user)


@pytest.mark.parametrize("user", [0, NOBODY])
def test_a_directory_that_systemd_has_delegated_is_used(given: Path, user: int) -> None:
    delegate(given, user)

    assert begin(given, user=user).startswith(f"used: {given}/rota (")
    assert (given / "rota").is_dir()
    assert list((given / "rota").glob("run-*")) == []


def test_one_that_it_has_not_is_not_even_by_root(given: Path) -> None:
    assert begin(given) == f"not used: systemd has not delegated {given} to the worker (Delegate=yes)"
    assert not (given / "rota").exists()


def test_what_is_above_belongs_to_others_unless_systemd_has_made_a_subgroup(given: Path) -> None:
    delegate(given, 0)
    subgroup, unit = given / "main", given / "other.service"
    subgroup.mkdir()
    unit.mkdir()

    assert begin(unit).startswith(f"not used: systemd has not delegated {unit}")
    assert not (given / "rota").exists()
    assert begin(subgroup).startswith(f"used: {given}/rota (")


def test_what_is_above_is_not_used_when_processes_are_in_it(given: Path) -> None:
    delegate(given, 0)
    (given / "main").mkdir()
    with subprocess.Popen(["sleep", "1000"]) as process:
        (given / "cgroup.procs").write_text(str(process.pid))

        told = begin(given / "main")
        process.kill()

    assert told.startswith(f"not used: systemd has not delegated {given}/main")


def test_a_directory_that_is_delegated_to_another_user_is_not_used(given: Path) -> None:
    os.setxattr(given, "user.delegate", b"1")

    assert begin(given, user=NOBODY) == f"not used: {given}/rota: Permission denied"


def test_off_is_off(given: Path) -> None:
    delegate(given, 0)

    assert begin(given, setting="off") == "off, as the setting cgroup says"
    assert not (given / "rota").exists()


def test_the_machine_s_own_root_is_never_taken() -> None:
    mount = Path("/sys/fs/cgroup/unified")
    if not (mount / "cgroup.procs").exists() or (mount / "cgroup.events").exists():
        pytest.skip("NOT TESTED: the root of cgroup v2 is not to be seen here")

    for is_first in (False, True):
        with pytest.raises(NotGiven, match="root cgroup"):
            choose(mount, mount, is_first=is_first)


def test_a_prepared_path_is_used_and_a_bad_one_refused_with_its_reason(given: Path, tmp_path: Path) -> None:
    assert find_delegation(str(given)).folder == f"{given}/rota"
    with pytest.raises(ConfigError, match="is no directory of cgroup v2"):
        find_delegation(str(tmp_path))
    with pytest.raises(ConfigError, match="not-there is no directory"):
        find_delegation(str(given / "not-there"))


def test_a_path_that_jobs_cannot_enter_from_where_the_worker_is_is_refused(given: Path) -> None:
    # Below it all is the user's; but to bring a process there takes the rights for what is above both.
    inside, outside = given / "inside", given / "outside"
    for path in (inside, outside):
        path.mkdir()
        delegate(path, NOBODY)

    told = begin(outside, user=NOBODY, setting=str(inside))

    assert f"no process of this user may enter {inside}/rota from where the worker is: Permission denied" in told
    assert list((inside / "rota").glob("run-*")) == []


def test_a_threaded_path_is_refused(given: Path) -> None:
    (given / "cgroup.type").write_text("threaded")

    with pytest.raises(ConfigError, match="Operation not supported"):
        find_delegation(str(given))


def test_controllers_are_handed_on_where_no_process_is_in_the_way(given: Path) -> None:
    # The only controller that the kernel may have left to version 2 on a machine that has memory in version 1.
    names = (given / "cgroup.controllers").read_text().split()
    if not names:
        pytest.skip("NOT TESTED: cgroup v2 has no controller at all on this machine")
    busy, free = given / "busy", given / "free"
    enable(given, names[:1])
    for path in (busy, free):
        path.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as process:
        (busy / "cgroup.procs").write_text(str(process.pid))

        for path in (busy, free):
            enable(path, names[:1])
        told = [(path / "cgroup.subtree_control").read_text().strip() for path in (given, busy, free)]
        process.kill()

    assert told == [names[0], "", names[0]]


# As in a container: its own tree of cgroups and processes. The process outside of it can be moved away meanwhile.
CONTAIN = (
    'echo 0 > "$0/cgroup.procs"; exec unshare --cgroup --pid --fork --mount --mount-proc '
    "sh -c 'mount -t tmpfs none /mnt && mkdir /mnt/c && mount -t cgroup2 none /mnt/c && "
    'until test -e "$0"; do sleep 0.01; done; exec "$@"\' "$@"'
)
LOOK = (
    f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "from rota.execution.delegation import find_delegation\n"
    "print(os.getpid(), find_delegation('auto').text)"
)
BELOW = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {LOOK!r}]).returncode)"


def contain(given: Path, folder: Path, program: str, *, is_alone: bool) -> str:
    """Run a program as process 1 of a container whose cgroup is ``given``."""
    go = folder / "go"
    go.unlink(missing_ok=True)
    command = ["sh", "-c", CONTAIN, str(given), str(go), sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(pids_in(given)) > 1 or process.poll() is not None, "both are in it")
        if is_alone and process.poll() is None:
            (given.parent / "cgroup.procs").write_text(str(process.pid))
        go.touch()
        said, error = process.communicate(timeout=30)
    if "unshare" in error or "mount" in error:
        pytest.skip(f"NOT TESTED: no namespace may be made here: {error.strip()[:200]}")
    return said + error


def test_as_process_1_and_alone_in_a_container_it_takes_the_container_s_root(given: Path, tmp_path: Path) -> None:
    below = contain(given, tmp_path, BELOW, is_alone=True)
    beside_another = contain(given, tmp_path, LOOK, is_alone=False)
    assert not (given / "rota").exists()

    alone = contain(given, tmp_path, LOOK, is_alone=True)

    assert "not used: the worker is not process 1 of its container" in below
    assert "1 not used: other processes than the worker are in /mnt/c" in beside_another
    assert alone.startswith("1 used: /mnt/c/rota (")
    assert (given / "rota").is_dir()


MOUNTS = (
    "25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
    "31 25 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate",
)


def test_the_own_directory_is_found_below_its_mount() -> None:
    found = find_own("9:name=systemd:/x\n0::/system.slice/rota.service\n", [*MOUNTS])

    assert found == (Path("/sys/fs/cgroup/system.slice/rota.service"), Path("/sys/fs/cgroup"))


def test_where_a_part_of_the_tree_is_mounted_only_what_is_in_it_is_found() -> None:
    part = [MOUNTS[0], "31 25 0:27 /docker/a /sys/fs/cgroup rw - cgroup2 cgroup2 rw"]

    assert find_own("0::/docker/a\n", part) == (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup"))
    assert find_own("0::/docker/a/b\n", part)[0] == Path("/sys/fs/cgroup/b")
    for elsewhere in ("0::/docker/ab\n", "0::/\n", "0::/../other\n"):
        with pytest.raises(NotGiven, match="cannot be seen"):
            find_own(elsewhere, part)


def test_without_version_2_there_is_none() -> None:
    with pytest.raises(NotGiven, match="not mounted"):
        find_own("3:memory:/x\n", [MOUNTS[0]])
    with pytest.raises(NotGiven, match="not mounted"):
        find_own("0::/x\n", [MOUNTS[0]])


def test_what_is_prepared_names_the_controllers_that_attempts_get(given: Path) -> None:
    found = (given / "cgroup.controllers").read_text().split()
    if {"memory", "pids", "io"} & set(found):
        pytest.skip(f"NOT TESTED: this machine has {found}, and what is said without them cannot be seen")

    assert "no controllers, so limits are those of single processes" in prepare(given).text


def test_a_path_that_is_frozen_is_refused(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegation, "ENTER_SECONDS_MAX", 0.1)
    (given / "cgroup.freeze").write_text("1")

    with pytest.raises(ConfigError, match="takes longer than"):
        find_delegation(str(given))

    assert list((given / "rota").glob("run-*")) == []
