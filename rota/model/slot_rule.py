"""What a schedule says about its slots: catch-up, order, overlap, closed days, delay, jitter and start window.

Pure values; what follows from them for the slots that are due is decided in ``rota.model.policy``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from rota.model.calendars import Calendar
from rota.model.timing import Timing, TimingKind

CATCH_UP_LIMIT = 100
CATCH_UP_LIMIT_MAX = 1000
WINDOW_SECONDS_MIN = 60.0
WINDOW_SECONDS_MAX = 86400.0


class CatchUp(StrEnum):
    """What happens to slots that nobody served in time."""

    LATEST = "latest"  # the newest of them runs
    ALL = "all"  # each runs, one at a time
    NONE = "none"


class CatchUpOrder(StrEnum):
    """Which of the late slots runs first, where all of them do."""

    OLDEST = "oldest"
    NEWEST = "newest"


class Overlap(StrEnum):
    """What happens to a slot that is due while an earlier run of its schedule is unfinished."""

    SKIP = "skip"
    QUEUE = "queue"  # it runs after it
    REPLACE = "replace"  # the earlier run is cancelled, and then this one runs
    ALLOW = "allow"


class OnClosed(StrEnum):
    """What happens to a slot that falls on what a calendar closes."""

    SKIP = "skip"
    NEXT = "next"  # it moves to the same time of the next day that is not closed
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class SlotRule:
    """What a schedule says about its slots, with what its job says where it is silent."""

    timing: Timing
    name: str = ""  # the schedule's, which the jitter of a slot comes from
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    start_within_seconds: float | None = None  # None: one period
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = CATCH_UP_LIMIT
    catch_up_order: CatchUpOrder = CatchUpOrder.OLDEST
    overlap: Overlap = Overlap.SKIP
    awaits: bool = False  # its runs wait for upstreams: their windows begin later
    in_order: bool = False  # each slot runs, when the one before it has succeeded
    calendars: tuple[Calendar, ...] = ()  # whose closed slots are skipped; those that move slots are in the timing

    def run_at(self, slot: datetime) -> datetime:
        """Return when the run of ``slot`` may start."""
        return slot + timedelta(seconds=self.delay_seconds + jitter_of(self.name, slot, self.jitter_seconds))

    def window_seconds(self, slot: datetime) -> float | None:
        """Return how late the run of ``slot`` may start; None for any time."""
        if self.in_order:
            return None
        if self.start_within_seconds is not None:
            return self.start_within_seconds
        if self.catch_up is CatchUp.ALL or self.overlap is Overlap.QUEUE:
            return None
        period = None if self.timing.kind is TimingKind.AT else self.timing.period_seconds(slot)
        return WINDOW_SECONDS_MAX if period is None else min(max(period, WINDOW_SECONDS_MIN), WINDOW_SECONDS_MAX)

    def start_by(self, slot: datetime) -> datetime | None:
        """Return the end of the start window of ``slot``; None when it has no end."""
        window = self.window_seconds(slot)
        return None if window is None else self.run_at(slot) + timedelta(seconds=window)

    def closed(self, slot: datetime) -> str | None:
        """Return which calendar closes ``slot`` and why; None when it is open."""
        zone = ZoneInfo(self.timing.zone)
        for calendar in self.calendars:
            if (why := calendar.closed_at(slot, zone)) is not None:
                return f"calendar {calendar.name} is closed: {why}"
        return None


def jitter_of(name: str, slot: datetime, seconds: float) -> float:
    """Return how much of ``seconds`` the run of a slot is put off: the same for ever, and spread over schedules."""
    if not seconds:
        return 0.0
    digest = hashlib.sha256(f"{name}\n{slot.astimezone(UTC).isoformat()}".encode()).digest()
    return round(seconds * int.from_bytes(digest[:8]) / 2**64, 3)
