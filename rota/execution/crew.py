"""The worker's side: a crew of guardians, one for each attempt that runs.

Invariants: an attempt is given to one guardian, once; every attempt given out comes back as ``Ended`` or
``GuardianLost``, exactly once, or as ``GuardianLeft``, which is somebody else's then; a guardian whose connection ended
without an end, or a word, has its job killed by the pidfd it handed over. Used by the engine's worker in one thread.
Nothing here waits, but ``poll`` for as long as it is told, and nothing knows a database. A little long, since guardian,
connection and claim are one thing seen from three sides.

The worker waits on ``fileno()`` together with whatever else it waits for, and calls ``poll(0)`` whenever it is readable
and every few seconds besides: idle guardians are let go there.
"""

from __future__ import annotations

import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rota.errors import Conflict, Invalid, NotSupported
from rota.execution.cgroup import clear
from rota.execution.cgroup import sweep as sweep_cgroups
from rota.execution.door import knock
from rota.execution.executors import Executors
from rota.execution.hearth import Hearth
from rota.execution.home import prepare_folder, start_nursery
from rota.execution.journal import forget_end, list_ends, read_end, set_aside_end, sweep_unfinished
from rota.execution.linux import boottime
from rota.execution.order import (
    Adopted,
    CrewEvent,
    Ended,
    GuardianLeft,
    GuardianLost,
    Order,
    Outcome,
    Started,
    StopWhy,
    not_started,
    order_message,
    read_outcome,
    read_report,
)
from rota.execution.stand_in import Program, ask_to_leave
from rota.execution.sweep import sweep_dead, sweep_marked
from rota.execution.wire import FRAME_BYTES_MAX, Channel, Decoder, WireError, pack_frame
from rota.model.ending import NO_GUARDIAN_ERROR

if TYPE_CHECKING:
    from rota.execution.wire import Message

OUTPUT_BYTES_MAX = 1024 * 1024
IDLE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
REMAINS_SECONDS = 10.0  # a nursery needs milliseconds to clear up after a guardian
SWEEP_AGAIN_SECONDS = 60.0  # for what a dead guardian's lock hid, and for neighbours that do not come back
REMOVE_SECONDS = 0.1  # what is killed dies in milliseconds
RECOVERED_PER_CALL = 16
_EVENTS_PER_POLL = 256


class _Guardian:
    """What the crew knows about one guardian."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.order: Order | Adopted | None = None
        self.outcome: Outcome | None = None
        self.attempt_count = 0
        self.has_started = False  # the job of its order
        self.must_retire = False
        self.pid = 0
        self.pidfd = -1  # of its job
        self.control = ""
        self.cgroup = ""  # of its job
        self.warm_path = ""  # of the warm parent that is to fork its job
        self.is_warm = False  # it did
        self.has_left = False  # it goes on without us
        self.heard_at = 0.0
        self.idle_since = 0.0


class Crew:
    """Guardians in a folder of their own (sockets, ends that wait for delivery, the nursery's log)."""

    def __init__(
        self,
        folder: Path,
        *,
        reuse: int = 1000,
        warm_reuse: int = 1000,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        stand_in: Program | None = None,  # what is to take over when this process is gone
        cgroups: str = "",  # the directory in which attempts get cgroups; empty: they get none
    ) -> None:
        self._folder = str(folder.absolute())
        self._program = stand_in
        self._reuse = reuse
        self._output_bytes_max = output_bytes_max
        self._cgroups = cgroups
        self._sweep_at = boottime() + SWEEP_AGAIN_SECONDS
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._nursery: Channel | None = None
        self._stands_in = False  # for a worker: has no nursery, and starts nothing
        self._stand_in: socket.socket | None = None  # open as long as one is about to leave
        self._nursery_pid = 0
        self._processes: list[subprocess.Popen[bytes]] = []  # nurseries to be reaped
        self._guardians: dict[int, _Guardian] = {}  # by descriptor
        self._idle: list[_Guardian] = []  # the one that was busy last at the end
        self._busy: dict[str, _Guardian | None] = {}  # by claim; None: ended, its guardian is gone
        self._remains: dict[str, tuple[float, str]] = {}  # control sockets of guardians lost of late: when, and cgroup
        self._events: list[CrewEvent] = []
        self._epoll: select.epoll | None = None
        self._hearth = Hearth(self._folder, runs_max=warm_reuse, watch=self._watch, unwatch=self._unwatch)
        self._writing: set[int] = set()  # descriptors that wait for room
        self._executors = Executors(
            fork=lambda: self._ask_nursery("keeper"),
            send=self._send_on,
            drop=self._part,
            sweep=lambda control: self._see_to_remains(control, "", is_warm=False),
        )

    # -- opening and closing

    def open(self, *, nursery: bool = True) -> None:
        """Make the folder and the nursery; without one, nothing can be started, but guardians can be taken over.

        Raises:
            ConfigError: the folder cannot be used.
            NotSupported: this system is not Linux 5.4 or later.
        """
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            raise NotSupported("running jobs needs Linux 5.4 or later: pidfds and subreapers")
        prepare_folder(self._folder)
        self._hearth.clear()
        # A descriptor per attempt: take what may be had, and give jobs what there was.
        _, hard = self._nofile
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._epoll = select.epoll()
        self._stands_in = not nursery
        if nursery:
            self._open_nursery()

    def _open_nursery(self) -> None:
        process, self._nursery = start_nursery(self._folder, self._nofile, self._output_bytes_max, self._cgroups)
        self._processes.append(process)
        self._nursery_pid = process.pid
        if self._program is not None:
            self._nursery.send(self._program.message(), self._program.stdin)
        self._watch(self._nursery)
        self._watch_write(self._nursery)

    def close(self) -> None:
        """Leave the guardians. Idle ones end; those with an attempt go on, and keep its end for ``recover``."""
        self._send_the_rest()
        is_idle = not self._busy and not self._executors.claim_ids
        for guardian in list(self._guardians.values()):
            self._drop(guardian)
        self._executors.close()
        if self._nursery is not None:
            self._forget_nursery()
        if self._stand_in is not None:
            self._stand_in.close()
            self._stand_in = None
        parents = self._hearth.close()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        if is_idle:
            for process in (*self._processes, *parents):
                try:
                    process.wait(CLOSE_SECONDS)
                except subprocess.TimeoutExpired:
                    pass  # a guardian is slow to leave; the nursery waits for it
        self._busy.clear()

    def _send_the_rest(self) -> None:
        """Wait until everything is sent that was said, but not for long: an order may be on its way."""
        give_up_at = boottime() + CLOSE_SECONDS
        while self._writing and (left := give_up_at - boottime()) > 0:
            poll = select.poll()
            for fileno in self._writing:
                poll.register(fileno, select.POLLOUT)
            poll.poll(left * 1000)
            guardians = (guardian.channel for guardian in self._guardians.values())
            for channel in (self._nursery, *guardians, *self._executors.channels):
                if channel is not None:
                    channel.flush()
                    self._watch_write(channel)

    def fileno(self) -> int:
        """Give a descriptor that is readable when ``poll`` has something to do."""
        return self._opened_epoll().fileno()

    def _opened_epoll(self) -> select.epoll:
        assert self._epoll is not None, "the crew is not open"
        return self._epoll

    @property
    def nursery_pid(self) -> int:
        """The nursery's process id."""
        return self._nursery_pid

    @property
    def claim_ids(self) -> frozenset[str]:
        """The claims given out and not yet acknowledged, or lost."""
        return self._executors.claim_ids.union(self._busy)

    @property
    def inline_claim_ids(self) -> frozenset[str]:
        """Those of them whose runs are in executor processes, which end with this worker."""
        return self._executors.claim_ids

    @property
    def is_alone(self) -> bool:
        """Whether there is no guardian, not even one that has been knocked at and has not answered."""
        return not self._guardians and not self.claim_ids

    # -- asking things of guardians

    def start(self, order: Order) -> None:
        """Give an attempt to a guardian: to one that waits, else to a new one. What becomes of it is told by ``poll``.

        Raises:
            Conflict: this claim has been given out already.
            Invalid: there is more of it than a guardian takes.
        """
        if order.claim_id in self.claim_ids:
            raise Conflict(f"claim {order.claim_id!r} of run {order.run_id} has been started already")
        if order.executor != "process":
            self._executors.start(order)
            return
        # What is kept here, and what a warm parent may know: secrets by name only.
        bare = order
        if order.secrets or order.database:
            bare = replace(order, secrets=dict.fromkeys(order.secrets, ""), database="")
        warm, cold_because = self._hearth.choose(bare)
        message = order_message(order, _uid_of(order.user), warm=warm, cold_because=cold_because)
        frame = pack_frame(message, order.stdin)
        if len(frame) > FRAME_BYTES_MAX:  # it would pass it over, and wait
            size = f"{len(frame)} bytes"
            raise Invalid("order", size, f"command, arguments, standard input and all are {FRAME_BYTES_MAX} at most")
        guardian = self._take_idle() or self._new_guardian()
        guardian.order = bare
        guardian.attempt_count += 1
        self._busy[order.claim_id] = guardian
        guardian.warm_path = warm["path"] if warm is not None else ""
        guardian.channel.send_packed(frame)
        self._watch_write(guardian.channel)

    def renewed(self, claim_ids: Iterable[str], deadline: float) -> None:
        """Tell guardians that their lease now ends at ``deadline``, CLOCK_BOOTTIME."""
        for claim_id in claim_ids:
            self._tell(claim_id, {"op": "renewed", "claim_id": claim_id, "deadline": deadline})

    def ask(self) -> None:
        """Ask every busy guardian for a sign of life; ``answered`` knows who gave one."""
        for claim_id in self._busy:
            self._tell(claim_id, {"op": "ask", "claim_id": claim_id})
        self._executors.ask()

    def answered(self, since: float) -> frozenset[str]:
        """Tell for which claims a guardian has spoken at or after ``since``, by its own look at CLOCK_BOOTTIME."""
        found = frozenset(claim_id for claim_id, heard in self._busy.items() if heard and heard.heard_at >= since)
        return found | self._executors.answered(since)

    def stop(self, claim_id: str, why: StopWhy, grace_seconds: float) -> None:
        """Stop a job: TERM to its group, KILL after the grace. Its end comes as ``Ended``, with this ``why`` unless it
        was quicker."""
        self._tell(claim_id, {"op": "stop", "claim_id": claim_id, "why": why, "grace_seconds": grace_seconds})

    def freeze(self, claim_id: str, *, is_frozen: bool) -> None:
        """Hold all processes of a job where they are, or let them go on. Its lease and its guardian go on."""
        self._tell(claim_id, {"op": "freeze" if is_frozen else "thaw", "claim_id": claim_id})

    def acknowledge(self, claim_ids: Iterable[str]) -> None:
        """Say that these ends are committed: their guardians forget them and may be used again."""
        for claim_id in claim_ids:
            guardian = self._busy.get(claim_id)
            if guardian is None:
                if self._executors.acknowledge(claim_id):
                    continue
                if claim_id in self._busy:
                    forget_end(self._folder, claim_id)
                    del self._busy[claim_id]
                continue
            assert guardian.outcome is not None, f"claim {claim_id} is acknowledged, and has not ended"
            del self._busy[claim_id]
            self._send(guardian, {"op": "acknowledge", "claim_id": claim_id})
            self._make_idle(guardian)

    def adopt(self) -> None:
        """Take over the guardians in this folder whose worker is gone; each that lets us in is told as ``Adopted``.

        To be called at start and now and then: a worker beside this one may die later. A stand-in that has them
        is asked to leave; what it had is taken over as soon as it has.
        """
        if self._stand_in is None and not self._stands_in:
            self._stand_in = ask_to_leave(self._folder)
            if self._stand_in is not None:
                self._opened_epoll().register(self._stand_in, select.EPOLLIN)
        for connection in knock(self._folder):
            guardian = _Guardian(Channel(connection))
            self._guardians[connection.fileno()] = guardian
            self._watch(guardian.channel)

    def recover(self, known: Container[str] = ()) -> list[Outcome]:
        """List ends on disk that no guardian of this crew holds, since their worker was gone; the ``known`` ones apart.

        Deliver each, then ``forget`` it. No more than ``RECOVERED_PER_CALL``, since each may hold megabytes.
        To be called at start and now and then: a guardian of the worker before may end later.
        """
        outcomes: list[Outcome] = []
        for claim_id in list_ends(self._folder):
            if len(outcomes) == RECOVERED_PER_CALL:
                break
            if claim_id in self.claim_ids or claim_id in known:
                continue
            data = read_end(self._folder, claim_id)
            if data is None:
                continue
            try:
                ((message, blob),) = Decoder().feed(data)
                outcomes.append(read_outcome(message, blob))
            except (WireError, KeyError, TypeError, ValueError):
                set_aside_end(self._folder, claim_id)
        return outcomes

    def forget(self, claim_id: str) -> None:
        """Remove a recovered end from the disk: it is committed, or refused for good."""
        forget_end(self._folder, claim_id)

    def take_notes(self) -> list[str]:
        """Give what the worker's log should say about warm parents and executors since it was asked last."""
        notes = self._hearth.notes + self._executors.notes
        self._hearth.notes, self._executors.notes = [], []
        return notes

    def sweep(self) -> int:
        """Kill what jobs of dead guardians in this folder have left behind; tell how many processes it were.

        Ends that were not written to their end are removed too.
        """
        sweep_unfinished(self._folder)
        in_cgroups = sweep_cgroups(self._cgroups, CLOSE_SECONDS) if self._cgroups else 0
        return in_cgroups + sweep_dead(self._folder)

    # -- hearing from them

    def poll(self, timeout: float) -> list[CrewEvent]:
        """Wait up to ``timeout`` seconds for news, and give them in the order in which they came."""
        epoll = self._opened_epoll()
        ready = epoll.poll(0 if self._events else timeout, _EVENTS_PER_POLL)
        for fileno, _ in ready:
            if self._nursery is not None and fileno == self._nursery.fileno():
                self._hear_nursery(self._nursery)
            elif self._hearth.knows(fileno):
                self._hearth.hear(fileno)
            elif self._executors.knows(fileno):
                self._hear_keeper(fileno)
            elif fileno in self._guardians:
                self._hear_guardian(self._guardians[fileno])
            elif self._stand_in is not None and fileno == self._stand_in.fileno():
                self._opened_epoll().unregister(self._stand_in)
                self._stand_in.close()
                self._stand_in = None
                self.adopt()
        self._let_idle_go()
        events, self._events = self._events, []
        return events

    def _hear_nursery(self, nursery: Channel) -> None:
        nursery.flush()
        nursery.receive()  # it says nothing, but that it has gone
        if nursery.lost:
            self._forget_nursery()
            for control, (_, cgroup) in self._remains.items():
                _sweep_remains(control, cgroup)
            self._remains.clear()
            # Nobody would clear up after these: let them go. The busy ones know themselves, and ask to be retired.
            for guardian in list(self._idle):
                self._drop(guardian)
        else:
            self._watch_write(nursery)

    def _hear_keeper(self, fileno: int) -> None:
        self._events += self._executors.hear(fileno)
        for channel in self._executors.channels:
            if channel.fileno() == fileno:
                self._watch_write(channel)

    def _hear_guardian(self, guardian: _Guardian) -> None:
        channel = guardian.channel
        channel.flush()
        for message, blob in channel.receive():
            self._read(guardian, message, blob)
        if channel.lost:
            self._lose(guardian)
        else:
            self._watch_write(channel)

    def _read(self, guardian: _Guardian, message: Message, blob: bytes) -> None:
        guardian.heard_at = max(guardian.heard_at, message.get("at", 0.0))
        order = guardian.order
        match message["op"]:
            case "here":
                guardian.pid = message["pid"]
            case "adopted" if order is None:
                guardian.pid = message["guardian_pid"]
                facts = ("claim_id", "run_id", "job", "attempt", "fence", "lease_seconds", "deadline")
                known = {name: message[name] for name in facts}
                # The last two are not told by guardians of versions before.
                adopted = guardian.order = Adopted(
                    **known,
                    is_frozen=message.get("is_frozen", False),
                    is_transactional=message.get("is_transactional", False),
                )
                self._busy[adopted.claim_id] = guardian
                self._events.append(adopted)
            case "started" if order is not None:
                guardian.has_started = True
                if guardian.channel.descriptors:  # without one, if this process has no descriptor to spare
                    guardian.pidfd = guardian.channel.descriptors.pop(0)
                guardian.control = message["control"]
                guardian.cgroup = message.get("cgroup", "")  # a guardian of the version before has none
                guardian.is_warm = message.get("is_warm", False)
                if guardian.warm_path and message.get("distrusts_parent"):
                    self._hearth.distrust(guardian.warm_path, message["cold_because"])
                self._events.append(Started(order.claim_id, message["pid"], guardian.pid))
            case "report" if order is not None:
                self._events.append(read_report(message, blob))
            case "left":
                guardian.has_left = True
            case "ended" if order is not None:
                guardian.outcome = read_outcome(message, blob)
                guardian.must_retire = guardian.must_retire or message["retire"]
                self._close_pidfd(guardian)
                self._events.append(Ended(guardian.outcome))
            case _:
                pass  # from a later version

    def _lose(self, guardian: _Guardian) -> None:
        """Deal with a connection that has ended: by whom it was left, and with what in hand."""
        order, outcome = guardian.order, guardian.outcome
        pidfd, guardian.pidfd = guardian.pidfd, -1
        self._drop(guardian)
        if order is None:
            return
        if outcome is not None:
            self._busy[order.claim_id] = None  # the end is here; only its acknowledgement has no addressee
            return
        if guardian.has_left:
            if pidfd >= 0:
                os.close(pidfd)
            del self._busy[order.claim_id]
            self._events.append(GuardianLeft(order.claim_id))
            return
        if not guardian.pid:
            # It never spoke, so it never was: the nursery could not fork, or is dead.
            assert isinstance(order, Order)
            message = "the nursery made no guardian for it; see nursery.log in the worker's folder"
            self._busy[order.claim_id] = None
            self._events.append(Ended(not_started(order, NO_GUARDIAN_ERROR, message)))
            return
        if pidfd >= 0:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # somebody was quicker
            os.close(pidfd)
        if guardian.has_started:
            self._see_to_remains(guardian.control, guardian.cgroup, is_warm=guardian.is_warm)
        del self._busy[order.claim_id]
        self._events.append(
            GuardianLost(order.claim_id, order.run_id, order.attempt, order.fence, guardian.has_started)
        )

    def _see_to_remains(self, control: str, cgroup: str, *, is_warm: bool) -> None:
        """Have killed what a lost guardian's job detached: by the nursery, unless it has died too, or is about to.

        What a warm parent has forked is not below the nursery, and the parent may be dead.
        """
        if self._nursery is None or is_warm:
            _sweep_remains(control, cgroup)
        else:
            now = boottime()
            self._remains = {path: known for path, known in self._remains.items() if now - known[0] < REMAINS_SECONDS}
            self._remains[control] = (now, cgroup)

    # -- guardians coming and going

    def _new_guardian(self) -> _Guardian:
        guardian = _Guardian(self._ask_nursery("guardian"))
        self._guardians[guardian.channel.fileno()] = guardian
        return guardian

    def _ask_nursery(self, op: str) -> Channel:
        """Have a process forked by the nursery, and give the connection to it."""
        if self._nursery is None or self._nursery.lost:
            if self._nursery is not None:
                self._forget_nursery()
            self._open_nursery()
        assert self._nursery is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        channel = Channel(ours)
        self._watch(channel)
        self._nursery.send({"op": op}, descriptor=theirs.detach())
        self._watch_write(self._nursery)
        return channel

    def _take_idle(self) -> _Guardian | None:
        while self._idle:
            guardian = self._idle.pop()
            if not guardian.channel.lost:
                return guardian
            self._drop(guardian)
        return None

    def _make_idle(self, guardian: _Guardian) -> None:
        guardian.order = guardian.outcome = None
        guardian.has_started = False
        guardian.control = guardian.cgroup = guardian.warm_path = ""
        guardian.is_warm = False
        if guardian.must_retire or guardian.attempt_count >= self._reuse or self._nursery is None:
            self._drop(guardian)
            return
        guardian.idle_since = boottime()
        self._idle.append(guardian)

    def _let_idle_go(self) -> None:
        while self._idle and boottime() - self._idle[0].idle_since > IDLE_SECONDS:
            self._drop(self._idle[0])
        self._hearth.look_after()
        self._executors.look_after()
        if self._cgroups and boottime() >= self._sweep_at:
            self._sweep_at = boottime() + SWEEP_AGAIN_SECONDS
            sweep_cgroups(self._cgroups, REMOVE_SECONDS)
        if len(self._processes) > 1:  # the nursery of now is reaped when the crew is closed
            self._processes = [process for process in self._processes if process.poll() is None]

    def _drop(self, guardian: _Guardian) -> None:
        """Close a connection; an idle guardian leaves when it sees that."""
        if guardian in self._idle:
            self._idle.remove(guardian)
        self._guardians.pop(guardian.channel.fileno(), None)
        self._close_pidfd(guardian)
        self._part(guardian.channel)

    def _part(self, channel: Channel) -> None:
        self._unwatch(channel)
        channel.close()

    def _forget_nursery(self) -> None:
        assert self._nursery is not None
        self._unwatch(self._nursery)
        self._nursery.close()
        self._nursery = None

    def _close_pidfd(self, guardian: _Guardian) -> None:
        if guardian.pidfd >= 0:
            os.close(guardian.pidfd)
            guardian.pidfd = -1

    # -- sending

    def _tell(self, claim_id: str, message: Message) -> None:
        guardian = self._busy.get(claim_id)
        if guardian is not None:
            self._send(guardian, message)
        else:
            self._executors.tell(claim_id, message)

    def _send(self, guardian: _Guardian, message: Message, blob: bytes = b"") -> None:
        self._send_on(guardian.channel, message, blob)

    def _send_on(self, channel: Channel, message: Message, blob: bytes) -> None:
        channel.send(message, blob)
        self._watch_write(channel)

    def _watch(self, channel: Channel) -> None:
        self._opened_epoll().register(channel.fileno(), select.EPOLLIN)

    def _watch_write(self, channel: Channel) -> None:
        """Wait for room as long as something is to be sent. A connection that was lost while sending is readable."""
        fileno = channel.fileno()
        if channel.wants_write != (fileno in self._writing):
            self._writing ^= {fileno}
            events = select.EPOLLIN | select.EPOLLOUT if channel.wants_write else select.EPOLLIN
            self._opened_epoll().modify(fileno, events)

    def _unwatch(self, channel: Channel) -> None:
        self._writing.discard(channel.fileno())
        if self._epoll is not None:
            self._epoll.unregister(channel.fileno())


def _sweep_remains(control: str, cgroup: str) -> None:
    """Kill what a job has left whose guardian is dead; by name, since its lock may last a moment longer than it."""
    if cgroup:
        clear(cgroup, REMOVE_SECONDS)
    sweep_marked(control)


def _uid_of(user: str | None) -> int | None:
    """Look up who must be able to reach the control socket. An unknown user is refused later, by the job's process."""
    if user is None:
        return None
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
