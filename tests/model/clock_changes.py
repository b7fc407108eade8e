"""All changes of all clocks between 1970 and 2037, the same one once.

Found by asking each zone for its offset every six hours; nothing of ``rota`` takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

STEP = timedelta(hours=6)
FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
# From well before a change until a day after it, so that the days on both of its sides are seen.
BEFORE, AFTER = timedelta(hours=14), timedelta(hours=28)


@dataclass(frozen=True)
class Change:
    """One change of a zone's offset."""

    zone: str
    at: datetime
    offset_before: timedelta
    offset_after: timedelta

    @property
    def after(self) -> datetime:
        """The beginning of the time to look at."""
        return _whole_minute(self.at - BEFORE)

    @property
    def until(self) -> datetime:
        """The end of the time to look at."""
        return _whole_minute(self.at + AFTER)


@cache
def changes_of(zone: str) -> tuple[Change, ...]:
    """Return the changes of one zone, oldest first."""
    return tuple(_find_changes(zone))


def distinct_changes(zones: Iterable[str]) -> list[Change]:
    """Return the changes of ``zones`` that differ by instant or offsets, or by what else changes nearby."""
    found: dict[object, Change] = {}
    for zone in zones:
        for change in changes_of(zone):
            near = tuple(
                (other.at, other.offset_before, other.offset_after)
                for other in changes_of(zone)
                if abs(other.at - change.at) < timedelta(days=4)
            )
            found.setdefault((change.at, near), change)
    return sorted(found.values(), key=lambda change: (change.at, change.zone))


def all_zones() -> list[str]:
    """Return the names of all zones, without what is kept beside them."""
    return sorted(zone for zone in available_timezones() if zone not in {"localtime", "Factory"})


def _find_changes(zone: str) -> Iterator[Change]:
    where = ZoneInfo(zone)
    low, before = FIRST, _offset(FIRST, where)
    while low < LAST:
        high = low + STEP
        after = _offset(high, where)
        if after != before:
            start, end = low, high
            while end - start > timedelta(seconds=1):
                middle = start + (end - start) // 2
                middle -= timedelta(microseconds=middle.microsecond)
                start, end = (middle, end) if _offset(middle, where) == before else (start, middle)
            yield Change(zone, end, before, after)
        low, before = high, after


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _whole_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
