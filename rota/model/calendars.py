"""Calendars as data: which days and hours are closed, and why.

A calendar is read in the zone of whoever asks, and is complete in itself: holidays are turned into dates when it is
made, so that no node needs the package they come from and all agree. It is made by ``checked``, kept as ``definition``,
and read back by ``from_definition``, which refuses what somebody broke by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

from rota.errors import Invalid
from rota.model.holidays import find_holidays
from rota.model.instants import YEAR_FIRST, YEAR_LAST
from rota.model.names import check_name
from rota.model.spans import Spans
from rota.model.weekly import WEEKDAYS

HOLIDAY_YEARS = 10
ENTRIES_MAX = 1000  # of each list; ranges say more in one

_WEEKDAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKDAY_RULE = f"the weekdays are {', '.join(WEEKDAYS)}"
_DATE_RULE = "a date looks like 2026-12-24, and a range of them like 2026-12-24..2027-01-01"
_WINDOW_RULE = "a window goes from one local time to a later one, without an offset: 2026-12-24T18:00..2026-12-27T06:00"
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_LOCAL = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?", re.ASCII)
_PARTS = ("weekdays", "dates", "open_dates", "windows", "country", "subdivision", "holidays", "holidays_until")


class Calendar:
    """What is closed: weekdays, dates, holidays, windows. Made by ``checked`` or ``from_definition``; never changes."""

    __slots__ = ("_closed", "_definition", "_holidays", "_open", "_weekdays", "_windows", "name")

    def __init__(self, name: str, definition: Mapping[str, Any]) -> None:
        """Take over a definition that has been checked."""
        self.name = name
        self._definition = dict(definition)
        self._weekdays = frozenset(WEEKDAYS.index(weekday) for weekday in definition.get("weekdays", ()))
        self._holidays: dict[int, str] = {
            date.fromisoformat(day).toordinal(): title for day, title in definition.get("holidays", {}).items()
        }
        listed = [_to_span(text) for text in definition.get("dates", ())]
        self._closed = Spans([*listed, *((day, day + 1) for day in self._holidays)])
        self._open = Spans([_to_span(text) for text in definition.get("open_dates", ())])
        self._windows = Spans(
            [(datetime.fromisoformat(low), datetime.fromisoformat(high)) for low, high in definition.get("windows", ())]
        )

    @classmethod
    def checked(
        cls,
        name: object,
        *,
        weekdays: object = (),
        dates: object = (),
        open_dates: object = (),
        windows: object = (),
        country: object = None,
        subdivision: object = None,
        first_year: int | None = None,
        years: int = HOLIDAY_YEARS,
    ) -> Calendar:
        """Make a calendar from what a user gave.

        It closes ``weekdays`` (``"sat"``), ``dates`` (``"2026-12-24"``, or from and to, both closed), ``windows``
        (pairs of local times, the first closed, the second open), and the public holidays of a ``country`` and its
        ``subdivision`` from ``first_year`` to ``years`` later. ``open_dates`` are open although a weekday, a date or a
        holiday closes them; only a window closes them still.

        Raises:
            Invalid: a value breaks its rule, or nothing is closed, or no day is left.
            NotSupported: holidays need the package of that name.
        """
        given = _read_closures(weekdays, dates, open_dates, windows)
        if country is not None:
            if first_year is None:
                raise Invalid("first_year", first_year, "the holidays of a country are those of certain years")
            last_year = min(first_year + years, YEAR_LAST)
            found = find_holidays(country, subdivision, range(first_year, last_year + 1))
            given |= {"country": country, "subdivision": subdivision, "holidays": found, "holidays_until": last_year}
        elif subdivision is not None:
            raise Invalid("subdivision", subdivision, "it is part of a country: name the country too")
        return cls._made(check_name("calendar", name), given)

    @classmethod
    def from_definition(cls, name: object, definition: object) -> Calendar:
        """Read back what ``definition`` gave.

        Raises:
            Invalid: a value breaks its rule, or a part is not known.
        """
        if not isinstance(definition, Mapping):
            raise Invalid("definition", definition, "the definition of a calendar is an object")
        parts = cast("Mapping[str, Any]", definition)
        for part, value in parts.items():
            if part not in _PARTS:
                raise Invalid(part, value, f"a calendar has no such part; it has {', '.join(_PARTS)}")
        closures = (parts.get(part, ()) for part in ("weekdays", "dates", "open_dates", "windows"))
        given = _read_closures(*closures) | {
            "country": _check_kind("country", parts.get("country"), str),
            "subdivision": _check_kind("subdivision", parts.get("subdivision"), str),
            "holidays": _check_holidays(parts.get("holidays", {})),
            "holidays_until": _check_kind("holidays_until", parts.get("holidays_until"), int),
        }
        return cls._made(check_name("calendar", name), given)

    @classmethod
    def _made(cls, name: str, given: Mapping[str, Any]) -> Calendar:
        definition = {part: given[part] for part in _PARTS if given.get(part) not in (None, [], {})}
        made = cls(name, definition)
        if not made._weekdays and not made._closed.spans and not made._windows.spans:
            raise Invalid("calendar", name, "it closes nothing: give it weekdays, dates, a country or windows")
        if len(made._weekdays) == len(WEEKDAYS) and not made._open.spans:
            raise Invalid(
                "weekdays", definition["weekdays"], "all seven are closed, and without open_dates no day is left"
            )
        return made

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON-able values, with what is set; equal calendars have equal ones."""
        return dict(self._definition)

    @property
    def holidays_until(self) -> int | None:
        """The last year whose holidays are known; None when it has no country."""
        return self._definition.get("holidays_until")

    @property
    def windows(self) -> Spans[datetime]:
        """The closed windows, in local time."""
        return self._windows

    def closes_day(self, number: int) -> bool:
        """Whether the whole day of that ordinal number is closed, windows aside."""
        if (number - 1) % 7 not in self._weekdays and self._closed.at(number) is None:
            return False
        return self._open.at(number) is None

    def closes(self, local: datetime) -> bool:
        """Whether it is closed at that local time."""
        return self.closes_day(local.toordinal()) or self._windows.at(local) is not None

    def closed_at(self, moment: datetime, zone: ZoneInfo) -> str | None:
        """Say why it is closed at that moment, as the clocks of ``zone`` show it; None when it is open."""
        return self.closed_at_local(moment.astimezone(zone).replace(tzinfo=None, fold=0))

    def closed_at_local(self, local: datetime) -> str | None:
        """Say why it is closed at that local time; None when it is open."""
        number = local.toordinal()
        if self.closes_day(number):
            if (title := self._holidays.get(number)) is not None:
                return f"{local.date()}, {title}"
            return str(local.date()) if self._closed.at(number) is not None else _WEEKDAY_NAMES[local.weekday()]
        if (window := self._windows.at(local)) is not None:
            return f"window {_show_local(window[0])} to {_show_local(window[1])}"
        return None

    def next_open_day(self, number: int) -> int | None:
        """Return the first day from ``number`` on that is not wholly closed; None when there is none any more."""
        if len(self._weekdays) == len(WEEKDAYS):
            # Only what is open all the same: otherwise one would look for ever.
            return next((max(low, number) for low, high in self._open.spans if high > number), None)
        while self.closes_day(number):
            span = self._closed.at(number)
            opened = self._open.after(number)
            # Through a long range of closed dates in one step, but not over a day in it that is open.
            number = number + 1 if span is None else min(span[1], span[1] if opened is None else opened[0])
        return number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calendar) and (self.name, self._definition) == (other.name, other._definition)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Calendar({self.name!r})"


def _read_closures(weekdays: object, dates: object, open_dates: object, windows: object) -> dict[str, Any]:
    return {
        "weekdays": _read_weekdays(weekdays),
        "dates": [_write_span(*span) for span in _read_dates("dates", dates)],
        "open_dates": [_write_span(*span) for span in _read_dates("open_dates", open_dates)],
        "windows": [[_write_local(low), _write_local(high)] for low, high in _read_windows(windows)],
    }


def _read_weekdays(value: object) -> list[str]:
    found: set[str] = set()
    for weekday in _read_list("weekdays", value, _WEEKDAY_RULE):
        text = weekday.strip().lower() if isinstance(weekday, str) else ""
        if text not in WEEKDAYS:
            raise Invalid("weekdays", weekday, _WEEKDAY_RULE)
        found.add(text)
    return sorted(found, key=WEEKDAYS.index)


def _read_dates(field: str, value: object) -> list[tuple[date, date]]:
    """Return the first and the last day of each entry, in their order."""
    found: set[tuple[date, date]] = set()
    for entry in _read_list(field, value, _DATE_RULE):
        low, high = _split_pair(field, entry, _DATE_RULE)
        first, last = _read_date(field, entry, low), _read_date(field, entry, high)
        if last < first:
            raise Invalid(field, entry, f"{_DATE_RULE}; the last day comes after the first one")
        found.add((first, last))
    return sorted(found)


def _read_windows(value: object) -> list[tuple[datetime, datetime]]:
    found: set[tuple[datetime, datetime]] = set()
    for entry in _read_list("windows", value, _WINDOW_RULE):
        low, high = _split_pair("windows", entry, _WINDOW_RULE)
        start, end = _read_local(entry, low), _read_local(entry, high)
        if end <= start:
            raise Invalid("windows", entry, f"{_WINDOW_RULE}; this one does not end after its start")
        found.add((start, end))
    return sorted(found)


def _read_list(field: str, value: Any, rule: str) -> Sequence[object]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise Invalid(field, value, f"it is a list; {rule}")
    entries = cast("Sequence[object]", value)
    if len(entries) > ENTRIES_MAX:
        raise Invalid(field, f"{len(entries)} entries", f"it has at most {ENTRIES_MAX}; {rule}")
    return entries


def _split_pair(field: str, entry: object, rule: str) -> tuple[object, object]:
    """Part ``FROM..TO``, or a pair; what is one thing is both ends."""
    if isinstance(entry, str):
        low, dots, high = entry.partition("..")
        return (low.strip(), high.strip()) if dots else (low.strip(), low.strip())
    if isinstance(entry, list | tuple):
        pair = cast("Sequence[object]", entry)
        if len(pair) != 2:
            raise Invalid(field, list(pair), rule)
        return pair[0], pair[1]
    return entry, entry


def _read_date(field: str, entry: object, value: object) -> date:
    found = value if isinstance(value, date) and not isinstance(value, datetime) else None
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            found = date.fromisoformat(value)
        except ValueError as error:
            raise Invalid(field, entry, f"{_DATE_RULE}; {error}") from None
    if found is None:
        raise Invalid(field, entry, _DATE_RULE)
    if not YEAR_FIRST <= found.year <= YEAR_LAST:
        raise Invalid(field, entry, f"a date lies in the years {YEAR_FIRST} to {YEAR_LAST}")
    return found


def _read_local(entry: object, value: object) -> datetime:
    found = value if isinstance(value, datetime) and value.tzinfo is None else None
    if isinstance(value, str) and _LOCAL.fullmatch(value):
        try:
            found = datetime.fromisoformat(value)
        except ValueError as error:
            raise Invalid("windows", entry, f"{_WINDOW_RULE}; {error}") from None
    if found is None:
        raise Invalid("windows", entry, _WINDOW_RULE)
    if not YEAR_FIRST <= found.year <= YEAR_LAST:
        raise Invalid("windows", entry, f"a time lies in the years {YEAR_FIRST} to {YEAR_LAST}")
    return found.replace(microsecond=0, fold=0)


def _check_holidays(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise Invalid("holidays", value, "it is an object of dates with their names")
    found: dict[str, str] = {}
    for day, title in cast("Mapping[object, object]", value).items():
        if not isinstance(title, str):
            raise Invalid("holidays", title, "the name of a holiday is text")
        found[_read_date("holidays", day, day).isoformat()] = title
    return dict(sorted(found.items()))


def _check_kind(field: str, value: object, kind: type[object]) -> object:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise Invalid(field, value, f"it is {'text' if kind is str else 'a number'}")
    return value


def _write_span(first: date, last: date) -> str:
    return str(first) if first == last else f"{first}..{last}"


def _to_span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("..")
    return date.fromisoformat(first).toordinal(), date.fromisoformat(last or first).toordinal() + 1


def _write_local(local: datetime) -> str:
    return local.isoformat(timespec="seconds" if local.second else "minutes")


def _show_local(local: datetime) -> str:
    return _write_local(local).replace("T", " ")
