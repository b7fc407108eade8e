"""Cron expressions: which instants they name, in which zone.

The parser is cronsim's, and so is the meaning of a day (names, lists, steps, ``L``, ``LW``, ``#``, and how the two day
fields combine); ``@daily`` and friends, ``15W`` and the errors are added here. The way from local times to instants is
our own, because three things must hold that a walk along the wall clock does not give:

- ``next(t) > t``, always, in UTC, and within a bound;
- a count, and the last few, without visiting every slot: an outage of a month leaves 43,200 of a minutely schedule;
- daylight saving as in Debian's cron. An expression whose minute or hour field starts with ``*`` is interval-like and
  follows real time: in a gap nothing is due, in a fold every matching instant is. All others are fixed-time: a time in
  a gap fires at the gap's end, several of them once; a time that comes twice fires the first time. A gap of more than
  three hours is a country crossing the date line: its times do not exist, and nothing is due for them.

Called by ``timing`` only.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from rota.errors import Invalid
from rota.model.instants import GAP_SECONDS_MAX, check_zone, find_transition, gap_seconds, resolve_local

EXPRESSION_LENGTH_MAX = 1000

# The rarest expression that fires at all, 29 February on a given weekday, waits 40 years around 2100.
YEARS_AHEAD_MAX = 50

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FORM = "five fields: minute hour day month weekday, or six with seconds first, or @daily and the like"
_FIELD_RULES = {
    "second": "the second is 0 to 59",
    "minute": "the minute is 0 to 59",
    "hour": "the hour is 0 to 23",
    "day-of-month": "the day is 1 to 31, L for the last, LW for the last weekday, 15W for the one nearest to the 15th",
    "month": "the month is 1 to 12 or JAN to DEC",
    "day-of-week": "the weekday is 0 to 7 or SUN to SAT, 5L for the last Friday, or 5#2 for the second one",
}
_NEVER_RULE = "it must fire at some time; the months it names have no such day"
_NEAREST = re.compile(r"([1-9]|[12][0-9]|3[01])W")
_SPAN_OF_ONE = re.compile(r"\b(\w+)-\1/0*[1-9][0-9]*(?![0-9])")
_BY_HASH = re.compile(r"(?:^|,)H")
_SAMPLE = datetime(2000, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# No two zones are further apart, and no zone has ever been moved by more.
_MOVE_MAX = timedelta(hours=26)


@lru_cache(maxsize=4096)
def parse_cron(expression: str, zone_name: str) -> Cron:
    """Return the (shared, unchanging) ``Cron`` of an expression in a zone.

    Raises:
        Invalid: the field ``cron`` cannot be read or never fires, or ``tz`` is no zone.
    """
    return Cron(expression, zone_name)


class Cron:
    """One expression in one zone. Use ``parse_cron``, which keeps it for the next time."""

    def __init__(self, expression: str, zone_name: str) -> None:
        self.zone = check_zone("tz", zone_name)
        self.expression = " ".join(expression.split())
        fields = _split_fields(expression)
        self.is_fixed_time = not (fields[-5].startswith("*") or fields[-4].startswith("*"))
        self._sim, self._nearest = _parse_fields(expression, fields)
        self._seconds = sorted(self._sim.seconds)
        self._minutes = sorted(self._sim.minutes)
        self._hours = sorted(self._sim.hours)
        self._days: dict[tuple[int, int], list[date]] = {}
        if self._find_day(_SAMPLE.date(), _plus_years(_SAMPLE)) is None:
            raise Invalid("cron", expression, _NEVER_RULE)

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot strictly later than ``after``, in UTC; None when there is none for 50 years."""
        after = after.astimezone(UTC)
        found = self._next_fixed(after) if self.is_fixed_time else self._next_interval(after)
        assert found is None or found > after
        return found

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the slots in (``after``, ``until``], oldest first."""
        slot = self.next(after)
        while slot is not None and slot <= until:
            yield slot
            slot = self.next(slot)

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``] without visiting each."""
        total = 0
        low, until = after.astimezone(UTC), until.astimezone(UTC)
        while low < until:
            high = min(until, low + _DAY)
            total += self._count_span(low, high)
            low = high
        return total

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        found: list[datetime] = []
        after, high = after.astimezone(UTC), until.astimezone(UTC)
        span = timedelta(minutes=1)
        while high > after and len(found) < limit:
            low = max(after, high - span)
            if self._count_span(low, high):
                found[:0] = self.between(low, high)
            high, span = low, min(span * 2, _DAY)
        return found[-limit:]

    def _next_fixed(self, after: datetime) -> datetime | None:
        # Local times in their own order give instants in theirs, since gaps collapse and folds count once. Started in
        # the second pass of a fold, the first candidates lie in the past and are passed over.
        local = self._find_local(after.astimezone(self.zone).replace(tzinfo=None, fold=0), _plus_years(after))
        while local is not None:
            slot = resolve_local(local, self.zone)
            if slot > after and gap_seconds(local, self.zone) <= GAP_SECONDS_MAX:
                return slot
            local = self._find_local(local, _plus_years(after))
        return None

    def _next_interval(self, after: datetime) -> datetime | None:
        bound = _plus_years(after)
        moment = after
        while True:
            offset = self._offset(moment)
            local = self._find_local(moment.replace(tzinfo=None) + offset, bound)
            if local is None:
                return None
            slot = (local - offset).replace(tzinfo=UTC)
            # Any change of the offset on the way moves the slot. Near the start and near the slot that is looked for
            # closely; in between no change can bring a slot forward by more than the size of the change.
            hop = min(slot, moment + 2 * _DAY)
            change = self._find_change(moment, hop)
            if change is not None:
                # The second before the change, so that a slot at the change itself is found under the new offset.
                before = change - _SECOND
                if slot <= before:
                    return slot
                first = change.astimezone(self.zone).replace(tzinfo=None, fold=0)
                if self._matches(first):
                    return change
                moment = change
            elif slot == hop:
                return slot
            else:
                moment = max(hop, slot - 2 * _DAY)

    def _find_change(self, low: datetime, high: datetime) -> datetime | None:
        # Six hours at a time: two changes of one zone have never been closer together.
        while low < high:
            step = min(high, low + 6 * _HOUR)
            if self._offset(low) != self._offset(step):
                return find_transition(low, step, self.zone)
            low = step
        return None

    def _count_span(self, low: datetime, high: datetime) -> int:
        """Count the slots in (``low``, ``high``], which is at most a day long."""
        offset = self._offset(high)
        steady = offset == self._offset(low) == self._offset(low + (high - low) / 2)
        # What comes a second time is not due again: a fold behind us matters as long as it lasts.
        if steady and self.is_fixed_time:
            steady = offset == self._offset(low - _MOVE_MAX)
        if steady:
            return self._count_local(low.replace(tzinfo=None) + offset, high.replace(tzinfo=None) + offset)
        if self.is_fixed_time or high - low <= 2 * _SECOND:
            return sum(1 for _ in self.between(low, high))
        middle = low + (high - low) / 2
        return self._count_span(low, middle) + self._count_span(middle, high)

    def _count_local(self, low: datetime, high: datetime) -> int:
        """Count the matching local times in (``low``, ``high``]."""
        day, total = low.date(), 0
        while day <= high.date():
            if self._matches_day(day):
                total += self._count_times(high.time()) if day == high.date() else self._times_per_day()
                total -= self._count_times(low.time()) if day == low.date() else 0
            day += _DAY
        return total

    def _count_times(self, until: time) -> int:
        """Count the matching times of a day up to ``until``, inclusive."""
        hours = bisect_left(self._hours, until.hour)
        total = hours * len(self._minutes) * len(self._seconds)
        if until.hour in self._sim.hours:
            minutes = bisect_left(self._minutes, until.minute)
            total += minutes * len(self._seconds)
            if until.minute in self._sim.minutes:
                total += bisect_right(self._seconds, until.second)
        return total

    def _times_per_day(self) -> int:
        return len(self._hours) * len(self._minutes) * len(self._seconds)

    def _find_local(self, after: datetime, bound: date) -> datetime | None:
        """Return the first matching local time later than ``after``; the zone plays no part."""
        after = after.replace(microsecond=0)
        if self._matches_day(after.date()):
            found = self._find_time(after.hour, after.minute, after.second)
            if found is not None:
                return datetime.combine(after.date(), found)
        day = self._find_day(after.date(), bound)
        return None if day is None else datetime.combine(day, time(self._hours[0], self._minutes[0], self._seconds[0]))

    def _find_time(self, hour: int, minute: int, second: int) -> time | None:
        if hour in self._sim.hours:
            if minute in self._sim.minutes:
                at = bisect_right(self._seconds, second)
                if at < len(self._seconds):
                    return time(hour, minute, self._seconds[at])
            at = bisect_right(self._minutes, minute)
            if at < len(self._minutes):
                return time(hour, self._minutes[at], self._seconds[0])
        at = bisect_right(self._hours, hour)
        return time(self._hours[at], self._minutes[0], self._seconds[0]) if at < len(self._hours) else None

    def _find_day(self, after: date, bound: date) -> date | None:
        year, month = after.year, after.month
        while (year, month) <= (bound.year, bound.month):
            days = self._days_of_month(year, month)
            at = bisect_right(days, after)
            if at < len(days):
                return days[at]
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return None

    def _days_of_month(self, year: int, month: int) -> list[date]:
        known = self._days.get((year, month))
        if known is None:
            if len(self._days) >= 24:  # a schedule looks at this month and the next; the rest is not worth keeping
                self._days.clear()
            known = [] if month not in self._sim.months else self._compute_days(year, month)
            self._days[year, month] = known
        return known

    def _compute_days(self, year: int, month: int) -> list[date]:
        nearest = {_nearest_weekday(year, month, day) for day in self._nearest}
        days = (date(year, month, number) for number in range(1, calendar.monthrange(year, month)[1] + 1))
        return [day for day in days if self._compute_day(day, nearest)]

    def _compute_day(self, day: date, nearest: set[int | None]) -> bool:
        by_day = self._sim.match_dom(day) or day.day in nearest
        by_weekday = self._sim.match_dow(day)
        return (by_day and by_weekday) if self._sim.day_and else (by_day or by_weekday)

    def _matches_day(self, day: date) -> bool:
        days = self._days_of_month(day.year, day.month)
        at = bisect_left(days, day)
        return at < len(days) and days[at] == day

    def _matches(self, local: datetime) -> bool:
        return (
            local.second in self._sim.seconds
            and local.minute in self._sim.minutes
            and local.hour in self._sim.hours
            and self._matches_day(local.date())
        )

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset


def _split_fields(expression: str) -> list[str]:
    if len(expression) > EXPRESSION_LENGTH_MAX or not expression.isascii():
        raise Invalid("cron", expression, f"it has {_FORM}; at most {EXPRESSION_LENGTH_MAX} ASCII characters")
    text = expression.strip()
    if text.startswith("@"):
        return _expand_shorthand(expression, text.lower()).split()
    fields = text.upper().split()
    if len(fields) not in {5, 6}:
        raise Invalid("cron", expression, f"it has {_FORM}; this has {len(fields)}")
    if any(_BY_HASH.search(field) for field in fields):
        raise Invalid("cron", expression, "H, a time chosen by hash, is not supported; write the time itself")
    if any("?" in field for field in fields):
        raise Invalid("cron", expression, "there is no ? in a field; write * for any")
    return fields


def _expand_shorthand(expression: str, text: str) -> str:
    if text == "@reboot":
        raise Invalid(
            "cron",
            expression,
            "a schedule is not bound to a machine that boots; let the init system start it (@reboot)",
        )
    if text.startswith("@every"):
        raise Invalid("cron", expression, "say it with `every` (--every 5m) instead of cron")
    if text not in _SHORTHANDS:
        raise Invalid("cron", expression, f"of the @ names there are {', '.join(sorted(_SHORTHANDS))}")
    return _SHORTHANDS[text]


def _parse_fields(expression: str, fields: list[str]) -> tuple[CronSim, frozenset[int]]:
    """Parse with cronsim; the nearest-weekday terms of the day field, which it lacks, come back beside it."""
    terms = fields[-3].split(",")
    nearest = frozenset(int(match[1]) for term in terms if (match := _NEAREST.fullmatch(term)))
    others = [term for term in terms if not _NEAREST.fullmatch(term)]
    # cronsim takes the span 5-5/10 for 5/10, which goes on to the end of the field.
    known = [_SPAN_OF_ONE.sub(r"\1", field) for field in fields]
    if nearest:
        known[-3] = ",".join(others) or "1"
    problem = _find_problem(known)
    # cronsim finds some dates that never come, such as 30 February, and then blames the day.
    if problem == "day-of-month" and _find_problem([*known[:-2], "*", known[-1]]) is None:
        raise Invalid("cron", expression, _NEVER_RULE)
    if problem is not None:
        raise Invalid("cron", expression, _FIELD_RULES.get(problem, f"it has {_FORM}"))
    sim = CronSim(" ".join(known), _SAMPLE)
    if nearest and not others:
        sim.days = set()
    return sim, nearest


def _find_problem(fields: list[str]) -> str | None:
    """Return the name of the field that cronsim refuses."""
    try:
        CronSim(" ".join(fields), _SAMPLE)
    except CronSimError as error:
        return str(error).removeprefix("Bad ")
    return None


def _nearest_weekday(year: int, month: int, day: int) -> int | None:
    """Return the weekday nearest to that day within its month, as Quartz does; None when the month is too short."""
    last = calendar.monthrange(year, month)[1]
    if day > last:
        return None
    match calendar.weekday(year, month, day):
        case calendar.SATURDAY:
            return day - 1 if day > 1 else day + 2
        case calendar.SUNDAY:
            return day + 1 if day < last else day - 2
        case _:
            return day


def _plus_years(moment: datetime) -> date:
    return date(moment.year + YEARS_AHEAD_MAX, 12, 31)
