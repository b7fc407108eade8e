"""What the suite's jobs do, as a command and as a function: they say in a file outside the database that they live.

Invariants: a line is one ``write`` with O_APPEND, so lines of many processes never mix; ``start`` and ``end`` are on
the disk before anything else happens. A process of an attempt holds the lock of its run while it lives, and so does
each of its descendants: whoever starts while an earlier attempt lives finds it held, whatever either of them was told.
The standard library only, and nothing of Rota: ``python -I -S job.py`` starts in milliseconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time

BEAT_SECONDS = 0.25


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Witness:
    """One attempt, and what it says."""

    def __init__(self) -> None:
        self.facts: dict[str, object] = {
            "run": int(os.environ["ROTA_RUN_ID"]),
            "key": os.environ.get("ROTA_KEY", ""),
            "attempt": int(os.environ["ROTA_ATTEMPT"]),
            "fence": int(os.environ["ROTA_FENCE"]),
            "node": os.environ.get("ROTA_NODE", ""),
            "delivery": os.environ["DELIVERY"],
        }
        self.ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.lock = os.open(f"{os.environ['LOCKS']}/{self.facts['run']}", os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(self.lock, True)
        self.alone = False

    def say(self, what: str, *, sync: bool = False, **more: object) -> None:
        line = {"what": what, **self.facts, "at": boottime(), "wall": time.time(), **more}
        os.write(self.ledger, (json.dumps(line) + "\n").encode())
        if sync:
            os.fsync(self.ledger)

    def take_lock(self) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.alone = True
        os.pwrite(self.lock, f"{self.facts['fence']:<20}".encode(), 0)
        return True

    def holder(self) -> int:
        """Return the fence of whoever has the lock."""
        return int(os.pread(self.lock, 20, 0).strip() or 0)

    def live(self, seconds: float) -> None:
        until = boottime() + seconds
        while (left := until - boottime()) > 0:
            time.sleep(min(left, BEAT_SECONDS))
            self.say("beat")
            if not self.alone and self.take_lock():
                self.say("alone")


def detach() -> None:
    """Leave a process behind that is nobody's child, in a session of its own, and does not mind being told to stop."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)


def work(seconds: float = 0.0, bad_ends: int = 0, detaches: bool = False) -> bool:
    """Do it; return whether it is to end well."""
    witness = Witness()
    if witness.take_lock():
        witness.say("start", sync=True)
    else:
        witness.say("start", sync=True, clash_with=witness.holder())
    if detaches:
        detach()
    witness.live(seconds)
    ends_well = int(os.environ["ROTA_ATTEMPT"]) > bad_ends
    witness.say("end", sync=True, ok=ends_well)
    return ends_well


def call(**args: object) -> None:
    """As a job that is a Python function."""
    if not work(**args):  # type: ignore[arg-type]
        raise RuntimeError("it was asked to end badly")


if __name__ == "__main__":
    sys.exit(0 if work(**json.loads(os.environ.get("ROTA_ARGS") or "{}")) else 1)
