"""The keeper of an executor process: it stands between that process and the worker, as a guardian does for a job.

The runs are many, their process is one: when the lease of one of them nears its end without having been renewed, all
of them are killed with it. So are they when the worker goes, since nobody else could go on with half a process.

Invariants: no code of a run is executed beyond its lease, whoever else is alive: its instant is announced to the
nursery too, which kills should this process be stopped; only an executor that answers is renewed for. A run that does
not end when it is to be stopped costs the others nothing, as long as they can end: the executor gets no new runs, and
is killed when only such are left. No end is told while the run's code may still be executed. Ends that the worker has
not acknowledged when it goes are written to disk. Forked by the nursery, which runs ``serve``; few imports, no
database. Long, since a run, its process and the worker are one state seen from three sides.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from rota.execution.attempt import (
    CALL,
    FOREVER,
    LOOK,
    NURSERY_LOOKS_EVERY_SECONDS,
    REPORT_AFTER_SECONDS,
    REPORT_SECONDS,
    SLOT,
    STREAMS,
    SWEEP_SECONDS_MAX,
    WAIT_SECONDS_MAX,
    Post,
    margin_of,
    open_stdin,
)
from rota.execution.control import CONTROL_FOLDER
from rota.execution.guardian import JOURNAL_AGAIN_SECONDS, JOURNAL_TRIES_MAX, traceback_to_log
from rota.execution.journal import write_end
from rota.execution.limits import MemoryKills, say_memory_kills, say_time_limit
from rota.execution.linux import boottime, sweep_children
from rota.execution.output import Capture
from rota.execution.spawn import Birth, fork_job, read_report
from rota.execution.wire import Channel, listen_at, pack_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rota.execution.wire import Frame, Message

LOG_NAME = "executors.log"
LOG_BYTES_MAX = 1024 * 1024  # it begins anew above that
LEAVE_SECONDS_MAX = 2.0  # for the exit hooks of an executor that nobody needs any more
ASK_SECONDS = 1.0  # while a run that was to be stopped has not ended
EXECUTOR_LOST = "ExecutorLost"  # the error type of a run that was stopped or killed because of others, or of its lease


class _Run:
    """One run, from its order to its end."""

    def __init__(self, order: Message, output_bytes_max: int) -> None:
        now = boottime()
        self.order = order
        self.claim_id: str = order["claim_id"]
        self.lease_seconds: float = order["lease_seconds"]
        self.deadline: float = order["deadline"]
        self.born_at = now
        self.timeout_at = FOREVER
        self.has_begun = False
        self.stop_why: str | None = None
        self.stop_until = FOREVER  # then it should have ended
        self.captures = {name: Capture(output_bytes_max, now) for name in STREAMS}
        self.last_stream = ""
        self.progress: tuple[float | None, str | None] | None = None
        self.checkpoint: bytes | None = None
        self.has_news = False
        self.report_at = now + REPORT_AFTER_SECONDS

    @property
    def kill_at(self) -> float:
        return self.deadline - margin_of(self.lease_seconds)

    @property
    def term_at(self) -> float:
        return self.kill_at - min(self.order["grace_seconds"], self.lease_seconds / 3)


class Keeper:
    """Speaks with the worker and with the executor, and watches the clock for all runs."""

    def __init__(self, worker: Channel, post: Post) -> None:
        self._worker = worker
        self._post = post
        self._nursery_pid = os.getppid()
        self._runs: dict[str, _Run] = {}
        self._unacknowledged: dict[str, Frame] = {}
        self._executor: Channel | None = None
        self._listener: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._kind = ""
        self._has_spoken = False
        self._fault: str | None = None  # why there is no executor
        self._is_over = False  # it has ended
        self._is_retired = False
        self._free_at = 0.0  # its loop was seen to turn
        self._ask_at = FOREVER
        self._memory_kills = MemoryKills(boottime())
        self._control_path = f"{post.folder}/{CONTROL_FOLDER}/{post.name}"

    def serve(self) -> None:
        """Serve until the worker leaves. What it has not acknowledged is on disk then."""
        self._worker.send({"op": "here", "pid": os.getpid(), "at": boottime()})
        while not self._worker.lost:
            self._wait()
            for message, blob in self._worker.receive():
                self._hear_worker(message, blob)
            self._worker.flush()
            if self._executor is not None:
                self._hear_executor()
            self._keep_time(boottime())
            self._tell_news(boottime())
            self._publish_deadline()
        self._leave()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._worker.fileno(), _events_of(self._worker))
        if self._executor is not None:
            poll.register(self._executor.fileno(), _events_of(self._executor))
            poll.register(self._pidfd, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener.fileno(), select.POLLIN)
        poll.poll(self._wait_seconds(boottime()) * 1000)
        if self._listener is not None:
            try:
                self._listener.accept()[0].close()  # nobody can be told apart here: runs speak by their functions
            except OSError:
                pass
        if self._executor is not None:
            self._executor.flush()

    # -- the worker

    def _hear_worker(self, message: Message, blob: bytes) -> None:
        match message["op"]:
            case "executor":
                self._start(message)
            case "order":
                self._take(message, blob)
            case "renewed":
                run = self._runs.get(message["claim_id"])
                if run is not None:
                    run.deadline = max(run.deadline, message["deadline"])
            case "ask":
                self._ask()
            case "stop":
                run = self._runs.get(message["claim_id"])
                if run is not None:
                    self._stop(run, message["why"], boottime() + message["grace_seconds"])
            case "acknowledge":
                self._unacknowledged.pop(message["claim_id"], None)
            case _:
                pass

    def _start(self, message: Message) -> None:
        """Start the executor process. When that fails its runs are told so."""
        self._kind = message["argv"][-1]
        try:
            self._listener = listen_at(self._control_path, 8)
            self._spawn(message)
        except (OSError, ValueError) as error:
            self._fault = f"no executor process could be made: {error}"
            self._retire(self._fault)

    def _spawn(self, message: Message) -> None:
        path = f"{self._post.folder}/{LOG_NAME}"
        is_long = os.path.exists(path) and os.path.getsize(path) >= LOG_BYTES_MAX
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_long else 0), 0o600)
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        stdin = open_stdin(b"")
        said, report = os.pipe()
        environment: dict[str, str] = message["environment"]
        birth = Birth(
            [*message["argv"], str(theirs.fileno())],
            {**environment, "ROTA_CONTROL": self._control_path},
            cwd=message["cwd"],
            user=None,
            umask=0o022,
            limits={},
            nofile=self._post.nofile,
            stdin=stdin,
            stdout=log,
            stderr=log,
        )
        try:
            self._pid = fork_job(birth, report)
            self._pidfd = os.pidfd_open(self._pid)
        finally:
            for descriptor in (log, stdin, report):
                os.close(descriptor)
            theirs.close()
        told = os.read(said, 65536)  # until exec has closed it
        os.close(said)
        if told:
            os.waitpid(self._pid, 0)
            os.close(self._pidfd)
            raise OSError(read_report(told)[1])
        self._executor = Channel(ours)
        self._worker.send(
            {"op": "ready", "pid": self._pid, "control": self._control_path}, descriptor=os.dup(self._pidfd)
        )

    def _take(self, order: Message, blob: bytes) -> None:
        run = _Run(order, self._post.output_bytes_max)
        if self._fault is not None:
            self._runs[run.claim_id] = run
            self._tell_end(run, _not_started(self._fault))
            return
        if self._is_over or self._executor is None or self._is_retired:
            self._worker.send({"op": "refused", "claim_id": run.claim_id, "why": "its executor process is leaving"})
            return
        self._runs[run.claim_id] = run
        if boottime() >= run.term_at:
            self._tell_end(run, _too_late("the lease was about to end before it could begin"))
            return
        told = {name: order[name] for name in ("claim_id", "target", "facts", "checkpoint")}
        self._publish_deadline()  # before the code may run
        self._executor.send(told | {"op": "run"}, blob)

    def _ask(self) -> None:
        """Ask the executor for a sign of life. Without one the worker is given none, so that it renews nothing."""
        if self._executor is not None:
            self._executor.send({"op": "ask"})
        if os.getppid() != self._nursery_pid:
            self._retire("its nursery has died")  # nobody would kill it in our place

    # -- the executor

    def _hear_executor(self) -> None:
        executor = self._executor
        assert executor is not None
        for message, blob in executor.receive():
            self._read_executor(message, blob)
        if executor.lost or _is_readable(self._pidfd):
            self._bury("its executor process ended", by_itself=True)

    def _read_executor(self, message: Message, blob: bytes) -> None:
        run = self._runs.get(message.get("claim_id", ""))
        match message["op"]:
            case "here":
                self._has_spoken = True
                self._free_at = message["free_at"]
                self._worker.send({"op": "here", "pid": os.getpid(), "at": boottime()})
            case "began" if run is not None:
                run.has_begun = True
                timeout: float | None = run.order["timeout_seconds"]
                run.timeout_at = FOREVER if timeout is None else boottime() + timeout
            case "output" if run is not None:
                stream: str = message["stream"]
                run.captures[stream].take(blob, is_other=run.last_stream != stream)
                run.last_stream = stream
                run.has_news = True
            case "told" if run is not None:
                run.progress = message["progress"]
                run.checkpoint = blob or run.checkpoint
                run.has_news = True
            case "ended" if run is not None:
                self._tell_end(run, _end_of(run, message, blob), blob if message.get("has_result") else None)
            case "refused" if run is not None:
                del self._runs[run.claim_id]
                self._worker.send({"op": "refused", "claim_id": run.claim_id, "why": message["why"]})
            case "retire":
                self._retire(message["why"])
            case _:
                pass

    def _retire(self, why: str) -> None:
        """Give the executor no new runs. Those that have not begun are given to another."""
        if self._is_retired:
            return
        self._is_retired = True
        self._worker.send({"op": "retire", "why": why})
        for run in self._runs.values():
            if self._executor is not None and not run.has_begun:
                self._executor.send({"op": "withdraw", "claim_id": run.claim_id, "why": why})

    # -- time

    def _wait_seconds(self, now: float) -> float:
        first = min(self._ask_at, now + WAIT_SECONDS_MAX)
        for run in self._runs.values():
            first = min(first, run.kill_at)
            if run.stop_why is None:
                first = min(first, run.term_at, run.timeout_at)
            elif run.stop_until > now:
                first = min(first, run.stop_until)
            if run.has_news and not self._worker.wants_write:
                first = min(first, run.report_at)
        return max(0.0, first - now)

    def _keep_time(self, now: float) -> None:
        self._memory_kills.look(now)
        overdue: list[_Run] = []
        for run in self._runs.values():
            if now >= run.kill_at:
                self._bury("a lease could not be renewed in time, so its executor process was killed")
                return
            if run.stop_why is None and now >= run.term_at:
                self._stop(run, "lease_over", run.kill_at)
            elif run.stop_why is None and now >= run.timeout_at:
                self._stop(run, run.order["limited_by"], now + run.order["grace_seconds"])
            if now >= run.stop_until:
                overdue.append(run)
        if overdue:
            self._see_to_overdue(overdue, now)
        else:
            self._ask_at = FOREVER

    def _see_to_overdue(self, overdue: list[_Run], now: float) -> None:
        first = overdue[0]
        self._retire(
            f"run {first.order['run_id']} of job {first.order['job']} does not end although it was to be stopped"
        )
        if any(run.stop_why == "lease_over" for run in overdue):
            why = "a run that was lost to another node did not end, so its executor process was killed"
        elif len(overdue) == len(self._runs):
            why = "it did not end when it was to be stopped, so its executor process was killed"
        elif self._ask_at < FOREVER and now - self._free_at > ASK_SECONDS + first.order["grace_seconds"]:
            why = "a run that was to be stopped blocked the event loop, so its executor process was killed"
        else:
            if self._ask_at == FOREVER:
                self._free_at = now  # until it is known better
            if now >= self._ask_at or self._ask_at == FOREVER:
                self._ask_at = now + ASK_SECONDS
                if self._executor is not None:
                    self._executor.send({"op": "ask"})
            return
        self._bury(why)

    def _stop(self, run: _Run, why: str, until: float) -> None:
        """Ask a run to end. Asked again, the shorter grace counts."""
        run.stop_until = min(run.stop_until, until)
        if run.stop_why is None or why == "lease_over":
            run.stop_why = why
        if self._executor is not None:
            self._executor.send({"op": "stop", "claim_id": run.claim_id, "why": why})

    def _publish_deadline(self) -> None:
        """Tell the nursery when to kill the executor, should it not have been done here: half a margin later."""
        now = boottime()
        instants = [run.deadline - margin_of(run.lease_seconds) / 2 for run in self._runs.values()]
        instant = 0.0 if self._is_over else min(instants, default=0.0)
        if SLOT.unpack_from(self._post.slot)[0] == instant:
            return
        SLOT.pack_into(self._post.slot, 0, instant, 0, 0, b"")
        if instant and instant < now + 1.5 * NURSERY_LOOKS_EVERY_SECONDS:
            self._post.tell_nursery(LOOK)

    # -- telling

    def _tell_news(self, now: float) -> None:
        for run in self._runs.values():
            if run.has_news and now >= run.report_at and not self._worker.wants_write:
                run.has_news = False
                run.report_at = now + REPORT_SECONDS
                self._worker.send(*_report_of(run))

    def _tell_end(self, run: _Run, end: Message, result: bytes | None = None) -> None:
        del self._runs[run.claim_id]
        captures = run.captures.values()
        parts = [part for capture in captures for part in (bytes(capture.head), capture.tail())]
        message: Message = {key: run.order[key] for key in ("claim_id", "run_id", "attempt", "fence")}
        message |= {"exit_code": None, "signal": None, "error_type": None, "error_message": None, "traceback": None}
        message |= end
        if message["ended"] == "timeout":
            limit: float | None = run.order["timeout_seconds"]
            ran_seconds, told = boottime() - run.timeout_at + (limit or 0.0), message["error_message"]
            message["error_message"] = say_time_limit(limit, ran_seconds, "timeout", told, grace_seconds=None)
        message |= {
            "op": "ended",
            "seconds": boottime() - run.born_at,
            "memory_bytes_max": 0,
            "leftovers": 0,
            "retire": False,
            "executor": self._kind,
            "totals": [capture.total for capture in captures],
            "sizes": [len(part) for part in parts],
            "marks": [_marks_of(capture) for capture in captures],
            "has_result": result is not None,
        }
        message.setdefault("cpu_seconds", None)
        if run.checkpoint is not None:
            message["checkpoint"] = run.checkpoint.decode()
        frame = (message, b"".join((*parts, result or b"")))
        self._unacknowledged[run.claim_id] = frame
        self._worker.send(*frame)

    # -- the end of the executor

    def _bury(self, why: str, *, by_itself: bool = False) -> None:
        """Make sure that nothing of the executor lives, and tell the ends of its runs."""
        status = self._kill()
        executor = self._executor
        self._executor = None
        if executor is not None:
            while frames := executor.receive():  # what it had sent before
                for message, blob in frames:
                    self._read_executor(message, blob)
            executor.close()
        self._is_over = True
        how = f"{why}, {_say_status(status)}{self._say_memory_kills(status)}" if by_itself else why
        if by_itself and not self._has_spoken:
            self._fault = f"{how}, before it was ready; see {LOG_NAME} in the worker's folder"
        for run in list(self._runs.values()):
            self._tell_end(run, self._end_of_killed(run, how))
        self._publish_deadline()
        if not self._is_retired:
            self._is_retired = True
            self._worker.send({"op": "retire", "why": how})

    def _say_memory_kills(self, status: int) -> str:
        count = self._memory_kills.count()
        if not count or os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return ""
        return f" {say_memory_kills(count)}"

    def _end_of_killed(self, run: _Run, how: str) -> Message:
        if self._fault is not None:
            return _not_started(self._fault)
        if run.stop_why in ("cancelled", "timeout", "deadline"):
            return {"ended": run.stop_why, "error_message": how}
        if not run.has_begun:
            return _not_begun(how) if self._has_spoken else _too_late(how)
        ended = "released" if run.stop_why == "released" else "lease_over"
        return {"ended": ended, "error_type": EXECUTOR_LOST, "error_message": how}

    def _kill(self) -> int:
        if self._pidfd < 0:
            return 0
        for kill in (os.killpg, os.kill):  # it has not been reaped, so neither number can be a stranger's
            try:
                kill(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        _, status = os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        sweep_children(SWEEP_SECONDS_MAX)
        return status

    def _leave(self) -> None:
        """End everything, without a worker: it has gone, or needs this executor no more."""
        if self._executor is not None:
            if not self._runs:
                self._executor.close()
                give_up_at = boottime() + LEAVE_SECONDS_MAX
                while not _is_readable(self._pidfd, give_up_at - boottime()) and boottime() < give_up_at:
                    pass
                self._executor = None
            self._bury("its worker ended, and its executor process with it")
        for run in list(self._runs.values()):
            self._tell_end(run, _not_begun("its worker ended"))
        if self._listener is not None:
            self._listener.close()
            try:
                os.unlink(self._control_path)
            except FileNotFoundError:
                pass
        self._write_ends()

    def _write_ends(self) -> None:
        for claim_id, frame in self._unacknowledged.items():
            for _ in range(JOURNAL_TRIES_MAX):
                try:
                    write_end(self._post.folder, claim_id, pack_frame(*frame))
                    break
                except FileNotFoundError:
                    return  # the folder is gone, and so is everybody who would look into it
                except OSError:
                    traceback_to_log()
                    time.sleep(JOURNAL_AGAIN_SECONDS)
        if self._unacknowledged:
            self._post.tell_nursery(CALL)  # for somebody who brings them into the database


def _not_started(why: str) -> Message:
    """Describe the end of a run that cannot be started here."""
    return {"ended": "not_started", "error_type": "ExecutorNotStarted", "error_message": why}


def _too_late(why: str) -> Message:
    """Describe the end of a run that came when its lease was ending."""
    return {"ended": "not_started", "error_type": "LeaseOver", "error_message": why}


def _not_begun(why: str) -> Message:
    """Describe the end of a run none of whose code was executed: it is given back, and has spent nothing."""
    return {"ended": "released", "error_message": f"{why}; it had not begun"}


def _end_of(run: _Run, message: Message, result: bytes) -> Message:
    """Describe the end that the executor has told of a run."""
    status: int = message["status"]
    end: Message = {"ended": "exited", "exit_code": status, "cpu_seconds": message.get("cpu_seconds")}
    # One that has asked, and was told that it is being stopped, has left work undone, whatever it returns.
    has_returned = status == 0 and message.get("has_result") and not message.get("has_heard_stop")
    if run.stop_why is not None and not has_returned:
        if not message["has_begun"] and run.stop_why in ("released", "lease_over"):
            return _not_begun("it was to be stopped")
        end["ended"] = run.stop_why
        if run.stop_why in ("released", "lease_over"):
            return end | {"error_type": EXECUTOR_LOST, "error_message": "it was stopped before it had ended"}
    if message.get("error") is not None:
        end["error_type"], end["error_message"], end["traceback"] = message["error"]
        end["error_bases"] = message["bases"]
    elif end["ended"] == "exited" and not status and not message.get("has_result"):
        end["error_type"], end["error_message"] = "NoResult", "it raised SystemExit before it had returned"
    return end


def _report_of(run: _Run) -> Frame:
    message: Message = {"op": "report", "claim_id": run.claim_id, "pieces": []}
    parts: list[bytes] = []
    for name, capture in run.captures.items():
        position, data = capture.news()
        if data:
            message["pieces"].append([name, position, len(data), capture.marks_within(position, position + len(data))])
            parts.append(data)
    if run.progress is not None:
        message["progress"] = run.progress
    if run.checkpoint is not None:
        parts.append(run.checkpoint)
    return message, b"".join(parts)


def _marks_of(capture: Capture) -> list[tuple[int, int]]:
    head, tail = len(capture.head), len(capture.tail())
    return capture.marks_within(0, head) + capture.marks_within(capture.total - tail, capture.total)


def _events_of(channel: Channel) -> int:
    return select.POLLIN | select.POLLOUT if channel.wants_write else select.POLLIN


def _is_readable(descriptor: int, seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _say_status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"with status {code}"
