"""What Linux (5.4 and later) knows about processes and Python does not offer: subreapers, death signals, children.

Invariant: a process is only killed while it is certain who it is: an own child that has not been reaped, or one that is
held by a pidfd and still has the parent it was found under. A recycled pid is never hit.
Called by the nursery and the guardians. Imports stay few: each fork of a guardian pays for them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PF_KTHREAD = 0x00200000

_libc = ctypes.CDLL(None, use_errno=True)

SWEEP_PAUSE_SECONDS = 0.001


def boottime() -> float:
    """Seconds on the clock that also runs while the host sleeps; leases are counted on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process, so that none escapes by a double fork."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends. Exit at once if it has ended already.

    To be called after privileges were dropped, which clears it. It reaches this one process, and fires when the
    parent's forking *thread* ends: parents have one thread.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(127)


def outlive_parent() -> None:
    """Take ``die_with_parent`` back."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def set_process_name(name: str) -> None:
    """Name this process for ``ps`` (15 bytes)."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def children_of(pid: int) -> list[int]:
    """List the children of a process, whichever of its threads they are under, zombies included."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    except FileNotFoundError:
        # Either it or a thread is gone, or the kernel was built without CONFIG_PROC_CHILDREN: then ask everyone.
        if not os.path.exists(f"/proc/{pid}/task"):
            return []
        candidates = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [candidate for candidate in candidates if _state_and_parent(candidate)[1] == pid]
    except (ProcessLookupError, PermissionError):
        return []
    return found


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Tell state letter and parent of a process; ``("", 0)`` when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything, so count from the last parenthesis.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[1])


def may_have_environment(pid: int) -> bool:
    """Tell whether a process whose environment was read as empty may have one all the same.

    Linux shows none of a process that is on its way into its new program (between execve and the first instruction),
    nor to a reader who had opened the old program's. Kernel threads, zombies and those that were given none have none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    if fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_KTHREAD:
        return False
    env_start, env_end = int(fields[47]), int(fields[48])  # numbers 50 and 51 of proc_pid_stat(5)
    return env_end == 0 or env_end > env_start


def kill_child_of(parent_pid: int, pid: int) -> bool:
    """Kill ``pid`` if it lives and is a child of ``parent_pid``. Tell whether it was."""

    def is_living_child(pid: int) -> bool:
        state, parent = _state_and_parent(pid)
        return parent == parent_pid and state not in ("Z", "X", "")

    return kill_if(pid, is_living_child)


def kill_if(pid: int, is_meant: Callable[[int], bool], number: int = signal.SIGKILL) -> bool:
    """Kill ``pid`` if, held fast, it is the one that is meant. A number that was given to another is spared.

    Or send it another signal.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_meant(pid):
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def signal_descendants(root_pid: int, number: int, rounds_max: int = 20) -> None:
    """Send a signal to everything below ``root_pid``, parents first, and again to what came meanwhile.

    What is stopped forks no more, so with SIGSTOP this comes to an end.
    """
    reached: set[int] = set()
    for _ in range(rounds_max):
        is_complete = True
        parents = [root_pid]
        while parents:
            parent = parents.pop()
            for child in children_of(parent):
                parents.append(child)
                if child not in reached:
                    is_complete = False
                    # One that has just been orphaned is found again, in another place.
                    if kill_if(child, lambda pid: _state_and_parent(pid)[1] == parent, number):  # noqa: B023
                        reached.add(child)
        if is_complete:
            return


def kill_descendants(root_pid: int, rounds_max: int = 20) -> int:
    """Kill everything below ``root_pid``, but not it; parents first, until nothing lives or the rounds are used up.

    For the nursery, when a guardian that is stopped did not do it: the dead become the guardian's zombies.
    """
    killed = 0
    for _ in range(rounds_max):
        found = 0
        parents = [root_pid]
        while parents:
            parent = parents.pop()
            for child in children_of(parent):
                found += kill_child_of(parent, child)
                parents.append(child)
        if not found:
            break
        killed += found
        time.sleep(SWEEP_PAUSE_SECONDS)
    return killed


def start_of(pid: int) -> int:
    """Tell when a process began, in clock ticks after boot: with its pid, who it is. 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def kill_tree(root_pid: int, began: int) -> None:
    """Kill a subreaper that began at that tick, and everything below it.

    For the nursery, when the job is no descendant of its guardian: a warm parent has forked it.
    """
    try:
        pidfd = os.pidfd_open(root_pid)
    except OSError:
        return
    try:
        if start_of(root_pid) == began:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)  # so that it makes no more of them
            kill_descendants(root_pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass  # it has ended meanwhile, or may not be signalled by this user
    finally:
        os.close(pidfd)


def reset_signals() -> None:
    """Take the usual signals as a fresh process does, whatever the worker was started with (``nohup``, ``&``).

    A process that another one executes later would inherit what is ignored.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


def kill_children(spared: Container[int] = ()) -> None:
    """Kill every child of this process that is not spared. None has been reaped, so no pid can be a stranger's."""
    for pid in children_of(os.getpid()):
        if pid not in spared:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def sweep_children(seconds_max: float) -> tuple[int, bool]:
    """Kill and reap children, their orphans included, until there are none.

    Tells how many died of it, and whether none is left. A process that cannot die (it waits for a broken disk) is given
    up after ``seconds_max``.
    """
    killed = 0
    give_up_at = boottime() + seconds_max
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return killed, True
        if pid:
            killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        elif boottime() >= give_up_at:
            return killed, False
        else:
            kill_children()
            time.sleep(SWEEP_PAUSE_SECONDS)
