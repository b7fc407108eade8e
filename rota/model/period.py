"""Periods: the intervals of a job's timeline by the clocks of a zone, and which of them lie within which.

Invariants: the periods of a rule follow each other without a gap or an overlap, and each has a name of its own that
reads back to it. Every boundary of a period is also one of all finer rules that fit within its own.

Where the clocks change:

- An hour is what they show as that hour at one offset. It is shorter where they change in the middle of it; skipped,
  there is none; shown twice, even in part, it is two periods, and their names carry the offsets.
- All others, groups of hours too, begin when the clocks first show their first moment or, where that is skipped, any
  later one, and last until the next begins; so what is repeated stays with the period that has begun. These are
  ``gap="shift"`` and ``fold="first"`` of schedules, however long the gap. A period that is skipped as a whole, such as
  30 December 2011 in Apia, does not exist.
- Groups are cut and named by the numbers of their members, whether these exist or not: ``6 hours`` begins at 00, 06,
  12 and 18 on every day, with five or seven hours in the group where the clocks change.

Where midnight itself is repeated (in St. John's up to 2010, from 00:01 back to 23:01), the new day has begun, so the
second ``T23`` lies within it although its name is that of the day before.

A *label* is the naive local time at which a period begins by its name. The store keeps ``text`` and the name of the
zone; ``checked`` reads them back. Called by whoever keeps a ledger.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from rota.errors import Invalid
from rota.model.daylight import Stretch, stretch_at, stretches_around, to_aware
from rota.model.instants import YEAR_FIRST, YEAR_LAST, check_zone
from rota.model.period_unit import PeriodUnit as PeriodUnit
from rota.model.period_unit import parse_group, parse_name, write_with_offset

_HOUR = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
# More than any zone has ever skipped.
_SKIPPED_MAX = timedelta(days=2)
_END = datetime(YEAR_LAST + 1, 1, 1)  # noqa: DTZ001 - local
_EXAMPLE = datetime(2026, 11, 20, 7)  # noqa: DTZ001 - local


@dataclass(frozen=True, slots=True)
class Period:
    """Time from ``start`` up to, not including, ``end``, both in UTC. Made by a ``PeriodRule``."""

    start: datetime
    end: datetime
    name: str

    def contains(self, moment: datetime) -> bool:
        """Whether the moment lies in it."""
        return self.start <= moment < self.end


@dataclass(frozen=True, slots=True)
class PeriodRule:
    """How a timeline is cut into periods, through the years 1971 to 2998 of its zone. Made by ``checked``."""

    unit: PeriodUnit
    count: int
    zone: ZoneInfo

    def __post_init__(self) -> None:
        assert 1 <= self.count <= self.unit.count_max, "a group is smaller than the next larger unit"

    @classmethod
    def checked(cls, text: object, zone: object = "UTC", *, field: str = "period") -> PeriodRule:
        """Read what a user wrote: ``hour``, ``day``, ``month``, ``year``, ``6 hours``, ``10 days``, ``3 months``.

        Raises:
            Invalid: it cannot be read, or the group is not smaller than the next larger unit; ``field`` is ``tz``
                when there is no such zone.
        """
        count, unit = parse_group(field, text)
        return cls(unit, count, check_zone("tz", zone))

    @property
    def text(self) -> str:
        """Return it as it is kept: the same for all ways to write it."""
        return self.unit.value if self.count == 1 else f"{self.count} {self.unit}s"

    def containing(self, moment: datetime) -> Period:
        """Return the period that the aware ``moment`` lies in.

        Raises:
            Invalid: it lies outside the years that have periods.
        """
        return self._at(_to_naive(moment))

    def next(self, period: Period) -> Period:
        """Return the period after one of this rule.

        Raises:
            Invalid: it is the last.
        """
        return self.containing(period.end)

    def previous(self, period: Period) -> Period:
        """Return the period before one of this rule.

        Raises:
            Invalid: it is the first.
        """
        return self.containing(period.start - _MICROSECOND)

    def walk(self, low: datetime, high: datetime) -> Iterator[Period]:
        """Yield the periods with a moment in [``low``, ``high``), oldest first, each made when it is asked for.

        From one period to another, with both, it is ``walk(first.start, last.end)``.

        Raises:
            Invalid: at that point, the years that have periods end.
        """
        moment = low
        while moment < high:
            period = self.containing(moment)
            yield period
            moment = period.end
            # Up to the next change of the clocks the others are arithmetic, several times as fast.
            for calm in self._walk_calm(moment, high):
                yield calm
                moment = calm.end

    def count_between(self, low: datetime, high: datetime) -> int:
        """Count the periods that ``walk`` yields, in steps by the months between, not by the periods.

        Raises:
            Invalid: ``low`` or ``high`` lies outside the years that have periods.
        """
        if low >= high:
            return 0
        first, last = _to_naive(low), _to_naive(high - _MICROSECOND)
        total = self._number(self._label_at(last)) - self._number(self._label_at(first)) + 1
        if not self.unit.is_finer_than(PeriodUnit.MONTH):
            return total  # no change of the clocks skips or repeats these
        for change in _changes(self.zone, first, last):
            before, after = self._label_at(change - _MICROSECOND), self._label_at(change)
            if self._is_one_hour:
                total += 1 - (after - before) // _HOUR
            else:
                while (before := self._following(before)) < after:
                    total -= 1
        return total

    def parse(self, name: object, *, field: str = "period") -> Period:
        """Return the period of that name; the name of one member stands for the group that it lies in.

        An hour must be written with its offset where it is shown twice, and may be elsewhere.

        Raises:
            Invalid: it cannot be read, is of another unit or group, does not exist, or is two periods.
        """
        text = name.strip() if isinstance(name, str) and len(name) <= 100 else ""
        low, dots, high = text.partition("..")
        label, has_offset = parse_name(field, name, low, self.unit, self._form)
        if dots:
            parse_name(field, name, high, self.unit, self._form)
            if self.count == 1:
                raise Invalid(field, name, self._form)
            label = self.unit.floor(label, self.count)
            following = self._following(label)
            if text != (group := self._name(label, following)):
                raise Invalid(field, name, f"the group that {low} lies in is {group}")
            starts = self._find_start(label, following)
        elif self.unit is PeriodUnit.HOUR:
            stretches = stretches_around(self.zone, label, label + _HOUR)
            if has_offset:
                stretches = [stretch for stretch in stretches if write_with_offset(label, stretch.offset) == low]
            starts = [max(stretch.start, label - stretch.offset) for stretch in stretches]
        else:
            starts = self._find_start(label, self.unit.add(label, 1))
        found = list(dict.fromkeys(self._at(start) for start in starts))
        if not found:
            why = "never show it at that offset" if has_offset else "skip it: there is no such period"
            raise Invalid(field, name, f"the clocks of {self.zone.key} {why}")
        if len(found) > 1:
            offsets = dict.fromkeys(stretch_at(self.zone, start).offset for start in starts)
            names = " or ".join(write_with_offset(label, offset) for offset in offsets)
            raise Invalid(field, name, f"the clocks of {self.zone.key} show it twice: write {names}")
        return found[0]

    def parse_span(self, name: object, *, field: str = "period") -> tuple[Period, Period]:
        """Return the first and the last period that a name stands for: all that begin in a day, month or year, of its.

        Raises:
            Invalid: as for ``parse``.
        """
        length = len(name.strip()) if isinstance(name, str) else 0
        for unit in PeriodUnit:
            if length == len(unit.example) and self.unit.is_finer_than(unit):
                named = PeriodRule(unit, 1, self.zone).parse(name, field=field)
                return self.containing(named.start), self.containing(named.end - _MICROSECOND)
        found = self.parse(name, field=field)
        return found, found

    def _at(self, moment: datetime) -> Period:
        """Return the period that ``moment``, in naive UTC, lies in."""
        label = self._label_at(moment)
        if self._is_one_hour:
            return _hour_at(self.zone, stretch_at(self.zone, moment), label)
        following = self._following(label)
        start, end = _first_shown(self.zone, label), _first_shown(self.zone, following)
        return Period(to_aware(start), to_aware(end), self._name(label, following))

    def _walk_calm(self, start: datetime, high: datetime) -> Iterator[Period]:
        """Yield the periods from the one that begins at ``start`` on as far as nothing near is skipped or repeated."""
        moment = start.replace(tzinfo=None)
        stretch = stretch_at(self.zone, moment)
        offset, label = stretch.offset, moment + stretch.offset
        calm_from, calm_until = stretch.seen_until or label, min(stretch.local_end, stretch.again_from or _END)
        if label < calm_from or label != self.unit.floor(label, self.count):
            return
        while start < high and (following := self._following(label)) <= calm_until:
            end = to_aware(following - offset)
            yield Period(start, end, self._name(label, following))
            start, label = end, following

    def _find_start(self, label: datetime, following: datetime) -> list[datetime]:
        """Return when what lies between two labels begins; nothing when all of it is skipped."""
        start = _first_shown(self.zone, label)
        return [start] if start < _first_shown(self.zone, following) else []

    def _label_at(self, moment: datetime) -> datetime:
        """Return the label of the period that ``moment`` lies in: the local time that it is named after."""
        stretch = stretch_at(self.zone, moment)
        local = moment + stretch.offset
        # What was shown before does not begin again, and the period that it led to goes on.
        if stretch.seen_until is not None and not self._is_one_hour:
            local = max(local, stretch.seen_until - _MICROSECOND)
        if not YEAR_FIRST <= local.year <= YEAR_LAST:
            raise _outside(to_aware(moment))
        return self.unit.floor(local, self.count)

    def _following(self, label: datetime) -> datetime:
        following = self.unit.add(label, self.count)
        larger = None if self.count == 1 else self.unit.larger
        return following if larger is None else min(following, larger.add(larger.floor(label), 1))

    def _number(self, label: datetime) -> int:
        """Return how many labels lie before, from some point on."""
        count = self.count
        match self.unit:
            case PeriodUnit.HOUR:
                return label.toordinal() * -(-24 // count) + label.hour // count
            case PeriodUnit.DAY if count == 1:
                return label.toordinal()
            case PeriodUnit.DAY:
                months = range((label.year - YEAR_FIRST) * 12 + label.month - 1)
                lengths = (calendar.monthrange(YEAR_FIRST + month // 12, month % 12 + 1)[1] for month in months)
                return sum(-(-length // count) for length in lengths) + (label.day - 1) // count
            case PeriodUnit.MONTH:
                return label.year * -(-12 // count) + (label.month - 1) // count
            case PeriodUnit.YEAR:
                return label.year

    def _name(self, label: datetime, following: datetime) -> str:
        first = self.unit.write(label)
        return first if self.count == 1 else f"{first}..{self.unit.write(self.unit.add(following, -1))}"

    @property
    def _is_one_hour(self) -> bool:
        return self.count == 1 and self.unit is PeriodUnit.HOUR

    @property
    def _form(self) -> str:
        if self.count == 1:
            return f"each period is one {self.unit}, named like {self.unit.example}"
        label = self.unit.floor(_EXAMPLE, self.count)
        group = self._name(label, self._following(label))
        return f"each period is {self.text}, named like {group} or by one of them like {self.unit.example}"


def check_within(child: PeriodRule, parent: PeriodRule, *, field: str = "period") -> None:
    """Check that each period of ``child`` lies within one of ``parent``; levels between them may be left out.

    Raises:
        Invalid: their zones differ, or ``child`` is the same or coarser, or its groups lie across those of ``parent``.
    """
    if child.zone.key != parent.zone.key:
        why = f"it is cut by the clocks of {child.zone.key}, {parent.text} by those of {parent.zone.key}: choose one"
    elif child.unit.is_finer_than(parent.unit):
        return
    elif child.unit is not parent.unit or child.count >= parent.count:
        why = f"it is not finer than {parent.text}, so that it cannot lie within it"
    elif parent.count % child.count:
        why = f"its groups would lie across those of {parent.text}: {child.count} does not divide {parent.count}"
    else:
        return
    raise Invalid(field, child.text, why)


def parent_of(period: Period, parent_rule: PeriodRule) -> Period:
    """Return the period of ``parent_rule`` that ``period`` lies within.

    Raises:
        Invalid: it lies across several, so its rule does not fit (``check_within``).
    """
    parent = parent_rule.containing(period.start)
    if parent.end < period.end:
        raise Invalid("period", period.name, f"it does not lie within {parent.name}, one {parent_rule.text}")
    return parent


def children_of(period: Period, child_rule: PeriodRule) -> Iterator[Period]:
    """Return the periods of ``child_rule`` that make up ``period``, oldest first.

    Raises:
        Invalid: some lie only partly within it, so their rule does not fit (``check_within``).
    """
    for child in child_rule.containing(period.start), child_rule.containing(period.end - _MICROSECOND):
        if child.start < period.start or child.end > period.end:
            raise Invalid("period", child.name, f"it does not lie within {period.name}")
    return child_rule.walk(period.start, period.end)


def _hour_at(zone: ZoneInfo, stretch: Stretch, label: datetime) -> Period:
    """Return the hour that ``stretch`` shows as ``label``."""
    # Stretches are also cut where months end in UTC, which ends no hour: those of one offset are one.
    shown = stretches_around(zone, label, label + _HOUR)
    same = [other for other in shown if other.offset == stretch.offset]
    start = max(same[0].start, label - stretch.offset)
    end = min(same[-1].end, label - stretch.offset + _HOUR)
    is_one = len(same) == len(shown)
    name = PeriodUnit.HOUR.write(label) if is_one else write_with_offset(label, stretch.offset)
    return Period(to_aware(start), to_aware(end), name)


def _to_naive(moment: datetime) -> datetime:
    # Not daylight's, which moves what is too late to the end of 2998, where it would be taken for a period there.
    assert moment.tzinfo is not None, "a moment without a zone lies in no period"
    if not YEAR_FIRST - 1 <= moment.year <= YEAR_LAST + 1:
        raise _outside(moment)
    return moment.astimezone(UTC).replace(tzinfo=None)


def _outside(moment: datetime) -> Invalid:
    return Invalid("period", moment.isoformat(), f"periods lie in the years {YEAR_FIRST} to {YEAR_LAST}")


def _first_shown(zone: ZoneInfo, local: datetime) -> datetime:
    """Return the first instant, in naive UTC, at which the clocks show ``local`` or later."""
    first = stretches_around(zone, local, local + _SKIPPED_MAX)[0]
    return max(first.start, local - first.offset)


def _changes(zone: ZoneInfo, low: datetime, high: datetime) -> Iterator[datetime]:
    """Yield when the offset changes in (``low``, ``high``], in naive UTC."""
    stretch = stretch_at(zone, low)
    while stretch.end <= high:
        following = stretch_at(zone, stretch.end)
        if following.offset != stretch.offset:
            yield stretch.end
        stretch = following
