"""The cgroup of an attempt: all that its job ever forks, held together by the kernel.

A process leaves its group by setsid, its parents by a double fork, its mark by clearing its environment. It leaves its
cgroup only by writing into that of another, for which it needs the rights of the worker.

Invariants: an attempt's directory is locked by its guardian as long as that lives, so what nobody has locked was left
by a dead one, and is killed. An attempt never fails because of its cgroup: what cannot be made or entered is said in
the log, and all that is done without cgroups is done anyway.

Used by guardians, the nursery and whoever forks a job, so imports stay few. Where directories may be made is decided in
``delegation``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time

from rota.execution.limits import number_in, read_facts
from rota.execution.linux import SWEEP_PAUSE_SECONDS, boottime, kill_if

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "run-"
ROUNDS_MAX = 20

# Limits of a job that hold for all of its processes together where the controller is there.
_LIMIT_FILES = (("memory_max_bytes", "memory.max"), ("processes_max", "pids.max"))


class Usage:
    """What all processes of a cgroup have used together; None where the kernel does not say."""

    __slots__ = ("cpu_seconds", "memory_bytes_max", "memory_kills", "read_bytes", "written_bytes")

    def __init__(self, path: str) -> None:
        microseconds = number_in(read_facts(f"{path}/cpu.stat"), b"\nusage_usec ")
        self.cpu_seconds = None if microseconds is None else microseconds / 1e6
        self.memory_bytes_max = number_in(read_facts(f"{path}/memory.peak"), b"\n")
        self.memory_kills = number_in(read_facts(f"{path}/memory.events"), b"\noom_kill ")
        disks = read_facts(f"{path}/io.stat")
        self.read_bytes = _sum_of(disks, b"rbytes=") if disks else None
        self.written_bytes = _sum_of(disks, b"wbytes=") if disks else None


def _sum_of(text: bytes, name: bytes) -> int:
    values = [word[len(name) :] for word in text.split() if word.startswith(name)]
    return sum(int(value) for value in values if value.isdigit())


class Cgroup:
    """The directory of one attempt, made and locked."""

    __slots__ = ("_lock", "holds", "path")

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.holds: list[str] = []  # the limits that are its business
        self._lock = lock

    @classmethod
    def make(cls, path: str) -> Cgroup:
        """Make it and lock it.

        Raises:
            OSError: it cannot be made, or somebody who sweeps was quicker to lock or remove it.
        """
        os.mkdir(path, 0o711)  # a job of another user may look up its own limits, and not take the lock
        lock = lock_directory(path)
        if lock is None:
            raise OSError(errno.EBUSY, "it is being swept", path)
        return cls(path, lock)

    def limit(self, limits: dict[str, Any]) -> None:
        """Have it hold what it can of these limits. The rest is for ``set_limits``."""
        for name, file in _LIMIT_FILES:
            if name in limits and _write(f"{self.path}/{file}", str(limits[name])):
                self.holds.append(name)
        if "memory_max_bytes" in self.holds:
            _write(f"{self.path}/memory.oom.group", "1")  # a job with one process killed out of it is no job

    def birth(self) -> dict[str, Any]:
        """Say what a process needs to enter it."""
        return {"path": self.path, "holds": self.holds}

    def has(self, pid: int) -> bool:
        """Whether this process has entered it."""
        return _is_in(pid, self.path)

    def kill_rest(self) -> int:
        """Kill what is left in it, and tell how many processes that were."""
        if is_empty(self.path):
            return 0
        count = len(processes_in(self.path))
        kill(self.path)
        return count

    def freeze(self) -> bool:
        """Hold all that is in it. Tell whether the kernel does."""
        return _write(f"{self.path}/cgroup.freeze", "1")

    def thaw(self) -> None:
        """Let all that is in it go on."""
        _write(f"{self.path}/cgroup.freeze", "0")

    def wait_until_empty(self, seconds_max: float) -> bool:
        """Wait until nothing lives in it; tell whether that is so."""
        return wait_until_empty(self.path, seconds_max)

    def remove(self) -> None:
        """Remove it, if nothing lives in it; else leave it to those who sweep."""
        remove(self.path)
        os.close(self._lock)


def name_for(run_id: int, attempt: int) -> str:
    """Make up the name of an attempt's directory: for people, and never used before."""
    return f"{PREFIX}{run_id:d}-{attempt:d}-{os.urandom(4).hex()}"


def enter(path: str) -> bool:
    """Move this process into a cgroup. Tell whether it went; why not is for the log."""
    try:
        descriptor = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)
    except OSError as error:
        say_without(path, error)
        return False
    return True


def say_without(path: str, error: OSError) -> None:
    """Write to standard error, which is a log, that an attempt does without its cgroup."""
    sys.stderr.write(f"process {os.getpid()}: no cgroup {path} for this attempt: {error.strerror}\n")
    sys.stderr.flush()


def lock_directory(path: str) -> int | None:
    """Lock a directory for as long as the descriptor that is returned is open, or this process lives.

    None when somebody else has it.

    Raises:
        OSError: there is no such directory, or it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def clear(path: str, seconds_max: float) -> None:
    """Kill all that is in a cgroup, and remove it; what cannot die meanwhile is left to those who sweep."""
    kill(path)
    if wait_until_empty(path, seconds_max):
        remove(path)


def sweep(folder: str, seconds_max: float) -> int:
    """Kill what dead guardians have left in the cgroups of this folder, and remove them.

    Tell how many processes it were. Attempts of all workers that were given this folder are in it: those whose guardian
    lives are locked.
    """
    killed = 0
    dead: list[tuple[str, int]] = []
    for path in _directories_in(folder):
        if not path.rpartition("/")[2].startswith(PREFIX):
            continue
        try:
            lock = lock_directory(path)
        except OSError:
            continue  # removed meanwhile
        if lock is not None:
            dead.append((path, lock))
            killed += len(processes_in(path))
            kill(path)
    give_up_at = boottime() + seconds_max
    for path, lock in dead:
        if wait_until_empty(path, give_up_at - boottime()):
            remove(path)
        os.close(lock)
    return killed


def kill(path: str) -> None:
    """Kill all that is in a cgroup and in those below it: at once from Linux 5.14 on, so that no fork is quicker."""
    if not _write(f"{path}/cgroup.kill", "1"):
        kill_one_by_one(path)


def kill_one_by_one(path: str) -> None:
    """Kill all that is in a cgroup and in those below it, for a kernel that cannot do it at once."""
    _write(f"{path}/cgroup.freeze", "1")  # what is held forks no more, and dies all the same
    for _ in range(ROUNDS_MAX):
        killed = [pid for pid in processes_in(path) if kill_if(pid, lambda pid: _is_in(pid, path))]
        if not killed:
            break
        time.sleep(SWEEP_PAUSE_SECONDS)
    _write(f"{path}/cgroup.freeze", "0")


def is_empty(path: str) -> bool:
    """Whether no process lives in a cgroup or below it, or there is no such cgroup. The dead do not count."""
    facts = read_facts(f"{path}/cgroup.events")
    return number_in(facts, b"\npopulated ") == 0 if facts else not os.path.isdir(path)


def wait_until_empty(path: str, seconds_max: float) -> bool:
    """Wait until nothing lives in a cgroup; tell whether that is so."""
    give_up_at = boottime() + seconds_max
    while not is_empty(path):
        if boottime() >= give_up_at:
            return False
        time.sleep(SWEEP_PAUSE_SECONDS)
    return True


def processes_in(path: str) -> list[int]:
    """List the processes in a cgroup and in those below it."""
    return [int(pid) for folder in _tree(path) for pid in read_facts(f"{folder}/cgroup.procs").split()]


def remove(path: str) -> None:
    """Remove a cgroup in which nothing lives, with those that the job has made below it."""
    try:
        os.rmdir(path)
        return
    except OSError:
        pass  # there are others below it, or it is gone
    for folder in reversed(_tree(path)):
        try:
            os.rmdir(folder)
        except OSError:
            pass  # gone already; if not, a sweep finds it


def _tree(path: str) -> list[str]:
    """List a directory and all below it, parents first."""
    found = [path]
    for folder in found:
        found += _directories_in(folder)
    return found


def _directories_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_in(pid: int, path: str) -> bool:
    # Seen from wherever the cgroup file system is mounted, the path begins otherwise; it ends in the same names.
    parent, _, name = path.rpartition("/")
    own = read_facts(f"/proc/{pid}/cgroup").rpartition(b"\n0::")[2].split(b"\n")[0] + b"/"
    return f"/{parent.rpartition('/')[2]}/{name}/".encode() in own


def _write(path: str, text: str) -> bool:
    """Write to a file of the kernel's. Tell whether it is there and takes it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
