"""Local times that repeat: certain days, and certain times on them.

Cron expressions, weekly lists and calendar intervals are patterns; ``grids`` turns them into instants of a zone. All
local times are naive and of whole seconds, and a time of the day is its number of seconds since midnight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

SECONDS_PER_DAY = 86400
_DAY = timedelta(days=1)


class Times(Protocol):
    """Times of one day, at least one."""

    def after(self, second: int) -> int | None:
        """Return the first time later than ``second``."""
        ...

    def before(self, second: int) -> int | None:
        """Return the last time earlier than ``second``."""
        ...

    def below(self, second: int) -> int:
        """Count the times earlier than ``second``."""
        ...


class ListedTimes:
    """Times that are listed one by one."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: Sequence[int]) -> None:
        self._seconds = tuple(sorted(set(seconds)))

    def after(self, second: int) -> int | None:
        """Return the first time later than ``second``."""
        at = bisect_right(self._seconds, second)
        return self._seconds[at] if at < len(self._seconds) else None

    def before(self, second: int) -> int | None:
        """Return the last time earlier than ``second``."""
        at = bisect_left(self._seconds, second)
        return self._seconds[at - 1] if at else None

    def below(self, second: int) -> int:
        """Count the times earlier than ``second``."""
        return bisect_left(self._seconds, second)


class ClockTimes:
    """Certain seconds of certain minutes of certain hours; there may be 86,400 of them, so they are not listed."""

    __slots__ = ("_hours", "_minutes", "_seconds")

    def __init__(self, hours: Sequence[int], minutes: Sequence[int], seconds: Sequence[int]) -> None:
        self._hours = tuple(sorted(hours))
        self._minutes = tuple(sorted(minutes))
        self._seconds = tuple(sorted(seconds))

    def after(self, second: int) -> int | None:
        """Return the first time later than ``second``."""
        hour, minute, second = _split(second + 1)
        at = bisect_left(self._hours, hour)
        if at == len(self._hours):
            return None
        if self._hours[at] > hour:
            return _join(self._hours[at], self._minutes[0], self._seconds[0])
        of_minute = bisect_left(self._minutes, minute)
        if of_minute < len(self._minutes):
            if self._minutes[of_minute] > minute:
                return _join(hour, self._minutes[of_minute], self._seconds[0])
            of_second = bisect_left(self._seconds, second)
            if of_second < len(self._seconds):
                return _join(hour, minute, self._seconds[of_second])
            if of_minute + 1 < len(self._minutes):
                return _join(hour, self._minutes[of_minute + 1], self._seconds[0])
        return None if at + 1 == len(self._hours) else _join(self._hours[at + 1], self._minutes[0], self._seconds[0])

    def before(self, second: int) -> int | None:
        """Return the last time earlier than ``second``."""
        return self._at(self.below(second) - 1)

    def below(self, second: int) -> int:
        """Count the times earlier than ``second``."""
        hour, minute, second = _split(second)
        per_minute = len(self._seconds)
        of_hour, at = len(self._minutes) * per_minute, bisect_left(self._hours, hour)
        if at == len(self._hours) or self._hours[at] > hour:
            return at * of_hour
        of_minute = bisect_left(self._minutes, minute)
        count = at * of_hour + of_minute * per_minute
        if of_minute < len(self._minutes) and self._minutes[of_minute] == minute:
            count += bisect_left(self._seconds, second)
        return count

    def _at(self, number: int) -> int | None:
        if number < 0:
            return None
        minutes, second = divmod(number, len(self._seconds))
        hour, minute = divmod(minutes, len(self._minutes))
        return _join(self._hours[hour], self._minutes[minute], self._seconds[second])


class Pattern(ABC):
    """Local times: on the days that ``days_of_month`` names, at ``times_on`` these."""

    __slots__ = ()

    @abstractmethod
    def days_of_month(self, year: int, month: int) -> Sequence[int]:
        """Return the numbers of the days of a month that the pattern names, in their order."""

    @abstractmethod
    def times_on(self, day: date) -> Times:
        """Return the times of a day that the pattern names."""

    def next(self, after: datetime, year_last: int) -> datetime | None:
        """Return the first local time later than ``after``, in ``year_last`` at most."""
        if after.year > year_last:
            return None
        day = after.date()
        days = self.days_of_month(day.year, day.month)
        at = bisect_left(days, day.day)
        if at < len(days) and days[at] == day.day:
            second = self.times_on(day).after(after.hour * 3600 + after.minute * 60 + after.second)
            if second is not None:
                return _at(day, second)
            at += 1
        year, month = day.year, day.month
        while at == len(days):
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            if year > year_last:
                return None
            days, at = self.days_of_month(year, month), 0
        day = date(year, month, days[at])
        second = self.times_on(day).after(-1)
        assert second is not None
        return _at(day, second)

    def previous(self, before: datetime, low: datetime) -> datetime | None:
        """Return the last local time earlier than ``before``, not earlier than ``low``."""
        if before <= low:
            return None
        day, second = before.date(), before.hour * 3600 + before.minute * 60 + before.second
        lowest = low.date()
        while day >= lowest:
            days = self.days_of_month(day.year, day.month)
            at = bisect_right(days, day.day)
            if not at or days[at - 1] != day.day:
                # The end of the nearest earlier day, or of the month before.
                day = day.replace(day=days[at - 1]) if at else day.replace(day=1) - _DAY
                second = SECONDS_PER_DAY
                continue
            found = self.times_on(day).before(second)
            if found is not None:
                local = _at(day, found)
                return local if local >= low else None
            day, second = day - _DAY, SECONDS_PER_DAY
        return None

    def count(self, low: datetime, high: datetime) -> int:
        """Count the local times from ``low`` up to, not including, ``high``."""
        if high <= low:
            return 0
        first, last = low.date(), high.date()
        total, year, month = 0, first.year, first.month
        while (year, month) <= (last.year, last.month):
            days = self.days_of_month(year, month)
            start = bisect_left(days, first.day) if (year, month) == (first.year, first.month) else 0
            stop = bisect_right(days, last.day) if (year, month) == (last.year, last.month) else len(days)
            for number in days[start:stop]:
                day = date(year, month, number)
                times = self.times_on(day)
                total += times.below(_second_of(high) if day == last else SECONDS_PER_DAY)
                total -= times.below(_second_of(low)) if day == first else 0
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return total

    def has(self, local: datetime) -> bool:
        """Whether the pattern names this local time."""
        return self.count(local, local + timedelta(seconds=1)) > 0


def _at(day: date, second: int) -> datetime:
    return datetime(day.year, day.month, day.day, *_split(second))  # noqa: DTZ001 - local


def _second_of(local: datetime) -> int:
    return local.hour * 3600 + local.minute * 60 + local.second


def _split(second: int) -> tuple[int, int, int]:
    minutes, second = divmod(second, 60)
    hour, minute = divmod(minutes, 60)
    return hour, minute, second


def _join(hour: int, minute: int, second: int) -> int:
    return hour * 3600 + minute * 60 + second
