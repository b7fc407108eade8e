"""Grids: which instants something is due at, to be asked for the next, the last few and how many.

Invariant: ``next(t) > t``, always, and an answer costs steps by the distance in months, never by the number of slots.
Slots are aware and in UTC. Made and called by ``timing``; ``moved`` puts another grid around one of these.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from rota.model.daylight import Fold, Gap, Stretch, stretch_at, stretches_around, to_aware, to_naive
from rota.model.instants import YEAR_LAST
from rota.model.pattern import Pattern

# The rarest expression that fires at all, 29 February on a given weekday, waits 40 years around 2100.
YEARS_AHEAD_MAX = 50

_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
# More than any two zones are apart, and any zone has been moved.
_JUMP_SHORT = timedelta(days=3)
# So many times that one change moved are told one by one.
_NOTES_MAX = 3


class Grid(Protocol):
    """Instants at which something is due."""

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot later than ``after``, in UTC."""
        ...

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``]."""
        ...

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        ...

    def notes(self, slot: datetime) -> list[str]:
        """Say what a change of the clocks did to ``slot``."""
        ...


class LocalGrid:
    """A pattern of local times in a zone.

    One that follows real time, as interval-like cron expressions do, is due whenever the clock shows a time of the
    pattern: nothing for what it skips, and each time for what it repeats.
    """

    __slots__ = ("_fold", "_follows_real_time", "_gap", "_pattern", "_zone")

    def __init__(
        self, pattern: Pattern, zone: ZoneInfo, gap: Gap, fold: Fold, *, follows_real_time: bool = False
    ) -> None:
        self._pattern = pattern
        self._zone = zone
        self._gap = Gap.SKIP if follows_real_time else gap
        self._fold = Fold.BOTH if follows_real_time else fold
        self._follows_real_time = follows_real_time

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot later than ``after``; None when there is none for 50 years."""
        moment = to_naive(after)
        year_last = min(moment.year + YEARS_AHEAD_MAX, YEAR_LAST)
        stretch = stretch_at(self._zone, moment)
        low, high = stretch.window(self._fold)
        local = max(moment.replace(microsecond=0) + stretch.offset, low - _SECOND)
        while True:
            found = self._pattern.next(local, year_last)
            if found is not None and found < high:
                slot = to_aware(found - stretch.offset)
                return slot if slot > after and slot.year <= YEAR_LAST else None
            moment = stretch.end
            # What this stretch shows comes again before long: look there before leaping to what comes later.
            if stretch.again_from is None:
                if found is None:
                    return None
                moment = max(moment, found - _JUMP_SHORT)
            if moment.year > YEAR_LAST:
                return None
            stretch = stretch_at(self._zone, moment)
            if moment == stretch.start and self._fires_for_gap(stretch):
                return to_aware(moment)
            low, high = stretch.window(self._fold)
            local = max(moment + stretch.offset, low) - _SECOND

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``] without visiting each."""
        low, end = _whole_seconds(after, until)
        total = 0
        while low < end:
            stretch = stretch_at(self._zone, low)
            high = min(stretch.end, end)
            first, last = self._window(stretch, low, high)
            total += self._pattern.count(first, last)
            if low == stretch.start and self._fires_for_gap(stretch):
                total += not (first == stretch.local_start and self._pattern.has(first))
            low = high
        return total

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        low, high = _whole_seconds(after, until)
        found: list[datetime] = []
        while low < high and len(found) < limit:
            stretch = stretch_at(self._zone, high - _SECOND)
            start = max(stretch.start, low)
            first, local = self._window(stretch, start, high)
            while len(found) < limit and (earlier := self._pattern.previous(local, first)) is not None:
                found.append(earlier - stretch.offset)
                local = earlier
            if start == stretch.start and len(found) < limit and self._fires_for_gap(stretch):
                found += [start] if found[-1:] != [start] else []
            high = start
        return [to_aware(slot) for slot in reversed(found)]

    def notes(self, slot: datetime) -> list[str]:
        """Say which times the clocks skipped that fire at ``slot``, and which of two times it is."""
        moment = to_naive(slot)
        stretch = stretch_at(self._zone, moment)
        found: list[str] = []
        if moment == stretch.start and self._fires_for_gap(stretch):
            local, ends = stretch.local_start - stretch.gap - _SECOND, _show(stretch.local_start)
            while (skipped := self._pattern.next(local, YEAR_LAST)) is not None and skipped < stretch.local_start:
                if len(found) == _NOTES_MAX:
                    found.append("and others")
                    break
                where = f"on {skipped.date()} in {self._zone.key}"
                found.append(f"{_show(skipped)} does not exist {where}: fires at {ends}")
                local = skipped
        local = moment + stretch.offset
        shown = [] if self._follows_real_time else stretches_around(self._zone, local, local + _SECOND)
        if len(shown) > 1 and self._pattern.has(local):
            which = "first" if shown[0].start == stretch.start else "second"
            found.append(f"{_show(local)} comes twice on {local.date()} in {self._zone.key}: the {which} one")
        return found

    def _window(self, stretch: Stretch, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        low, high = stretch.window(self._fold)
        return max(low, start + stretch.offset), min(high, end + stretch.offset)

    def _fires_for_gap(self, stretch: Stretch) -> bool:
        """Whether a time of the pattern was skipped just before ``stretch``, and fires at its start."""
        if not stretch.gap or self._gap is Gap.SKIP:
            return False
        return self._pattern.previous(stretch.local_start, stretch.local_start - stretch.gap) is not None


class ElapsedGrid:
    """Every so often after an anchor, by elapsed time."""

    __slots__ = ("_anchor", "_micros")

    def __init__(self, anchor: datetime, length: timedelta) -> None:
        self._anchor = anchor
        self._micros = length // _MICROSECOND

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot later than ``after``."""
        micros = self._micros * (self._passed(after) + 1)
        if micros > _MICROS_MAX:
            return None
        found = self._anchor + timedelta(microseconds=micros)
        return found if found.year <= YEAR_LAST else None

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``]."""
        return max(0, self._passed(min(until, _LAST)) - self._passed(min(after, _LAST)))

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        last = self._passed(min(until, _LAST))
        first = max(self._passed(min(after, _LAST)), last - limit)
        return [self._anchor + timedelta(microseconds=self._micros * number) for number in range(first + 1, last + 1)]

    def notes(self, slot: datetime) -> list[str]:
        """Say nothing: elapsed time does not change."""
        return []

    def _passed(self, moment: datetime) -> int:
        """Return how many slots lie in (anchor, ``moment``]; in whole microseconds, since floats drift."""
        return max(0, (moment - self._anchor) // _MICROSECOND // self._micros)


_LAST = datetime(YEAR_LAST, 12, 31, 23, 59, 59, 999999, UTC)
_MICROS_MAX = (_LAST - datetime(1, 1, 1, tzinfo=UTC)) // _MICROSECOND


class OnceGrid:
    """One instant."""

    __slots__ = ("_at",)

    def __init__(self, at: datetime) -> None:
        self._at = at

    def next(self, after: datetime) -> datetime | None:
        """Return the instant, unless it is over."""
        return self._at if self._at > after else None

    def count(self, after: datetime, until: datetime) -> int:
        """Return 1 if the instant lies in (``after``, ``until``]."""
        return int(after < self._at <= until)

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the instant if it lies in (``after``, ``until``]."""
        return [self._at] if limit > 0 and after < self._at <= until else []

    def notes(self, slot: datetime) -> list[str]:
        """Say nothing: the local time was resolved when it was read."""
        return []


class UnionGrid:
    """Any of several grids; where they meet they are due once."""

    __slots__ = ("_grids",)

    def __init__(self, grids: Sequence[Grid]) -> None:
        self._grids = tuple(grids)

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot of any."""
        return min((slot for grid in self._grids if (slot := grid.next(after)) is not None), default=None)

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots of the densest grid, and visit only the others' for those that it does not have."""
        ranked = sorted(((grid.count(after, until), number) for number, grid in enumerate(self._grids)), reverse=True)
        total = ranked[0][0]
        others: set[datetime] = set()
        densest = self._grids[ranked[0][1]]
        for count, number in ranked[1:]:
            others.update(self._grids[number].last(after, until, count))
        return total + sum(1 for slot in others if densest.next(slot - _MICROSECOND) != slot)

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots of all, at most ``limit``, oldest first."""
        found = {slot for grid in self._grids for slot in grid.last(after, until, limit)}
        return sorted(heapq.nlargest(limit, found))

    def notes(self, slot: datetime) -> list[str]:
        """Say what the grids say that are due at ``slot``."""
        return list(dict.fromkeys(note for grid in self._grids for note in grid.notes(slot)))


def _whole_seconds(after: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Turn (``after``, ``until``] into the first second in it, and the first one after it."""
    low, high = to_naive(after), to_naive(until)
    return low.replace(microsecond=0) + _SECOND, high.replace(microsecond=0) + _SECOND


def _show(local: datetime) -> str:
    return f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
