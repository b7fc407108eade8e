"""Calendars: the list, and one of them as a year of days."""

from __future__ import annotations

import calendar as months
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from rota.errors import Invalid, RotaError
from rota.model.calendars import Calendar
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.options import changes_of, fields_for
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for
from rota.web.pages.writing import address, piece

YEARS = (1970, 2200)
SCHEDULES_SHOWN = 200
_NOT_PARTS = frozenset({"name", "revision", "created_at", "updated_at", "schedules", "problem"})

DEEDS = {
    "delete": ThingDeed("calendar.delete", "Delete", "was deleted", "No schedule may name it any more.", ends_it=True),
}
add_deeds("calendar", "/calendars", DEEDS)


@dataclass(frozen=True, slots=True)
class Day:
    """One day: closed, partly so, or open; and why."""

    number: int
    kind: str
    why: str


@page("/calendars", "calendars.html", title="Calendars", key="c", place=90)
def show_calendars(asked: Asked) -> Context:
    return list_page(asked, "calendar.list", "/calendars", ("search",)) | {"may_add": asked.may("calendar.add")}


@page("/calendars/{name}", "calendar.html")
def show_calendar(asked: Asked) -> Context:
    name = asked.piece("name")
    view = asked.look("calendar.show", name)
    year = _year_of(asked)
    path = f"/calendars/{piece(name)}"
    rows: list[tuple[str, list[Day]]] = []
    refused = ""
    try:
        rows = _days_of(name, view, year)
    except RotaError as error:  # what a hand has written into its row
        refused = str(error)
    return {
        "calendar": view,
        "parts_of": {part: value for part, value in view.items() if part not in _NOT_PARTS and value},
        "year": year,
        "rows": rows,
        "refused": refused,
        "before": address(path, year=year - 1) if year > YEARS[0] else None,
        "later": address(path, year=year + 1) if year < YEARS[1] else None,
        "now": asked.now(),
        "schedules": view["schedules"][:SCHEDULES_SHOWN],
        "deeds": deeds_for(asked, DEEDS, view),
    }


@page("/new/calendar", "calendar_new.html")
def ask_for_calendar(asked: Asked) -> Context:
    asked.check_may("calendar.add")
    return {"fields": fields_for(asked, "calendar.add")}


@act("/new/calendar")
def add_calendar(asked: Asked) -> Done:
    made = asked.do("calendar.add", asked.word("name"), changes_of(asked, "calendar.add"))
    return Done(f"calendar {made['name']} was added", f"/calendars/{piece(made['name'])}")


def _year_of(asked: Asked) -> int:
    word = asked.word("year")
    if not word:
        return asked.now().year
    if not (word.isascii() and word.isdigit() and len(word) == 4 and YEARS[0] <= int(word) <= YEARS[1]):
        raise Invalid("year", word, f"it is a year from {YEARS[0]} to {YEARS[1]}")
    return int(word)


def _days_of(name: str, view: Mapping[str, Any], year: int) -> list[tuple[str, list[Day]]]:
    """Return the days of a year, by month."""
    made = Calendar.from_definition(name, {part: value for part, value in view.items() if part not in _NOT_PARTS})
    partly: dict[date, str] = {}
    begin, end = datetime(year, 1, 1), datetime(year + 1, 1, 1)  # noqa: DTZ001 - local
    for low, high in made.windows.spans:
        at = max(low, begin)
        while at < min(high, end):
            partly.setdefault(at.date(), f"closed from {low:%Y-%m-%d %H:%M} to {high:%Y-%m-%d %H:%M}")
            at = datetime.combine(at.date() + timedelta(days=1), datetime.min.time())
    rows: list[tuple[str, list[Day]]] = []
    for month in range(1, 13):
        days: list[Day] = []
        for number in range(1, months.monthrange(year, month)[1] + 1):
            day = date(year, month, number)
            if made.closes_day(day.toordinal()):
                why = made.closed_at_local(datetime.combine(day, datetime.min.time())) or ""
                days.append(Day(number, "closed", why))
            elif day in partly:
                days.append(Day(number, "partly", partly[day]))
            else:
                days.append(Day(number, "open", ""))
        rows.append((months.month_abbr[month], days))
    return rows
