"""Guardians: each watches one attempt at a time, outlives its worker, and gives the end to whoever takes it.

Invariant: an end is kept, in memory and after a second on disk, until a worker has acknowledged that it is committed.
Any error of sending means "no worker now", and never costs the outcome. Forked by the nursery, which runs ``serve``.
One thread, few imports, no database.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque

from rota import crash
from rota.execution.attempt import CALL, WAIT_SECONDS_MAX, Attempt, Post
from rota.execution.control import CONTROL_FOLDER
from rota.execution.door import Door
from rota.execution.journal import forget_end, write_end
from rota.execution.linux import boottime
from rota.execution.wire import PROTOCOL_VERSION, Channel, pack_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rota.execution.wire import Frame, Message

ACKNOWLEDGE_SECONDS = 1.0  # after this long without acknowledgement the end goes to disk too
JOURNAL_AGAIN_SECONDS = 5.0  # the disk was full, or worse
JOURNAL_TRIES_MAX = 720  # an hour of that
ALONE_SECONDS = 1.0  # what a worker that is started again may need to come back
CALL_AGAIN_SECONDS = 5.0
SILENCE_SECONDS_MIN = 5.0  # a worker that is only late shall not be left
DOOR_AGAIN_SECONDS = 1.0


def traceback_to_log() -> None:
    """Write the current exception to standard error, which is the nursery's log."""
    try:
        import traceback  # only when needed: it brings a tokenizer along

        sys.stderr.write(f"process {os.getpid()}:\n{traceback.format_exc()}")
        sys.stderr.flush()
    except (OSError, ImportError):
        pass  # the disk that is full may be the log's too; what cannot be told must cost nobody the outcome


class Guardian:
    """Speaks with the worker, and watches one attempt after the other."""

    def __init__(self, worker: Channel, post: Post) -> None:
        self._worker = worker
        self._post = post
        self._nursery_pid = os.getppid()
        self._inbox: deque[Frame] = deque()
        self._attempt_count = 0
        self._must_retire = False
        self._is_announced = False  # to this worker, that the job runs
        self._door: Door | None = None
        self._door_at = 0.0  # there was no room for it: not before
        self._call_at: float | None = None  # None: it has a worker
        self._heard_at = boottime()  # when it said something last
        self._says_left = False  # to it, since it stands still

    def serve(self) -> None:
        """Serve orders until the worker leaves or this guardian is no longer fit."""
        self._send_here()
        while not self._must_retire:
            order = self._next_order()
            if order is None:
                return
            self.serve_attempt(*order)

    def serve_attempt(self, order: Message, stdin: bytes) -> None:
        """Carry out one order, from the start of its job to the acknowledged, or written, end."""
        self._attempt_count += 1
        control_path = f"{self._post.folder}/{CONTROL_FOLDER}/{self._post.name}-{self._attempt_count}"
        attempt = Attempt(order, stdin, self._post, control_path)
        crash.at("spawn.before")
        attempt.start()
        self._is_announced = False
        self._obey_all(attempt)  # what came together with the order
        while not attempt.has_ended:
            # A worker that is slow to read gets the newest when it has read the last; one that stands still nothing, so
            # that there is room to leave it.
            is_silent = self._silence() >= self._silence_max(attempt) * 0.8
            attempt.may_report = not (self._worker.lost or self._worker.wants_write or is_silent)
            if self._worker.lost:
                self._wait_for_another(attempt)
            elif attempt.wait(self._worker.fileno(), self._worker_events()):
                self._read_worker()
            self._obey_all(attempt)
            self._tell_news(attempt)
            if boottime() >= attempt.stand_in_at():
                self._leave_silent_worker(attempt)
            if attempt.has_started and not self._is_announced:
                self._announce(attempt)
        message, blob = attempt.finish()
        crash.at("end.reached")
        if not self._worker.lost and (progress := attempt.last_progress()) is not None:
            self._worker.send(progress)
        # Without its nursery a guardian is watched by nobody: the worker shall not use it again.
        is_alone = os.getppid() != self._nursery_pid
        self._must_retire = message["retire"] = self._must_retire or is_alone or bool(message["retire"])
        self._deliver(attempt, message, blob)
        self._close_door()

    def _tell_news(self, attempt: Attempt) -> None:
        if attempt.may_report and not self._worker.lost and (report := attempt.report()) is not None:
            self._worker.send(*report)

    def _leave_silent_worker(self, attempt: Attempt) -> None:
        """Leave a worker that is there and stands still, so that somebody else renews and takes the end.

        A worker that lives asks every third of the lease, also while the database is away. It is told first: when it
        goes on, it forgets this attempt, instead of killing it as one whose guardian has died.
        """
        if self._worker.lost:
            return
        if not self._says_left:
            if self._worker.wants_write or self._silence() < self._silence_max(attempt):
                return  # with more on its way to it than it takes, it could not be told
            self._says_left = True
            self._worker.send({"op": "left", "claim_id": attempt.claim_id})
        if not self._worker.wants_write:
            self._worker.close()
            self._call_at = boottime()  # it has had its time: what is left of the lease is for a stand-in to start in

    def _silence(self) -> float:
        return boottime() - self._heard_at

    def _silence_max(self, attempt: Attempt) -> float:
        return max(attempt.lease_seconds / 2, SILENCE_SECONDS_MIN)

    def _wait_for_another(self, attempt: Attempt) -> None:
        """Go on without a worker, let in the first one that knocks, and call for a stand-in if none comes."""
        self._open_door()
        now = boottime()
        if self._call_at is None:
            self._call_at = max(now + min(ALONE_SECONDS, attempt.lease_seconds / 10), attempt.stand_in_at())
        elif now >= self._call_at:
            self._call_at = now + CALL_AGAIN_SECONDS
            self._post.tell_nursery(CALL)
        seconds = min(WAIT_SECONDS_MAX, self._call_at - now)
        if attempt.wait(self._door.fileno() if self._door else -1, select.POLLIN, seconds):
            self._let_in(attempt)

    def _open_door(self) -> None:
        now = boottime()
        if self._door is None and now >= self._door_at:
            try:
                self._door = Door(self._post.folder, self._post.name)
            except OSError:
                self._door_at = now + DOOR_AGAIN_SECONDS  # not with each line that the job writes
                traceback_to_log()

    def _let_in(self, attempt: Attempt) -> None:
        connection = self._door.let_in() if self._door else None
        if connection is None:
            return
        crash.at("adopt.let_in")
        self._close_door()
        self._worker.close()
        self._worker = Channel(connection)
        self._heard_at = boottime()
        self._says_left = False
        self._inbox.clear()
        self._must_retire = True  # its nursery belongs to the worker before
        self._worker.send(attempt.describe() | {"op": "adopted", "guardian_pid": os.getpid(), "at": boottime()})
        self._is_announced = False
        self._call_at = None

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    def _announce(self, attempt: Attempt) -> None:
        self._is_announced = True
        if not self._worker.lost:
            message: Message = {"op": "started", "claim_id": attempt.claim_id, "pid": attempt.pid, "at": boottime()}
            message["control"] = attempt.control_path
            message["cgroup"] = attempt.cgroup_path
            message["is_warm"] = attempt.is_warm
            message["distrusts_parent"] = attempt.distrusts_parent
            message["cold_because"] = attempt.cold_because
            self._worker.send(message, descriptor=os.dup(attempt.pidfd))
            crash.at("spawn.told")

    def _obey_all(self, attempt: Attempt) -> None:
        while self._inbox:
            self._obey(attempt, self._inbox.popleft()[0])

    def _obey(self, attempt: Attempt, message: Message) -> None:
        if message.get("claim_id") not in (None, attempt.claim_id):
            return  # about an attempt before this one
        match message["op"]:
            case "ask":
                self._send_here()
            case "renewed":
                attempt.renew(message["deadline"])
            case "stop":
                attempt.stop(message["why"], message["grace_seconds"])
            case "freeze":
                attempt.freeze()
            case "thaw":
                attempt.thaw()
            case _:
                pass  # a later worker may say more

    def _deliver(self, attempt: Attempt, message: Message, blob: bytes) -> None:
        """Offer the end to the worker until it is acknowledged. Kept on disk if that takes long or nobody is there.

        Where the disk takes nothing either, it is kept here, and the door stays open for who comes.
        """
        claim_id: str = message["claim_id"]
        if self._worker.lost:
            self._let_in(attempt)  # who has knocked while the job ended
        self._worker.send(message, blob)
        if not self._worker.lost:
            crash.at("end.told")
        write_at = boottime() + ACKNOWLEDGE_SECONDS
        is_written = False
        tries = 0
        while True:
            while self._inbox:
                answer = self._inbox.popleft()[0]
                if answer["op"] == "ask":
                    self._send_here()
                elif answer["op"] == "acknowledge" and answer["claim_id"] == claim_id:
                    crash.at("end.taken")
                    if is_written:
                        forget_end(self._post.folder, claim_id)
                    return
            now = boottime()
            if is_written:
                self._leave_silent_worker(attempt)
            if not is_written and (now >= write_at or (self._worker.lost and not tries)):
                tries += 1
                try:
                    write_end(self._post.folder, claim_id, pack_frame(message, blob))
                    is_written = True
                except OSError:
                    traceback_to_log()
                    write_at = now + JOURNAL_AGAIN_SECONDS
            if self._worker.lost:
                self._post.tell_nursery(CALL)
                if is_written or tries >= JOURNAL_TRIES_MAX:
                    self._must_retire = True
                    return
                self._open_door()
            if self._wait_for_worker(ACKNOWLEDGE_SECONDS if is_written else write_at - now):
                self._let_in(attempt)
                self._worker.send(message, blob)

    # -- the worker

    def _send_here(self) -> None:
        self._worker.send({"op": "here", "version": PROTOCOL_VERSION, "pid": os.getpid(), "at": boottime()})

    def _next_order(self) -> Frame | None:
        """Wait for an order, as long as the worker stays; one that it has sent before it went is carried out."""
        while True:
            if self._worker.lost:
                self._inbox += self._worker.receive()  # it may have been gone before it was greeted
            while self._inbox:
                message, blob = self._inbox.popleft()
                if message["op"] == "order":
                    return message, blob
                if message["op"] == "ask":
                    self._send_here()
            if self._worker.lost:
                return None
            self._wait_for_worker(None)

    def _worker_events(self) -> int:
        return select.POLLIN | select.POLLOUT if self._worker.wants_write else select.POLLIN

    def _wait_for_worker(self, seconds: float | None) -> bool:
        """Wait for what the worker says, and read it. Without a worker: tell whether somebody is at the door."""
        poll = select.poll()
        if not self._worker.lost:
            poll.register(self._worker.fileno(), self._worker_events())
        elif self._door is not None:
            poll.register(self._door.fileno(), select.POLLIN)
        if not poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            return False
        if self._worker.lost:
            return True
        self._read_worker()
        return False

    def _read_worker(self) -> None:
        self._worker.flush()
        frames = self._worker.receive()
        if frames:
            self._heard_at = boottime()
        self._inbox += frames
