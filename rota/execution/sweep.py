"""The last killer: processes of jobs whose guardian is dead, found by the mark in their environment.

Needed when nursery and guardian were killed together: the job itself dies of its death signal, but what it had detached
lives on. Every process of a job carries ``ROTA_CONTROL``, the path of a socket on which its guardian listens as long as
it lives. Nobody listening: the guardian is dead, and the process must go. A process that has cleared its environment,
or that belongs to a user whom we may not look at, is not found. Called by the crew when a worker starts, and when a
guardian was lost together with its nursery.
"""

from __future__ import annotations

import os
import socket
import time

from rota.execution.control import CONTROL_FOLDER
from rota.execution.linux import SWEEP_PAUSE_SECONDS, kill_if, may_have_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VARIABLE = b"ROTA_CONTROL="
ROUNDS_MAX = 20  # each finds what was forked while the round before was looking
LOOKS_MAX = 1000  # at one process that is becoming another program; a second


def sweep_dead(folder: str) -> int:
    """Kill what dead guardians of this folder have left, and remove their sockets. Tell how many processes it were."""
    prefix = f"{folder}/{CONTROL_FOLDER}/"
    dead: dict[str, bool] = {}

    def is_of_dead(path: str) -> bool:
        if path not in dead:
            dead[path] = not _is_listened_to(path)
        return dead[path]

    killed = _sweep(prefix, is_of_dead)
    remove_dead_sockets(prefix)
    return killed


def sweep_marked(path: str) -> int:
    """Kill the processes of one attempt, whose guardian is known to be dead. Tell how many it were."""
    return _sweep(path, lambda marked: marked == path)


def _sweep(prefix: str, is_swept: Callable[[str], bool]) -> int:
    killed: set[int] = set()
    for _ in range(ROUNDS_MAX):
        found = [pid for pid, path in _marked_processes(prefix) if is_swept(path) and kill_if(pid, _carries(path))]
        if not found:
            break
        killed.update(found)
        time.sleep(SWEEP_PAUSE_SECONDS)  # a process that was killed is there for a moment longer
    return len(killed)


def _marked_processes(prefix: str) -> Iterable[tuple[int, str]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (path := _mark_of(int(name))) is not None and path.startswith(prefix):
            yield int(name), path


def _mark_of(pid: int) -> str | None:
    environment = _environment_of(pid)
    for variable in environment.split(b"\0"):
        if variable.startswith(VARIABLE):
            return os.fsdecode(variable[len(VARIABLE) :])
    return None


def _environment_of(pid: int) -> bytes:
    for _ in range(LOOKS_MAX):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            return b""  # gone, a zombie, or not ours to look at
        if environment or not may_have_environment(pid):
            return environment
        time.sleep(SWEEP_PAUSE_SECONDS)  # it is becoming another program, and must not slip through meanwhile
    return b""


def _carries(path: str) -> Callable[[int], bool]:
    return lambda pid: _mark_of(pid) == path


def _is_listened_to(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # with a full backlog it is alive, and would let us wait
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def remove_dead_sockets(prefix: str) -> None:
    """Remove the sockets under ``prefix`` on which nobody listens any more."""
    for name in os.listdir(prefix):
        path = prefix + name
        # A hidden name belongs to a guardian that does not listen yet, unless the process of that number is gone.
        is_alive = os.path.exists(f"/proc/{name[1:].split('-')[0]}") if name[0] == "." else _is_listened_to(path)
        if not is_alive:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
