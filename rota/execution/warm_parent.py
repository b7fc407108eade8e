"""A warm parent: a process that has imported the modules of Python jobs once, and forks a job when a guardian asks.

One per environment: interpreter, import path, variables, working directory. Started by the worker's crew (``hearth``)
as a process of its own, so that nothing that users' modules do when they are imported reaches worker, nursery or
guardian.

Invariants: one thread, and no descriptor, child process or pending output from the imports, or it refuses to fork:
every job would get a copy of them. It imports before its first fork and never after, so that no import keeps a job
waiting. A pidfd is opened before the job can be reaped, and the job's group is killed while its leader is a zombie. A
guardian that goes takes its job along; a warm parent that dies takes nothing along. It stays until its worker, or the
crew's interest, and its last job are gone. Long, since importing, forking and reaping are one process's duties.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING

from rota.execution import python_job
from rota.execution.forked_job import end_process, run_callable
from rota.execution.imported_files import ImportedFiles
from rota.execution.limits import read_disk_bytes
from rota.execution.linux import (
    become_subreaper,
    boottime,
    children_of,
    die_with_parent,
    outlive_parent,
    reset_signals,
    set_process_name,
    sweep_children,
)
from rota.execution.spawn import Birth, report_failure, set_up
from rota.execution.warm_birth import MARK, OPEN, PLACEHOLDER
from rota.execution.wire import Channel
from rota.model.documents import encode_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from rota.execution.wire import Message

SWEEP_SECONDS_MAX = 2.0
SWEEP_PAUSE_SECONDS = 0.001
LINGER_SECONDS = 1.0
FOREVER = float("inf")
GATE = 3  # the job's descriptor while it waits; it has none of this number when it runs

assert encode_document is not None  # what jobs encode their results by: imported once for all of them
_poll = select.poll  # as it was before any user's module replaced it


class _Unfit(Exception):
    """These imports make no parent."""


class _Guest:
    """A guardian that has asked, and its job."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.pid = 0
        self.pidfd = -1
        self.end: Message | None = None  # its process is reaped; told as soon as its orphans are gone
        self.sweep_until = 0.0


class WarmParent:
    """Imports, then forks."""

    def __init__(self, listener: socket.socket, worker: Channel) -> None:
        self._listener: socket.socket | None = listener  # None: nobody is let in any more
        listener.setblocking(False)
        self._worker = worker
        self._guests: dict[int, _Guest] = {}  # by the descriptor of their connection
        self._jobs: dict[int, _Guest] = {}  # by pidfd
        self._ended: list[_Guest] = []
        self._poll = _poll()
        self._mark = _Mark()
        self._files = ImportedFiles()
        self._gc_threshold = gc.get_threshold()
        self._fork_count = 0
        self._runs_max = 0
        self._bytes_at_first = 0
        self._growth_bytes_max = 0
        self._is_renewal_asked = False
        self._linger_until = FOREVER

    # -- importing

    def prepare(self, message: Message) -> None:
        """Import what the worker asks for.

        Raises:
            _Unfit: nothing may be forked from this process now; the worker was told.
        """
        self._runs_max = message["runs_max"]
        self._growth_bytes_max = message["growth_bytes_max"]
        held = _descriptors()
        looked_for = _note_looks(frozenset(message.get("secrets", ())))
        began_ns = time.time_ns()
        gc.set_threshold(0)  # not gc.disable(), which a module may do on its own account
        for module in message["modules"]:
            self._worker.send({"op": "importing", "module": module})
            try:
                importlib.import_module(module)
                self._check_fit(held)
                if looked_for:
                    raise _Unfit(f"its import looks for {', '.join(sorted(looked_for))}, a secret that only a job has")
            except BaseException as error:
                why = str(error) if isinstance(error, _Unfit) else f"its import raised {_describe(error)}"
                self._worker.send({"op": "failed", "module": module, "why": why})
                raise _Unfit(why) from error
        _let_environments_be(_ENVIRONMENT)
        self._files.remember(began_ns)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else every job would write it again
        gc.freeze()
        self._bytes_at_first = _resident_bytes()
        self._worker.send({"op": "ready", "pid": os.getpid()})

    def _check_fit(self, held: set[int]) -> None:
        threads = _count_threads()
        if threads > 1:
            raise _Unfit(f"its import leaves {threads} threads running, and a forked process has only one of them")
        if children := children_of(os.getpid()):
            raise _Unfit(f"its import leaves a process running ({children[0]}), which jobs would share")
        for descriptor in _descriptors() - held:
            raise _Unfit(f"its import leaves {_name_descriptor(descriptor)} open, which jobs would share")
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            raise _Unfit("its import handles SIGCHLD, by which its jobs would be reaped elsewhere")
        if not self._mark.is_intact():
            raise _Unfit("its import has written over the environment of the process")

    # -- serving

    def serve(self) -> None:
        """Fork jobs for guardians until the worker has gone and the last job has ended."""
        for connection in (self._listener, self._worker):
            assert connection is not None
            self._poll.register(connection.fileno(), select.POLLIN)
        while self._listener is not None or self._guests or self._jobs or self._ended:
            self.round()

    def round(self) -> None:
        """Wait for something to happen, and see to it."""
        milliseconds = SWEEP_PAUSE_SECONDS * 1000 if self._ended else None
        if self._listener is not None and self._linger_until < FOREVER:
            left = self._linger_until - boottime()
            if left <= 0:
                self._stop_listening()
                return  # there may be nothing left to wait for
            if milliseconds is None:
                milliseconds = left * 1000 + 1
        for fileno, _ in self._poll.poll(milliseconds):
            if fileno in self._jobs:
                self._reap(self._jobs[fileno])
            elif fileno in self._guests:
                self._hear(self._guests[fileno])
            elif self._listener is not None and fileno == self._listener.fileno():
                self._let_in(self._listener)
            elif fileno == self._worker.fileno():
                self._hear_worker()
        if self._ended:
            self._tell_ends()

    def _hear_worker(self) -> None:
        self._worker.flush()
        if any(message["op"] == "linger" for message, _ in self._worker.receive()):
            self._linger_until = boottime() + LINGER_SECONDS
        if self._worker.lost:
            self._poll.unregister(self._worker.fileno())
            if self._linger_until == FOREVER:
                self._stop_listening()

    def _let_in(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        guest = _Guest(Channel(connection))
        self._guests[connection.fileno()] = guest
        self._poll.register(connection.fileno(), select.POLLIN)

    def _stop_listening(self) -> None:
        """Let nobody in any more: the worker is gone, or wants this parent no more. Those who are in are served."""
        if self._listener is None:
            return
        self._poll.unregister(self._listener.fileno())
        folder, _, name = self._listener.getsockname().rpartition("/")
        self._listener.close()
        self._listener = None
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/{name.removeprefix('.')}")  # it was bound under a hidden name

    def _hear(self, guest: _Guest) -> None:
        for message, _ in guest.channel.receive():
            if message["op"] == "fork" and not guest.pid and not guest.channel.lost:
                self._answer(guest, message)
        guest.channel.flush()
        if guest.channel.lost:
            self._show_out(guest)

    def _show_out(self, guest: _Guest) -> None:
        """Part from a guardian. Its job, if it still lives, dies with it."""
        self._guests.pop(guest.channel.fileno(), None)
        self._poll.unregister(guest.channel.fileno())
        guest.channel.close()
        if guest.pidfd in self._jobs:
            _kill(guest)

    # -- forking

    def _answer(self, guest: _Guest, message: Message) -> None:
        wanted = 5 if message.get("has_secrets") else 4
        given = guest.channel.descriptors[:wanted]
        del guest.channel.descriptors[:wanted]
        why = self._refuse(given, wanted)
        if why is None:
            try:
                self._fork(guest, message, given)
            except OSError as error:
                why = f"it could not fork: {error.strerror}"
        if why is not None:
            guest.channel.send({"op": "refused", "why": why})
        for descriptor in given:
            os.close(descriptor)

    def _refuse(self, given: list[int], wanted: int) -> str | None:
        """Say why nothing is forked now, if so; and ask to be renewed when it is time."""
        if len(given) != wanted:
            return "it has no descriptor left"
        changed = self._files.find_changed()
        if changed is not None:
            why = f"{changed} was changed after it was imported"
            self._ask_renewal(why, at_once=True)
            return why
        threads = _count_threads()
        if threads > 1:  # one that began late
            why = f"{threads} threads run in it, and a forked process has only one of them"
            self._worker.send({"op": "unfit", "why": why})
            return why
        self._fork_count += 1
        if self._fork_count >= self._runs_max:
            self._ask_renewal(f"it has forked {self._fork_count} jobs", at_once=False)
        elif (grown := _resident_bytes() - self._bytes_at_first) > self._growth_bytes_max:
            self._ask_renewal(f"its memory grew by {grown} bytes", at_once=False)
        return None

    def _ask_renewal(self, why: str, *, at_once: bool) -> None:
        if not self._is_renewal_asked:
            self._is_renewal_asked = True
            self._worker.send({"op": "renew", "why": why, "at_once": at_once})

    def _fork(self, guest: _Guest, message: Message, given: list[int]) -> None:
        """Fork the job and say who it is.

        Raises:
            OSError: no process could be made.
        """
        gc.freeze()
        pid = os.fork()
        if not pid:
            self._become_job(message, given)
        try:
            guest.pidfd = os.pidfd_open(pid)
            for_guardian = os.dup(guest.pidfd)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        guest.pid = pid
        self._jobs[guest.pidfd] = guest
        self._poll.register(guest.pidfd, select.POLLIN)
        guest.channel.send({"op": "forked", "pid": pid}, descriptor=for_guardian)

    def _become_job(self, message: Message, given: list[int]) -> NoReturn:
        """Be the job, in the process that was just forked.

        Our sockets stay referenced by this very call until the process has ended, so none of them is closed by its
        finalizer, under a number that by then belongs to the job.
        """
        gate = given[3]
        try:
            fields: Message = message["birth"]
            fields["nofile"] = tuple(fields["nofile"])
            birth = Birth([], **fields, stdin=given[0], stdout=given[1], stderr=given[2])
            if len(given) > 4:
                with open(given[4], "rb", closefd=False) as file:
                    birth.secrets = json.load(file)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the guardian must hear of it
            report_failure(gate, "reading the request", error)
            os._exit(127)
        try:
            set_up(birth)
            birth.step = "setting up"
            become_subreaper()  # so that what it detaches stays below it while it lives
            os.dup2(gate, GATE, inheritable=False)
            gate = GATE
            os.closerange(GATE + 1, max(_descriptors()) + 1)  # Python 3.9 would try each number up to a larger one
            self._mark.write(birth.environment[MARK])
            for name, value in birth.environment.items():
                if name.startswith("ROTA_"):  # all else is the same for every job of this parent
                    os.environb[os.fsencode(name)] = value.encode("utf-8", "surrogateescape")
            for name, value in birth.secrets.items():
                os.environb[os.fsencode(name)] = value.encode()
            sys.argv[1:] = [message["target"]]
            set_process_name("rota-job")
            if os.read(GATE, 1) != OPEN:
                os._exit(0)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the guardian must hear of it
            report_failure(gate, birth.step, error)
            os._exit(127)
        os.close(GATE)
        if gc.get_threshold()[0] == 0:
            gc.set_threshold(*self._gc_threshold)
        end_process(run_callable(message["target"]))

    # -- ends

    def _reap(self, guest: _Guest) -> None:
        """Reap a job that has ended, after killing its group: while it is a zombie, no stranger has that number."""
        _kill(guest)
        read_bytes, written_bytes = read_disk_bytes(guest.pid)
        pid, status, usage = os.wait4(guest.pid, os.WNOHANG)
        assert pid == guest.pid, "its pidfd was readable, so it has ended"
        self._poll.unregister(guest.pidfd)
        del self._jobs[guest.pidfd]
        os.close(guest.pidfd)
        guest.pidfd = -1
        guest.end = {
            "op": "ended",
            "status": status,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_bytes_max": usage.ru_maxrss * 1024,
            "read_bytes": read_bytes,
            "written_bytes": written_bytes,
            "leftovers": 0,
            "is_clear": True,
        }
        guest.sweep_until = boottime() + SWEEP_SECONDS_MAX
        self._ended.append(guest)

    def _tell_ends(self) -> None:
        """Kill the orphans of jobs that have ended, and tell their guardians once there are none.

        Live jobs are subreapers, so their orphans stay below them: whoever is our child and no job was left behind.
        """
        jobs = {guest.pid for guest in self._jobs.values()}
        is_clear = True
        for pid in children_of(os.getpid()):
            if pid in jobs:
                continue
            is_clear = False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, os.WNOHANG)
            if found and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                for guest in self._ended:
                    assert guest.end is not None
                    guest.end["leftovers"] += 1
        now = boottime()
        left: list[_Guest] = []
        for guest in self._ended:
            if not is_clear and now < guest.sweep_until:
                left.append(guest)
                continue
            assert guest.end is not None
            guest.end["is_clear"] = is_clear
            if not guest.channel.lost:
                guest.channel.send(guest.end)
        self._ended = left


def _kill(guest: _Guest) -> None:
    """Kill a job and its group. It has not been reaped, so neither number can be a stranger's."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(guest.pid, signal.SIGKILL)


class _Mark:
    """The place of ``ROTA_CONTROL`` in the environment block that /proc shows, by which the sweep knows processes."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        begin, end = int(fields[47]), int(fields[48])
        block = ctypes.string_at(begin, end - begin)
        self._name = f"{MARK}=".encode()
        self._whole = self._name + PLACEHOLDER.encode()
        self._address = begin + block.index(self._whole)

    def is_intact(self) -> bool:
        return ctypes.string_at(self._address, len(self._whole)) == self._whole

    def write(self, path: str) -> None:
        data = self._name + os.fsencode(path)
        assert len(data) <= len(self._whole)
        ctypes.memmove(self._address, data.ljust(len(self._whole), b"\0"), len(self._whole))


_ENVIRONMENT = type(os.environ)


def _let_environments_be(kind: type) -> None:
    both: list[Any] = [os.environ, os.environb]
    for one in both:
        one.__class__ = kind


def _note_looks(secrets: frozenset[str]) -> set[str]:
    """Note in what is returned which of these variables somebody looks for, or that he goes through all of them.

    Imported without them, a module might keep a default for good that no job of it would get when it starts cold.
    """
    looked_for: set[str] = set()

    class Noting(_ENVIRONMENT):
        def __getitem__(self, name: Any) -> Any:
            looked_for.update(secrets.intersection([os.fsdecode(name)]))
            return super().__getitem__(name)

        def __iter__(self) -> Iterator[Any]:
            looked_for.update(secrets)
            return super().__iter__()

    if secrets:
        _let_environments_be(Noting)
    return looked_for


def _descriptors() -> set[int]:
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {number for number in found if os.path.exists(f"/proc/self/fd/{number}")}  # without that of the listing


def _name_descriptor(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return f"descriptor {descriptor}"


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def main(listener: int, worker: int, log: int, worker_pid: int) -> NoReturn:
    """Be a warm parent: listen, serve the worker at the other end, write what goes wrong to the log."""
    status = 1
    try:
        # Made on pipes, like those of a job, the streams' objects serve in the jobs too.
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        for descriptor in (listener, worker):
            os.set_inheritable(descriptor, False)
        del os.environ[MARK]
        reset_signals()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        become_subreaper()
        set_process_name("rota-warm")
        sys.argv[:] = [python_job.__file__]
        channel = Channel(socket.socket(fileno=worker))
        die_with_parent(worker_pid)  # an import that hangs is ended by nobody else
        _check_interpreter(channel)
        parent = WarmParent(socket.socket(fileno=listener), channel)
        parent.prepare(_await_order(channel))
        outlive_parent()
        parent.serve()
        status = 0
    except _Unfit:
        status = 0  # the worker knows
        sweep_children(SWEEP_SECONDS_MAX)  # which its imports have started
    except BaseException:  # noqa: BLE001 - the top of this process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)  # exit hooks of the imports belong to the jobs


def _check_interpreter(worker: Channel) -> None:
    """Raise _Unfit under one that has neither pidfds nor a garbage that can be frozen; the worker was told."""
    if sys.implementation.name != "cpython":
        why = f"its interpreter is {sys.implementation.name}, and only CPython's processes are forked"
        worker.send({"op": "unfit", "why": why})
        raise _Unfit(why)


def _await_order(worker: Channel) -> Message:
    poll = _poll()
    poll.register(worker.fileno(), select.POLLIN)
    while not worker.lost:
        poll.poll()
        for message, _ in worker.receive():
            if message["op"] == "prepare":
                return message
    os._exit(0)  # the worker has thought better of it


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]))
