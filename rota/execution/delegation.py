"""Where a worker may make cgroups: in what was given to it, and nowhere else.

Invariant: unless the operator names a directory, one is used only when systemd has marked it as delegated, or when it
is the root of a container of which this worker is process 1, and alone in it. No process but that worker's own is ever
moved, and only in that container.

Called by the node when it begins, before it claims anything. Says in a sentence, for the operator, what it found.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rota.errors import ConfigError
from rota.execution.cgroup import Cgroup, name_for

AUTO = "auto"
OFF = "off"

# Below the directory that was given: the attempts of all workers that it was given to, and process 1 of a container.
ATTEMPTS_NAME = "rota"
WORKER_NAME = "rota-worker"
CONTROLLERS = ("memory", "pids", "io")
ENTER_SECONDS_MAX = 5.0
# As systemd names what it makes for itself; a subgroup that it made for a service (DelegateSubgroup=) is named by hand.
_UNIT = re.compile(r".*\.(service|scope|slice|mount|socket|swap|timer|target|path|automount|device)")


@dataclass(frozen=True, slots=True)
class Delegation:
    """What was given: the directory for attempts, empty for none; and a sentence about it."""

    folder: str
    text: str


class NotGiven(Exception):
    """Why no directory may be used."""


def find_delegation(setting: str) -> Delegation:
    """Find the directory in which attempts may get cgroups, and make it ready.

    ``setting`` is ``auto``, ``off`` or the absolute path of a directory.

    Raises:
        ConfigError: that path cannot be used.
    """
    if setting == OFF:
        return Delegation("", "off, as the setting cgroup says")
    try:
        if setting != AUTO:
            return prepare(Path(setting))
        own, mount = find_own(
            Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text().splitlines()
        )
        given = choose(own, mount, is_first=os.getpid() == 1)
        if given == mount:
            _step_aside(given)
        return prepare(given)
    except (NotGiven, OSError) as error:
        why = f"{error.filename or setting}: {error.strerror}" if isinstance(error, OSError) else str(error)
        if setting != AUTO:
            raise ConfigError(f"cgroup {setting!r} cannot be used: {why}") from error
        return Delegation("", f"not used: {why}")


def find_own(cgroups: str, mounts: list[str]) -> tuple[Path, Path]:
    """Find this process's directory and the mount that it is in, by what /proc/self/cgroup and mountinfo say.

    Raises:
        NotGiven: there is none, or it cannot be seen.
    """
    own = next((line[3:] for line in cgroups.splitlines() if line.startswith("0::")), None)
    mounted = [fields for fields in map(str.split, mounts) if _is_cgroup2(fields)]
    if own is None or not mounted:
        raise NotGiven("cgroup v2 is not mounted")
    for fields in mounted:
        root = fields[3].rstrip("/")  # which part of the tree is mounted there
        if ".." not in own.split("/") and f"{own}/".startswith(f"{root}/"):
            return Path(fields[4], own[len(root) :].lstrip("/")), Path(fields[4])
    raise NotGiven("the worker's own cgroup cannot be seen from where it is")


def _is_cgroup2(fields: list[str]) -> bool:
    # Optional fields end at a lone dash; the type of the file system follows.
    return "-" in fields and fields[fields.index("-") + 1 : fields.index("-") + 2] == ["cgroup2"]


def choose(own: Path, mount: Path, *, is_first: bool) -> Path:
    """Choose the directory that was given to this process, which is in ``own``; ``is_first``: it is process 1.

    Raises:
        NotGiven: none was.
    """
    if own != mount:
        if is_delegated(own):
            return own
        # A subgroup that systemd made in a delegated service: nobody else is beside it.
        if is_delegated(own.parent) and not _UNIT.fullmatch(own.name) and not _processes_in(own.parent):
            return own.parent
        raise NotGiven(f"systemd has not delegated {own} to the worker (Delegate=yes)")
    if not (own / "cgroup.events").exists():
        raise NotGiven("the worker is in the machine's root cgroup, which belongs to nobody")
    if not is_first:
        raise NotGiven("the worker is not process 1 of its container, so others may use its cgroup")
    if _processes_in(own) - {"1"}:
        raise NotGiven(f"other processes than the worker are in {own}")
    return own


def is_delegated(path: Path) -> bool:
    """Tell whether systemd has marked a directory as given away."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            pass  # not marked, or not for our eyes
    return False


def _step_aside(given: Path) -> None:
    """Move this process, which is 1, to a leaf: controllers are for the children of a directory without processes."""
    if _words_of(given / "cgroup.controllers") & set(CONTROLLERS):
        leaf = given / WORKER_NAME
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0")


def prepare(given: Path) -> Delegation:
    """Make the directory for attempts in the one that was given, with what controllers there are, and try it.

    Raises:
        NotGiven, OSError: it cannot be used.
    """
    if not (given / "cgroup.subtree_control").is_file():
        raise NotGiven(f"{given} is no directory of cgroup v2")
    attempts = given / ATTEMPTS_NAME
    attempts.mkdir(mode=0o755, exist_ok=True)
    for folder in (given, attempts):
        enable(folder)
    _try(attempts)
    controllers = _words_of(attempts / "cgroup.subtree_control")
    found = [name for name in CONTROLLERS if name in controllers]
    limits = ", ".join(found) if found else "no controllers, so limits are those of single processes"
    return Delegation(str(attempts), f"used: {attempts} ({limits})")


def enable(folder: Path, names: Iterable[str] = CONTROLLERS) -> None:
    """Hand controllers on to the children of a directory, those that can be."""
    control = folder / "cgroup.subtree_control"
    for name in names:
        if name in _words_of(folder / "cgroup.controllers") - _words_of(control):
            try:
                control.write_text(f"+{name}")
            except OSError:
                pass  # processes are in it, or it is not ours to give


def _try(attempts: Path) -> None:
    """Have a process enter a cgroup there, as jobs will."""
    trial = Cgroup.make(f"{attempts}/{name_for(0, 0)}")
    try:
        if not Path(trial.path, "cgroup.freeze").exists():
            raise NotGiven(f"{attempts} has no cgroup.freeze: Linux 5.2 or later is needed")
        code = _send_into(trial.path)
        if code is None:
            raise NotGiven(f"entering {attempts} takes longer than {ENTER_SECONDS_MAX:g} s")
        if code:
            why = os.strerror(code)
            raise NotGiven(f"no process of this user may enter {attempts} from where the worker is: {why}")
    finally:
        trial.wait_until_empty(ENTER_SECONDS_MAX)
        trial.remove()


def _send_into(path: str) -> int | None:
    """Have a process of its own enter a cgroup; give the number of its error, 0 for none, None if it does not end."""
    pid = os.fork()  # by threads or not: it does nothing but this
    if not pid:
        code = errno.EIO
        try:
            os.write(os.open(f"{path}/cgroup.procs", os.O_WRONLY), b"0")
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    pidfd = os.pidfd_open(pid)
    if not select.select([pidfd], [], [], ENTER_SECONDS_MAX)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def _processes_in(folder: Path) -> set[str]:
    return _words_of(folder / "cgroup.procs")


def _words_of(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()
