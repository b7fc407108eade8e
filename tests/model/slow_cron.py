"""A second, slow opinion about cron: it walks real time minute by minute and watches what the wall clock shows.

It shares nothing with ``rota.model.cron`` but the rules: an expression is given as the sets of numbers it names. Zones
must have offsets of whole minutes, which they have since 1973.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
LOOK_BACK = timedelta(hours=30)


@dataclass(frozen=True)
class Fields:
    """The numbers an expression of five fields names, and its text."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday

    @property
    def is_fixed_time(self) -> bool:
        minute, hour = self.text.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def matches(self, local: datetime) -> bool:
        day_field, weekday_field = self.text.split()[2], self.text.split()[4]
        by_day, by_weekday = local.day in self.days, (local.weekday() + 1) % 7 in self.weekdays
        both = day_field.startswith("*") or weekday_field.startswith("*")
        is_day = (by_day and by_weekday) if both else (by_day or by_weekday)
        return is_day and local.month in self.months and local.hour in self.hours and local.minute in self.minutes


def slots_between(fields: Fields, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """Return the slots in (``after``, ``until``]; both on a whole minute."""
    found: list[datetime] = []
    if not fields.is_fixed_time:
        moment = after + MINUTE
        while moment <= until:
            if fields.matches(show(moment, zone)):
                found.append(moment)
            moment += MINUTE
        return found
    # Fixed times: whatever the wall clock newly reaches, it reaches now. What it shows again it does not reach again.
    moment = after - LOOK_BACK
    reached = show(moment, zone)
    while moment < until:
        moment += MINUTE
        shown = show(moment, zone)
        jumped = shown - reached
        if jumped <= timedelta(0):
            continue
        first = shown if jumped > timedelta(hours=3, minutes=1) else reached + MINUTE
        reached = shown
        passed = (first + MINUTE * step for step in range(int((shown - first) / MINUTE) + 1))
        if any(fields.matches(local) for local in passed) and moment > after:
            found.append(moment)
    return found


def show(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return what the wall clock shows, without zone and fold."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def expand(text: str, low: int, high: int) -> frozenset[int]:
    """Return the numbers of one field: stars, ranges, steps and lists."""
    found: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            first, last = low, high
        elif "-" in span:
            first, last = (int(edge) for edge in span.split("-"))
        else:
            first, last = int(span), high if step else int(span)
        found |= set(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def make_fields(minute: str, hour: str, day: str, month: str, weekday: str) -> Fields:
    """Read an expression of numbers."""
    return Fields(
        text=f"{minute} {hour} {day} {month} {weekday}",
        minutes=expand(minute, 0, 59),
        hours=expand(hour, 0, 23),
        days=expand(day, 1, 31),
        months=expand(month, 1, 12),
        weekdays=frozenset(number % 7 for number in expand(weekday, 0, 6)),
    )


def instant(text: str) -> datetime:
    """Read a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
