"""Stretches of time in which a zone's offset stays the same, and what becomes of the times a change skips or repeats.

Everything that turns local times into instants goes through ``stretch_at``: within a stretch, local time is an instant
plus an offset, so slots can be found and counted by arithmetic. Zones do not tell their changes, so a month is probed
and kept. Instants are naive UTC here, and local times naive too: datetime compares and adds these without asking a
zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from rota.model.instants import GAP_SECONDS_MAX, YEAR_LAST, find_transition

# Instants outside these years are out of reach of every rule, and far enough from the ends of what datetime can hold.
_FIRST = datetime(1900, 1, 1)  # noqa: DTZ001 - UTC, see above
_LAST = datetime(YEAR_LAST, 12, 31, 23, 59, 59)  # noqa: DTZ001

_ZERO = timedelta(0)
_SHIFTED_MAX = timedelta(seconds=GAP_SECONDS_MAX)
# Two changes of one zone have never been closer together.
_PROBE = timedelta(hours=6)
# No zone has ever been moved by more, so that no repeated time lies further from its first showing.
_REACH = timedelta(hours=30)


class Gap(StrEnum):
    """What happens to a local time that the clocks skip."""

    SHIFT = "shift"  # it fires at the end of the gap, several of them once
    SKIP = "skip"  # it does not fire


class Fold(StrEnum):
    """What happens to a local time that the clocks show twice."""

    FIRST = "first"
    LAST = "last"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Real time from ``start`` up to, not including, ``end``, through which the offset stays the same.

    Months cut stretches too, so that they can be kept one month at a time.
    """

    start: datetime
    end: datetime
    offset: timedelta
    gap: timedelta  # the local time that was skipped just before; none where more than three hours were
    seen_until: datetime | None  # what is shown before this local time was shown before
    again_from: datetime | None  # what is shown from this local time on is shown again

    @property
    def local_start(self) -> datetime:
        """What the clocks show at the start."""
        return self.start + self.offset

    @property
    def local_end(self) -> datetime:
        """What they would show at the end, had nothing changed."""
        return self.end + self.offset

    def window(self, fold: Fold) -> tuple[datetime, datetime]:
        """Return from where and up to where the local times shown here count, under ``fold``; nothing if they cross."""
        low, high = self.start + self.offset, self.end + self.offset
        if fold is Fold.FIRST and self.seen_until is not None:
            low = max(low, self.seen_until)
        if fold is Fold.LAST and self.again_from is not None:
            high = min(high, self.again_from)
        return low, high


def to_naive(moment: datetime) -> datetime:
    """Return an aware moment as naive UTC, within the years in which anything can be due."""
    return min(max(moment.astimezone(UTC).replace(tzinfo=None), _FIRST), _LAST)


def to_aware(moment: datetime) -> datetime:
    """Return the moment that naive UTC means."""
    return moment.replace(tzinfo=UTC)


def stretch_at(zone: ZoneInfo, moment: datetime) -> Stretch:
    """Return the stretch that ``moment``, in naive UTC, lies in."""
    for stretch in _stretches_of_month(zone, moment.year, moment.month):
        if moment < stretch.end:
            return stretch
    raise AssertionError("a month's stretches reach up to the next")


def stretches_around(zone: ZoneInfo, low: datetime, high: datetime) -> list[Stretch]:
    """Return the stretches that show some of the local times from ``low`` up to ``high``, oldest first."""
    found: list[Stretch] = []
    moment = low - _REACH
    while moment < high + _REACH:
        stretch = stretch_at(zone, moment)
        if stretch.local_start < high and low < stretch.local_end:
            found.append(stretch)
        moment = stretch.end
    return found


def resolve(local: datetime, zone: ZoneInfo, gap: Gap, fold: Fold) -> list[datetime]:
    """Return the instants, in naive UTC, that a naive local time means: none, one, or both of two."""
    shown = stretches_around(zone, local, local + timedelta(seconds=1))
    found = [stretch.start + (local - stretch.local_start) for stretch in shown]
    if len(found) > 1 and fold is not Fold.BOTH:
        return found[:1] if fold is Fold.FIRST else found[-1:]
    if found or gap is Gap.SKIP:
        return found
    after = stretches_around(zone, local, local + _REACH)
    return [stretch.start for stretch in after if stretch.gap and stretch.local_start - stretch.gap <= local][:1]


@lru_cache(maxsize=4096)
def _stretches_of_month(zone: ZoneInfo, year: int, month: int) -> tuple[Stretch, ...]:
    first = datetime(year, month, 1)  # noqa: DTZ001
    last = datetime(year + month // 12, month % 12 + 1, 1)  # noqa: DTZ001
    changes = _find_changes(zone, first - _REACH, last + _REACH)
    cuts = [first, *(moment for moment in changes if first < moment < last), last]
    found: list[Stretch] = []
    for start, end in pairwise(cuts):
        offset = _offset(zone, start)
        before = changes.get(start, (offset, offset))[0]
        seen = [moment + old for moment, (old, _) in changes.items() if moment <= start < moment + old - offset]
        again = [moment + new for moment, (_, new) in changes.items() if end <= moment and moment + new < end + offset]
        gap = offset - before
        found.append(
            Stretch(
                start=start,
                end=end,
                offset=offset,
                gap=gap if _ZERO < gap <= _SHIFTED_MAX else _ZERO,
                seen_until=max(seen, default=None),
                again_from=min(again, default=None),
            )
        )
    return tuple(found)


def _find_changes(zone: ZoneInfo, low: datetime, high: datetime) -> dict[datetime, tuple[timedelta, timedelta]]:
    """Return when the offset changes in (``low``, ``high``], with the offsets before and after."""
    found: dict[datetime, tuple[timedelta, timedelta]] = {}
    before = _offset(zone, low)
    while low < high:
        probe = min(high, low + _PROBE)
        after = _offset(zone, probe)
        if after != before:
            found[find_transition(to_aware(low), to_aware(probe), zone).replace(tzinfo=None)] = (before, after)
        low, before = probe, after
    return found


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.replace(tzinfo=UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return offset
