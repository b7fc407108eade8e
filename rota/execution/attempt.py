"""One attempt: a job's process from its birth to the last of its descendants.

Invariants: the job is not started after its lease began to end, and is killed before the lease ends, whoever else is
alive; when an attempt has ended, no descendant of it lives and its pid was not reused while it was signalled. The
guardian builds one of these for each order and drives it: ``start``, then ``wait`` until ``has_ended``, then
``finish``.

A job is the guardian's child, made by fork and exec (``spawn``), or for some Python jobs the child of a warm parent
(``warm_birth``): then its end is told by that parent, and a refusal before it has begun makes it start the first way.

Long, since birth, time, stopping, telling and end are the states of one process: each has its part below.

The lease's end is announced to the nursery through ``slot``, a few bytes of memory that both see: should this guardian
be stopped at that instant, the nursery kills the job.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct

from rota import crash
from rota.execution.cgroup import Cgroup, Usage, name_for, say_without
from rota.execution.control import Control
from rota.execution.limits import (
    MemoryKills,
    explain_end,
    read_disk_bytes,
    read_own_cpu_seconds,
    say_bytes,
    say_time_limit,
)
from rota.execution.linux import boottime, kill_tree, signal_descendants, start_of, sweep_children
from rota.execution.masking import Mask, MaskedCapture
from rota.execution.output import Capture
from rota.execution.spawn import Birth, fork_job, read_report
from rota.execution.sweep import sweep_marked  # seldom needed, but then the installation may be gone
from rota.execution.warm_birth import ANSWER_SECONDS_MAX, OPEN, STATUS_SECONDS_MAX, WarmBirth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap
    from typing import Any

    from rota.execution.wire import Message

WAIT_SECONDS_MAX = 5.0  # poll's timeout does not run while the host sleeps, so the clock is read at least this often
SWEEP_SECONDS_MAX = 2.0
DRAIN_SECONDS_MAX = 0.5  # output still in a pipe that somebody outside the job's tree holds open
KILL_AGAIN_SECONDS = 1.0
NURSERY_LOOKS_EVERY_SECONDS = 1.0
STAND_IN_SECONDS = 10.0  # what a stand-in may need from its start to its first renewal, on a machine that is busy

STREAMS = ("stdout", "stderr")
FOREVER = float("inf")

# Those who look on hear of a job at once when it has run for a second; most jobs are done by then.
REPORT_AFTER_SECONDS = 1.0
REPORT_SECONDS = 0.5

# Above the number of every signal: those are written into the same pipe.
LOOK = b"l"
CALL = b"c"

STATUS_LOST = "StatusLost"

# When to kill the job; pid and start of one that is not below its guardian, else 0; the name of its cgroup, if any.
SLOT = struct.Struct("dqq64s")


def margin_of(lease_seconds: float) -> float:
    """Tell how long before the end of a lease its job must be dead."""
    return max(lease_seconds / 10, 0.5)


class Post:
    """Where a guardian stands: what stays the same over all its attempts."""

    __slots__ = ("cgroups", "does_without", "folder", "name", "nofile", "output_bytes_max", "slot", "wake")

    def __init__(
        self,
        folder: str,
        name: str,
        *,
        nofile: tuple[int, int],
        output_bytes_max: int,
        slot: mmap,
        wake: int,
        cgroups: str = "",
    ) -> None:
        self.does_without = False  # no cgroup could be made for its last attempt, and it has said so
        self.cgroups = cgroups  # the directory in which an attempt has one of its own; empty: there is none
        self.folder = folder
        self.name = name
        self.nofile = nofile
        self.output_bytes_max = output_bytes_max
        self.slot = slot
        self.wake = wake

    def tell_nursery(self, what: bytes) -> None:
        """Wake the nursery: ``LOOK`` at the leases, or ``CALL`` the stand-in."""
        try:
            os.write(self.wake, what)
        except OSError:
            pass  # full, so it will look, and be called again; or it is gone


class Attempt:
    """Watches one job."""

    def __init__(self, order: Message, stdin: bytes, post: Post, control_path: str) -> None:
        self.claim_id: str = order["claim_id"]
        self.pid = 0
        self.pidfd = -1
        self.has_started = False  # its program runs
        self.has_ended = False
        self.may_report = False  # somebody is there to hear it
        self.control_path = control_path
        self._order = order
        self._stdin = stdin
        self._post = post
        self.lease_seconds: float = order["lease_seconds"]
        self._grace_seconds: float = order["grace_seconds"]
        self._deadline: float = order["deadline"]
        self._timeout_at = FOREVER
        self._limited_by: str = order.get("limited_by", "timeout")
        self._stop_why: str | None = None
        self._kill_at = FOREVER  # of a stop that has begun
        self._is_killed = False
        self._frozen_at: float | None = None
        self._is_to_freeze = False
        self._refusal: tuple[str, str] | None = None
        self._report = -1
        self._captures: list[Capture] = []
        self._last_read: Capture | None = None
        self._open_captures: list[Capture] = []
        self._control: Control | None = None
        self._born_at = 0.0
        self._report_at = FOREVER  # when those who look on may be told next
        # None from a worker of the version before.
        self._limits: dict[str, Any] = order.get("limits") or {}
        self._secrets: dict[str, str] = order.get("secrets") or {}
        self._mask = Mask(self._secrets.values()) if self._secrets else None
        self._memory_kills = MemoryKills(boottime())
        self.cold_because: str | None = order.get("cold_because")  # why it was not started from a warm parent
        self._warm: WarmBirth | None = None
        self._warm_give_up_at = FOREVER  # waiting for its parent
        self.distrusts_parent = False  # it was lost, silent, or forked what failed; one that refuses tells its worker
        self._failure: bytes | None = None  # what a forked process told of its setting up
        self._began = 0  # its process, in ticks after boot
        self._is_let_through = False  # a warm one: it was told to begin
        self._leader_ended = False  # its process is gone; of a warm one the status may still be missing
        self._cgroup: Cgroup | None = None
        self._is_held_by_cgroup = False
        self._killed_in_cgroup = 0
        self._usage: Usage | None = None  # of all that was in its cgroup

    # -- birth

    def start(self) -> None:
        """Start the job, unless its lease is ending. What goes wrong is kept for ``finish``."""
        now = boottime()
        self._born_at = now
        self._report_at = now + REPORT_AFTER_SECONDS
        self._captures = self._make_captures()
        if now >= self._lease_term_at():
            self._refuse("LeaseOver", "the lease was about to end before the job could be started")
            return
        self._publish_deadline(now)
        if self._post.cgroups:
            self._make_cgroup()
        try:
            self._control = Control(
                self.control_path,
                self._order["arguments"].encode(),
                self._order["uid"],
                checkpoint=self._order.get("checkpoint", "null").encode(),
                database=self._order.get("database", "").encode(),
                is_preempted=lambda: self._stop_why == "lease_over" or boottime() >= self._lease_kill_at(),
                why_stopping=lambda: self._stop_why,
                mask=self._mask,
            )
            warm: Message | None = self._order.get("warm")
            if warm is not None:
                self._ask_parent(warm["path"], warm["target"])
            else:
                self._spawn()
        except (OSError, ValueError) as error:
            self._refuse(type(error).__name__, f"the process could not be made: {error}")

    def _make_captures(self) -> list[Capture]:
        size, mask = self._post.output_bytes_max, self._mask
        if mask is None:
            return [Capture(size, self._born_at) for _ in STREAMS]
        return [MaskedCapture(size, self._born_at, mask) for _ in STREAMS]

    def _refuse(self, kind: str, sentence: str) -> None:
        self._refusal = (kind, sentence)
        self.has_ended = True

    def _make_cgroup(self) -> None:
        """Make the job's cgroup; without one it has to do."""
        name = name_for(self._order["run_id"], self._order["attempt"])
        path = f"{self._post.cgroups}/{name}"
        # Known to the nursery before there is anything in it.
        struct.pack_into("64s", self._post.slot, SLOT.size - 64, name.encode())
        try:
            self._cgroup = Cgroup.make(path)
        except OSError as error:
            if not self._post.does_without:
                say_without(path, error)
            self._post.does_without = True
        else:
            self._post.does_without = False
            self._cgroup.limit(self._limits)

    def _spawn(self) -> None:
        """Start the job by fork and exec.

        Raises:
            OSError, ValueError: there is no such process.
        """
        in_child = self._open_streams()
        try:
            self._report, report = os.pipe()
            in_child.append(report)
            os.set_blocking(self._report, False)
            self.pid = fork_job(self._describe_birth(in_child), report)
            crash.at("spawn.forked")
            self.pidfd = os.pidfd_open(self.pid)
        finally:
            for descriptor in in_child:
                os.close(descriptor)
        self._open_captures = list(self._captures)
        self._count_timeout()

    def _open_streams(self) -> list[int]:
        """Make what the job's descriptors 0, 1 and 2 are to be."""
        in_child = [open_stdin(self._stdin)]
        try:
            for capture in self._captures:
                capture.pipe, theirs = os.pipe()
                in_child.append(theirs)
                os.set_blocking(capture.pipe, False)
        except OSError:
            for descriptor in in_child:
                os.close(descriptor)
            raise
        return in_child

    def _describe_birth(self, streams: list[int]) -> Birth:
        order = self._order
        return Birth(
            order["argv"],
            {**order["environment"], "ROTA_CONTROL": self.control_path},
            cwd=order["cwd"],
            user=order["user"],
            umask=order["umask"],
            limits=self._limits,
            nofile=self._post.nofile,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            secrets=self._secrets,
            cgroup=None if self._cgroup is None else self._cgroup.birth(),
            needs=order.get("needs"),  # None from a worker of the version before
        )

    def _count_timeout(self) -> None:
        # From the process's start, so that waiting for a warm parent costs the job nothing.
        timeout: float | None = self._order["timeout_seconds"]
        if timeout is not None:
            self._timeout_at = boottime() + timeout

    # -- birth from a warm parent

    def _ask_parent(self, path: str, target: str) -> None:
        """Ask a warm parent to fork the job; without one, start it cold.

        Raises:
            OSError, ValueError: it could not be started cold either.
        """
        in_child = self._open_streams()
        try:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._report = ours.detach()
            secrets = open_stdin(json.dumps(self._secrets).encode()) if self._secrets else -1
            self._warm = WarmBirth(path, target, self._describe_birth(in_child), theirs.detach(), secrets)
        except OSError as error:
            self.distrusts_parent = True
            self._start_cold(f"the warm parent does not listen: {error.strerror}")
            return
        finally:
            for descriptor in in_child:
                os.close(descriptor)
        self._open_captures = list(self._captures)
        self._warm_give_up_at = self._born_at + ANSWER_SECONDS_MAX

    def _start_cold(self, why: str) -> None:
        """Start the job by fork and exec after all. Nothing of it has run: nobody was let through the gate."""
        self.cold_because = why
        self._part_from_parent()
        for capture in self._captures:
            if capture.pipe >= 0:
                os.close(capture.pipe)
        self._captures = self._make_captures()
        self._open_captures = []
        self._failure = None
        self._is_let_through = self._leader_ended = False
        self._spawn()

    def _part_from_parent(self) -> None:
        if self._warm is not None:
            self._warm.close()
            self._warm = None
        for descriptor in (self._report, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._report = self.pidfd = -1
        self.pid = 0
        self._warm_give_up_at = FOREVER
        struct.pack_into("qq", self._post.slot, 8, 0, 0)

    def _is_at_gate(self) -> bool:
        """Whether a warm parent was asked, and the job not let through yet."""
        return self._warm is not None and not self._is_let_through

    def _look_at_birth(self) -> None:
        """See how the birth goes on: answered, refused, failed, or too slow.

        Raises:
            OSError, ValueError: the job had to be started cold, and could not be.
        """
        warm = self._warm
        assert warm is not None
        self.distrusts_parent = warm.refusal is None and not self._is_let_through
        if self._failure:  # told by the process itself, which has run nothing
            self._start_cold(f"a process forked by the warm parent failed: {read_report(self._failure)[1]}")
        elif self._is_let_through:
            return
        elif warm.refusal is not None:
            self._start_cold(warm.refusal)
        elif warm.lost:
            self._start_cold("the warm parent died")
        elif warm.pid and self._failure is None and warm.end is None:
            self._let_through(warm)
        elif warm.pid:
            self._start_cold("a process forked by the warm parent died at its birth")
        elif boottime() >= self._warm_give_up_at:
            self._start_cold(f"the warm parent did not answer within {ANSWER_SECONDS_MAX:g} s")

    def _let_through(self, warm: WarmBirth) -> None:
        """Open the gate: from here on this is the job."""
        crash.at("spawn.at_gate")
        now = boottime()
        self.pid, self.pidfd = warm.pid, warm.pidfd
        if now >= self._lease_term_at():
            self._abandon_at_gate()
            return
        # Known to the nursery before anything runs. Read while it lives, the start is surely its own.
        self._began = start_of(self.pid)
        if not _is_over(self.pidfd):
            struct.pack_into("qq", self._post.slot, 8, self.pid, self._began)
        self._is_let_through = True
        self._warm_give_up_at = FOREVER
        self._count_timeout()
        try:
            os.write(self._report, OPEN)
        except OSError:
            pass  # it is dead already, of which its parent knows more
        crash.at("spawn.let_through")

    def _abandon_at_gate(self) -> None:
        """End without having let the job through: it is stopped, or too late."""
        self._part_from_parent()
        self._open_captures = []
        if self._stop_why is None or self._stop_why == "lease_over":
            self._refuse("LeaseOver", "the lease was about to end before the job could be started")
        self.has_ended = True

    # -- watching

    def wait(self, worker: int, worker_events: int, seconds_max: float = WAIT_SECONDS_MAX) -> bool:
        """Wait for something to happen and deal with it. Tell whether the worker has sent something, to be read."""
        poll = select.poll()
        if worker >= 0:
            poll.register(worker, worker_events)
        if self.pidfd >= 0 and not self._leader_ended:
            poll.register(self.pidfd, select.POLLIN)
        warm = self._warm.fileno() if self._warm is not None and not self._warm.lost else -1
        if self._warm is not None and warm >= 0:
            poll.register(warm, select.POLLIN | select.POLLOUT if self._warm.wants_write else select.POLLIN)
        if self._report >= 0:
            poll.register(self._report, select.POLLIN)
        for capture in self._open_captures:
            poll.register(capture.pipe, select.POLLIN)
        assert self._control is not None
        for fileno, events in self._control.interests():
            poll.register(fileno, events)
        ready = poll.poll(min(seconds_max, self._wait_seconds(boottime())) * 1000)
        from_worker = False
        for fileno, _ in ready:
            if fileno == worker:
                from_worker = True
            elif fileno == self.pidfd:
                self._leader_ended = True
            elif fileno == warm:
                continue  # below: it may start everything anew
            elif fileno == self._report:
                self._read_report()
            elif not self._read_output(fileno):
                self._control.handle(fileno)
        try:
            if self._warm is not None:
                if any(fileno == warm for fileno, _ in ready):
                    self._warm.hear()
                if self._leader_ended:
                    self._read_report()
                self._look_at_birth()
        except (OSError, ValueError) as error:
            self._refuse(type(error).__name__, f"the process could not be made: {error}")
        if self._leader_ended and not self.has_ended:
            self._look_at_end()
        if not self.has_ended:
            self._reap_orphans()
            self._keep_time(boottime())
        return from_worker

    def _look_at_end(self) -> None:
        """See whether all is known about the end of the job's process."""
        self._read_report()
        if self._warm is None or self._warm.end is not None or self._warm.lost:
            self.has_ended = True
            return
        now = boottime()
        self._warm_give_up_at = min(self._warm_give_up_at, now + STATUS_SECONDS_MAX)
        self.has_ended = now >= self._warm_give_up_at

    def _read_report(self) -> None:
        """See whether the program runs (exec closed the pipe) or could not be run (the pipe says why)."""
        if self._report < 0:
            return
        try:
            data = os.read(self._report, 65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""  # a gate that was opened too late
        os.close(self._report)
        self._report = -1
        if self._warm is not None and (data or not self._is_let_through):
            self._failure = data
        elif data:
            self._refusal = read_report(data)
        else:
            self.has_started = True

    def _read_output(self, fileno: int) -> bool:
        for capture in self._open_captures:
            if capture.pipe == fileno:
                is_other = self._last_read is not capture
                self._last_read = capture
                if not capture.read(is_other=is_other):
                    self._open_captures.remove(capture)
                return True
        return False

    def _reap_orphans(self) -> None:
        """Reap descendants that were orphaned and have ended, so that a long job does not gather zombies."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # the job is another's child
            if found is None or found.si_pid == self.pid:
                return  # the leader's end is for ``finish``
            os.waitpid(found.si_pid, 0)

    # -- time

    def _lease_kill_at(self) -> float:
        return self._deadline - margin_of(self.lease_seconds)

    def _lease_term_at(self) -> float:
        return self._lease_kill_at() - min(self._grace_seconds, self.lease_seconds / 3)

    def _limit_at(self) -> float:
        """Tell when its time is up. While it is frozen a time limit waits; the deadline of its run does not."""
        return FOREVER if self._frozen_at is not None and self._limited_by == "timeout" else self._timeout_at

    def stand_in_at(self) -> float:
        """Tell when somebody must be sent for who renews, if no worker comes: at half the lease, or earlier."""
        time_left = self._deadline - self._lease_term_at() + STAND_IN_SECONDS
        return self._deadline - max(self.lease_seconds / 2, time_left)

    def _wait_seconds(self, now: float) -> float:
        first = self._lease_kill_at()
        if self._stop_why is None:
            first = min(first, self._lease_term_at(), self._limit_at())
        if self.may_report and self._has_news():
            first = min(first, self._report_at)
        first = min(first, self._kill_at) if not self._is_killed else self._kill_at
        first = min(first, self._warm_give_up_at)
        return max(0.0, min(WAIT_SECONDS_MAX, first - now))

    def _keep_time(self, now: float) -> None:
        self._memory_kills.look(now)
        if self._is_at_gate():
            if now >= self._lease_term_at():
                self._abandon_at_gate()
            return
        if self._is_to_freeze:
            self.freeze()
        is_lease_over = now >= self._lease_term_at()
        if self._stop_why is None and (is_lease_over or now >= self._limit_at()):
            if self._has_ended_unseen():
                return
            if is_lease_over:
                self._begin_stop("lease_over", self._lease_kill_at())
            else:
                self._begin_stop(self._limited_by, now + self._grace_seconds)
        if now >= self._kill_at or (now >= self._lease_kill_at() and not self._is_killed):
            self._signal_group(signal.SIGKILL)
            if self._cgroup is not None:
                # Reaches also what has other rights than this user. One of them is the leader.
                self._killed_in_cgroup = max(self._killed_in_cgroup, self._cgroup.kill_rest() - 1)
            self._is_killed = True
            self._kill_at = now + KILL_AGAIN_SECONDS

    def _has_ended_unseen(self) -> bool:
        # This process may have been stopped since it looked: what ended before its time was up was in time.
        return self.pidfd >= 0 and not self._leader_ended and _is_over(self.pidfd)

    def renew(self, deadline: float) -> None:
        """Take a later end of the lease into account. A stop that has begun goes on."""
        if deadline > self._deadline and not self.has_ended:
            self._deadline = deadline
            self._publish_deadline(boottime())

    def _publish_deadline(self, now: float) -> None:
        """Tell the nursery when to kill the job, should this guardian not have done it: half a margin later."""
        instant = self._deadline - margin_of(self.lease_seconds) / 2
        struct.pack_into("d", self._post.slot, 0, instant)
        if instant < now + 1.5 * NURSERY_LOOKS_EVERY_SECONDS:
            self._post.tell_nursery(LOOK)  # or it might look too late

    # -- telling

    def _has_news(self) -> bool:
        control = self._control
        return (control is not None and control.has_news) or any(c.has_news for c in self._captures)

    def report(self) -> tuple[Message, bytes] | None:
        """Give what is new since the last report, if there is something and it is time: a message and its blob.

        The blob holds the new output, cut up by ``pieces`` into stream, position, size and marks, and the checkpoint.
        """
        now = boottime()
        if now < self._report_at or not self._has_news():
            return None
        self._report_at = now + REPORT_SECONDS
        message: Message = {"op": "report", "claim_id": self.claim_id, "pieces": []}
        parts: list[bytes] = []
        for name, capture in zip(STREAMS, self._captures, strict=True):
            position, data = capture.news()
            if data:
                marks = capture.marks_within(position, position + len(data))
                message["pieces"].append([name, position, len(data), marks])
                parts.append(data)
        control = self._control
        if control is not None and control.has_news:
            control.has_news = False
            message["progress"] = control.progress
            if control.checkpoint is not None:
                parts.append(control.checkpoint)
        return message, b"".join(parts)

    def last_progress(self) -> Message | None:
        """Give the progress that was told since the last report, once the job has ended; None: there is none."""
        control = self._control
        if control is None or not control.has_news or control.progress is None:
            return None
        return {"op": "report", "claim_id": self.claim_id, "pieces": [], "progress": control.progress}

    # -- stopping

    def stop(self, why: str, grace_seconds: float) -> None:
        """Send TERM to the whole group, and KILL after the grace. Asked again, the shorter grace counts."""
        if self.has_ended:
            return  # it was quicker
        now = boottime()
        if self._is_at_gate():
            self._stop_why = why
            self._abandon_at_gate()
            return
        if self._stop_why is None:
            self._begin_stop(why, now + grace_seconds)
        elif not self._is_killed:
            self._kill_at = min(self._kill_at, now + grace_seconds)
        self._keep_time(now)

    def _begin_stop(self, why: str, kill_at: float) -> None:
        self._stop_why = why
        self._kill_at = kill_at
        self._signal_group(signal.SIGTERM)
        self._signal_group(signal.SIGCONT)  # what is stopped gets its TERM only then
        self.thaw()

    def freeze(self) -> None:
        """Stop every process of the job where it is. Its time limit waits; its lease and a deadline do not."""
        if self.has_ended or self._stop_why is not None or self._frozen_at is not None:
            return
        self._is_to_freeze = not self.pid  # it waits for its warm parent: as soon as it is there
        if self._is_to_freeze:
            return
        self._frozen_at = boottime()
        self._is_held_by_cgroup = self._cgroup is not None and self._cgroup.has(self.pid) and self._cgroup.freeze()
        if self._is_held_by_cgroup:
            return
        self._signal_group(signal.SIGSTOP)
        signal_descendants(self._root_pid(), signal.SIGSTOP)  # what has left the group too

    def thaw(self) -> None:
        """Let every process of the job go on."""
        self._is_to_freeze = False
        if self._frozen_at is None or self.has_ended:
            return
        if self._limited_by == "timeout":
            self._timeout_at += boottime() - self._frozen_at
        self._frozen_at = None
        if self._is_held_by_cgroup:
            assert self._cgroup is not None
            self._cgroup.thaw()
            return
        signal_descendants(self._root_pid(), signal.SIGCONT)
        self._signal_group(signal.SIGCONT)

    def _root_pid(self) -> int:
        # Below this guardian is its job and nobody else; what a job of a warm parent has orphaned is below that job.
        return self.pid if self.is_warm else os.getpid()

    def _signal_group(self, number: int) -> None:
        if self._warm is not None:
            self._signal_group_of_another(number)
            return
        # The leader has not been reaped, so neither its pid nor its group can be a stranger's.
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            os.kill(self.pid, number)  # it has not made its group yet
        except PermissionError:
            pass  # nobody in the group may be signalled by this user

    def _signal_group_of_another(self, number: int) -> None:
        if self._leader_ended or _is_over(self.pidfd):
            return  # its parent sees to the rest, and may have reaped it already
        if number == signal.SIGKILL:
            kill_tree(self.pid, self._began)  # what it detached too, should its parent be dead or stopped
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except (ProcessLookupError, PermissionError):
                pass
        except PermissionError:
            pass

    @property
    def is_warm(self) -> bool:
        """Whether a warm parent has forked the job, so that it is not below this guardian."""
        return self._warm is not None

    @property
    def cgroup_path(self) -> str:
        """The path of the job's cgroup; empty if it has none."""
        return "" if self._cgroup is None else self._cgroup.path

    def describe(self) -> Message:
        """Say what this is, to a worker that did not order it."""
        for capture in self._captures:
            capture.told = 0  # it may not have arrived
        if self._control is not None and (self._control.progress or self._control.checkpoint):
            self._control.has_news = True
        told = ("claim_id", "run_id", "job", "attempt", "fence", "lease_seconds")
        known = {"deadline": self._deadline, "is_frozen": self._frozen_at is not None or self._is_to_freeze}
        database: Message = json.loads(self._order.get("database") or "{}")
        known["is_transactional"] = database.get("delivery") == "transactional"
        return {key: self._order[key] for key in told} | known

    # -- the end

    def finish(self) -> tuple[Message, bytes]:
        """Clear away what the job left, and describe the end: a message and its blob.

        The blob holds head and tail of stdout, head and tail of stderr, and the result; ``sizes`` says how long each
        is.
        """
        status: int | None = None
        cpu_seconds, memory_bytes_max, leftovers, is_clear = 0.0, 0, 0, True
        read_bytes = written_bytes = None
        own_cpu_seconds = 0.0
        ended_at = boottime()
        # Before all else, since no fork is quicker than this. Most of them are our children, and counted again below.
        if self._cgroup is not None:
            self._killed_in_cgroup = max(self._killed_in_cgroup, self._cgroup.kill_rest())
        if self._warm is not None and (end := self._warm.end) is not None:
            status, cpu_seconds, memory_bytes_max = end.status, end.cpu_seconds, end.memory_bytes_max
            leftovers, is_clear = end.leftovers, end.is_clear
            read_bytes, written_bytes = end.read_bytes, end.written_bytes
        elif self._warm is not None and self.pid:
            leftovers = sweep_marked(self.control_path)  # what it has left, since its parent can do it no more
        elif self.pid:
            # While the leader is a zombie: once it is reaped, the number may be a stranger's.
            self._signal_group(signal.SIGKILL)
            read_bytes, written_bytes = read_disk_bytes(self.pid)
            if "cpu_max_seconds" in self._limits:
                own_cpu_seconds = read_own_cpu_seconds(self.pid)
            _, status, usage = os.wait4(self.pid, 0)
            cpu_seconds = usage.ru_utime + usage.ru_stime
            memory_bytes_max = usage.ru_maxrss * 1024
            leftovers, is_clear = sweep_children(SWEEP_SECONDS_MAX)
        leftovers = max(leftovers, self._killed_in_cgroup)
        if self._cgroup is not None:
            is_clear = self._cgroup.wait_until_empty(SWEEP_SECONDS_MAX) and is_clear
            usage = Usage(self._cgroup.path)
            self._usage = usage if usage.cpu_seconds else None  # else the job could not enter: what it knows is no news
            # The larger where both can tell: who was never waited for counts in one only, pages shared in the other.
            cpu_seconds = max(cpu_seconds, usage.cpu_seconds or 0.0)
            memory_bytes_max = max(memory_bytes_max, usage.memory_bytes_max or 0)
            read_bytes = larger(read_bytes, usage.read_bytes)
            written_bytes = larger(written_bytes, usage.written_bytes)
            self._cgroup.remove()
        SLOT.pack_into(self._post.slot, 0, 0.0, 0, 0, b"")
        self._drain()
        message: Message = {key: self._order[key] for key in ("claim_id", "run_id", "attempt", "fence")}
        message |= self._describe_end(status, ended_at)
        self._explain_end(message, ended_at, (cpu_seconds, own_cpu_seconds), memory_bytes_max, leftovers)
        parts = [part for capture in self._captures for part in (bytes(capture.head), capture.tail())]
        totals = [capture.total for capture in self._captures]
        result = self._control.result if self._control else None
        message |= {
            "op": "ended",
            "seconds": ended_at - self._born_at,
            "cpu_seconds": cpu_seconds,
            "memory_bytes_max": memory_bytes_max,
            "read_bytes": read_bytes,
            "written_bytes": written_bytes,
            "leftovers": leftovers,
            "retire": not is_clear,
            "cold_because": self.cold_because,
            "totals": totals,
            "sizes": [len(part) for part in parts],
            "marks": [self._marks_of(capture) for capture in self._captures],
            "has_result": result is not None,
        }
        if self._control is not None and self._control.checkpoint is not None:
            message["checkpoint"] = self._control.checkpoint.decode()
        self._close()
        return message, b"".join((*parts, result or b""))

    def _marks_of(self, capture: Capture) -> list[tuple[int, int]]:
        head, tail = len(capture.head), len(capture.tail())
        return capture.marks_within(0, head) + capture.marks_within(capture.total - tail, capture.total)

    def _drain(self) -> None:
        """Read what is left in the pipes. Nobody of the tree writes any more, so this is quick, and bounded anyway."""
        if self._control is not None:
            self._control.drain()
        give_up_at = boottime() + DRAIN_SECONDS_MAX
        while self._open_captures and (left := give_up_at - boottime()) > 0:
            poll = select.poll()
            for capture in self._open_captures:
                poll.register(capture.pipe, select.POLLIN)
            for fileno, _ in poll.poll(left * 1000):
                self._read_output(fileno)
        for capture in self._captures:
            capture.end()

    def _describe_end(self, status: int | None, ended_at: float) -> Message:
        end: Message = {"exit_code": None, "signal": None, "error_type": None, "error_message": None, "traceback": None}
        if self._refusal is not None:
            kind, sentence = self._refusal
            return end | {"ended": "not_started", "error_type": kind, "error_message": sentence}
        if status is None:
            return end | self._describe_unknown_end(ended_at)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            end |= {"ended": "exited", "exit_code": code}
        else:
            end |= {"ended": "signalled", "signal": -code}
        if self._stop_why is not None and not self._has_returned(code):
            end["ended"] = self._stop_why
        elif code == -signal.SIGKILL and ended_at >= self._lease_kill_at():
            end["ended"] = "lease_over"  # the nursery did it, while this guardian was stopped
        control = self._control
        if control is not None and control.error is not None:
            end["error_type"], end["error_message"], end["traceback"] = control.error
            end["error_bases"] = control.error_bases
        elif end["ended"] == "exited" and code == 0 and self._lacks_result():
            end["error_type"] = "NoResult"
            end["error_message"] = "the process of the callable ended with status 0 before the callable had returned"
        return end

    def _explain_end(
        self, end: Message, ended_at: float, cpu_seconds: tuple[float, float], memory_bytes_max: int, leftovers: int
    ) -> None:
        """Say which limit ended the job, where that can be known; what the job said itself goes first."""
        if end["ended"] in ("timeout", "deadline"):
            self._explain_time_limit(end, ended_at)
            return
        if end["ended"] not in ("exited", "signalled"):
            return
        is_address_space = self._cgroup is None or "memory_max_bytes" not in self._cgroup.holds
        if end["error_type"] is not None:
            if end["error_type"] == "MemoryError":
                limit = self._limits.get("memory_max_bytes")
                peak = f"its memory peaked at {say_bytes(memory_bytes_max)}"
                if limit is not None and is_address_space:
                    asked = f"it asked for more address space than memory_max allows, {say_bytes(limit)} a process"
                    peak = f"{asked}; {peak}, which counts only what was in use"
                elif limit is not None:
                    peak = f"{peak}, and memory_max is {say_bytes(limit)}"
                end["error_message"] = "; ".join(part for part in (end["error_message"], peak) if part)
            return
        code = end["exit_code"] if end["signal"] is None else -end["signal"]
        if not code and end["ended"] == "exited":
            return
        own = None if self._usage is None else self._usage.memory_kills  # of this job, not of this machine
        kind, sentence = explain_end(
            code,
            self._limits,
            cpu_seconds=cpu_seconds[0],
            own_cpu_seconds=cpu_seconds[1],
            memory_bytes_max=memory_bytes_max,
            memory_kills=own if own is not None else self._memory_kills.count(),
            leftovers=leftovers,
            is_address_space=is_address_space,
        )
        end["error_type"], end["error_message"] = kind, sentence

    def _explain_time_limit(self, end: Message, ended_at: float) -> None:
        """Say how long it ran before, and that it was killed; what the job said itself comes after that."""
        limit: float | None = self._order["timeout_seconds"]
        # Without what it waited for its parent, and what it was frozen.
        ran_seconds = ended_at - self._timeout_at + (limit or 0.0)
        grace = self._grace_seconds if end["signal"] == signal.SIGKILL and self._is_killed else None
        told = end["error_message"]
        end["error_message"] = say_time_limit(limit, ran_seconds, self._limited_by, told, grace_seconds=grace)

    def _describe_unknown_end(self, ended_at: float) -> Message:
        """Describe the end of a job whose exit status nobody knows: what it has told counts."""
        control = self._control
        if control is not None and control.error is not None:
            kind, sentence, traceback = control.error
            told = {"error_type": kind, "error_message": sentence, "traceback": traceback}
            return told | {"ended": self._stop_why or "exited", "error_bases": control.error_bases}
        if self.pid and not self._lacks_result():
            return {"ended": "exited", "exit_code": 0}
        if self._stop_why is not None:
            return {"ended": self._stop_why}
        if ended_at >= self._lease_kill_at():
            return {"ended": "lease_over"}
        sentence = "its warm parent died, and nobody else was told how the process ended; it had reported no result"
        return {"ended": "exited", "error_type": STATUS_LOST, "error_message": sentence}

    def _has_returned(self, code: int) -> bool:
        # A callable that has said what it returned was quicker than the stop: its work is done, and not done again. One
        # that has asked, and was told that it is being stopped, has left work undone.
        if self._control is not None and self._control.has_heard_stop:
            return False
        return code == 0 and bool(self._order["expects_result"]) and not self._lacks_result()

    def _lacks_result(self) -> bool:
        return bool(self._order["expects_result"]) and (self._control is None or self._control.result is None)

    def _close(self) -> None:
        for descriptor in (self._report, self.pidfd, *(capture.pipe for capture in self._captures)):
            if descriptor >= 0:
                os.close(descriptor)
        self._report = self.pidfd = -1
        if self._warm is not None:
            self._warm.close()
        if self._control is not None:
            self._control.close()


def larger(one: int | None, other: int | None) -> int | None:
    """Give the larger of two figures, of which either may not be known."""
    return max((figure for figure in (one, other) if figure is not None), default=None)


def _is_over(pidfd: int) -> bool:
    """Tell whether the process has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def open_stdin(data: bytes) -> int:
    """Open a job's standard input: a file, not a pipe that somebody would have to fill while watching the rest."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
