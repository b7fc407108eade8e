"""An executor process: calls the functions of many small jobs, in threads or as tasks of one event loop.

Executed on its own by its keeper (``rota.execution.keeper``), the only one it speaks with, so that nothing that users'
modules do reaches worker, nursery or guardians. Its main thread imports modules, and runs the loop if there is one;
another thread speaks with the keeper, so that it answers while the loop is blocked.

Invariants: that a run has begun is sent before its code runs, and its end after its code has ended, the tasks it left
included. What runs code of modules that have changed since is refused before it begins. Whatever a run raises, ends
that run and no other. Long, since threads and loop share one life of a run, from its order to its end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import io
import json
import os
import queue
import resource
import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from rota.errors import Invalid, StateError
from rota.execution import python_job
from rota.execution.control import Ear
from rota.execution.imported_files import ImportedFiles
from rota.execution.inline import LastTold, current
from rota.execution.linux import boottime, set_process_name
from rota.execution.report import read_arguments
from rota.execution.wire import Channel, pack_frame

if TYPE_CHECKING:
    from rota.execution.wire import Frame, Message

BLOCKED_SECONDS_MAX = 5.0  # of an event loop; then what has not begun goes to another process
IMPORT_SECONDS_MAX = 60.0
RUNS_MAX = 100_000  # then it is renewed; also when its memory has grown
GROWTH_BYTES_MAX = 256 << 20
LOOK_SECONDS = 1.0
PIECE_BYTES_MAX = 256 * 1024  # of output, in one frame
LINE_BYTES_MAX = 8192  # output without a newline is sent when it is so long

_NEW, _BEGUN, _OVER = range(3)
_STREAMS = ("stdout", "stderr")


class _Run:
    """One run, from its order to its end; what its code reaches by ``rota.execution.inline``."""

    def __init__(self, message: Message, blob: bytes, executor: Executor) -> None:
        self.claim_id: str = message["claim_id"]
        self.target: str = message["target"]
        self.facts: Mapping[str, str] = message["facts"]
        self.told = LastTold()
        self.state = _NEW
        self.why: str | None = None  # it is being stopped
        self.task: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()  # that its code has made
        self.calls: set[concurrent.futures.Future[Any]] = set()  # that it has made in threads of the loop
        # As a guardian would answer, and there is no socket.
        self.ear = Ear(
            blob,
            checkpoint=message["checkpoint"].encode(),
            is_preempted=lambda: self.why == "lease_over",
            why_stopping=lambda: self.why,
        )
        self._executor = executor
        self._lines = {name: bytearray() for name in _STREAMS}
        self._writing = threading.RLock()  # never held while something is sent

    def ask(self, message: Message, blob: bytes) -> Frame:
        if self.state == _OVER:
            return {"ok": False, "error": "the run has ended"}, b""
        answer = self.ear.answer((message, blob))
        if self.ear.has_news:
            self.ear.has_news = False
            news: Message = {"op": "told", "claim_id": self.claim_id, "progress": self.ear.progress}
            self._executor.send(news, self.ear.checkpoint or b"")
        return answer

    def write(self, stream: str, data: bytes) -> None:
        """Take output, and send whole lines."""
        with self._writing:
            lines = self._lines[stream]
            lines += data
            is_enough = b"\n" in data or len(lines) > LINE_BYTES_MAX
        if is_enough:
            self.flush(stream)

    def flush(self, stream: str) -> None:
        """Send what there is of a stream."""
        with self._writing:
            data = bytes(self._lines[stream])
            self._lines[stream].clear()
        for start in range(0, len(data), PIECE_BYTES_MAX):
            piece = data[start : start + PIECE_BYTES_MAX]
            self._executor.send({"op": "output", "claim_id": self.claim_id, "stream": stream}, piece)


class Executor:
    """All runs of this process."""

    def __init__(self, keeper: socket.socket, *, is_async: bool) -> None:
        self._socket = keeper
        self._sending = threading.Lock()
        self._sender = 0  # the thread that sends
        self._late: deque[bytes] = deque()
        self._runs: dict[str, _Run] = {}
        self._moving = threading.Lock()  # the state of a run
        self._main: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop() if is_async else None
        self._asked_at: float | None = None  # the loop was asked to call back, and has not yet
        self._is_importing = False
        self._import_began_at = 0.0
        self._files = ImportedFiles()
        self._module_count = len(sys.modules)
        self._began_ns = time.time_ns()
        self._run_count = 0
        self._bytes_at_first = 0
        self._is_retired = False
        self._is_forked = False
        self._known_targets: set[str] = set()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """In a process that a run has forked: be no run, and write where it is not told apart."""
        self._is_forked = True
        self._socket.close()
        current.set(None)
        for name in _STREAMS:
            stream = getattr(sys, name)
            if isinstance(stream, _Stream):
                setattr(sys, name, stream.real)

    # -- speaking

    def send(self, message: Message, blob: bytes = b"") -> None:
        """Send a frame: it is in the socket when this returns."""
        if self._is_forked:
            os._exit(1)  # a process that a run has forked, and which comes out of its function
        data = pack_frame(message, blob)
        me = threading.get_ident()
        if self._sender == me:  # a finalizer that writes, called in the middle of this very function
            self._late.append(data)
            return
        with self._sending:
            self._sender = me
            try:
                self._send_all(data)
                while self._late:
                    self._send_all(self._late.popleft())
            except OSError:
                os._exit(1)  # the keeper is dead: so is this, at any moment
            finally:
                self._sender = 0

    def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket.fileno(), select.POLLOUT)
                poll.poll()

    def _retire(self, why: str) -> None:
        if not self._is_retired:
            self._is_retired = True
            self.send({"op": "retire", "why": why})

    # -- hearing

    def listen(self) -> None:
        """Take what the keeper says, until it closes the connection. In a thread of its own."""
        try:
            channel = Channel(self._socket)
            self.send({"op": "here", "free_at": boottime()})
            poll = select.poll()
            poll.register(channel.fileno(), select.POLLIN)
            while not channel.lost:
                poll.poll(LOOK_SECONDS * 1000 if self._runs else None)
                for message, blob in channel.receive():
                    self._hear(message, blob)
                self._look_at_main()
        except BaseException:  # noqa: BLE001 - the top of this thread; without it the process is deaf
            traceback.print_exc()
            os._exit(1)
        if self._runs:
            os._exit(1)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._main.put(None)

    def _hear(self, message: Message, blob: bytes) -> None:
        match message["op"]:
            case "run":
                self._take(_Run(message, blob, self))
            case "ask":
                self._look_at_main()
                self.send({"op": "here", "free_at": boottime() if self._asked_at is None else self._asked_at})
            case "stop":
                self._stop(message["claim_id"], message["why"])
            case "withdraw":
                self._refuse(message["claim_id"], message["why"])
            case _:
                pass

    def _take(self, run: _Run) -> None:
        self._runs[run.claim_id] = run
        if (changed := self._find_changed()) is not None:
            why = f"{changed} was changed after it was imported"
            self._refuse(run.claim_id, why)
            self._retire(why)
            return
        self._run_count += 1
        if self._run_count >= RUNS_MAX:
            self._retire(f"it has run {self._run_count} jobs")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_task, run)
        else:
            self._main.put(run)

    def _find_changed(self) -> str | None:
        if not self._run_count:
            return None  # whatever it finds: the next process would not know more
        if (count := len(sys.modules)) != self._module_count:
            self._module_count = count
            self._files.remember(self._began_ns)
        if self._run_count % 100 == 0 and (grown := _resident_bytes() - self._bytes_at_first) > GROWTH_BYTES_MAX:
            self._retire(f"its memory grew by {grown} bytes")
        return self._files.find_changed()

    def _refuse(self, claim_id: str, why: str) -> None:
        """Give a run back that has not begun."""
        run = self._runs.get(claim_id)
        if run is not None and self._move(run, _NEW, _OVER):
            del self._runs[claim_id]
            self.send({"op": "refused", "claim_id": claim_id, "why": why})

    def _stop(self, claim_id: str, why: str) -> None:
        run = self._runs.get(claim_id)
        if run is None:
            return
        if run.why is None or why == "lease_over":
            run.why = why
        if self._move(run, _NEW, _OVER):
            del self._runs[claim_id]
            self.send({"op": "ended", "claim_id": claim_id, "status": 1, "has_begun": False})
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(_cancel, run)

    def _look_at_main(self) -> None:
        """See whether the main thread is held up, by code that blocks the loop or an import that hangs."""
        now = boottime()
        if self._is_importing:
            if now - self._import_began_at > IMPORT_SECONDS_MAX:
                self._retire(f"an import takes longer than {IMPORT_SECONDS_MAX:g} s")
        elif self._asked_at is not None and now - self._asked_at > BLOCKED_SECONDS_MAX:
            advice = "declare what blocks it with executor thread or process"
            self._retire(f"its event loop was blocked for {BLOCKED_SECONDS_MAX:g} s: {advice}")
        if self._loop is not None and self._runs and self._asked_at is None:
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._asked_at = None

    # -- running

    def _move(self, run: _Run, old: int, new: int) -> bool:
        with self._moving:
            if run.state != old:
                return False
            run.state = new
            return True

    def _begin(self, run: _Run) -> bool:
        if not self._move(run, _NEW, _BEGUN):
            return False  # refused, or stopped
        self.send({"op": "began", "claim_id": run.claim_id})
        return True

    def _find(self, run: _Run) -> Callable[..., Any]:
        """Find the callable, by importing its module if need be; in the main thread."""
        self._import_began_at = boottime()
        self._is_importing = True
        try:
            function = python_job.find_callable(run.target)
            if run.target not in self._known_targets:
                self._known_targets.add(run.target)
                python_job.name_levels()
                self._bytes_at_first = _resident_bytes()  # what an import takes is no growth
        finally:
            self._is_importing = False
            if self._asked_at is not None:
                self._asked_at = boottime()  # the import was no fault of the code that runs
        return function

    def _end(self, run: _Run, status: int, cpu_seconds: float | None = None) -> None:
        run.state = _OVER
        for stream in _STREAMS:
            run.flush(stream)
        del self._runs[run.claim_id]
        ear = run.ear
        ended: Message = {"op": "ended", "claim_id": run.claim_id, "status": status, "has_begun": True}
        ended |= {"error": ear.error, "bases": ear.error_bases, "cpu_seconds": cpu_seconds}
        ended["has_heard_stop"] = ear.has_heard_stop
        ended["has_result"] = ear.result is not None
        self.send(ended, ear.result or b"")

    # Threads

    def serve_threads(self) -> None:
        """Start a thread for each run, until the keeper has gone. In the main thread, where modules are imported."""
        while (run := self._main.get()) is not None:
            if self._begin(run):
                contextvars.Context().run(self._start_thread, run)

    def _start_thread(self, run: _Run) -> None:
        current.set(run)
        try:
            function = self._find(run)
            threading.Thread(
                target=self._call, args=(run, function), name=f"run-{run.facts['ROTA_RUN_ID']}", daemon=True
            ).start()
        except BaseException as error:  # noqa: BLE001 - an import may raise anything, SystemExit too
            self._end(run, _tell_raised(error))

    def _call(self, run: _Run, function: Callable[..., Any]) -> None:
        current.set(run)
        try:
            value = python_job.call(function, json.loads(read_arguments()))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this run
            status = _tell_raised(error)
        else:
            status = _tell_returned(run.target, value)
        self._end(run, status, time.thread_time())

    # Tasks

    def serve_tasks(self) -> None:
        """Run the loop until the keeper has gone. In the main thread."""
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        loop.set_task_factory(_make_task)
        loop.set_default_executor(_Pool())
        while True:
            try:
                loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt):  # raised by a task that a run has made; the others go on
                traceback.print_exc()

    def _begin_task(self, run: _Run) -> None:
        if run.state == _NEW and self._loop is not None:
            run.task = self._loop.create_task(self._await(run), context=contextvars.Context())

    async def _await(self, run: _Run) -> None:
        if not self._begin(run):
            return
        current.set(run)
        try:
            function = self._find(run)
            _check_is_async(function, run.target)
            arguments: Any = json.loads(read_arguments())
            called = function(*arguments) if isinstance(arguments, list) else function(**arguments)
            value = await cast("Awaitable[object]", called)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the end of this run
            status = 1 if run.why and isinstance(error, asyncio.CancelledError) else _tell_raised(error)
        else:
            status = _tell_returned(run.target, value)
        await _end_tasks(run)
        self._end(run, status)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task, and note whose it is."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    run = current.get()
    if isinstance(run, _Run):
        run.tasks.add(task)
        task.add_done_callback(run.tasks.discard)
    return task


class _Pool(concurrent.futures.ThreadPoolExecutor):
    """The threads of ``asyncio.to_thread``: whose call it is is noted, since a task that is cancelled leaves it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        run = current.get()
        if isinstance(run, _Run):
            run.calls.add(future)
            future.add_done_callback(run.calls.discard)
        return future


async def _end_tasks(run: _Run) -> None:
    """Cancel what a run has left, as ``asyncio.run`` does, and wait until none of its code is being executed."""
    while run.tasks or run.calls:
        left: list[asyncio.Future[Any]] = list(run.tasks)
        for task in left:
            task.cancel()
        left += [asyncio.wrap_future(call) for call in list(run.calls)]
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError:
            continue  # it is being stopped meanwhile, and nothing more can be done about that


def _cancel(run: _Run) -> None:
    if run.task is not None and run.state == _BEGUN:
        run.task.cancel()


def _check_is_async(function: Callable[..., Any], target: str) -> None:
    plain = inspect.unwrap(function)
    called = getattr(plain, "__call__", None)  # noqa: B004 - of an object, which may be asynchronous
    if not (inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(called)):
        rule = "with executor async it is an `async def`, since any other would hold up all runs of the process"
        raise Invalid("call", target, f"{rule}: declare it with executor thread")


def _tell_raised(error: BaseException) -> int:
    """Tell how a run ended that has raised, and give what would be the exit status of a process."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    try:
        return python_job.tell_raised(error)
    except StateError as refused:
        print(f"rota: {refused}", file=sys.stderr)
    except BaseException:  # noqa: BLE001 - an exception that cannot even be described
        traceback.print_exc()
    return 1


def _tell_returned(target: str, value: object) -> int:
    try:
        return python_job.tell_returned(target, value)
    except BaseException as error:  # noqa: BLE001 - a value whose methods raise
        return _tell_raised(error)


class _Stream(io.TextIOBase):
    """Standard output or error: what a run writes goes to that run, all else to the file below."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, real: Any) -> None:
        self.real = real
        self.buffer = _Bytes(name, real)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self.real.fileno())

    def write(self, text: str, /) -> int:
        self.buffer.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        self.buffer.flush()


class _Bytes(io.RawIOBase):
    """The same for bytes."""

    def __init__(self, name: str, real: Any) -> None:
        self._name = name
        self._real = real

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._real.fileno())

    def write(self, data: Any, /) -> int:
        given = bytes(data)
        run = current.get()
        if isinstance(run, _Run) and run.state == _BEGUN:
            run.write(self._name, given)
        else:
            self._real.buffer.write(given)
            self._real.flush()
        return len(given)

    def flush(self) -> None:
        run = current.get()
        if isinstance(run, _Run) and run.state == _BEGUN:
            run.flush(self._name)
        else:
            self._real.flush()


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main(kind: str, descriptor: int) -> None:
    """Serve the keeper at the other end of ``descriptor``."""
    set_process_name(f"rota-{kind}")
    os.set_inheritable(descriptor, False)
    python_job.OURS.add(__file__)
    sys.argv[:] = [python_job.__file__]
    sys.stdout, sys.stderr = (cast("Any", _Stream(name, getattr(sys, name))) for name in _STREAMS)
    executor = Executor(socket.socket(fileno=descriptor), is_async=kind == "async")
    threading.Thread(target=executor.listen, name="rota-keeper", daemon=True).start()
    if kind == "async":
        executor.serve_tasks()
    else:
        executor.serve_threads()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
