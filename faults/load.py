"""What the hosts have to do meanwhile: schedules of every kind, and runs asked for by key.

Sized so that two hosts of five keep up with it: about eight runs a second, ten at the same time.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults.checker import connect
from rota import Rota
from rota.errors import RotaError

JOB_FILE = Path(__file__).with_name("job.py")
REQUESTS_PER_SECOND = 2.5
AHEAD_SECONDS = 5
TRY_AGAIN_SECONDS = 0.5

# fmt: off
SCHEDULES: tuple[tuple[str, int, str, str, dict[str, Any], dict[str, Any]], ...] = (
    # key           every  job            overlap  arguments                           beside that
    ("e1-skip",        1, "least",       "skip",  {"seconds": 0.2},                    {}),
    ("e1-once",        1, "most-call",   "allow", {"seconds": 0.3},                    {}),
    ("e1-jitter",      1, "least-call",  "allow", {"seconds": 0.5},                    {"jitter": 1}),
    ("e2-queue",       2, "least",       "queue", {"seconds": 0.5},                    {}),
    ("e2-detaches",    2, "most",        "skip",  {"seconds": 1.0, "detaches": True},  {}),
    ("e2-retries",     2, "least-retry", "allow", {"seconds": 0.3, "bad_ends": 1},     {}),
    ("e2-all",         2, "least",       "allow", {"seconds": 1.5},                    {"catch_up": "all"}),
    ("e5-long",        5, "least",       "allow", {"seconds": 8.0},                    {}),
    ("e5-long-once",   5, "most",        "allow", {"seconds": 6.0},                    {}),
    ("e5-detaches",    5, "least-call",  "skip",  {"seconds": 4.0, "detaches": True},  {}),
    ("e5-queue-all",   5, "least",       "queue", {"seconds": 3.0},                    {"catch_up": "all"}),
    ("e5-queue-once",  5, "most-call",   "queue", {"seconds": 2.0},                    {"jitter": 3}),
)
# fmt: on
REQUESTED = ("least", "most", "least-call", "most-call", "least-retry")
DURATIONS = (0.0, 0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0)


def add_jobs(rota: Rota, variables: dict[str, str]) -> None:
    """Add the jobs: both deliveries, as commands and as functions, and one that is tried again."""
    command = [sys.executable, "-I", "-S", str(JOB_FILE)]
    for delivery in ("at_least_once", "at_most_once"):
        name = delivery.split("_")[1]
        common: dict[str, Any] = {"delivery": delivery, "variables": variables | {"DELIVERY": delivery}}
        rota.jobs.add(name, command=command, **common)
        rota.jobs.add(f"{name}-call", call="faults.job:call", **common)
        if delivery == "at_least_once":
            rota.jobs.add(f"{name}-retry", command=command, retries=5, retry_delay=0.5, **common)


def add_schedules(rota: Rota, seconds: float) -> list[dict[str, Any]]:
    """Add the schedules, due from now on for ``seconds``, and return what the checker must know of them."""
    anchor = float(int(time.time()) + AHEAD_SECONDS)  # what is due before a schedule is stored, it does not owe
    until = anchor + seconds + 0.5  # between two slots, so that nobody has to know whether an end counts
    expected: list[dict[str, Any]] = []
    moments = {"anchor": _text(anchor), "start": _text(anchor), "end": _text(until)}
    for key, every, job, overlap, args, more in SCHEDULES:
        rota.schedules.add(key, job, every=every, overlap=overlap, args=args, **moments, **more)
        expected.append({"name": key, "every": every, "anchor": anchor, "until": until, "overlap": overlap})
    if time.time() > anchor:
        raise RuntimeError(f"storing the schedules took more than {AHEAD_SECONDS} s: this machine is too busy")
    return expected


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


@dataclass(slots=True)
class Requests:
    """Asks for runs by key, as a client that does not give up: looks whether a run is there, and asks again."""

    rota: Rota
    url: str
    seed: int
    asked: list[dict[str, Any]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _seconds: float = 0.0

    def start(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = threading.Thread(target=self._ask_on, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the last one is answered."""
        if self._thread is not None:
            self._thread.join()

    def give_up(self) -> None:
        self._stopping.set()

    def _ask_on(self) -> None:
        chance = random.Random(self.seed)
        begun = time.monotonic()
        for number in range(int(self._seconds * REQUESTS_PER_SECOND)):
            wait = begun + number / REQUESTS_PER_SECOND - time.monotonic()
            if self._stopping.wait(max(0.0, wait)):
                return
            self._ask(f"asked-{number}", chance.choice(REQUESTED), {"seconds": chance.choice(DURATIONS)})

    def _ask(self, key: str, job: str, args: dict[str, Any]) -> None:
        request = {"key": key, "job": job, "acknowledged": False, "tries": 0}
        self.asked.append(request)
        while not self._stopping.is_set():
            request["tries"] += 1
            try:
                self.rota.enqueue(job, args, key=key)
            except RotaError:
                if not self._is_there(key):
                    continue
            request["acknowledged"] = True
            return

    def _is_there(self, key: str) -> bool:
        """Look, once the database answers, whether a request whose answer was lost has been stored."""
        while not self._stopping.wait(TRY_AGAIN_SECONDS):
            try:
                return bool(ask(self.url, f"select count(*) from rota_run where run_key = '{key}'"))
            except Exception:  # noqa: BLE001 - each driver has its own, and all of them mean: not now
                continue
        return False


def ask(url: str, question: str) -> int:
    """Ask for one number."""
    connection = connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute(question)
        return int(cursor.fetchone()[0])
    finally:
        connection.close()


def wait_until_quiet(url: str, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
    """Wait until no run is unfinished and no schedule has a slot left; tell whether that came within ``seconds``."""
    until = time.monotonic() + seconds
    going = "select (select count(*) from rota_run where finished_at is null)"
    going += " + (select count(*) from rota_schedule where next_slot_at is not null)"
    while time.monotonic() < until and not given_up():
        try:
            if ask(url, going) == 0:
                return True
        except Exception:  # noqa: BLE001 - as above
            pass
        time.sleep(TRY_AGAIN_SECONDS)
    return False
