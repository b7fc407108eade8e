"""Cron expressions: which local times they name, and what is refused.

The parser is cronsim's, and so is the meaning of a day (names, lists, steps, ``L``, ``LW``, ``#``, and how both day
fields combine); ``@daily`` and friends, ``15W``, ``H`` and the errors are added here. From local times to instants it
is ``grids``'s way. As in Debian's cron, an expression whose minute or hour field starts with ``*`` is interval-like and
follows real time: in a gap nothing is due, in a fold every matching instant is. All others are fixed-time, and the
schedule's choices of ``gap`` and ``fold`` hold for them.

Called by ``timing``.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

from cronsim import CronSim, CronSimError

from rota.errors import Invalid
from rota.model.daylight import Fold, Gap
from rota.model.grids import YEARS_AHEAD_MAX, LocalGrid
from rota.model.hashing import replace_hashes, uses_hash
from rota.model.instants import check_zone
from rota.model.pattern import ClockTimes, Pattern, Times

EXPRESSION_LENGTH_MAX = 1000

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
_SAMPLE = datetime(2000, 1, 1)  # noqa: DTZ001 - local
_EITHER_NOTE = "both day fields are restricted, so either matches, as in cron: day {} of the month, or weekday {}"


@dataclass(frozen=True, slots=True)
class Cron:
    """One expression in one zone. Made by ``parse_cron``."""

    expression: str  # as it was written
    is_fixed_time: bool
    uses_hash: bool
    notes: tuple[str, ...]
    grid: LocalGrid

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot strictly later than ``after``, in UTC; None when there is none for 50 years."""
        return self.grid.next(after)

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the slots in (``after``, ``until``], oldest first."""
        slot = self.next(after)
        while slot is not None and slot <= until:
            yield slot
            slot = self.next(slot)


def parse_cron(
    expression: str, zone_name: str, *, name: str = "", gap: Gap = Gap.SHIFT, fold: Fold = Fold.FIRST
) -> Cron:
    """Return the (shared, unchanging) ``Cron`` of an expression in a zone; ``name`` is what ``H`` is chosen by.

    Raises:
        Invalid: the field ``cron`` cannot be read or never fires, or ``tz`` is no zone.
    """
    fields = _split_fields(expression)
    if not uses_hash(fields):
        return _make_cron(expression, fields, zone_name, gap, fold)
    if not name:
        rule = "H is a time chosen by a hash of the schedule's name, and there is no name here; write the time itself"
        raise Invalid("cron", expression, rule)
    try:
        chosen = replace_hashes(fields, name)
    except ValueError as error:
        raise Invalid("cron", expression, str(error)) from None
    return _make_cron(expression, chosen, zone_name, gap, fold)


def explain_cron(expression: str, *, name: str = "") -> str:
    """Say in plain words which local times an expression names; where there are none for it, the expression itself.

    Raises:
        Invalid: it cannot be read.
    """
    fields = _split_fields(expression)
    if uses_hash(fields):
        if not name:
            return f"cron {expression}"
        fields = replace_hashes(fields, name)
    sim, nearest = _parse_fields(expression, fields)
    if nearest:  # which the parser knows nothing of
        return f"cron {expression}"
    said = sim.explain()
    if not (sim.day_and or fields[-3].startswith("*") or fields[-1].startswith("*")):
        said = " or on ".join(said.rsplit(" and on ", 1))  # either day matches
    return said[:1].lower() + said[1:]


class CronPattern(Pattern):
    """The local times that an expression names; the zone plays no part."""

    __slots__ = ("_days", "_nearest", "_sim", "_times")

    def __init__(self, sim: CronSim, nearest: frozenset[int]) -> None:
        self._sim = sim
        self._nearest = nearest
        self._times = ClockTimes(sorted(sim.hours), sorted(sim.minutes), sorted(sim.seconds))
        self._days: dict[tuple[int, int], tuple[int, ...]] = {}

    def days_of_month(self, year: int, month: int) -> tuple[int, ...]:
        """Return the numbers of the days of a month that the expression names."""
        if month not in self._sim.months:
            return ()
        known = self._days.get((year, month))
        if known is None:
            if len(self._days) >= 24:  # a schedule looks at this month and the next; the rest is not worth keeping
                self._days.clear()
            known = self._days[year, month] = self._compute_days(year, month)
        return known

    def times_on(self, day: date) -> Times:
        """Return the times of the day: the same on every day."""
        return self._times

    def _compute_days(self, year: int, month: int) -> tuple[int, ...]:
        nearest = {_nearest_weekday(year, month, day) for day in self._nearest}
        length = calendar.monthrange(year, month)[1]
        return tuple(number for number in range(1, length + 1) if self._matches(date(year, month, number), nearest))

    def _matches(self, day: date, nearest: set[int | None]) -> bool:
        by_day = self._sim.match_dom(day) or day.day in nearest
        by_weekday = self._sim.match_dow(day)
        return (by_day and by_weekday) if self._sim.day_and else (by_day or by_weekday)


@lru_cache(maxsize=16384)
def _make_cron(expression: str, fields: tuple[str, ...], zone_name: str, gap: Gap, fold: Fold) -> Cron:
    zone = check_zone("tz", zone_name)
    written = _split_fields(expression)
    is_fixed_time = not (written[-5].startswith("*") or written[-4].startswith("*"))
    pattern = _make_pattern(expression, fields)
    if not is_fixed_time:
        gap, fold = Gap.SKIP, Fold.BOTH
    notes = ()
    if not written[-3].startswith("*") and not written[-1].startswith("*"):
        notes = (_EITHER_NOTE.format(fields[-3], fields[-1]),)
    return Cron(
        expression=" ".join(expression.split()),
        is_fixed_time=is_fixed_time,
        uses_hash=fields != written,
        notes=notes,
        grid=LocalGrid(pattern, zone, gap, fold, follows_real_time=not is_fixed_time),
    )


@lru_cache(maxsize=4096)
def _make_pattern(expression: str, fields: tuple[str, ...]) -> CronPattern:
    pattern = CronPattern(*_parse_fields(expression, fields))
    if pattern.next(_SAMPLE, _SAMPLE.year + YEARS_AHEAD_MAX) is None:
        raise Invalid("cron", expression, _NEVER_RULE)
    return pattern


@lru_cache(maxsize=4096)
def _split_fields(expression: str) -> tuple[str, ...]:
    if len(expression) > EXPRESSION_LENGTH_MAX or not expression.isascii():
        raise Invalid("cron", expression, f"it has {_FORM}; at most {EXPRESSION_LENGTH_MAX} ASCII characters")
    text = expression.strip()
    if text.startswith("@"):
        return tuple(_expand_shorthand(expression, text.lower()).split())
    fields = tuple(text.upper().split())
    if len(fields) not in {5, 6}:
        raise Invalid("cron", expression, f"it has {_FORM}; this has {len(fields)}")
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


def _parse_fields(expression: str, fields: tuple[str, ...]) -> tuple[CronSim, frozenset[int]]:
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
