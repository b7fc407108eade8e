"""The guard against steps of the database's clock.

It compares how far that clock has come with how far this machine's CLOCK_BOOTTIME has, which never steps and also runs
while the machine sleeps. A slow answer cannot look like a step: the database read its clock somewhere between the
question and the answer, and only what no such moment explains counts.
"""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STEP_SECONDS_MAX = 5.0  # a larger step is noticed at any lease


class ClockGuard:
    """Remembers how the two clocks stood to each other when it last looked."""

    def __init__(self, lease_seconds: float) -> None:
        # A step of less than a third of the lease leaves every lease that is renewed in time.
        self._tolerance = min(STEP_SECONDS_MAX, lease_seconds / 3)
        self._low: float | None = None
        self._high = 0.0

    def observe(self, asked_at: float, answered_at: float, now: datetime) -> float:
        """Return by how many seconds the database's clock has stepped since the last look; 0.0 if it has not.

        ``asked_at`` and ``answered_at`` are CLOCK_BOOTTIME around the question that ``now`` answered. A step that may
        lie in a range is told as the end of it that is nearer to zero.
        """
        moment = (now - _EPOCH).total_seconds()
        low, high = moment - answered_at, moment - asked_at
        if self._low is None:
            self._low, self._high = low, high
            return 0.0
        forward, backward = low - self._high, high - self._low
        self._low, self._high = low, high
        if forward > self._tolerance:
            return forward
        return backward if backward < -self._tolerance else 0.0
