"""What the code of a job can ask about the run it is part of.

Everything comes from the ``ROTA_*`` variables and the guardian's socket, so that it works in any process of the job,
in any environment, without a database. Called by users' code as ``rota.current_run()``.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from rota.errors import Invalid, StateError
from rota.execution.inline import LastTold, current, fact
from rota.execution.report import (
    control_path,
    read_arguments,
    read_checkpoint,
    report_checkpoint,
    report_progress,
    report_result,
    why_stopping,
)
from rota.model.documents import encode_document

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)  # no slots: jobs may run under Python 3.9
class CurrentPeriod:
    """The period that a run is for: from ``start`` up to, not including, ``end``; its own part is the range."""

    name: str
    start: datetime
    end: datetime
    range_start: datetime
    range_end: datetime


@dataclass(frozen=True)  # no slots: jobs may run under Python 3.9
class CurrentRun:
    """The run that this process works for."""

    run_id: int
    job: str
    schedule: str | None
    attempt: int  # 1 for the first
    slot: datetime | None  # the instant at which the schedule was due; None: not from a schedule
    run_at: datetime | None
    node: str
    fence: int  # rises with every claim of the run: an outside system may refuse a lower one than it has seen
    key: str | None  # the same over all attempts
    period: CurrentPeriod | None = None  # None: its job has no periods

    @property
    def args(self) -> Any:
        """The arguments of the run."""
        return json.loads(read_arguments())

    def result(self, value: object) -> None:
        """Report the run's result, to be kept when this attempt ends well. The last one counts.

        Raises:
            Invalid: it is not JSON, or above 1 MiB.
            StateError: the guardian is gone.
        """
        report_result(encode_document("result", value))

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Say how far the job is, from 0 to 1, and with what it is busy; ``rota run show`` tells it within 2 s.

        Cheap enough for a loop: of calls that differ in the fraction only, ten a second leave this process.

        Raises:
            Invalid: the fraction is not from 0 to 1, or the message no text.
            Preempted: the lease of this attempt goes: stop, and report nothing.
            StateError: the guardian is gone.
        """
        if fraction is not None:
            fraction = _check_fraction(fraction)
        if message is not None and not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise Invalid("message", message, "it is text")
        now = time.monotonic()
        last = _last_told()
        is_same = message == last.message and fraction is not None and fraction < 1
        if is_same and now - last.at < PROGRESS_SECONDS:
            return
        report_progress(fraction, message)
        last.at, last.message = now, message

    def track(self, items: Iterable[T], total: int | None = None, message: str | None = None) -> Iterator[T]:
        """Go through ``items`` and report the progress: after each, how many of ``total`` are done.

        Without ``total`` it is the length of ``items``; where there is none, only the count is told, as the message.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        for done, item in enumerate(items):
            if total:
                self.progress(min(1.0, done / total), message)
            elif time.monotonic() - _last_told().at >= PROGRESS_SECONDS:
                self.progress(None, f"{message or 'done'}: {done}")
            yield item
        if total:
            self.progress(1.0, message)

    @property
    def checkpoint(self) -> Any:
        """What was kept last by this attempt or an earlier one; None when there is nothing."""
        return json.loads(read_checkpoint())

    def set_checkpoint(self, value: object) -> None:
        """Keep ``value`` for the next attempt, should this one end badly. It reaches the database within a second.

        Raises:
            Invalid: it is not JSON, or above 1 MiB.
            Preempted: the lease of this attempt goes: stop, and report nothing.
            StateError: the guardian is gone.
        """
        report_checkpoint(encode_document("checkpoint", value))

    @property
    def connection(self) -> Connection:
        """The SQLAlchemy connection of a transactional job to Rota's own database, in a transaction from its first use.

        The transaction commits with the end of the run when the callable returns, and is undone when it raises, is
        stopped, or is not the one any more that holds the run. ``begin_nested()`` makes a part that may be undone;
        nothing else may commit or roll back.

        Raises:
            StateError: this process is no transactional job.
        """
        if not _connections:
            raise StateError(
                "there is no connection: declare the job with delivery='transactional', and ask in its own process"
            )
        return _connections[0]()

    @property
    def cancelled(self) -> bool:
        """Whether this attempt is being stopped: it was cancelled, is out of time, or its lease goes.

        Whoever asks wants to end by itself: from the first time on, the TERM that comes with a stop does not end a
        Python process whose main thread has asked, and KILL follows after the grace. In an executor process it is told
        here only, to a thread; a task is cancelled besides.
        """
        if current.get() is not None:
            return why_stopping() is not None
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _note_term)
        is_stopped = why_stopping() is not None
        if _has_term and not is_stopped:
            why_stopping()  # TERM came between the two; the guardian is to know that this job was told
        if is_stopped or _has_term:
            _note_heard()
            return True
        return False


_last_progress = LastTold()
_connections: list[Callable[[], Connection]] = []
_has_term = False
_has_heard_stop = False


def _check_fraction(value: Any) -> float:
    try:
        # Whatever converts itself, as a Decimal or a number of NumPy's does.
        fraction = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        fraction = math.nan
    if not 0 <= fraction <= 1:
        raise Invalid("progress", value, "it is a fraction from 0 to 1")
    return fraction


def _last_told() -> LastTold:
    run = current.get()
    return _last_progress if run is None else run.told


def _note_term(number: int, frame: FrameType | None) -> None:
    global _has_term
    _has_term = True


def _note_heard() -> None:
    global _has_heard_stop
    _has_heard_stop = True


def has_heard_stop() -> bool:
    """Tell whether the code of this process has asked whether it is being stopped, and was told so."""
    return _has_heard_stop


def offer_connection(connect: Callable[[], Connection]) -> None:
    """Have ``CurrentRun.connection`` be what ``connect`` gives, in this process."""
    _connections[:] = [connect]


def current_run() -> CurrentRun:
    """Give the run that this process works for.

    Raises:
        StateError: this process is no job.
    """
    if current.get() is None:
        control_path()
    return CurrentRun(
        run_id=int(_fact("ROTA_RUN_ID")),
        job=_fact("ROTA_JOB"),
        schedule=fact("ROTA_SCHEDULE"),
        attempt=int(_fact("ROTA_ATTEMPT")),
        slot=_instant("ROTA_SLOT"),
        run_at=_instant("ROTA_RUN_AT"),
        node=_fact("ROTA_NODE"),
        fence=int(_fact("ROTA_FENCE")),
        key=fact("ROTA_KEY"),
        period=_period(),
    )


def _period() -> CurrentPeriod | None:
    name = fact("ROTA_PERIOD")
    moments = [_instant(f"ROTA_{which}") for which in ("PERIOD_START", "PERIOD_END", "RANGE_START", "RANGE_END")]
    known = [moment for moment in moments if moment is not None]
    return None if name is None or len(known) < len(moments) else CurrentPeriod(name, *known)


def _fact(name: str) -> str:
    value = fact(name)
    if value is None:
        raise StateError(f"{name} is not set, although ROTA_CONTROL is: keep the ROTA_* variables together")
    return value


def _instant(name: str) -> datetime | None:
    value = fact(name)
    # Python 3.9 reads no Z.
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if value else None
