"""The nursery: a small process that forks guardians, clears up after those that die, and starts the stand-in.

Invariants: one thread (a guardian's children die when the thread that forked it ends); no job outlives its guardian,
since orphans of a guardian become the nursery's children and are killed; a job whose lease has ended is killed even
when its guardian is stopped. It stays until its worker and its last guardian have left. Started by the crew as ``python
-I -S``, so that each fork copies little.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from mmap import mmap

from rota import crash
from rota.execution.attempt import CALL, SLOT, Post
from rota.execution.cgroup import clear, kill
from rota.execution.guardian import Guardian, traceback_to_log
from rota.execution.keeper import Keeper
from rota.execution.linux import (
    become_subreaper,
    boottime,
    kill_children,
    kill_descendants,
    kill_tree,
    reset_signals,
    set_process_name,
    sweep_children,
)
from rota.execution.stand_in import Caller, Program
from rota.execution.wire import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

LOOK_SECONDS = 1.0  # how often leases are looked at; guardians wake the nursery when that would be too late
LOOK_AGAIN_SECONDS = 0.02
SWEEP_SECONDS_MAX = 2.0
CLEAR_SECONDS_MAX = 0.5  # what was killed dies in milliseconds; what waits for a broken disk is found by a later worker


def main(
    folder: str, descriptor: int, nofile_soft: int, nofile_hard: int, output_bytes_max: int, *, cgroups: str = ""
) -> None:
    """Run the nursery of ``folder`` for the worker at the other end of ``descriptor``.

    Attempts get cgroups in the directory ``cgroups``, if it is given.
    """
    become_subreaper()
    set_process_name("rota-nursery")
    reset_signals()
    gc.freeze()
    gc.disable()  # a collection would write to every page that the guardians share
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    Nursery(connection, folder, (nofile_soft, nofile_hard), output_bytes_max, cgroups).run()


class Nursery:
    """Forks guardians on request, reaps, and kills what is left of the dead and what the stopped did not kill."""

    def __init__(
        self,
        connection: socket.socket,
        folder: str,
        nofile: tuple[int, int],
        output_bytes_max: int,
        cgroups: str = "",
    ) -> None:
        self._connection = connection
        self._worker = Channel(connection)
        self._folder = folder
        self._nofile = nofile
        self._output_bytes_max = output_bytes_max
        self._cgroups = cgroups
        # Guardian's pid → memory shared with it: the instant at which its job is to be killed, 0 for no job, which
        # process that is when a warm parent has forked it, 0 for one of the guardian's own, and its cgroup.
        self._guardians: dict[int, mmap] = {}
        self._stand_in = Caller()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note_child)

    def run(self) -> None:
        """Serve until worker, guardians and stand-in have left."""
        while self._guardians or not self._worker.lost or self._stand_in.is_busy:
            self.round(self._wait_seconds())
        # The orphans of the last guardian die one generation after the other, and only now become our children.
        sweep_children(SWEEP_SECONDS_MAX)

    def round(self, seconds: float | None) -> None:
        """Wait for something to do, at most ``seconds``, and do it."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if not self._worker.lost:
            poll.register(self._worker.fileno(), select.POLLIN)
        ready = {fileno for fileno, _ in poll.poll(None if seconds is None else seconds * 1000)}
        if self._wake_read in ready:
            try:
                if CALL in os.read(self._wake_read, 65536):
                    self._stand_in.call()
            except BlockingIOError:
                pass
        self._reap()
        if not self._worker.lost and self._worker.fileno() in ready:
            for message, blob in self._worker.receive():
                if message["op"] in ("guardian", "keeper"):
                    self._fork_guardian(self._worker.descriptors.pop(0), message["op"])
                elif message["op"] == "stand_in":
                    self._stand_in.program = Program(message["argv"], message["environment"], blob)
            if self._worker.lost:
                self._worker.close()
        self._kill_overdue()
        try:
            self._stand_in.start()
        except OSError:
            traceback_to_log()

    def _wait_seconds(self) -> float | None:
        start = self._stand_in.seconds_until_start()
        if not self._guardians:
            return start
        instants = [instant for slot in self._guardians.values() if (instant := read_slot(slot))]
        # An instant that has passed stays there while its guardian is stopped: look again, but do not spin.
        seconds = min([LOOK_SECONDS, *(instant - boottime() for instant in instants)])
        return max(LOOK_AGAIN_SECONDS, seconds if start is None else min(seconds, start))

    def _fork_guardian(self, descriptor: int, name: str) -> None:
        """Make a guardian, or a keeper, for the connection ``descriptor``. If it fails the closing tells the worker."""
        crash.at("guardian.before")
        slot = mmap(-1, SLOT.size)
        try:
            pid = os.fork()
        except OSError:
            traceback_to_log()
            os.close(descriptor)
            slot.close()
            return
        if pid:
            crash.at("guardian.forked")
            os.close(descriptor)
            self._guardians[pid] = slot
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._worker.close()
        os.close(self._wake_read)
        post = Post(
            self._folder,
            f"{os.getpid()}-{os.urandom(4).hex()}",
            nofile=self._nofile,
            output_bytes_max=self._output_bytes_max,
            slot=slot,
            wake=self._wake_write,
            cgroups=self._cgroups,
        )
        kind = Keeper if name == "keeper" else Guardian
        _be(name, lambda: kind(Channel(socket.socket(fileno=descriptor)), post).serve())

    def _reap(self) -> None:
        """Reap the dead, and kill what has become our child without being a guardian: orphans of a dead one."""
        has_orphans = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                break
            if pid == self._stand_in.pid:
                self._stand_in.ended(status)
                continue
            slot = self._guardians.pop(pid, None)
            if slot is not None:
                if status != 0:
                    if cgroup := self._cgroup_in(slot):
                        clear(cgroup, CLEAR_SECONDS_MAX)
                    _kill_elsewhere(slot)  # the warm parent does it too, unless it is stopped
                slot.close()
            # Whoever ends well has seen to its own. Orphans of orphans come when their parents have been killed.
            has_orphans = has_orphans or slot is None or status != 0
        if has_orphans:
            kill_children(spared={self._stand_in.pid, *self._guardians})

    def _kill_overdue(self) -> None:
        """Kill the jobs whose lease is ending and whose guardian has not done it. The guardians stay, to report."""
        now = boottime()
        for pid, slot in self._guardians.items():
            instant = read_slot(slot)
            if instant and now >= instant:
                if cgroup := self._cgroup_in(slot):
                    kill(cgroup)
                kill_descendants(pid)
                _kill_elsewhere(slot)

    def _cgroup_in(self, slot: mmap) -> str | None:
        """Give the path of the cgroup that a guardian has made, or was about to make."""
        name = SLOT.unpack_from(slot)[3].rstrip(b"\0").decode()
        return f"{self._cgroups}/{name}" if name else None


def _be(name: str, serve: Callable[[], None]) -> NoReturn:
    """Be a guardian, or a keeper, in a process that was just forked."""
    status = 1
    try:
        os.setsid()
        become_subreaper()
        set_process_name(f"rota-{name}")
        serve()
        status = 0
    except BaseException:  # noqa: BLE001 - the top of this process
        traceback_to_log()
    finally:
        os._exit(status)


def read_slot(slot: mmap) -> float:
    """Read the instant that a guardian has published."""
    instant: float = SLOT.unpack_from(slot)[0]
    return instant


def _kill_elsewhere(slot: mmap) -> None:
    """Kill the job of a guardian that is not below it, since a warm parent has forked it."""
    _, pid, began, _ = SLOT.unpack_from(slot)
    if pid:
        kill_tree(pid, began)


def _note_child(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has been written, and ``round`` reaps."""


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:6]))
