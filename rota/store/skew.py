"""Clock skew: how far a node's own clock is from the database's.

Nothing of Rota goes by a node's clock; jobs do, and their logs. Measured with the renewals, where the database is asked
anyway: it is halfway between the question and the answer that the database looked at its clock, and of several answers
the quickest tells best.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import bindparam, update

from rota.store.tables import node

MEASURED_KEPT = 8
NEWS_SECONDS = 0.1  # a change that is written at once
WRITE_SECONDS = 60.0  # and otherwise so often
JUMP_SECONDS = 0.05  # beyond what the ways of two questions can explain

WRITE_SKEW = (
    update(node)
    .where(node.c.name == bindparam("node_name"), node.c.holder == bindparam("node_holder"))
    .values(skew_seconds=bindparam("seconds", type_=node.c.skew_seconds.type))
)


class Skew:
    """What a node knows of its clock. ``wall`` is that clock, ``steady`` one that never steps."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self.wall = wall
        self._steady = steady
        self._measured: deque[tuple[float, float]] = deque(maxlen=MEASURED_KEPT)  # round trip, skew
        self._written: float | None = None
        self._written_at = 0.0

    def measure(self, before: float, now: datetime, after: float) -> None:
        """Take over one answer: the database's ``now``, asked for between ``before`` and ``after`` by this clock."""
        way = after - before
        if way < 0:
            return  # it was put back meanwhile
        skew = (before + after) / 2 - now.timestamp()
        if self._measured:
            best_way, best = min(self._measured)
            if abs(skew - best) > (way + best_way) / 2 + JUMP_SECONDS:
                self._measured.clear()  # one of the clocks has been put elsewhere
        self._measured.append((way, skew))

    @property
    def seconds(self) -> float | None:
        """How far this clock is ahead of the database's; less than zero: behind. None: not measured yet."""
        return round(min(self._measured)[1], 3) if self._measured else None

    def is_news(self) -> bool:
        """Tell whether it is to be written now."""
        seconds = self.seconds
        if seconds is None:
            return False
        if self._written is None or abs(seconds - self._written) > NEWS_SECONDS:
            return True
        return self._steady() - self._written_at >= WRITE_SECONDS

    def wrote(self, seconds: float) -> None:
        """Take over what has been committed."""
        self._written, self._written_at = seconds, self._steady()

    def forget_written(self) -> None:
        """Write it again, since the node goes by another name."""
        self._written = None
