"""A second, slow opinion about cron: it walks real time minute by minute and watches what the wall clock shows.

It shares nothing with ``rota.model`` but the rules. Expressions are read here anew, and the minutes that a zone's
clocks show are computed once for all expressions (``Wall``).
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
LOOK_AROUND = timedelta(hours=28)
GAP_MAX = timedelta(hours=3)

MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
WEEKDAYS = "SUN MON TUE WED THU FRI SAT".split()
MEANINGS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True)
class Fields:
    """What an expression names: its text, the seconds, and the minutes of the day on each date."""

    text: str
    seconds: tuple[int, ...]
    minutes: frozenset[int]  # of the day
    day: str
    months: frozenset[int]
    weekday: str
    is_fixed_time: bool
    known: dict[date, frozenset[int]] = field(default_factory=dict, compare=False, repr=False)

    def minutes_on(self, day: date) -> frozenset[int]:
        """Return the minutes of that day at which it is due."""
        if day not in self.known:
            self.known[day] = self.minutes if self.matches_day(day) else frozenset()
        return self.known[day]

    def matches_day(self, day: date) -> bool:
        """Whether it is due on that day at all."""
        by_day = any(is_day_of_month(term, day) for term in self.day.split(","))
        by_weekday = any(is_day_of_week(term, day) for term in self.weekday.split(","))
        both = self.day.startswith("*") or self.weekday.startswith("*")
        return day.month in self.months and ((by_day and by_weekday) if both else (by_day or by_weekday))


def read_expression(text: str) -> Fields:
    """Read an expression of five or six fields, or one of the @ names."""
    words = MEANINGS.get(text.lower(), text).upper().split()
    second, minute, hour, day, month, weekday = words if len(words) == 6 else ["0", *words]
    hours, minutes = expand(hour, 0, 23), expand(minute, 0, 59)
    return Fields(
        text=text,
        seconds=tuple(sorted(expand(second, 0, 59))),
        minutes=frozenset(one * 60 + other for one in hours for other in minutes),
        day=day,
        months=expand(month, 1, 12, MONTHS, 1),
        weekday=weekday,
        is_fixed_time=minute[0] != "*" and hour[0] != "*",
    )


def make_fields(minute: str, hour: str, day: str, month: str, weekday: str) -> Fields:
    """Read an expression given in fields."""
    return read_expression(f"{minute} {hour} {day} {month} {weekday}")


def expand(text: str, low: int, high: int, names: list[str] | None = None, first_name: int = 0) -> frozenset[int]:
    """Return the numbers of one field: stars, names, ranges, steps and lists."""

    def number(word: str) -> int:
        return names.index(word) + first_name if names and word in names else int(word)

    found: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            first, last = low, high
        elif "-" in span:
            first, last = (number(edge) for edge in span.split("-"))
        else:
            first, last = number(span), high if step else number(span)
        found |= set(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def is_day_of_month(term: str, day: date) -> bool:
    """Whether one term of the day field names that day."""
    length = calendar.monthrange(day.year, day.month)[1]
    working = [number for number in range(1, length + 1) if day.replace(day=number).weekday() < 5]
    if term == "L":
        return day.day == length
    if term == "LW":
        return day.day == working[-1]
    if term.endswith("W"):
        # The nearest working day; a Sunday goes forward, a Saturday back, and neither leaves the month.
        wanted = int(term[:-1])
        return wanted <= length and day.day == min(working, key=lambda number: abs(number - wanted))
    return day.day in expand(term, 1, 31)


def is_day_of_week(term: str, day: date) -> bool:
    """Whether one term of the weekday field names that day."""
    number = day.isoweekday() % 7
    length = calendar.monthrange(day.year, day.month)[1]
    if "#" in term:
        name, nth = term.split("#")
        same = [one for one in range(1, length + 1) if day.replace(day=one).weekday() == day.weekday()]
        return {number} == {one % 7 for one in expand(name, 0, 7, WEEKDAYS)} and same.index(day.day) + 1 == int(nth)
    if term[-1] == "L":
        return int(term[:-1]) % 7 == number and day.day + 7 > length
    return number in {one % 7 for one in expand(term, 0, 6 if term.startswith("*") else 7, WEEKDAYS)}


class Wall:
    """What a zone's clocks show in (``after``, ``until``], both on a whole minute: watched once for all expressions."""

    def __init__(self, zone: ZoneInfo, after: datetime, until: datetime) -> None:
        # Half minutes where an offset has some, as Monrovia's had up to 1972.
        ends = (after - LOOK_AROUND, after, until, until + LOOK_AROUND)
        even = all((moment.astimezone(zone).utcoffset() or MINUTE) % MINUTE == timedelta(0) for moment in ends)
        step = MINUTE if even else MINUTE / 2
        first = after - LOOK_AROUND
        moments = [first + step * number for number in range(int((until + LOOK_AROUND - first) / step) + 1)]
        shown = [moment.astimezone(zone).replace(tzinfo=None, fold=0) for moment in moments]
        self.days: list[tuple[date, list[Minute]]] = []
        latest, later = shown[0], [shown[-1]]
        for local in reversed(shown):
            later.append(min(later[-1], local))
        later.reverse()  # now the earliest that is shown from here on
        for number in range(1, len(shown)):
            local, moment = shown[number], moments[number]
            was_shown, latest = local <= latest, max(latest, local)
            if not after < moment <= until and not (moment <= after < moment + step):
                continue
            comes_again = number + 1 < len(shown) and later[number + 1] <= local
            passed = local - shown[number - 1] - step
            gap = range(-(-passed // MINUTE)) if timedelta(0) < passed <= GAP_MAX else ()
            skipped = tuple(to_minute(shown[number - 1] + step + MINUTE * one) for one in gap)
            if local.second == 0 or skipped:
                day, minute = to_minute(local)
                seen = Minute(moment, minute if local.second == 0 else -1, was_shown, comes_again, skipped)
                if not self.days or self.days[-1][0] != day:
                    self.days.append((day, []))
                self.days[-1][1].append(seen)
        self.after, self.until = after, until

    def slots(self, fields: Fields, gap: str = "shift", fold: str = "first") -> list[datetime]:
        """Return the slots, oldest first."""
        if not fields.is_fixed_time:
            gap, fold = "skip", "both"
        found: list[datetime] = []
        for day, minutes in self.days:
            on_day = fields.minutes_on(day)
            for minute in minutes:
                if minute.number not in on_day and not minute.skipped:
                    continue
                seconds: set[int] = set()
                if minute.number in on_day and (
                    fold == "both" or not (minute.was_shown if fold == "first" else minute.comes_again)
                ):
                    seconds.update(fields.seconds)
                if gap == "shift" and any(number in fields.minutes_on(missing) for missing, number in minute.skipped):
                    seconds.add(0)
                found += [minute.moment + timedelta(seconds=second) for second in sorted(seconds)]
        assert all(earlier < slot for earlier, slot in pairwise(found))
        return [slot for slot in found if self.after < slot <= self.until]


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of real time, and what the clocks show and skip at its start."""

    moment: datetime
    number: int  # of the day
    was_shown: bool
    comes_again: bool
    skipped: tuple[tuple[date, int], ...]


def to_minute(local: datetime) -> tuple[date, int]:
    """Return the day and the minute of the day."""
    return local.date(), local.hour * 60 + local.minute


def slots_between(
    fields: Fields, zone: ZoneInfo, after: datetime, until: datetime, gap: str = "shift", fold: str = "first"
) -> list[datetime]:
    """Return the slots in (``after``, ``until``]; both on a whole minute."""
    return Wall(zone, after, until).slots(fields, gap, fold)


def show(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return what the wall clock shows, without zone and fold."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def instant(text: str) -> datetime:
    """Read a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
