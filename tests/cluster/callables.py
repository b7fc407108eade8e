"""What the Python jobs of these tests call."""

from __future__ import annotations

import builtins
import itertools
import os
import time
from collections import deque

from rota.execution.context import current_run
from rota.execution.linux import boottime


def note(what: str) -> None:
    facts = (os.environ[name] for name in ("ROTA_RUN_ID", "ROTA_ATTEMPT", "ROTA_FENCE"))
    fd = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{what} {' '.join(facts)} {os.getpid()} {boottime():.2f}\n".encode())
    os.close(fd)


def burn(seconds: float) -> None:
    """Stay in one call of C, the interpreter's lock held, so that no thread and no signal handler of Python runs."""
    note("start")
    ends = time.monotonic() + seconds
    deque(itertools.takewhile(ends.__gt__, iter(time.monotonic, None)), maxlen=0)
    note("end")


def fail_with(name: str) -> None:
    raise getattr(builtins, name)("as asked")


def not_json() -> object:
    return object()


def eat() -> None:
    held: list[bytearray] = []
    while True:
        held.append(bytearray(16 << 20))


def vanish() -> None:
    os._exit(0)


def tell(what: str) -> object:
    """Tell what cannot be kept."""
    run = current_run()
    match what:
        case "progress of 1.7":
            run.progress(1.7)
        case "progress of NaN":
            run.progress(float("nan"))
        case "a checkpoint that is not JSON":
            run.set_checkpoint(object())
        case "a checkpoint of 2 MB":
            run.set_checkpoint("x" * 2_000_000)
        case _:
            return "x" * 2_000_000
    return None


def raise_with(text: str) -> None:
    raise ValueError(text)


def say_the_time(seconds: float) -> None:
    """Write and tell what time it is, so that whoever looks on knows how old it is what he sees."""
    run = current_run()
    begun = boottime()
    while (now := boottime()) < begun + seconds:
        print(now, flush=True)
        run.progress((now - begun) / seconds, str(now))
        time.sleep(0.1)
