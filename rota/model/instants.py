"""Moments as people write them, and zones: ISO 8601 in, aware UTC out.

A local time that a zone skips means the end of that gap, and one that it has twice means the first: the same as for a
cron expression, which also resolves its local times here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from rota.errors import Invalid

# Far enough from the ends of what datetime and the databases can keep that no arithmetic overflows.
YEAR_FIRST = 1971
YEAR_LAST = 2998

# Of Debian's cron: what is longer is a country moving over the date line, not daylight saving, and shifts nothing.
GAP_SECONDS_MAX = 3 * 3600

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII | re.IGNORECASE
)
_INSTANT_RULE = "a time is ISO 8601, such as 2026-11-20T07:00:00Z or, in the schedule's zone, 2026-11-20T07:00"
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*)*", re.ASCII)
_ZONE_RULE = "a zone is an IANA name such as Europe/Amsterdam, Asia/Tokyo or UTC"
# Kept beside the zones but none: copies with other rules, and names for "whatever this machine has".
_NO_ZONES = ("posix/", "right/", "posixrules", "localtime", "Factory")


def parse_instant(field: str, value: object, zone: tzinfo = UTC) -> datetime:
    """Return the moment that ``value`` (ISO 8601 text or a datetime) names, aware and in UTC.

    Without an offset it is local time in ``zone``.

    Raises:
        Invalid: it cannot be read, or lies outside the years 1971 to 2998.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and _INSTANT.fullmatch(value.strip()):
        try:
            moment = datetime.fromisoformat(value.strip().upper())
        except ValueError as error:
            raise Invalid(field, value, f"{_INSTANT_RULE}; {error}") from None
    else:
        raise Invalid(field, value, _INSTANT_RULE)
    if not YEAR_FIRST <= moment.year <= YEAR_LAST:
        raise Invalid(field, value, f"a time lies in the years {YEAR_FIRST} to {YEAR_LAST}")
    if moment.tzinfo is None:
        return resolve_local(moment.replace(fold=0), zone)
    return moment.astimezone(UTC)


def format_instant(moment: datetime) -> str:
    """Write a moment as every door shows it: UTC, microseconds, ``Z``."""
    assert moment.tzinfo is not None, "a moment without a zone cannot be shown"
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def say_moment(moment: datetime | None) -> str:
    """Write a moment into a sentence, to the second: in which part of it something happened helps nobody read it."""
    return "at an unknown moment" if moment is None else say_slot(moment.replace(microsecond=0))


def say_slot(slot: datetime | None) -> str:
    """Write a moment by which something is found into a sentence: exactly, so that it can be copied."""
    return "at an unknown moment" if slot is None else format_instant(slot).replace(".000000Z", "Z")


def check_zone(field: str, value: object) -> ZoneInfo:
    """Return the zone of that IANA name.

    Raises:
        Invalid: there is none; POSIX strings, paths and the machine's own zone are refused too.
    """
    if isinstance(value, ZoneInfo) and value.key:
        return value
    if not isinstance(value, str) or len(value) > 100 or not _ZONE.fullmatch(value) or value.startswith(_NO_ZONES):
        raise Invalid(field, value, _ZONE_RULE)
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder, such as Europe
        pass
    # Only places: the likeness of CEST and EST is a trap.
    near = get_close_matches(value, sorted(name for name in available_timezones() if "/" in name), n=1, cutoff=0.7)
    raise Invalid(field, value, f"{_ZONE_RULE}" + (f"; did you mean {near[0]}?" if near else ""))


def resolve_local(local: datetime, zone: tzinfo) -> datetime:
    """Return the moment of the naive ``local`` time in ``zone``: the first of two, or the end of a gap."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return moment
    return find_gap_end(local, zone)


def gap_seconds(local: datetime, zone: tzinfo) -> float:
    """Return how long the gap is that swallows the naive ``local`` time; 0 for a time that exists."""
    before = local.replace(tzinfo=zone, fold=0).utcoffset()
    after = local.replace(tzinfo=zone, fold=1).utcoffset()
    assert before is not None
    assert after is not None
    return max(0.0, (after - before).total_seconds())


def find_gap_end(local: datetime, zone: tzinfo) -> datetime:
    """Return the first moment after the gap that swallows the naive ``local`` time.

    Zones do not tell their transitions, so it is found by halving: fold 1 answers a moment before it, fold 0 one after.
    """
    low = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    high = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    return find_transition(low, high, zone)


def find_transition(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """Return the first whole second after ``low``, up to ``high``, at which the offset of ``high`` is in force."""
    offset_after = high.astimezone(zone).utcoffset()
    base = low.replace(microsecond=0)
    left, right = 0, int((high - base).total_seconds())
    while right - left > 1:
        middle = (left + right) // 2
        if (base + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset_after:
            right = middle
        else:
            left = middle
    return base + timedelta(seconds=right)
