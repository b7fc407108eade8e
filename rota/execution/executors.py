"""The worker's side of executor processes: which one a run is given to, and what becomes of it.

One process for each kind and environment (interpreter, working directory, variables), started when a run asks for it
and given up when it has had none for a while. One that retires (its code has changed, a run in it does not end, its
loop is blocked) gets no new runs, and a fresh one takes its place at once.

Invariants: a run is given to another process only after the one before has said that it had not begun, or has been
killed before it had; every run comes back as ``Ended`` or ``GuardianLost``, exactly once. Used by the crew, in its
thread. Nothing here waits.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rota.execution.linux import boottime
from rota.execution.order import (
    CrewEvent,
    Ended,
    GuardianLost,
    Order,
    Outcome,
    Started,
    inline_message,
    not_started,
    read_outcome,
    read_report,
)

if TYPE_CHECKING:
    from rota.execution.wire import Channel, Message

IDLE_SECONDS = 60.0
EXECUTORS_MAX = 8  # beyond it the idle ones are given up at once
TRIES_MAX = 20  # processes that have refused a run; then it ends as not started

_Key = tuple[str, str, str | None, tuple[tuple[str, str], ...]]


class _Executor:
    """One process and its keeper, from its start until the connection to the keeper is closed."""

    def __init__(self, key: _Key, channel: Channel) -> None:
        self.key = key
        self.channel = channel
        self.keeper_pid = 0
        self.pid = 0
        self.pidfd = -1
        self.control = ""
        self.heard_at = 0.0
        self.runs: dict[str, _Run] = {}
        self.is_retired = False
        self.idle_since = boottime()


class _Run:
    """One run that was given out."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.deadline = order.deadline
        self.executor: _Executor | None = None
        self.outcome: Outcome | None = None
        self.try_count = 0


class Executors:
    """Executor processes of one worker."""

    def __init__(
        self,
        *,
        fork: Callable[[], Channel],  # has the nursery make a keeper; the crew watches the connection
        send: Callable[[Channel, Message, bytes], None],
        drop: Callable[[Channel], None],
        sweep: Callable[[str], None],  # what a dead keeper's executor has left
    ) -> None:
        self._fork = fork
        self._send = send
        self._drop = drop
        self._sweep = sweep
        self._serving: dict[_Key, _Executor] = {}
        self._by_fileno: dict[int, _Executor] = {}
        self._runs: dict[str, _Run] = {}
        self.notes: list[str] = []  # for the worker's log

    @property
    def claim_ids(self) -> frozenset[str]:
        """The claims given out and not yet acknowledged, or lost."""
        return frozenset(self._runs)

    @property
    def channels(self) -> list[Channel]:
        """The connections to all keepers."""
        return [executor.channel for executor in self._by_fileno.values()]

    def start(self, order: Order) -> None:
        """Give a run to its executor process, started if need be.

        Raises:
            OSError: there is no descriptor left for another one; nothing was given out.
        """
        run = _Run(order)
        self._give(run)
        self._runs[order.claim_id] = run

    def _give(self, run: _Run) -> None:
        order = run.order
        key = _key_of(order)
        executor = self._serving.get(key)
        if executor is None or executor.channel.lost:
            executor = self._begin(key, order)
        run.executor = executor
        run.try_count += 1
        executor.runs[order.claim_id] = run
        message, blob = inline_message(order, run.deadline)
        self._send(executor.channel, message, blob)

    def _begin(self, key: _Key, order: Order) -> _Executor:
        executor = _Executor(key, self._fork())
        self._by_fileno[executor.channel.fileno()] = executor
        self._serving[key] = executor
        variables = {name: value for name, value in order.environment.items() if not name.startswith("ROTA_")}
        argv = [order.argv[0], "-P", "-m", "rota.execution.executor_process", order.executor]
        told = {"argv": argv, "cwd": order.cwd, "environment": variables | {"ROTA_EXECUTOR": order.executor}}
        self._send(executor.channel, told | {"op": "executor"}, b"")
        return executor

    def tell(self, claim_id: str, message: Message) -> bool:
        """Hand on what concerns one run. Tell whether it is one of these."""
        run = self._runs.get(claim_id)
        if run is None:
            return False
        if message["op"] == "renewed":
            run.deadline = max(run.deadline, message["deadline"])
        elif message["op"] == "freeze":
            self.notes.append(f"run {run.order.run_id} cannot be frozen: it shares its executor process with others")
        if run.executor is not None:
            self._send(run.executor.channel, message, b"")
        return True

    def ask(self) -> None:
        """Ask every executor for a sign of life; idle ones too, since they may be given a run before the next time."""
        for channel in self.channels:
            self._send(channel, {"op": "ask"}, b"")

    def answered(self, since: float) -> frozenset[str]:
        """Tell for which claims an executor has answered at or after ``since``."""
        heard = (executor for executor in self._by_fileno.values() if executor.heard_at >= since)
        return frozenset(claim_id for executor in heard for claim_id in executor.runs)

    def acknowledge(self, claim_id: str) -> bool:
        """Say that an end is committed. Tell whether it was one of these."""
        run = self._runs.get(claim_id)
        if run is None:
            return False
        assert run.outcome is not None, f"claim {claim_id} is acknowledged, and has not ended"
        del self._runs[claim_id]
        executor = run.executor
        if executor is not None:
            self._send(executor.channel, {"op": "acknowledge", "claim_id": claim_id}, b"")
            self._take_from(executor, claim_id)
        return True

    def _take_from(self, executor: _Executor, claim_id: str) -> None:
        executor.runs.pop(claim_id, None)
        if not executor.runs:
            executor.idle_since = boottime()
            if executor.is_retired:
                self._let_go(executor)

    # -- hearing

    def knows(self, fileno: int) -> bool:
        """Tell whether this is the connection to a keeper."""
        return fileno in self._by_fileno

    def hear(self, fileno: int) -> list[CrewEvent]:
        """Take what a keeper says."""
        executor = self._by_fileno[fileno]
        events: list[CrewEvent] = []
        executor.channel.flush()
        for message, blob in executor.channel.receive():
            self._read(executor, message, blob, events)
        if executor.channel.lost and self._by_fileno.get(fileno) is executor:  # it may have been let go meanwhile
            self._lose(executor, events)
        return events

    def _read(self, executor: _Executor, message: Message, blob: bytes, events: list[CrewEvent]) -> None:
        run = executor.runs.get(message.get("claim_id", ""))
        match message["op"]:
            case "here":
                executor.keeper_pid = message["pid"]
                if executor.pid:
                    executor.heard_at = message["at"]
            case "ready":
                executor.pid, executor.control = message["pid"], message["control"]
                if executor.channel.descriptors:  # without one, if this process has no descriptor to spare
                    executor.pidfd = executor.channel.descriptors.pop(0)
            case "report" if run is not None:
                events.append(read_report(message, blob))
            case "ended" if run is not None and run.outcome is None:
                run.outcome = read_outcome(message, blob)
                claim_id = run.order.claim_id
                events += [Started(claim_id, executor.pid, executor.keeper_pid), Ended(run.outcome)]
            case "refused" if run is not None and run.outcome is None:
                self._give_to_another(executor, run, message["why"], events)
            case "retire":
                self._retire(executor, message["why"])
            case _:
                pass

    def _give_to_another(self, executor: _Executor, run: _Run, why: str, events: list[CrewEvent]) -> None:
        self._retire(executor, why)
        run.executor = None
        self._take_from(executor, run.order.claim_id)
        try:
            if run.try_count < TRIES_MAX:
                self._give(run)
                return
            why = f"{run.try_count} executor processes refused it: {why}"
        except OSError as error:
            why = f"{why}; and another one cannot be made: {error}"
        run.outcome = not_started(run.order, "ExecutorNotStarted", why)
        events.append(Ended(run.outcome))

    def _retire(self, executor: _Executor, why: str) -> None:
        if executor.is_retired:
            return
        executor.is_retired = True
        if self._serving.get(executor.key) is executor:
            del self._serving[executor.key]
        self.notes.append(f"an executor process ({executor.key[0]}, pid {executor.pid}) retires: {why}"[:500])
        if not executor.runs:
            self._let_go(executor)

    def _lose(self, executor: _Executor, events: list[CrewEvent]) -> None:
        """Deal with a keeper that has died. Its executor dies with it; make sure of that."""
        if executor.pidfd >= 0:
            try:
                signal.pidfd_send_signal(executor.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the kernel was quicker
        for claim_id, run in list(executor.runs.items()):
            run.executor = None
            if run.outcome is not None:
                continue  # its end is here; only its acknowledgement has no addressee
            order = run.order
            if not executor.keeper_pid:  # it never spoke, so it never was
                sentence = "the nursery made no keeper for it; see nursery.log in the worker's folder"
                run.outcome = not_started(order, "GuardianNotStarted", sentence)  # as any run that got no guardian
                events.append(Ended(run.outcome))
                continue
            del self._runs[claim_id]
            events.append(GuardianLost(claim_id, order.run_id, order.attempt, order.fence, has_started=True))
        if executor.control:
            self._sweep(executor.control)
        self._let_go(executor)

    # -- letting go

    def look_after(self) -> None:
        """Give up executors that have had nothing to do for a while. To be called often."""
        now = boottime()
        is_crowded = len(self._serving) > EXECUTORS_MAX
        for executor in list(self._serving.values()):
            if not executor.runs and (is_crowded or now - executor.idle_since > IDLE_SECONDS):
                self._let_go(executor)

    def _let_go(self, executor: _Executor) -> None:
        """Close the connection: the keeper ends its executor when it sees that."""
        if self._serving.get(executor.key) is executor:
            del self._serving[executor.key]
        self._by_fileno.pop(executor.channel.fileno(), None)
        self._drop(executor.channel)
        if executor.pidfd >= 0:
            os.close(executor.pidfd)
            executor.pidfd = -1

    def close(self) -> None:
        """End all executors. Ends that were not acknowledged are written to disk by their keepers."""
        for executor in list(self._by_fileno.values()):
            self._let_go(executor)
        self._runs.clear()


def _key_of(order: Order) -> _Key:
    variables: Iterable[tuple[str, str]] = (
        item for item in order.environment.items() if not item[0].startswith("ROTA_")
    )
    return order.executor, order.argv[0], order.cwd, tuple(sorted(variables))
