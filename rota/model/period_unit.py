"""Units of periods, as calendars and clocks name them: where one begins, what follows it, how it is written and read.

All in naive local time; the one at which something begins is its *label*. ``period`` puts them into a zone.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from typing import NamedTuple

from rota.errors import Invalid
from rota.model.instants import YEAR_FIRST, YEAR_LAST

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class PeriodUnit(StrEnum):
    """What a period is, or a group of them consists of."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    YEAR = "year"

    @property
    def larger(self) -> PeriodUnit | None:
        """The unit with which groups of this one start again."""
        return _TRAITS[self].larger

    @property
    def count_max(self) -> int:
        """How many of it a group has at most."""
        return _TRAITS[self].count_max

    @property
    def example(self) -> str:
        """A name; those of a unit are of one length, without an offset."""
        return _TRAITS[self].example

    def is_finer_than(self, other: PeriodUnit) -> bool:
        """Whether several of it make up one of the other."""
        return len(self.example) > len(other.example)

    def floor(self, local: datetime, count: int = 1) -> datetime:
        """Return where the unit, or the group of ``count`` of them, begins that a local time lies in."""
        match self:
            case PeriodUnit.HOUR:
                return local.replace(hour=local.hour - local.hour % count, minute=0, second=0, microsecond=0)
            case PeriodUnit.DAY:
                return datetime(local.year, local.month, local.day - (local.day - 1) % count)  # noqa: DTZ001
            case PeriodUnit.MONTH:
                return datetime(local.year, local.month - (local.month - 1) % count, 1)  # noqa: DTZ001
            case PeriodUnit.YEAR:
                return datetime(local.year, 1, 1)  # noqa: DTZ001

    def add(self, label: datetime, number: int) -> datetime:
        """Return where another unit begins, so many after the one that begins at ``label``."""
        match self:
            case PeriodUnit.HOUR:
                return label + number * _HOUR
            case PeriodUnit.DAY:
                return label + number * _DAY
            case PeriodUnit.MONTH:
                months = label.year * 12 + label.month - 1 + number
                return label.replace(year=months // 12, month=months % 12 + 1)
            case PeriodUnit.YEAR:
                return label.replace(year=label.year + number)

    def write(self, label: datetime) -> str:
        """Return the name of the unit that begins at ``label``."""
        return label.isoformat(timespec="hours")[: len(self.example)]


class _Traits(NamedTuple):
    larger: PeriodUnit | None
    count_max: int
    example: str


# A group of days is at most as long as the shortest month.
# fmt: off
_TRAITS = {
    PeriodUnit.HOUR:  _Traits(PeriodUnit.DAY,   23, "2026-11-20T07"),
    PeriodUnit.DAY:   _Traits(PeriodUnit.MONTH, 28, "2026-11-20"),
    PeriodUnit.MONTH: _Traits(PeriodUnit.YEAR,  11, "2026-11"),
    PeriodUnit.YEAR:  _Traits(None,              1, "2026"),
}
# fmt: on
_UNIT_OF_LENGTH = {len(unit.example): unit for unit in PeriodUnit}

_GROUP = re.compile(r"(?:(\d{1,6})\s+)?([a-z]+)", re.ASCII)
_GROUP_RULE = (
    "a period is `hour`, `day`, `month` or `year`, or a group that starts again with the next larger unit: `2 hours` to"
    " `23 hours` of a day, `2 days` to `28 days` of a month, `2 months` to `11 months` of a year"
)
_NAME = re.compile(r"(\d{4}(?:-\d\d(?:-\d\d(?:T\d\d)?)?)?)([+-]\d\d:\d\d(?::\d\d)?)?", re.ASCII)
_FIRST_HOUR = "2026-01-01T00"  # completes the name of anything longer


def parse_group(field: str, value: object) -> tuple[int, PeriodUnit]:
    """Read ``hour``, ``day``, ``month``, ``year``, ``6 hours``, ``10 days``, ``3 months``.

    Raises:
        Invalid: it cannot be read, or the group is not smaller than the next larger unit.
    """
    match = _GROUP.fullmatch(value.strip().lower()) if isinstance(value, str) and len(value) <= 100 else None
    if match is None:
        raise Invalid(field, value, _GROUP_RULE)
    count, word = int(match[1] or 1), match[2].removesuffix("s") if match[1] else match[2]
    if word == "week":
        why = "weeks are none, as no month or year consists of them, and `7 days` starts again with each month"
        raise Invalid(field, value, f"{why}; {_GROUP_RULE}")
    unit = next((unit for unit in PeriodUnit if unit == word), None)
    if unit is None:
        raise Invalid(field, value, _GROUP_RULE)
    if not 1 <= count <= unit.count_max:
        raise Invalid(field, value, f"{_why_refused(unit, count)}; {_GROUP_RULE}")
    return count, unit


def write_with_offset(label: datetime, offset: timedelta) -> str:
    """Return the name of an hour that is shown at several offsets."""
    return label.replace(tzinfo=timezone(offset)).isoformat(timespec="hours")


def parse_name(field: str, value: object, text: str, unit: PeriodUnit, form: str) -> tuple[datetime, bool]:
    """Read the name of a unit, which is ``value`` or a part of it: where it begins, and whether it carries an offset.

    Raises:
        Invalid: it is none, is that of another unit, or there is no such day or hour; ``form`` says what is expected.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match[2] and _UNIT_OF_LENGTH[len(match[1])] is not PeriodUnit.HOUR):
        raise Invalid(field, value, form)
    stem, named = match[1], _UNIT_OF_LENGTH[len(match[1])]
    if named is not unit:
        article = "an" if named is PeriodUnit.HOUR else "a"
        raise Invalid(field, value, f"{stem} is {article} {named}; {form}")
    try:
        label = datetime.fromisoformat(stem + _FIRST_HOUR[len(stem) :])
    except ValueError as error:
        raise Invalid(field, value, f"there is no such {unit}: {error}") from None
    if unit.write(label) != stem:  # T24, which later versions of Python read as the next day
        raise Invalid(field, value, "there is no such hour: hour must be in 0..23")
    if not YEAR_FIRST <= label.year <= YEAR_LAST:
        raise Invalid(field, value, f"periods lie in the years {YEAR_FIRST} to {YEAR_LAST}")
    return label, match[2] is not None


def _why_refused(unit: PeriodUnit, count: int) -> str:
    if count == 0:
        return "a period is not empty"
    if unit.larger is None:
        return "years are not grouped, as nothing larger starts the groups again: write `year`"
    if (unit, count) in {(PeriodUnit.HOUR, 24), (PeriodUnit.MONTH, 12)}:
        return f"{count} {unit}s are a {unit.larger}: write `{unit.larger}`"
    larger, most = unit.larger, unit.count_max
    return f"a group has at most {most} {unit}s, as it starts again with each {larger}: write `{larger}` for more"
