"""Slots moved away from what calendars close: to the same local time of the next, or previous, day that is open then.

Moved slots may overtake others, and several may meet, so they are found from where they go to, in the order of real
time. A *piece* is a part of one local day within which neither the offset nor what is closed changes, on that day and
on those that slots may come from. In a piece that is open, the slots of the grid below stay; the ones of the closed
days before it (after it, for ``previous``) come on top. A day that no clock of the zone shows, such as 30 December 2011
in Apia, is no day to move to. Made by ``timing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from zoneinfo import ZoneInfo

from rota.model.calendars import Calendar
from rota.model.daylight import Fold, Gap, Stretch, resolve, stretch_at, stretches_around, to_aware, to_naive
from rota.model.grids import YEARS_AHEAD_MAX, Grid
from rota.model.instants import GAP_SECONDS_MAX, YEAR_LAST, gap_seconds

DAYS_MAX = 366

# Real time, and what turns an instant in it into where it goes.
_Source = tuple[datetime, datetime, timedelta]

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
# More than any two zones are apart, and any zone has been moved.
_SLACK = timedelta(days=2)
# With more different times than this at which windows begin or end, each day looks at those of its own year.
_EDGES_MAX = 16
_NOTES_MAX = 3


class Direction(StrEnum):
    """Where slots are moved to."""

    NEXT = "next"
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Real time from ``start`` up to ``end``; or local times that a gap skipped, which fire at ``start``."""

    start: datetime
    end: datetime
    local: datetime
    local_end: datetime
    takes_moved: bool
    is_gap: bool = False


class MovedGrid:
    """A grid whose slots give way to calendars."""

    __slots__ = ("_base", "_calendars", "_edges", "_fold", "_gap", "_step", "_zone")

    def __init__(
        self,
        base: Grid,
        zone: ZoneInfo,
        calendars: Sequence[Calendar],
        direction: Direction,
        gap: Gap,
        fold: Fold,
    ) -> None:
        self._base = base
        self._zone = zone
        self._calendars = tuple(calendars)
        self._step = _DAY if direction is Direction.NEXT else -_DAY
        self._gap = gap
        self._fold = fold
        edges: set[timedelta] = set()
        for calendar in self._calendars:
            edges.update(_edges(calendar.windows.spans))
        self._edges = frozenset(edges) if len(edges) <= _EDGES_MAX else None

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot later than ``after``; None when there is none for 50 years."""
        low = to_naive(after) + _MICROSECOND
        year_last = min(low.year + YEARS_AHEAD_MAX, YEAR_LAST)
        ahead = _Ahead(self._base)
        for piece in self._pieces(low, datetime(year_last, 12, 31)):  # noqa: DTZ001
            found = self._first_in(piece, ahead)
            if found is not None:
                return to_aware(found)
        return None

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``]."""
        total, gap_at = 0, None
        for piece in self._pieces(to_naive(after) + _MICROSECOND, to_naive(until) + _MICROSECOND):
            count = self._count_in(piece)
            if piece.is_gap:
                count = min(count, int(gap_at != piece.start))
                gap_at = piece.start if count else gap_at
            elif count and gap_at == piece.start and self._first_in(piece, _Ahead(self._base)) == gap_at:
                count -= 1  # what was skipped fires together with this one
            total += count
        return total

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        found: list[datetime] = []
        low, high = to_naive(after) + _MICROSECOND, to_naive(until) + _MICROSECOND
        length = _DAY
        while low < high and len(found) < limit:
            start = max(low, high - length)
            for piece in reversed(list(self._pieces(start, high))):
                newer = self._all_in(piece, limit - len(found) + 1)
                found += [slot for slot in reversed(newer) if not found or slot < found[-1]]
                if len(found) >= limit:
                    break
            high, length = start, min(length * 2, 64 * _DAY)
        return [to_aware(slot) for slot in reversed(found[:limit])]

    def origin(self, slot: datetime) -> list[datetime]:
        """Return the slots that were moved onto ``slot``, oldest first."""
        moment = to_naive(slot)
        stretch = stretch_at(self._zone, moment)
        local = moment + stretch.offset
        low = local - stretch.gap if moment == stretch.start and self._gap is Gap.SHIFT else local
        found: set[datetime] = set()
        for number in range(1, DAYS_MAX + 1):
            away = number * self._step
            for start, end, _ in self._real(low - away, local - away + _MICROSECOND):
                found.update(_visit(self._base, start, end))
            if self._is_open_all_day(local - away) and self._is_open_all_day(low - away):
                break
        return sorted(to_aware(start) for start in found if moment in self._move(start))

    def notes(self, slot: datetime) -> list[str]:
        """Say what a change of the clocks did to ``slot``, and where it was moved from."""
        found = self._base.notes(slot)
        origins = self.origin(slot)
        for origin in origins[:_NOTES_MAX]:
            local = self._show(to_naive(origin))
            found.append(f"moved from {local:%Y-%m-%d %H:%M}, closed: {self._why(local)}")
        if len(origins) > _NOTES_MAX:
            found.append(f"and {len(origins) - _NOTES_MAX} others")
        return found

    def _why(self, local: datetime) -> str:
        reasons = ((calendar.name, calendar.closed_at_local(local)) for calendar in self._calendars)
        return ", ".join(f"{why} (calendar {name})" for name, why in reasons if why is not None)

    def _move(self, moment: datetime) -> list[datetime]:
        """Return where a slot of the grid below goes to: itself, one place, two in a fold, or none."""
        local = self._show(moment)
        if not self._is_closed(local):
            return [moment]
        for _ in range(DAYS_MAX):
            local += self._step
            if not self._is_closed(local) and not self._is_missing(local):
                return resolve(local, self._zone, self._gap, self._fold)
        return []

    def _show(self, moment: datetime) -> datetime:
        return moment + stretch_at(self._zone, moment).offset

    # What is closed

    def _is_closed(self, local: datetime) -> bool:
        return any(calendar.closes(local) for calendar in self._calendars)

    def _is_missing(self, local: datetime) -> bool:
        return gap_seconds(local.replace(hour=12), self._zone) > GAP_SECONDS_MAX

    def _is_open_all_day(self, local: datetime) -> bool:
        day = _midnight(local)
        if any(calendar.closes_day(day.toordinal()) for calendar in self._calendars) or self._is_missing(day):
            return False
        return not any(calendar.windows.within(day, day + _DAY) for calendar in self._calendars)

    def _next_open_day(self, day: datetime, high: datetime) -> datetime | None:
        """Return the first day from ``day`` on, up to ``high``, that is not closed as a whole."""
        while day < high:
            found = day
            for calendar in self._calendars:
                number = calendar.next_open_day(found.toordinal())
                if number is None:
                    return None
                found = datetime.fromordinal(number)
                window = calendar.windows.at(found)
                if window is not None and window[1] >= found + _DAY:
                    found = _midnight(window[1])
            if found == day:
                return day
            day = found
        return None

    # Where slots go to

    def _pieces(self, low: datetime, high: datetime) -> Iterator[_Piece]:
        """Yield the pieces from ``low`` up to ``high`` in the order of real time, but those that nothing goes to."""
        ahead = _Ahead(self._base)
        moment = low
        while moment < high:
            stretch = stretch_at(self._zone, moment)
            if moment == stretch.start and stretch.gap and self._gap is Gap.SHIFT:
                skipped = stretch.local_start - stretch.gap
                yield from self._cells(stretch, skipped, stretch.local_start, is_gap=True)
            end = min(stretch.end, high)
            local, local_end = moment + stretch.offset, end + stretch.offset
            while local < local_end:
                day = _midnight(local)
                found = self._next_open_day(day, high + _SLACK)
                if found == day:
                    until = min(day + _DAY, local_end)
                    yield from self._cells(stretch, local, until)
                    local = until
                    found = self._next_reached(_midnight(until), ahead)
                local = max(local, high + _SLACK if found is None else found)
            # What this stretch shows may be shown again right after it: go there before leaping ahead.
            if stretch.again_from is None:
                end = max(end, local - _SLACK)
            moment = end

    def _next_reached(self, day: datetime, ahead: _Ahead) -> datetime | None:
        """Return a day from ``day`` on, before which none can get a slot."""
        back = (DAYS_MAX + 1) * _DAY if self._step > timedelta(0) else timedelta(0)
        slot = ahead.next(to_aware(day - back - _SLACK))
        if slot is None:
            return None
        forth = (DAYS_MAX + 1) * _DAY - back
        return max(day, _midnight(to_naive(slot)) - forth - _SLACK)

    def _cells(
        self, stretch: Stretch, local: datetime, local_end: datetime, *, is_gap: bool = False
    ) -> Iterator[_Piece]:
        """Part a stretch of local time, mostly a day, where what is closed changes or what is shown is shown twice."""
        low, high = stretch.window(self._fold)
        cuts = {local, local_end, *(cut for cut in (low, high) if local < cut < local_end)}
        day = _midnight(local)
        while day < local_end:
            edges = self._edges if self._edges is not None else self._edges_near(day)
            cuts.update(cut for edge in edges if local < (cut := day + edge) < local_end)
            day += _DAY
            cuts.update({day} if day < local_end else ())
        for start, end in pairwise(sorted(cuts)):
            if self._is_closed(start):
                continue
            if is_gap:
                yield _Piece(stretch.start, stretch.start + _MICROSECOND, start, end, takes_moved=True, is_gap=True)
            else:
                at, until = start - stretch.offset, end - stretch.offset
                yield _Piece(at, until, start, end, takes_moved=low <= start < high)

    def _edges_near(self, day: datetime) -> set[timedelta]:
        far = DAYS_MAX * self._step
        low, high = min(day, day - far), max(day, day - far) + _DAY
        return {edge for calendar in self._calendars for edge in _edges(calendar.windows.within(low, high))}

    # What a piece holds

    def _sources(self, piece: _Piece) -> Iterator[_Source]:
        """Yield the real time whose slots go to ``piece``, each with what turns its instants into the piece's."""
        if not piece.is_gap:
            yield piece.start, piece.end, timedelta(0)
        if not piece.takes_moved:
            return
        for number in range(1, DAYS_MAX + 1):
            away = number * self._step
            local = piece.local - away
            if self._is_closed(local):
                for start, end, offset in self._real(local, piece.local_end - away):
                    yield start, end, offset + away - (piece.local - piece.start)
            elif not self._is_missing(local):
                return

    def _real(self, low: datetime, high: datetime) -> Iterator[_Source]:
        """Yield the real time in which the clocks show what lies from ``low`` up to ``high``, with the offset."""
        for stretch in stretches_around(self._zone, low, high):
            yield max(stretch.start, low - stretch.offset), min(stretch.end, high - stretch.offset), stretch.offset

    def _first_in(self, piece: _Piece, ahead: _Ahead) -> datetime | None:
        found: datetime | None = None
        # In the order of time, so that a grid with few slots is asked once for a year of closed days.
        for start, end, moved in sorted(self._sources(piece)):
            slot = ahead.next(to_aware(start - _MICROSECOND))
            if slot is None or (here := to_naive(slot)) >= end:
                continue
            if piece.is_gap:
                return piece.start
            found = here + moved if found is None else min(found, here + moved)
        return found

    def _count_in(self, piece: _Piece) -> int:
        if piece.is_gap:
            return int(self._first_in(piece, _Ahead(self._base)) is not None)
        sources = list(self._sources(piece))
        if len(sources) == 1:
            start, end, _ = sources[0]
            return self._base.count(to_aware(start - _MICROSECOND), to_aware(end - _MICROSECOND))
        return len(_gather(self._base, sources, None))

    def _all_in(self, piece: _Piece, limit: int) -> list[datetime]:
        """Return the newest slots of a piece, at most ``limit``, oldest first."""
        if piece.is_gap:
            return [piece.start] if self._first_in(piece, _Ahead(self._base)) is not None else []
        return sorted(_gather(self._base, self._sources(piece), limit))[-limit:]


class _Ahead:
    """Asks a grid for its next slot, and keeps the answer for as long as it is the answer."""

    __slots__ = ("_asked", "_base", "_found")

    def __init__(self, base: Grid) -> None:
        self._base = base
        self._asked: datetime | None = None
        self._found: datetime | None = None

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot later than ``after``."""
        known = self._asked is not None and after >= self._asked and (self._found is None or after < self._found)
        if not known:
            self._asked, self._found = after, self._base.next(after)
        return self._found


def _gather(base: Grid, sources: Iterable[_Source], limit: int | None) -> set[datetime]:
    return {slot + moved for start, end, moved in sources for slot in _visit(base, start, end, limit)}


def _visit(base: Grid, start: datetime, end: datetime, limit: int | None = None) -> list[datetime]:
    """Return the newest slots from ``start`` up to, not including, ``end``."""
    after, until = to_aware(start - _MICROSECOND), to_aware(end - _MICROSECOND)
    return [to_naive(slot) for slot in base.last(after, until, base.count(after, until) if limit is None else limit)]


def _edges(windows: Sequence[tuple[datetime, datetime]]) -> set[timedelta]:
    return {edge - _midnight(edge) for window in windows for edge in window}


def _midnight(local: datetime) -> datetime:
    return local.replace(hour=0, minute=0, second=0, microsecond=0)
