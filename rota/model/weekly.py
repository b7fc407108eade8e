"""Lists of weekdays and times: ``mon-fri 07:30,12:00; sat 09:00``, or ``daily 07:00``."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache

from rota.errors import Invalid
from rota.model.pattern import ListedTimes, Pattern, Times

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TEXT_LENGTH_MAX = 1000

_RULE = "it lists weekdays with times of the day, such as `mon-fri 07:30,12:00; sat 09:00` or `daily 07:00`"
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?", re.ASCII)
_BLANKS = re.compile(r"\s*([,;-])\s*")


class WeeklyPattern(Pattern):
    """Certain times on certain weekdays."""

    __slots__ = ("_times", "text")

    def __init__(self, times: Mapping[int, Iterable[int]]) -> None:
        self._times: dict[int, Times] = {weekday: ListedTimes(tuple(times[weekday])) for weekday in sorted(times)}
        self.text = _write(times)  # the same for all ways to write it

    def days_of_month(self, year: int, month: int) -> tuple[int, ...]:
        """Return the numbers of the days of a month that fall on one of the weekdays."""
        return _days_on(year, month, tuple(self._times))

    def times_on(self, day: date) -> Times:
        """Return the times of the day's weekday."""
        return self._times[day.weekday()]


@lru_cache(maxsize=4096)
def parse_weekly(text: str) -> WeeklyPattern:
    """Read a list of weekdays and times.

    Raises:
        Invalid: the field ``weekly`` cannot be read.
    """
    if len(text) > TEXT_LENGTH_MAX or not text.isascii():
        raise Invalid("weekly", text, f"{_RULE}; at most {TEXT_LENGTH_MAX} ASCII characters")
    times: dict[int, set[int]] = {}
    for group in _BLANKS.sub(r"\1", text.strip().lower()).split(";"):
        words = group.split()
        if len(words) != 2:
            raise Invalid("weekly", text, _RULE)
        seconds = [parse_time("weekly", text, one, _RULE) for one in words[1].split(",")]
        for term in words[0].split(","):
            for weekday in _read_days(text, term):
                times.setdefault(weekday, set()).update(seconds)
    return WeeklyPattern(times)


def parse_time(field: str, value: object, text: str, rule: str) -> int:
    """Return the seconds since midnight that ``text`` means.

    Raises:
        Invalid: ``field`` with ``value`` and ``rule``, when it is no time of the day.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise Invalid(field, value, f"{rule}; a time is 00:00 to 23:59, or 23:59:59, and {text!r} is none")
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)


def format_time(second: int) -> str:
    """Write a time of the day as ``parse_time`` reads it."""
    text = f"{second // 3600:02}:{second // 60 % 60:02}"
    return f"{text}:{second % 60:02}" if second % 60 else text


def _read_days(text: str, term: str) -> list[int]:
    if term == "daily":
        return list(range(7))
    first, dash, last = term.partition("-")
    for name in (first, last) if dash else (first,):
        if name not in WEEKDAYS:
            raise Invalid("weekly", text, f"{_RULE}; the weekdays are {', '.join(WEEKDAYS)}, and {name!r} is none")
    start = WEEKDAYS.index(first)
    length = (WEEKDAYS.index(last) - start) % 7 + 1 if dash else 1
    return [(start + number) % 7 for number in range(length)]


def _write(times: Mapping[int, Iterable[int]]) -> str:
    groups: dict[tuple[int, ...], list[int]] = {}
    for weekday in sorted(times):
        groups.setdefault(tuple(sorted(times[weekday])), []).append(weekday)
    return "; ".join(f"{_write_days(days)} {','.join(map(format_time, seconds))}" for seconds, days in groups.items())


def _write_days(days: list[int]) -> str:
    if len(days) == 7:
        return "daily"
    spans: list[list[int]] = []
    for day in days:
        if spans and spans[-1][-1] == day - 1:
            spans[-1].append(day)
        else:
            spans.append([day])
    names = [
        f"{WEEKDAYS[span[0]]}-{WEEKDAYS[span[-1]]}" if len(span) > 2 else ",".join(WEEKDAYS[day] for day in span)
        for span in spans
    ]
    return ",".join(names)


@lru_cache(maxsize=1024)
def _days_on(year: int, month: int, weekdays: tuple[int, ...]) -> tuple[int, ...]:
    first, length = calendar.monthrange(year, month)
    return tuple(number for number in range(1, length + 1) if (first + number - 1) % 7 in weekdays)
