"""How a timeline is cut into periods, what these are called, and which lie within which, also where clocks change."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.period import Period, PeriodRule, PeriodUnit, check_within, children_of, parent_of
from tests.model.clock_changes import Change, all_zones, distinct_changes
from tests.model.slow_cron import instant

MICROSECOND, HOUR, DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
UNITS = list(PeriodUnit)
RULES = ("hour", "2 hours", "5 hours", "6 hours", "23 hours", "day", "3 days", "10 days", "28 days", "month",
         "3 months", "5 months", "year")  # fmt: skip
# When the clocks do something strange: by half an hour, at and around midnight, by many hours, whole days, odd offsets.
STRANGE = {
    "UTC": ("2028-02-29T12:00",),
    "Europe/Amsterdam": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),
    "Asia/Beirut": ("2026-03-28T22:00", "2026-10-24T21:00"),
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),
    "America/St_Johns": ("1988-04-03T03:31", "1988-10-30T02:31", "2010-11-07T02:31"),
    "Pacific/Apia": ("2011-12-30T10:00", "2011-04-02T14:00"),
    "Pacific/Kiritimati": ("1994-12-31T10:00",),
    "Pacific/Kwajalein": ("1993-08-21T12:00",),
    "Asia/Kathmandu": ("1985-12-31T18:30",),
    "Asia/Pyongyang": ("2015-08-14T15:00", "2018-05-04T15:00"),
    "Asia/Bishkek": ("1997-10-25T20:30",),
    "America/Argentina/La_Rioja": ("1991-03-01T02:00",),
    "America/Caracas": ("2007-12-09T07:00", "2016-05-01T07:00"),
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Antarctica/Vostok": ("1994-01-31T17:00", "1994-11-01T00:00", "2023-12-17T19:00"),
    "Antarctica/Casey": ("2010-03-04T15:00", "2018-03-10T17:00"),
    "Africa/Monrovia": ("1972-01-07T00:44:30",),
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),
}
zones = st.sampled_from(sorted(STRANGE))
rules = st.builds(PeriodRule.checked, st.sampled_from(RULES), zones)


def moments_in(zone: str) -> st.SearchStrategy[datetime]:
    anywhere = st.integers(0, 88 * 366 * 86_400).map(lambda seconds: instant("1972-01-03") + timedelta(seconds=seconds))
    strange = st.sampled_from(STRANGE[zone]).map(instant)
    near = st.sampled_from((HOUR / 60, HOUR / 2, HOUR, 2 * HOUR, 36 * HOUR))
    return anywhere | strange | st.builds(lambda at, unit, part: at + unit * part, strange, near, st.floats(-1, 1))


rules_and_moments = rules.flatmap(lambda rule: st.tuples(st.just(rule), moments_in(rule.zone.key)))


def periods(rule: str, zone: str, low: str, high: str) -> list[Period]:
    return list(PeriodRule.checked(rule, zone).walk(instant(low), instant(high)))


def hours_long(found: list[Period]) -> dict[str, float]:
    return {period.name: (period.end - period.start) / HOUR for period in found}


# How a rule is written


@pytest.mark.parametrize(
    ("text", "unit", "count", "kept"),
    [
        ("hour", PeriodUnit.HOUR, 1, "hour"),
        (" Day ", PeriodUnit.DAY, 1, "day"),
        ("month", PeriodUnit.MONTH, 1, "month"),
        ("year", PeriodUnit.YEAR, 1, "year"),
        ("1 year", PeriodUnit.YEAR, 1, "year"),
        ("6 hours", PeriodUnit.HOUR, 6, "6 hours"),
        ("6 Hour", PeriodUnit.HOUR, 6, "6 hours"),
        ("23  hours", PeriodUnit.HOUR, 23, "23 hours"),
        ("10 days", PeriodUnit.DAY, 10, "10 days"),
        ("28 days", PeriodUnit.DAY, 28, "28 days"),
        ("3 months", PeriodUnit.MONTH, 3, "3 months"),
        ("11 months", PeriodUnit.MONTH, 11, "11 months"),
    ],
)
def test_a_rule_is_read_and_kept_in_one_form(text: str, unit: PeriodUnit, count: int, kept: str) -> None:
    rule = PeriodRule.checked(text, "Asia/Kathmandu")

    assert (rule.unit, rule.count, rule.zone.key, rule.text) == (unit, count, "Asia/Kathmandu", kept)
    assert PeriodRule.checked(rule.text, rule.zone.key) == rule


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("25 hours", "at most 23 hours, as it starts again with each day: write `day`"),
        ("24 hours", "24 hours are a day: write `day`"),
        ("29 days", "at most 28 days, as it starts again with each month: write `month`"),
        ("12 months", "12 months are a year: write `year`"),
        ("13 months", "at most 11 months, as it starts again with each year: write `year`"),
        ("7 years", "years are not grouped, as nothing larger starts the groups again: write `year`"),
        ("0 days", "a period is not empty"),
        ("2 weeks", "weeks are none"),
        ("week", "weeks are none"),
        ("hours", "a period is"),
        ("hourly", "a period is"),
        ("-1 hour", "a period is"),
        ("1.5 hours", "a period is"),
        ("6", "a period is"),
        ("٦ hours", "a period is"),
        ("1 hour 2 days", "a period is"),
        ("", "a period is"),
        ("hour" + " " * 200, "a period is"),
        (6, "a period is"),
        (None, "a period is"),
    ],
)
def test_a_rule_that_is_refused_tells_why_and_the_whole_rule(value: object, why: str) -> None:
    with pytest.raises(Invalid) as caught:
        PeriodRule.checked(value, field="every")

    assert caught.value.field == "every"
    assert why in caught.value.rule
    assert "`2 hours` to `23 hours` of a day, `2 days` to `28 days` of a month, `2 months`" in caught.value.rule


def test_a_rule_needs_a_zone_that_exists() -> None:
    with pytest.raises(Invalid, match="did you mean Europe/Amsterdam") as caught:
        PeriodRule.checked("hour", "Europe/Amsterdm")

    assert caught.value.field == "tz"


# What lies where


@pytest.mark.parametrize(
    ("rule", "zone", "moment", "name", "start", "end"),
    [
        ("hour", "UTC", "2026-11-20T07:59:59.999999", "2026-11-20T07", "2026-11-20T07:00", "2026-11-20T08:00"),
        ("hour", "Europe/Amsterdam", "2026-11-20T07:00", "2026-11-20T08", "2026-11-20T07:00", "2026-11-20T08:00"),
        ("hour", "Asia/Kathmandu", "2026-11-30T23:59", "2026-12-01T05", "2026-11-30T23:15", "2026-12-01T00:15"),
        ("hour", "Asia/Kathmandu", "2026-12-01T00:00", "2026-12-01T05", "2026-11-30T23:15", "2026-12-01T00:15"),
        ("day", "Europe/Amsterdam", "2026-03-29T12:00", "2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("day", "Asia/Kathmandu", "2026-11-20T18:15", "2026-11-21", "2026-11-20T18:15", "2026-11-21T18:15"),
        ("month", "Europe/Amsterdam", "2026-10-31T22:59", "2026-10", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("year", "Asia/Tokyo", "2026-12-31T15:00", "2027", "2026-12-31T15:00", "2027-12-31T15:00"),
        ("5 hours", "UTC", "2026-11-20T04:00", "2026-11-20T00..2026-11-20T04", "2026-11-20", "2026-11-20T05:00"),
        ("5 hours", "UTC", "2026-11-20T22:00", "2026-11-20T20..2026-11-20T23", "2026-11-20T20:00", "2026-11-21"),
        ("23 hours", "UTC", "2026-11-20T23:00", "2026-11-20T23..2026-11-20T23", "2026-11-20T23:00", "2026-11-21"),
        ("10 days", "UTC", "2026-10-30T12:00", "2026-10-21..2026-10-30", "2026-10-21", "2026-10-31"),
        ("10 days", "UTC", "2026-10-31T12:00", "2026-10-31..2026-10-31", "2026-10-31", "2026-11-01"),
        ("10 days", "UTC", "2028-02-29T12:00", "2028-02-21..2028-02-29", "2028-02-21", "2028-03-01"),
        ("28 days", "UTC", "2026-02-28T12:00", "2026-02-01..2026-02-28", "2026-02-01", "2026-03-01"),
        ("3 months", "UTC", "2026-11-20T12:00", "2026-10..2026-12", "2026-10-01", "2027-01-01"),
        ("5 months", "UTC", "2026-11-20T12:00", "2026-11..2026-12", "2026-11-01", "2027-01-01"),
    ],
)
def test_a_period_contains_the_moment_that_it_is_asked_for(
    rule: str, zone: str, moment: str, name: str, start: str, end: str
) -> None:
    period = PeriodRule.checked(rule, zone).containing(instant(moment))

    assert period == Period(instant(start), instant(end), name)
    assert period.start.tzinfo is period.end.tzinfo is UTC


def test_a_period_holds_its_start_and_not_its_end() -> None:
    period = PeriodRule.checked("hour").containing(instant("2026-11-20T07:30"))

    assert period.contains(period.start)
    assert period.contains(period.end - MICROSECOND)
    assert not period.contains(period.end)
    assert not period.contains(period.start - MICROSECOND)


def test_a_moment_may_be_given_in_any_zone() -> None:
    moment = datetime(2026, 11, 20, 7, tzinfo=ZoneInfo("Asia/Tokyo"))

    assert PeriodRule.checked("hour").containing(moment).name == "2026-11-19T22"


def test_walking_is_lazy_and_includes_what_the_range_touches() -> None:
    rule = PeriodRule.checked("6 hours")
    low, high = instant("2026-11-20T05:59"), instant("2026-11-20T12:00")

    assert [period.name for period in rule.walk(low, high)] == [
        "2026-11-20T00..2026-11-20T05", "2026-11-20T06..2026-11-20T11",
    ]  # fmt: skip
    assert len(list(rule.walk(low, high + MICROSECOND))) == 3
    assert rule.count_between(low, high) == 2
    assert rule.count_between(low, high + MICROSECOND) == 3
    assert list(rule.walk(low, low)) == list(rule.walk(high, low)) == []
    assert rule.count_between(low, low) == rule.count_between(high, low) == 0
    assert len(list(islice(rule.walk(low, instant("2900-01-01")), 3))) == 3


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_timeline_ends_with_the_years_of_the_zone(unit: PeriodUnit, zone: str) -> None:
    rule = PeriodRule.checked(unit.value, zone)
    low = datetime(1971, 1, 1, tzinfo=rule.zone).astimezone(UTC)
    high = datetime(2999, 1, 1, tzinfo=rule.zone).astimezone(UTC)
    first, last = rule.containing(low), rule.containing(high - MICROSECOND)

    assert (first.start, last.end) == (low, high)
    assert (rule.parse(first.name), rule.parse(last.name)) == (first, last)
    for leave in (
        lambda: rule.previous(first),
        lambda: rule.next(last),
        lambda: list(rule.walk(last.start, high + MICROSECOND)),
        lambda: rule.count_between(last.start, high + MICROSECOND),
        lambda: rule.containing(datetime.min.replace(tzinfo=UTC)),
        lambda: rule.containing(datetime.max.replace(tzinfo=ZoneInfo("Pacific/Pago_Pago"))),
    ):
        with pytest.raises(Invalid, match="periods lie in the years 1971 to 2998"):
            leave()


def test_the_last_hours_of_the_timeline_are_walked_one_by_one() -> None:
    rule = PeriodRule.checked("hour", "Asia/Tokyo")

    found = list(rule.walk(instant("2998-12-31T12:30"), instant("2998-12-31T15:00")))

    assert [period.name for period in found] == ["2998-12-31T21", "2998-12-31T22", "2998-12-31T23"]


# What the clocks do


def test_an_hour_that_is_skipped_has_no_period_and_one_that_is_shown_twice_has_two() -> None:
    spring = periods("hour", "Europe/Amsterdam", "2026-03-29T00:00", "2026-03-29T02:00")
    autumn = periods("hour", "Europe/Amsterdam", "2026-10-24T23:00", "2026-10-25T03:00")

    assert hours_long(spring) == {"2026-03-29T01": 1, "2026-03-29T03": 1}
    assert hours_long(autumn) == {
        "2026-10-25T01": 1, "2026-10-25T02+02:00": 1, "2026-10-25T02+01:00": 1, "2026-10-25T03": 1,
    }  # fmt: skip


def test_a_count_may_end_with_the_first_moment_after_a_change() -> None:
    rule, change = PeriodRule.checked("hour", "Europe/Amsterdam"), instant("2026-03-29T01:00")

    assert rule.count_between(change - HOUR, change) == 1
    assert rule.count_between(change - HOUR, change + MICROSECOND) == 2


@pytest.mark.parametrize(
    ("zone", "low", "high", "expected"),
    [  # hours that the clocks show in part are shorter
        (
            "Australia/Lord_Howe",
            "2026-04-04T13:00",
            "2026-04-04T16:30",
            {"2026-04-05T00": 1, "2026-04-05T01+11:00": 1, "2026-04-05T01+10:30": 0.5, "2026-04-05T02": 1},
        ),
        (
            "Australia/Lord_Howe",
            "2026-10-03T14:30",
            "2026-10-03T17:00",
            {"2026-10-04T01": 1, "2026-10-04T02": 0.5, "2026-10-04T03": 1},
        ),
        (
            "America/Havana",
            "2026-11-01T03:00",
            "2026-11-01T07:00",
            {"2026-10-31T23": 1, "2026-11-01T00-04:00": 1, "2026-11-01T00-05:00": 1, "2026-11-01T01": 1},
        ),
        ("America/Havana", "2026-03-08T04:00", "2026-03-08T06:00", {"2026-03-07T23": 1, "2026-03-08T01": 1}),
        (
            "Asia/Beirut",
            "2026-10-24T19:00",
            "2026-10-24T23:00",
            {"2026-10-24T22": 1, "2026-10-24T23+03:00": 1, "2026-10-24T23+02:00": 1, "2026-10-25T00": 1},
        ),
        ("Africa/Cairo", "2026-04-23T21:00", "2026-04-23T23:00", {"2026-04-23T23": 1, "2026-04-24T01": 1}),
        ("Asia/Kathmandu", "1985-12-31T17:30", "1985-12-31T20:15", {"1985-12-31T23": 1, "1986-01-01T00": 0.75,
         "1986-01-01T01": 1}),
        (
            "Antarctica/Troll",
            "2026-10-24T23:00",
            "2026-10-25T03:00",
            {"2026-10-25T01+02:00": 1, "2026-10-25T02+02:00": 1, "2026-10-25T01+00:00": 1, "2026-10-25T02+00:00": 1},
        ),
        (
            "America/St_Johns",
            "1987-10-25T01:30",
            "1987-10-25T04:30",
            {"1987-10-24T23-02:30": 1, "1987-10-25T00-02:30": 1 / 60, "1987-10-24T23-03:30": 59 / 60,
             "1987-10-25T00-03:30": 1},
        ),
        ("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T11:00", {"2011-12-29T23": 1, "2011-12-31T00": 1}),
    ],
)  # fmt: skip
def test_hours_count_real_time_where_the_clocks_change(
    zone: str, low: str, high: str, expected: dict[str, float]
) -> None:
    found = hours_long(periods("hour", zone, low, high))

    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("zone", "day", "start", "hours"),
    [
        ("Europe/Amsterdam", "2026-03-29", "2026-03-28T23:00", 23),
        ("Europe/Amsterdam", "2026-10-25", "2026-10-24T22:00", 25),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", 24.5),
        ("America/Havana", "2026-03-08", "2026-03-08T05:00", 23),  # its midnight is skipped
        ("America/Havana", "2026-11-01", "2026-11-01T04:00", 25),  # its midnight comes twice
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00", 23),
        ("Africa/Cairo", "2026-10-29", "2026-10-28T21:00", 25),  # its last hour comes twice
        ("Asia/Beirut", "2026-03-29", "2026-03-28T22:00", 23),
        ("Antarctica/Vostok", "1994-11-01", "1994-11-01T00:00", 17),
        ("America/St_Johns", "1987-10-24", "1987-10-24T02:30", 24),  # not what is shown again after its midnight
        ("America/St_Johns", "1987-10-25", "1987-10-25T02:30", 25),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00", 24),
    ],
)
def test_a_day_begins_when_the_clocks_first_show_it(zone: str, day: str, start: str, hours: float) -> None:
    period = PeriodRule.checked("day", zone).parse(day)

    assert period.start == instant(start)
    assert (period.end - period.start) / HOUR == hours


def test_a_day_that_does_not_exist_has_no_period() -> None:
    apia = periods("day", "Pacific/Apia", "2011-12-29T12:00", "2012-01-01T00:00")
    kiritimati = periods("10 days", "Pacific/Kiritimati", "1994-12-30T12:00", "1995-01-02T00:00")

    assert list(hours_long(apia)) == ["2011-12-29", "2011-12-31", "2012-01-01"]
    assert list(hours_long(kiritimati)) == ["1994-12-21..1994-12-30", "1995-01-01..1995-01-10"]
    with pytest.raises(Invalid, match="clocks of Pacific/Apia skip it: there is no such period"):
        PeriodRule.checked("day", "Pacific/Apia").parse("2011-12-30")
    with pytest.raises(Invalid, match="skip it"):
        PeriodRule.checked("10 days", "Pacific/Kiritimati").parse("1994-12-31..1994-12-31")


def test_groups_are_cut_by_the_clock_and_what_is_repeated_stays_with_the_group_that_has_begun() -> None:
    autumn = periods("6 hours", "Europe/Amsterdam", "2026-10-24T22:00", "2026-10-25T23:00")
    troll = periods("2 hours", "Antarctica/Troll", "2026-10-24T22:00", "2026-10-25T04:00")
    spring = periods("2 hours", "Antarctica/Troll", "2026-03-29T00:00", "2026-03-29T03:00")

    assert list(hours_long(autumn).values()) == [7, 6, 6, 6]
    assert hours_long(troll) == {"2026-10-25T00..2026-10-25T01": 2, "2026-10-25T02..2026-10-25T03": 4}
    assert hours_long(spring) == {
        "2026-03-29T00..2026-03-29T01": 1, "2026-03-29T02..2026-03-29T03": 1, "2026-03-29T04..2026-03-29T05": 2,
    }  # fmt: skip


def odd_zone() -> ZoneInfo:
    """Return a zone that no country has: its clocks go from 02:15 to 02:45, and from 02:45 back to 02:15."""
    block = b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 3600, 0, 0) + b"STD\0"
    footer = b"\nSTD-1DST-1:30,M3.5.0/2:15,M10.5.0/2:45\n"
    return ZoneInfo.from_file(BytesIO(block + block + footer), key="Odd/Zone")


def test_an_hour_that_the_clocks_leave_and_come_back_to_is_two() -> None:
    rule = PeriodRule(PeriodUnit.HOUR, 1, odd_zone())
    low, high = instant("2026-03-29T01:00"), instant("2026-10-25T01:00")

    spring, autumn = list(rule.walk(low, low + HOUR)), list(rule.walk(high - HOUR / 2, high + HOUR))

    assert hours_long(spring) == {"2026-03-29T02+01:00": 0.25, "2026-03-29T02+01:30": 0.25, "2026-03-29T03": 1}
    assert hours_long(autumn) == {"2026-10-25T02+01:30": 0.75, "2026-10-25T02+01:00": 0.75}
    assert [rule.parse(period.name) for period in spring + autumn] == spring + autumn
    assert rule.count_between(low, high) == len(list(rule.walk(low, high)))


# What a name means


def test_the_name_of_a_member_stands_for_its_group() -> None:
    group = PeriodRule.checked("5 hours").parse("2026-11-20T20..2026-11-20T23")

    assert PeriodRule.checked("5 hours").parse(" 2026-11-20T23 ") == group
    assert PeriodRule.checked("3 months").parse("2026-11").name == "2026-10..2026-12"
    assert PeriodRule.checked("10 days").parse("2026-10-31").name == "2026-10-31..2026-10-31"
    assert PeriodRule.checked("6 hours", "Europe/Amsterdam").parse("2026-10-25T02").start == instant("2026-10-24T22")
    assert PeriodRule.checked("6 hours", "Europe/Amsterdam").parse("2026-10-25T02+01:00").start == instant(
        "2026-10-24T22"
    )


def test_an_hour_may_be_named_with_its_offset_always() -> None:
    rule = PeriodRule.checked("hour", "Europe/Amsterdam")

    assert rule.parse("2026-11-20T07+01:00") == rule.parse("2026-11-20T07")
    assert rule.parse("2026-11-20T07+01:00").name == "2026-11-20T07"
    assert PeriodRule.checked("hour", "Africa/Monrovia").parse("1971-06-01T07-00:44:30").name == "1971-06-01T07"


@pytest.mark.parametrize(
    ("rule", "zone", "name", "why"),
    [
        ("hour", "UTC", "2026-11-20", "2026-11-20 is a day; each period is one hour, named like 2026-11-20T07"),
        ("day", "UTC", "2026-11-20T07", "2026-11-20T07 is an hour; each period is one day, named like 2026-11-20"),
        ("month", "UTC", "2026", "2026 is a year; each period is one month, named like 2026-11"),
        ("year", "UTC", "2026-11", "2026-11 is a month; each period is one year, named like 2026"),
        ("hour", "UTC", "2026-11-20T00..2026-11-20T04", "each period is one hour, named like 2026-11-20T07"),
        ("6 hours", "UTC", "2026-11-20", "6 hours, named like 2026-11-20T06..2026-11-20T11 or by one of them like"),
        ("6 hours", "UTC", "2026-11-20T00..2026-11-20", "2026-11-20 is a day; each period is 6 hours, named like"),
        ("6 hours", "UTC", "2026-11-20T00..2026-11-20T04", "2026-11-20T00 lies in is 2026-11-20T00..2026-11-20T05"),
        ("6 hours", "UTC", "2026-11-20T01..2026-11-20T05", "2026-11-20T01 lies in is 2026-11-20T00..2026-11-20T05"),
        ("6 hours", "UTC", "2026-11-20T00+00:00..2026-11-20T05", "lies in is 2026-11-20T00..2026-11-20T05"),
        ("6 hours", "UTC", "2026-11-20T00..", "named like 2026-11-20T06..2026-11-20T11"),
        ("10 days", "UTC", "2026-11", "10 days, named like 2026-11-11..2026-11-20 or by one of them like 2026-11-20"),
        ("3 months", "UTC", "x", "each period is 3 months, named like 2026-10..2026-12 or by one of them like 2026-11"),
        ("hour", "UTC", "yesterday", "named like 2026-11-20T07"),
        ("hour", "UTC", "2026-11-20T07:00", "named like 2026-11-20T07"),
        ("hour", "UTC", "2026-11-20T7", "named like 2026-11-20T07"),
        ("hour", "UTC", "٢٠٢٦-11-20T07", "named like 2026-11-20T07"),
        ("year", "UTC", "2026-05:00", "named like 2026"),
        ("hour", "UTC", "", "named like 2026-11-20T07"),
        ("hour", "UTC", "2026-11-20T07" + " " * 200, "named like 2026-11-20T07"),
        ("hour", "UTC", None, "named like 2026-11-20T07"),
        ("hour", "UTC", instant("2026-11-20T07:00"), "named like 2026-11-20T07"),
        ("day", "UTC", "2026-02-29", "there is no such day: day "),
        ("month", "UTC", "2026-13", "there is no such month: month must be in 1..12"),
        ("hour", "UTC", "2026-11-20T24", "there is no such hour: hour must be in 0..23"),
        ("year", "UTC", "1970", "periods lie in the years 1971 to 2998"),
        ("year", "UTC", "2999", "periods lie in the years 1971 to 2998"),
        ("year", "UTC", "0000", "there is no such year"),
        ("hour", "Europe/Amsterdam", "2026-03-29T02", "clocks of Europe/Amsterdam skip it: there is no such period"),
        ("6 hours", "Europe/Amsterdam", "2026-03-29T02", "clocks of Europe/Amsterdam skip it"),
        ("hour", "Europe/Amsterdam", "2026-11-20T07+02:00", "clocks of Europe/Amsterdam never show it at that offset"),
        ("hour", "Europe/Amsterdam", "2026-10-25T02", "twice: write 2026-10-25T02+02:00 or 2026-10-25T02+01:00"),
        ("2 hours", "Antarctica/Troll", "2026-10-25T01", "twice: write 2026-10-25T01+02:00 or 2026-10-25T01+00:00"),
    ],
)
def test_a_name_that_is_refused_tells_why(rule: str, zone: str, name: object, why: str) -> None:
    with pytest.raises(Invalid) as caught:
        PeriodRule.checked(rule, zone).parse(name, field="from")

    assert caught.value.field == "from"
    assert why in caught.value.rule


# What lies within what


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("hour", "day"), ("hour", "month"), ("hour", "6 hours"), ("4 hours", "12 hours"), ("5 hours", "10 days"),
        ("day", "10 days"), ("10 days", "month"), ("10 days", "3 months"), ("5 months", "year"), ("hour", "year"),
        ("11 hours", "22 hours"),
    ],
)  # fmt: skip
def test_each_period_of_a_finer_rule_lies_within_one_of_the_other(child: str, parent: str) -> None:
    child_rule, parent_rule = (PeriodRule.checked(text, "Antarctica/Troll") for text in (child, parent))

    check_within(child_rule, parent_rule)


@pytest.mark.parametrize(
    ("child", "parent", "why"),
    [
        ("4 hours", "6 hours", "its groups would lie across those of 6 hours: 4 does not divide 6"),
        ("2 days", "3 days", "2 does not divide 3"),
        ("day", "day", "it is not finer than day"),
        ("day", "hour", "it is not finer than hour"),
        ("6 hours", "hour", "it is not finer than hour"),
        ("6 hours", "6 hours", "it is not finer than 6 hours"),
        ("year", "11 months", "it is not finer than 11 months"),
        ("month", "28 days", "it is not finer than 28 days"),
    ],
)
def test_a_rule_does_not_fit_within_one_that_is_the_same_or_finer_or_cut_elsewhere(
    child: str, parent: str, why: str
) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        check_within(PeriodRule.checked(child), PeriodRule.checked(parent), field="rolls_up")

    assert (caught.value.field, caught.value.value) == ("rolls_up", child)


def test_rules_of_different_zones_do_not_fit() -> None:
    with pytest.raises(Invalid, match="cut by the clocks of Asia/Tokyo, day by those of UTC"):
        check_within(PeriodRule.checked("hour", "Asia/Tokyo"), PeriodRule.checked("day"))


def test_a_period_knows_what_it_lies_within_and_what_makes_it_up() -> None:
    hour, day, month = (PeriodRule.checked(unit, "Europe/Amsterdam") for unit in ("hour", "day", "month"))
    period = hour.parse("2026-10-25T02+01:00")

    assert parent_of(period, day).name == "2026-10-25"
    assert parent_of(period, month).name == "2026-10"
    assert [child.name for child in children_of(day.parse("2026-10-25"), hour)][1:5] == [
        "2026-10-25T01", "2026-10-25T02+02:00", "2026-10-25T02+01:00", "2026-10-25T03",
    ]  # fmt: skip
    assert [child.name for child in children_of(month.parse("2026-10"), day)][::30] == ["2026-10-01", "2026-10-31"]


def test_the_days_of_a_month_that_misses_one_leave_it_out() -> None:
    day, month = (PeriodRule.checked(unit, "Pacific/Apia") for unit in ("day", "month"))

    found = [child.name for child in children_of(month.parse("2011-12"), day)]

    assert len(found) == 30
    assert "2011-12-30" not in found


def test_periods_of_rules_that_do_not_fit_have_no_parent_and_no_children() -> None:
    four, six = PeriodRule.checked("4 hours"), PeriodRule.checked("6 hours")
    across, begins_early = four.parse("2026-11-20T04"), six.parse("2026-11-20T06")

    with pytest.raises(Invalid, match=r"does not lie within 2026-11-20T00\.\.2026-11-20T05, one 6 hours"):
        parent_of(across, six)
    with pytest.raises(Invalid, match=r"'2026-11-20T04\.\.2026-11-20T07' is refused: it does not lie within"):
        children_of(begins_early, four)
    with pytest.raises(Invalid, match=r"'2026-11-20T04\.\.2026-11-20T07' is refused: it does not lie within"):
        children_of(six.parse("2026-11-20T00"), four)
    with pytest.raises(Invalid):
        children_of(across, PeriodRule.checked("day"))


# What holds for all


@settings(deadline=None)
@given(rules_and_moments)
def test_a_period_contains_its_moment_and_meets_its_neighbours(drawn: tuple[PeriodRule, datetime]) -> None:
    rule, moment = drawn
    period = rule.containing(moment)
    following, before = rule.next(period), rule.previous(period)

    assert period.contains(moment)
    assert (before.end, following.start) == (period.start, period.end)
    assert rule.previous(following) == rule.next(before) == period
    assert rule.containing(period.start) == rule.containing(period.end - MICROSECOND) == period


@settings(deadline=None)
@given(rules_and_moments)
def test_a_name_is_read_back(drawn: tuple[PeriodRule, datetime]) -> None:
    rule, moment = drawn
    period = rule.containing(moment)

    assert rule.parse(period.name) == period


@settings(deadline=None)
@given(rules_and_moments, st.integers(1, 300), st.floats(0, 1))
def test_walking_and_counting_agree_with_one_step_at_a_time(
    drawn: tuple[PeriodRule, datetime], steps: int, part: float
) -> None:
    rule, low = drawn
    stepped = [rule.containing(low)]
    while len(stepped) < steps and stepped[-1].end.year < 2070:
        stepped.append(rule.next(stepped[-1]))
    last = max(low, stepped[-1].start)
    high = last + max(MICROSECOND, (stepped[-1].end - last) * part)

    assert list(rule.walk(low, high)) == stepped
    assert rule.count_between(low, high) == len(stepped)


@settings(deadline=None, max_examples=30)
@given(rules_and_moments, rules_and_moments)
def test_counts_over_years_add_up(drawn: tuple[PeriodRule, datetime], other: tuple[PeriodRule, datetime]) -> None:
    rule = drawn[0]
    low, middle, high = sorted((drawn[1], other[1], instant("2011-12-30T10:00")))
    cut = rule.containing(middle).start

    assert rule.count_between(low, high) == rule.count_between(low, cut) + rule.count_between(cut, high)


@settings(deadline=None)
@given(rules_and_moments, st.sampled_from(RULES))
def test_children_tile_their_parent_and_know_it(drawn: tuple[PeriodRule, datetime], text: str) -> None:
    parent_rule, moment = drawn
    child_rule = PeriodRule.checked(text, parent_rule.zone.key)
    try:
        check_within(child_rule, parent_rule)
    except Invalid:
        return
    parent = parent_rule.containing(moment)
    children = list(islice(children_of(parent, child_rule), 1000))

    assert children[0].start == parent.start
    assert all(one.end == other.start for one, other in pairwise(children))
    assert children[-1].end == parent.end or len(children) == 1000
    assert all(parent_of(child, parent_rule) == parent for child in (*children[:30], *children[-30:]))
    assert parent_of(child_rule.containing(moment), parent_rule) == parent


@cache
def whole_year(rule: PeriodRule) -> list[Period]:
    return list(rule.walk(instant("2027-01-01"), instant("2028-01-01")))


@pytest.mark.parametrize("child", RULES)
@pytest.mark.parametrize("parent", RULES)
def test_what_is_refused_would_lie_across(child: str, parent: str) -> None:
    child_rule, parent_rule = PeriodRule.checked(child), PeriodRule.checked(parent)
    year = whole_year(child_rule)
    fits = all(parent_rule.containing(period.start).end >= period.end for period in year)
    is_finer = len(year) > parent_rule.count_between(year[0].start, year[-1].end)

    if fits and is_finer:
        check_within(child_rule, parent_rule)
    else:
        with pytest.raises(Invalid):
            check_within(child_rule, parent_rule)


@pytest.mark.parametrize(("zone", "at"), [(zone, at) for zone, every in STRANGE.items() for at in every])
def test_names_are_unique_over_a_year(zone: str, at: str) -> None:
    for text in ("hour", "5 hours", "day", "10 days"):
        rule = PeriodRule.checked(text, zone)
        year = list(rule.walk(instant(at), instant(at) + 366 * DAY))

        assert len({period.name for period in year}) == len(year) == rule.count_between(year[0].start, year[-1].end)


# The same by a walk along the wall clock


def watch(rule: PeriodRule, low: datetime, high: datetime) -> Iterator[tuple[datetime, str]]:
    """Yield when periods begin in [low, high) by what the clocks show, and the name of the first that each consists of.

    The clocks show labels: the numbers of year, month, day and hour. Hours change with the label or the offset, all
    others when a label is shown that is larger than any before.
    """
    shown = wall(rule.zone.key, low, high)
    offsets: dict[tuple[int, ...], set[timedelta]] = {}
    for _, label, offset in shown:
        offsets.setdefault(label, set()).add(offset)
    size = len(UNITS) - UNITS.index(rule.unit)
    lowest = 0 if rule.unit is PeriodUnit.HOUR else 1
    begun: tuple[tuple[int, ...], timedelta] | None = None
    for at, label, offset in shown:
        *larger, number = label[:size]
        now = ((*larger, number - (number - lowest) % rule.count), offset)
        is_new = begun is None or (now != begun if rule.text == "hour" else now[0] > begun[0])
        if is_new and low <= at < high:
            name = "-".join(f"{part:02}" for part in now[0][:3]) + "".join(f"T{hour:02}" for hour in now[0][3:])
            yield at, f"{name}{_show(offset)}" if rule.text == "hour" and len(offsets[label]) > 1 else name
        begun = now if is_new else begun


@cache
def wall(zone: str, low: datetime, high: datetime) -> list[tuple[datetime, tuple[int, ...], timedelta]]:
    """Return what the clocks show at each step from before ``low``, when no period there has begun, until after."""
    step = timedelta(seconds=30 if zone == "Africa/Monrovia" else 60)
    low, high, found = low - 1.5 * DAY, high + DAY, list[tuple[datetime, tuple[int, ...], timedelta]]()
    for number in range((high - low) // step):
        local = (low + number * step).astimezone(ZoneInfo(zone))
        offset = local.utcoffset()
        assert offset is not None
        found.append((low + number * step, (local.year, local.month, local.day, local.hour), offset))
    return found


def _show(offset: timedelta) -> str:
    seconds = abs(offset) // timedelta(seconds=1)
    return f"{'-' if offset < timedelta(0) else '+'}{seconds // 3600:02}:{seconds // 60 % 60:02}"


def assert_agrees_with_the_wall_clock(zone: str, at: datetime) -> None:
    low = at.replace(minute=0, second=0, microsecond=0) - DAY
    high = low + 3 * DAY
    for text in ("hour", "2 hours", "5 hours", "day", "3 days", "10 days", "month", "year"):
        rule = PeriodRule.checked(text, zone)
        watched = list(watch(rule, low, high))
        walked = [period for period in rule.walk(low, high) if period.start >= low]

        assert [(period.start, period.name.partition("..")[0]) for period in walked] == watched, (zone, at, text)
        assert [rule.parse(period.name) for period in walked] == walked, (zone, at, text)
        assert rule.count_between(low, high) == len(list(rule.walk(low, high))), (zone, at, text)


@pytest.mark.parametrize(("zone", "at"), [(zone, at) for zone, every in STRANGE.items() for at in every])
def test_periods_agree_with_a_walk_along_the_wall_clock(zone: str, at: str) -> None:
    assert_agrees_with_the_wall_clock(zone, instant(at))


@cache
def changes_of_all_zones() -> list[Change]:
    return [change for change in distinct_changes(all_zones()) if change.at.year > 1970]


@pytest.mark.zones
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(20))
def test_periods_agree_on_all_changes_of_all_zones(part: int) -> None:
    for change in changes_of_all_zones()[part::20]:
        wall.cache_clear()
        assert_agrees_with_the_wall_clock(change.zone, change.at)


@pytest.mark.parametrize(
    ("rule", "name", "first", "last", "count"),
    [
        ("hour", "2026-10-25", "2026-10-25T00", "2026-10-25T23", 25),
        ("6 hours", "2026-10-25", "2026-10-25T00..2026-10-25T05", "2026-10-25T18..2026-10-25T23", 4),
        ("3 months", "2026", "2026-01..2026-03", "2026-10..2026-12", 4),
        ("3 months", "2026-05", "2026-04..2026-06", "2026-04..2026-06", 1),
        ("day", "2026-02", "2026-02-01", "2026-02-28", 28),
        ("day", "2026-02-01", "2026-02-01", "2026-02-01", 1),
    ],
)
def test_the_name_of_a_longer_period_stands_for_all_within_it(
    rule: str, name: str, first: str, last: str, count: int
) -> None:
    made = PeriodRule.checked(rule, "Europe/Amsterdam")

    low, high = made.parse_span(name)

    assert (low.name, high.name, made.count_between(low.start, high.end)) == (first, last, count)


def test_the_name_of_a_shorter_period_stands_for_none() -> None:
    with pytest.raises(Invalid, match="each period is one day, named like 2026-11-20"):
        PeriodRule.checked("day").parse_span("2026-11-20T07")
