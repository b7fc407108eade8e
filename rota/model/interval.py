"""Intervals of the calendar: every N days, weeks, months or years, counted from the day of an anchor.

A month that lacks the anchor's day has its last day instead. Each slot is computed from the anchor and never from the
slot before, so that 31 January is followed by 28 February and then by 31 March.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from rota.errors import Invalid
from rota.model.pattern import ListedTimes, Pattern, Times
from rota.model.weekly import format_time, parse_time

# Ten years, as for durations: longer ones are mistakes.
_UNITS = {"day": 3650, "week": 520, "month": 120, "year": 10}
_RULE = "it is a number of days, weeks, months or years, such as `1 day at 07:00`, `2 weeks at 07:00` or `3 months`"
_FORM = re.compile(r"(\d{1,6})\s+(day|week|month|year)s?(?:\s+at\s+(\S+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Interval:
    """How long from slot to slot, and at what time of the day. Made by ``parse_interval``."""

    number: int
    unit: str
    second: int

    @property
    def text(self) -> str:
        """Return it as it is kept: the same for all ways to write it."""
        at = f" at {format_time(self.second)}" if self.second else ""
        return f"{self.number} {self.unit}{'' if self.number == 1 else 's'}{at}"


@lru_cache(maxsize=4096)
def parse_interval(text: str) -> Interval:
    """Read an interval of the calendar.

    Raises:
        Invalid: the field ``interval`` cannot be read, is zero or longer than ten years.
    """
    match = _FORM.fullmatch(text.strip().lower()) if len(text) <= 100 else None
    if match is None:
        raise Invalid("interval", text, _RULE)
    number, unit = int(match[1]), match[2]
    if not 1 <= number <= _UNITS[unit]:
        raise Invalid("interval", text, f"it is 1 to {_UNITS[unit]} {unit}s")
    second = 0 if match[3] is None else parse_time("interval", text, match[3], _RULE)
    return Interval(number, unit, second)


class IntervalPattern(Pattern):
    """One time on each day of the interval's grid; the first is the day of the anchor."""

    __slots__ = ("_anchor", "_interval", "_times")

    def __init__(self, interval: Interval, anchor: date) -> None:
        self._interval = interval
        self._anchor = anchor
        self._times = ListedTimes((interval.second,))

    def days_of_month(self, year: int, month: int) -> tuple[int, ...]:
        """Return the numbers of the days of a month that lie on the grid."""
        anchor, number = self._anchor, self._interval.number
        if (year, month) < (anchor.year, anchor.month):
            return ()
        length = calendar.monthrange(year, month)[1]
        if self._interval.unit in {"month", "year"}:
            months = (year - anchor.year) * 12 + month - anchor.month
            on_grid = months % (number * 12 if self._interval.unit == "year" else number) == 0
            return (min(anchor.day, length),) if on_grid else ()
        step = number * 7 if self._interval.unit == "week" else number
        passed = (date(year, month, 1) - anchor) // timedelta(days=1)
        first = 1 - passed if passed < 0 else 1 + -passed % step
        return tuple(range(first, length + 1, step))

    def times_on(self, day: date) -> Times:
        """Return the time of the day."""
        return self._times
