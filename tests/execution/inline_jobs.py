"""What the jobs of the tests of executor processes call."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rota import Release, Retry, Skip, current_run


def add_thread(a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


async def add_async(a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


def tell(word: str) -> dict[str, Any]:
    run = current_run()
    print(word, "on stdout")
    sys.stderr.write(f"{word} on stderr\n")
    sys.stdout.buffer.write(b"\xff\n")
    logging.getLogger("app").warning("%s logged", word)
    before = run.checkpoint
    run.progress(0.5, word)
    run.set_checkpoint(word)
    return {"args": run.args, "fence": run.fence, "attempt": run.attempt, "before": before, "after": run.checkpoint}


def tell_thread(word: str) -> dict[str, Any]:
    return tell(word)


async def tell_async(word: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return tell(word)


def end(how: str) -> object:
    match how:
        case "raise":
            raise ValueError("as asked")
        case "retry":
            raise Retry("later", after=5)
        case "release":
            raise Release("not here")
        case "skip":
            raise Skip("nothing there")
        case "exit":
            sys.exit(3)
        case "exit well":
            sys.exit()
        case "interrupt":
            raise KeyboardInterrupt
        case "not json":
            return object()
        case "large":
            return "x" * (2 << 20)
        case "cancel itself":
            raise asyncio.CancelledError
        case _:
            raise AssertionError(how)


def end_thread(how: str) -> object:
    return end(how)


async def end_async(how: str) -> object:
    await asyncio.sleep(0)
    return end(how)


def vanish_thread() -> None:
    os._exit(0)


async def vanish_async() -> None:
    os._exit(0)


def _say(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


def wait_thread(began: str, until: str, obeys: bool = True) -> int:
    """Wait for a file to appear; or for the end, by whom it is asked for and who obeys."""
    run = current_run()
    _say(began)
    while not Path(until).exists():
        if obeys and run.cancelled:
            raise InterruptedError
        time.sleep(0.01)
    return os.getpid()


async def wait_async(began: str, until: str, obeys: bool = True) -> int:
    _say(began)
    while not os.path.exists(until):  # noqa: ASYNC240, PTH110 - one look costs nothing
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            if obeys:
                raise
    return os.getpid()


async def block(began: str, until: str) -> int:
    """Hold up the loop."""
    return wait_thread(began, until, obeys=False)


def hold(began: str, seconds: float) -> None:
    """Stay in one call of C with the interpreter's lock held, so that no other thread runs."""
    import itertools
    from collections import deque

    _say(began)
    ends = time.monotonic() + seconds
    deque(itertools.takewhile(ends.__gt__, iter(time.monotonic, None)), maxlen=0)


async def leave_task(began: str, ended: str) -> None:
    """Leave a task and a thread of the loop behind, which take a moment to end."""

    async def go_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            _say(f"{ended}-task")

    def work() -> None:
        time.sleep(0.1)
        _say(f"{ended}-thread")

    tasks = [asyncio.create_task(go_on()), asyncio.create_task(asyncio.to_thread(work))]
    await asyncio.sleep(0.01)
    _say(began)
    current_run().result(len(tasks))


def report(began: str, until: str) -> None:
    """Say how far it is, and stay."""
    run = current_run()
    print("busy", flush=True)
    run.progress(0.25, "a quarter")
    run.set_checkpoint([1])
    wait_thread(began, until)


def flood(size: int) -> int:
    """Write much at once, without a newline."""
    return sys.stdout.write("x" * size)


def hook(path: str) -> int:
    """Have something done when the process ends."""
    atexit.register(_say, path)
    return os.getpid()


def detach(began: str) -> None:
    """Leave a process behind."""
    pid = os.fork()
    if not pid:
        os.setsid()
        time.sleep(1000)
    _say(began)
    Path(f"{began}-child").write_text(str(pid))


def fork() -> list[Any]:
    """Fork a process that writes, asks for its run, and comes out of this function as it is."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        print("from the child")
        try:
            current_run()
        except Exception as error:  # noqa: BLE001 - what it is is what the test looks at
            os.write(writer, type(error).__name__.encode())
        return []
    os.close(writer)
    said = os.read(reader, 100).decode()
    _, status = os.waitpid(pid, 0)
    return [said, os.waitstatus_to_exitcode(status)]


def ask_elsewhere() -> str:
    """Ask for the run in a thread that belongs to none."""
    found: list[str] = []

    def ask() -> None:
        try:
            current_run()
        except Exception as error:  # noqa: BLE001 - what it is is what the test looks at
            found.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def eat(size: int) -> int:
    return len(bytearray(size))


def leave_thread(began: str, until: str) -> str:
    """Go on until the run is to be stopped, and return then."""
    _say(began)
    while not current_run().cancelled:
        time.sleep(0.01)
    return until


async def leave_async(began: str, until: str) -> str:
    _say(began)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1000)
    assert current_run().cancelled
    return until


_hoarded: list[bytearray] = []


def hoard(size: int) -> int:
    _hoarded.append(bytearray(size))
    return os.getpid()
