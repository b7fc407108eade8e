"""Calendars: what they close and why, how they are kept, and what is refused."""

from __future__ import annotations

import json
import sys
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid, NotSupported
from rota.model.calendars import Calendar
from rota.model.spans import Spans
from tests.model.slow_cron import instant

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
FULL = Calendar.checked(
    "full",
    weekdays=["Sat", "sun"],
    dates=["2026-12-31", ("2026-12-21", "2026-12-24"), date(2026, 5, 5)],
    open_dates=["2026-12-19..2026-12-20", "2026-12-22"],
    windows=["2026-11-26T18:00..2026-11-28T06:00", ("2026-11-28 06:00", "2026-11-28T07:00:30")],
    country="NL",
    first_year=2026,
)


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        ("2026-11-20T12:00", None),
        ("2026-11-20T22:59", None),
        ("2026-11-20T23:00", "Saturday"),  # in Amsterdam
        ("2026-11-22T12:00", "Sunday"),
        ("2026-12-25T12:00", "2026-12-25, Christmas Day"),
        ("2036-12-25T12:00", "2036-12-25, Christmas Day"),
        ("2037-12-25T12:00", None),
        ("2026-12-31T12:00", "2026-12-31"),
        ("2026-12-24T12:00", "2026-12-24"),
        ("2026-12-22T12:00", None),
        ("2026-12-20T12:00", None),
        ("2026-05-05T12:00", "2026-05-05"),
        ("2026-11-26T16:59", None),
        ("2026-11-26T17:00", "window 2026-11-26 18:00 to 2026-11-28 07:00:30"),
        ("2026-11-27T12:00", "window 2026-11-26 18:00 to 2026-11-28 07:00:30"),
    ],
)
def test_a_calendar_says_why_it_is_closed_in_the_zone_of_who_asks(moment: str, why: str | None) -> None:
    assert FULL.closed_at(instant(moment), AMSTERDAM) == why


def test_the_end_of_a_window_is_open_and_a_date_that_is_open_does_not_open_a_window() -> None:
    calendar = Calendar.checked("one", windows=["2026-11-26T18:00..2026-11-27T06:00"], open_dates=["2026-11-26"])

    assert calendar.closed_at(instant("2026-11-26T18:00"), ZoneInfo("UTC"))
    assert calendar.closed_at(instant("2026-11-27T05:59:59"), ZoneInfo("UTC"))
    assert calendar.closed_at(instant("2026-11-27T06:00"), ZoneInfo("UTC")) is None


def test_both_passes_of_a_repeated_hour_lie_in_the_window_that_names_it() -> None:
    calendar = Calendar.checked("night", windows=["2026-10-25T02:00..2026-10-25T03:00"])

    assert calendar.closed_at(instant("2026-10-25T00:30"), AMSTERDAM)
    assert calendar.closed_at(instant("2026-10-25T01:30"), AMSTERDAM)
    assert calendar.closed_at(instant("2026-10-25T02:00"), AMSTERDAM) is None


def test_a_calendar_is_read_back_from_its_definition_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = json.loads(json.dumps(FULL.definition()))
    monkeypatch.setitem(sys.modules, "holidays", None)

    again = Calendar.from_definition("full", definition)

    assert again == FULL
    assert again.definition() == FULL.definition()
    assert again.holidays_until == 2036
    assert again.closed_at(instant("2026-12-25T12:00"), AMSTERDAM) == "2026-12-25, Christmas Day"
    assert definition["weekdays"] == ["sat", "sun"]
    assert definition["dates"] == ["2026-05-05", "2026-12-21..2026-12-24", "2026-12-31"]


def test_only_what_is_set_is_kept() -> None:
    assert Calendar.checked("weekends", weekdays=["sun", "sat"]).definition() == {"weekdays": ["sat", "sun"]}
    assert Calendar.checked("weekends", weekdays=["sat"]).holidays_until is None


def test_a_subdivision_has_holidays_of_its_own() -> None:
    bavaria = Calendar.checked("bavaria", country="DE", subdivision="BY", first_year=2026)
    germany = Calendar.checked("germany", country="DE", first_year=2026)

    assert bavaria.closed_at(instant("2026-01-06T12:00"), ZoneInfo("Europe/Berlin")) == "2026-01-06, Epiphany"
    assert germany.closed_at(instant("2026-01-06T12:00"), ZoneInfo("Europe/Berlin")) is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "calendar"),
        ({"open_dates": ["2026-12-24"]}, "calendar"),
        ({"weekdays": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}, "weekdays"),
        ({"weekdays": ["someday"]}, "weekdays"),
        ({"weekdays": [6]}, "weekdays"),
        ({"weekdays": 6}, "weekdays"),
        ({"dates": ["2026-02-30"]}, "dates"),
        ({"dates": ["24 December"]}, "dates"),
        ({"dates": ["2026-12-24..2026-12-23"]}, "dates"),
        ({"dates": [("2026-12-24", "2026-12-25", "2026-12-26")]}, "dates"),
        ({"dates": ["1926-12-24"]}, "dates"),
        ({"dates": [datetime(2026, 12, 24)]}, "dates"),  # noqa: DTZ001
        ({"dates": ["2026-12-24"] * 1001}, "dates"),
        ({"weekdays": ["sat"], "open_dates": ["soon"]}, "open_dates"),
        ({"windows": ["2026-12-24T18:00..2026-12-24T18:00"]}, "windows"),
        ({"windows": ["2026-12-24T18:00..2026-12-24T06:00"]}, "windows"),
        ({"windows": ["2026-12-24T18:00"]}, "windows"),
        ({"windows": ["2026-12-24T18:00Z..2026-12-25T18:00Z"]}, "windows"),
        ({"windows": ["2026-12-24T25:00..2026-12-25T18:00"]}, "windows"),
        ({"country": "XX", "first_year": 2026}, "country"),
        ({"country": "nl", "first_year": 2026}, "country"),
        ({"country": ["NL"], "first_year": 2026}, "country"),
        ({"country": "NL"}, "first_year"),
        ({"country": "NL", "subdivision": "XX", "first_year": 2026}, "subdivision"),
        ({"country": "DE", "subdivision": ["BY"], "first_year": 2026}, "subdivision"),
        ({"weekdays": ["sat"], "subdivision": "BY"}, "subdivision"),
    ],
)
def test_a_calendar_that_cannot_be_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Calendar.checked("broken", **options)

    assert refused.value.field == field


def test_a_misspelt_country_is_told_the_nearest() -> None:
    with pytest.raises(Invalid, match="did you mean NL"):
        Calendar.checked("broken", country="nl", first_year=2026)


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ([], "definition"),
        ({}, "calendar"),
        ({"weekday": ["sat"]}, "weekday"),
        ({"weekdays": ["someday"]}, "weekdays"),
        ({"dates": [["2026-12-24", None]]}, "dates"),
        ({"windows": [["2026-12-24", 7]]}, "windows"),
        ({"holidays": ["2026-12-25"]}, "holidays"),
        ({"holidays": {"Christmas": "2026-12-25"}}, "holidays"),
        ({"holidays": {"2026-12-25": None}}, "holidays"),
        ({"weekdays": ["sat"], "country": 31}, "country"),
        ({"weekdays": ["sat"], "holidays_until": "ever"}, "holidays_until"),
        ({"weekdays": ["sat"], "holidays_until": True}, "holidays_until"),
    ],
)
def test_a_definition_broken_by_hand_is_refused(definition: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Calendar.from_definition("broken", definition)

    assert refused.value.field == field


def test_without_the_package_holidays_are_refused_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)

    with pytest.raises(NotSupported, match=r"pip install 'rota\[holidays\]'"):
        Calendar.checked("broken", country="NL", first_year=2026)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@given(spans, st.integers(-2, 75), st.integers(0, 20))
def test_spans_answer_as_a_set_of_places_would(given_spans: list[tuple[int, int]], place: int, length: int) -> None:
    places = {one for low, high in given_spans for one in range(low, high)}
    merged = Spans(given_spans)

    found, after = merged.at(place), merged.after(place)

    assert (found is not None) == (place in places)
    assert found is None or (found[0] - 1 not in places and set(range(*found)) <= places and found[1] not in places)
    later = [one for one in places if one > place and one - 1 not in places]
    assert (after[0] if after else None) == min(later, default=None)
    within = {one for span in merged.within(place, place + length) for one in range(*span)}
    assert within & set(range(place, place + length)) == places & set(range(place, place + length))
    assert all(low < place + length and place < high for low, high in merged.within(place, place + length))


days = st.dates(date(2026, 1, 1), date(2026, 3, 31))


@given(
    st.sets(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), max_size=7),
    st.lists(st.tuples(days, days).map(lambda pair: tuple(sorted(pair))), min_size=1, max_size=4),
    st.lists(days, min_size=1, max_size=4),
    days,
)
def test_the_next_open_day_is_the_first_one_that_is_not_closed(
    weekdays: set[str], dates: list[tuple[date, date]], open_dates: list[date], day: date
) -> None:
    calendar = Calendar.checked("random", weekdays=sorted(weekdays), dates=dates, open_dates=open_dates)

    found = calendar.next_open_day(day.toordinal())

    coming = (day + timedelta(days=number) for number in range(400))
    expected = next((one for one in coming if not calendar.closes_day(one.toordinal())), None)
    assert found == (None if expected is None else expected.toordinal())
