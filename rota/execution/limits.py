"""What a job's processes may use: applied to a process between fork and exec, and read off it when it has ended.

Invariant: a limit that was asked for holds, or the job is not started and its run says why. Who has not the rights for
one is refused by the kernel; ``processes_max`` for root, which the kernel takes and does not keep, is refused here.
Called by whoever forks jobs; imports stay few.

All are limits of a process, which its children inherit anew, but ``processes_max``: Linux counts the processes and
threads of a user on the whole machine there. ``memory_max`` is address space, so a little more than is ever used.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds between SIGXCPU, which ends a process unless it prepared for it, and SIGKILL.
CPU_GRACE_SECONDS = 5
MEMORY_KILLS_SECONDS = 60.0
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
# The number of ioprio_set(2), which has no function in the C library.
_IOPRIO_SET = {
    "x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "armv7l": 314, "armv6l": 314, "i686": 289,
    "ppc64le": 273, "s390x": 282,
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


def set_urgency(nice: int | None, ionice: list[int] | None) -> None:
    """Say how urgent this process is, for processors and disks; while it still has its worker's rights.

    Raises:
        OSError: the worker may not, or this kernel cannot.
    """
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        # Where sessions are scheduled as groups, nice decides within one only, and each job has one of its own.
        try:
            descriptor = os.open("/proc/self/autogroup", os.O_WRONLY)
        except OSError:
            descriptor = -1  # this kernel does not
        if descriptor >= 0:
            try:
                os.write(descriptor, str(nice).encode())
            except OSError:
                pass  # it may be changed ten times a second on a machine, by those who are not root
            finally:
                os.close(descriptor)
    if ionice is not None:
        number = _IOPRIO_SET.get(os.uname().machine)
        if number is None:
            raise OSError(0, f"it is not known how on {os.uname().machine}")
        priority = ionice[0] << _IOPRIO_CLASS_SHIFT | ionice[1]
        if _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, priority) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def set_limits(limits: dict[str, Any]) -> None:
    """Limit this process, and all that it will fork. The last thing before exec, as the user that it runs as.

    Raises:
        OSError, ValueError: one cannot be set, or would not hold.
    """
    if (count := limits.get("processes_max")) is not None:
        if os.geteuid() == 0:
            raise PermissionError(1, "Linux does not count the processes of root: name another user in run_as")
        _lower(resource.RLIMIT_NPROC, count, count)
    if (seconds := limits.get("cpu_max_seconds")) is not None:
        _lower(resource.RLIMIT_CPU, int(seconds), int(seconds) + CPU_GRACE_SECONDS)
    if (size := limits.get("memory_max_bytes")) is not None:
        _lower(resource.RLIMIT_AS, size, size)


def _lower(which: int, soft: int, hard: int) -> None:
    """Set a limit; where the worker has a lower one of its own that cannot be raised, that one stays."""
    _, own = resource.getrlimit(which)
    if own != resource.RLIM_INFINITY and os.geteuid() != 0:
        soft, hard = min(soft, own), min(hard, own)
    resource.setrlimit(which, (soft, hard))


def become_groups(names: list[str]) -> None:
    """Run with these groups and no other, the first as the process's own.

    Raises:
        LookupError: this machine has no such group.
        OSError: the worker is not root.
    """
    import grp  # here, in the child: asking a directory service may take its time

    numbers: list[int] = []
    for name in names:
        try:
            numbers.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            raise LookupError(f"there is no group {name!r} on this machine") from None
    os.setgroups(numbers)
    os.setresgid(numbers[0], numbers[0], numbers[0])


def count_memory_kills() -> int | None:
    """Tell how often the kernel has killed a process of this machine for want of memory; None where it does not say."""
    return number_in(read_facts("/proc/vmstat"), b"\noom_kill ")


class MemoryKills:
    """How many processes of this machine the kernel has killed for want of memory lately: within a minute or two.

    Looked at anew now and then, so that what happened to others days ago is not taken for the end of this job. Two
    looks are kept, since the kill may lie before the last.
    """

    def __init__(self, now: float) -> None:
        self._seen = [count_memory_kills()]  # at the last two looks
        self._at = now

    def look(self, now: float) -> None:
        """Look again when it is time; to be called often."""
        if now >= self._at + MEMORY_KILLS_SECONDS:
            self._seen = [self._seen[-1], count_memory_kills()]
            self._at = now

    def count(self) -> int | None:
        """Count those since the last look but one; None where the kernel does not say."""
        before, now = self._seen[0], count_memory_kills()
        return None if before is None or now is None else now - before


def read_disk_bytes(pid: int) -> tuple[int | None, int | None]:
    """Tell how much a process, and those it waited for, has read from disks and written to them.

    For a process that has ended and was not reaped: then it is all. None where the kernel does not say.
    """
    text = read_facts(f"/proc/{pid}/io")
    return number_in(text, b"\nread_bytes: "), number_in(text, b"\nwrite_bytes: ")


def explain_end(
    code: int,
    limits: dict[str, Any],
    *,
    cpu_seconds: float,
    own_cpu_seconds: float,
    memory_bytes_max: int,
    memory_kills: int | None,
    leftovers: int,
    is_address_space: bool = True,
) -> tuple[str | None, str | None]:
    """Say what can be known of why a job ended badly: the type of its error, where that is certain, and a sentence.

    ``code`` is its exit code, or minus the signal; ``memory_kills`` how many processes of this machine the kernel has
    killed for want of memory meanwhile, None where it does not say. A shell passes on a child's signal as 128 more.
    Unless a cgroup holds ``memory_max``, it ``is_address_space``, of which more is reserved than used.
    """
    cpu_max = limits.get("cpu_max_seconds")
    memory_max = limits.get("memory_max_bytes")
    peak = f"its memory peaked at {say_bytes(memory_bytes_max)}"
    number = -code if code < 0 else code - 128
    if cpu_max is not None:
        # The kernel counts ticks for the limit, and measures for what it tells: on virtual machines that share their
        # processors with others the two were seen to differ by 30 %.
        is_late = own_cpu_seconds > 0.6 * (cpu_max + CPU_GRACE_SECONDS)
        if number == signal.SIGXCPU or (code == -signal.SIGKILL and is_late):
            said = f"it used {cpu_seconds:.1f} s, and cpu_max is {cpu_max:g} s"
            if round(cpu_seconds, 1) < cpu_max:
                said += (
                    ", for which the kernel counts whole clock ticks: of a process that is often interrupted, too many"
                )
            return "CpuLimit", said
    if number == signal.SIGKILL and memory_kills:
        return "OutOfMemory", f"killed {say_memory_kills(memory_kills)}; {peak}"
    remarks: list[str] = []
    if code == -signal.SIGKILL:
        guess = " that may have been the kernel, for want of memory;" if memory_kills is None else ""
        remarks.append(f"that came from outside Rota;{guess} {peak}")
    elif memory_max is not None and code and 2 * memory_bytes_max > memory_max:
        of = " of address space" if is_address_space else ""
        remarks.append(f"{peak}, and memory_max is {say_bytes(memory_max)}{of}")
    if code and (count := limits.get("processes_max")) is not None:
        were = "process that it left was" if leftovers == 1 else "processes that it left were"
        remarks.append(f"processes_max is {count}" + (f", and {leftovers} {were} killed" if leftovers else ""))
    return None, "; ".join(remarks) or None


def say_time_limit(
    limit_seconds: float | None, ran_seconds: float, limited_by: str, told: str | None, *, grace_seconds: float | None
) -> str | None:
    """Say how long a job ran that was stopped by its time limit or the deadline of its run, that it was killed, and
    what it told itself; ``grace_seconds`` is what it had for ending by itself, and did not, None where it did."""
    said: list[str] = []
    if limit_seconds is not None and limited_by == "timeout":
        said.append(f"it ran for {ran_seconds:.1f} s, and its timeout is {limit_seconds:g} s")
    if grace_seconds is not None:
        said.append(f"it did not end within {grace_seconds:g} s of being told to, and was killed")
    if told:
        said.append(told)
    return "; ".join(said) or None


def say_memory_kills(count: int) -> str:
    """Say that the kernel has killed so many processes of this machine meanwhile."""
    return f"while the kernel killed {count} process{'es' if count > 1 else ''} for want of memory"


def say_bytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 2**20:.1f} MiB"


def read_own_cpu_seconds(pid: int) -> float:
    """Tell how much CPU time a process that was not reaped has used, without those it waited for."""
    fields = read_facts(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else 0.0


def read_facts(path: str) -> bytes:
    """Read a file of the kernel's, with an empty line before its first; nothing where it does not say."""
    try:
        with open(path, "rb", buffering=0) as file:
            return b"\n" + file.read()
    except OSError:
        return b""  # this kernel does not say, or not to us


def number_in(text: bytes, name: bytes) -> int | None:
    """Find the number that follows ``name`` in what ``read_facts`` gave."""
    words = text.partition(name)[2].split(None, 1)
    return int(words[0]) if words and words[0].isdigit() else None
