"""Intervals of the calendar and weekly lists: what they name, how they are kept, and what is refused."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.timing import Timing
from tests.model.slow_cron import instant

ANCHOR = instant("2026-03-28T12:00:00.250000")


def days_of(timing: Timing, count: int) -> list[str]:
    zone = ZoneInfo(timing.zone)
    return [f"{slot.astimezone(zone):%Y-%m-%d %H:%M}" for slot in islice(timing.preview(ANCHOR), count)]


@pytest.mark.parametrize(
    ("text", "anchor", "expected"),
    [
        ("1 day at 07:00", "2026-03-28", ["2026-03-29 07:00", "2026-03-30 07:00"]),
        ("3 days at 07:00", "2026-03-27", ["2026-03-30 07:00", "2026-04-02 07:00"]),
        ("2 weeks at 7:00", "2026-03-29", ["2026-03-29 07:00", "2026-04-12 07:00"]),
        ("1 month", "2026-01-31", ["2026-03-31 00:00", "2026-04-30 00:00", "2026-05-31 00:00"]),
        ("3 months at 09:30:15", "2025-11-30", ["2026-05-30 09:30", "2026-08-30 09:30", "2026-11-30 09:30"]),
        ("1 year at 00:30", "2024-02-29", ["2027-02-28 00:30", "2028-02-29 00:30"]),
        ("2 years", "2026-03-28", ["2028-03-28 00:00", "2030-03-28 00:00"]),
        ("1 day", "2026-05-01", ["2026-05-01 00:00", "2026-05-02 00:00"]),
    ],
)
def test_an_interval_is_counted_from_the_day_of_its_anchor(text: str, anchor: str, expected: list[str]) -> None:
    zone = "Europe/Amsterdam"
    noon = instant(anchor) + timedelta(hours=12)

    assert days_of(Timing.interval(text, noon, zone), len(expected)) == expected


def test_the_31st_of_january_is_followed_by_the_28th_of_february_and_the_31st_of_march() -> None:
    timing = Timing.interval("1 month", instant("2026-01-31"))

    slots = timing.slots(instant("2026-01-30"), instant("2028-04-01"), 100)

    assert [slot.day for slot in slots[:4]] == [31, 28, 31, 30]
    assert [slot.day for slot in slots[-3:]] == [31, 29, 31]


def test_the_day_of_an_anchor_is_the_one_its_zone_has() -> None:
    late = instant("2026-01-01T20:00")  # 2 January in Tokyo

    assert Timing.interval("1 year", late, "Asia/Tokyo").next(late) == instant("2027-01-01T15:00")


@given(
    st.sampled_from(["day", "week", "month", "year"]),
    st.integers(1, 10),
    st.dates(date(1996, 1, 1), date(2030, 1, 1)),
)
def test_an_interval_agrees_with_adding_to_the_anchor(unit: str, number: int, first: date) -> None:
    days = {"day": number, "week": 7 * number}
    months = {"month": number, "year": 12 * number}
    expected: list[date] = []
    for step in range(30):
        if unit in days:
            expected.append(first + timedelta(days=days[unit] * step))
        else:
            whole = first.year * 12 + first.month - 1 + months[unit] * step
            length = monthrange(whole // 12, whole % 12 + 1)[1]
            expected.append(date(whole // 12, whole % 12 + 1, min(first.day, length)))
    timing = Timing.interval(f"{number} {unit}s", datetime.combine(first, time(12), UTC))

    slots = islice(timing.preview(datetime.combine(first - timedelta(days=500), time(), UTC)), 30)

    assert [slot.date() for slot in slots] == expected


@pytest.mark.parametrize(
    "text",
    ["", "day", "0 days", "3651 days", "1 fortnight", "1 day at", "1 day at 24:00", "1.5 days", "-1 days", "1 " * 99],
)
def test_an_interval_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        Timing.interval(text, ANCHOR)

    assert (refused.value.field, refused.value.value) == ("interval", text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("daily 07:00", "daily 07:00"),
        ("mon-fri 07:30,12:00; sat 09:00", "mon-fri 07:30,12:00; sat 09:00"),
        (" FRI , Mon-Wed  12:00 , 7:30,07:30 ", "mon-wed,fri 07:30,12:00"),
        ("fri-mon 6:00:30", "mon,fri-sun 06:00:30"),
        ("sat 09:00;sun 09:00", "sat,sun 09:00"),
        ("daily 12:00; sun 13:00", "mon-sat 12:00; sun 12:00,13:00"),
        ("sun-sat 1:00", "daily 01:00"),
    ],
)
def test_a_weekly_list_is_kept_in_one_way(text: str, kept: str) -> None:
    timing = Timing.weekly(text)

    assert timing.expression == kept
    assert Timing.weekly(kept) == timing


def test_a_weekly_list_is_due_at_its_times_on_its_weekdays() -> None:
    timing = Timing.weekly("mon-fri 07:30,12:00; sat 09:00", "Europe/Amsterdam")

    assert days_of(timing, 3) == ["2026-03-30 07:30", "2026-03-30 12:00", "2026-03-31 07:30"]
    assert timing.count(instant("2026-03-29T12:00"), instant("2026-04-05T12:00")) == 11


@pytest.mark.parametrize(
    "text",
    ["", "07:00", "daily", "daily 24:00", "daily 7", "someday 07:00", "mon-some 07:00", "mon 07:00;", "mon, 7:00"],
)
def test_a_weekly_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        Timing.weekly(text)

    assert (refused.value.field, refused.value.value) == ("weekly", text)
