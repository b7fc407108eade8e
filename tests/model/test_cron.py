"""Cron expressions: which instants they name, also on the nights when clocks change, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.cron import parse_cron
from rota.model.daylight import Fold, Gap
from rota.model.grids import LocalGrid
from rota.model.pattern import Pattern, Times
from tests.model.slow_cron import Fields, instant, make_fields, slots_between

AMSTERDAM = "Europe/Amsterdam"  # 2026: gap on 29 March at 02:00, fold on 25 October at 03:00

# Half hours, daylight saving of half an hour, changes at midnight, moves over the date line.
ZONES = (
    "UTC", "Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
    "Asia/Beirut", "America/Havana", "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia", "Pacific/Kwajalein",
    "Asia/Tehran", "Africa/Cairo", "America/Scoresbysund", "Antarctica/Troll", "Pacific/Chatham", "Europe/Lisbon",
    "Asia/Pyongyang", "America/Caracas",
)  # fmt: skip

zones = st.sampled_from(ZONES)
moments = st.integers(0, 62 * 365 * 86400 * 1000).map(
    lambda millis: instant("1975-01-01") + timedelta(milliseconds=millis)
)


def fields_of(low: int, high: int, *, star_weight: int = 1) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda edges: f"{min(edges)}-{max(edges)}")
    stepped = st.tuples(st.one_of(st.just("*"), span), st.integers(1, 20)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    term = st.one_of(number.map(str), span, stepped)
    listed = st.lists(term.filter(lambda text: not text.startswith("*")), min_size=1, max_size=3).map(",".join)
    return st.one_of(*[st.just("*")] * star_weight, listed, stepped)


expressions: st.SearchStrategy[Fields] = st.builds(
    make_fields,
    fields_of(0, 59),
    fields_of(0, 23),
    fields_of(1, 28, star_weight=4),
    fields_of(1, 12, star_weight=6),
    fields_of(0, 6, star_weight=4),
)


@st.composite
def nights_of_change(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and a moment within a day of one of its changes."""
    zone = draw(zones)
    day = draw(moments).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(400):
        following = day + timedelta(days=1)
        if day.astimezone(ZoneInfo(zone)).utcoffset() != following.astimezone(ZoneInfo(zone)).utcoffset():
            break
        day = following
    return zone, day + timedelta(minutes=draw(st.integers(-1440, 2880)))


def local_slots(expression: str, after: str, count: int, zone: str = AMSTERDAM) -> list[str]:
    moment, found = instant(after), []
    for _ in range(count):
        slot = parse_cron(expression, zone).next(moment)
        assert slot is not None
        found.append(slot.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z"))
        moment = slot
    return found


@given(expressions, zones, moments)
@settings(deadline=None, max_examples=100)
def test_the_next_slot_is_always_later(fields: Fields, zone: str, after: datetime) -> None:
    cron = parse_cron(fields.text, zone)

    for _ in range(5):
        slot = cron.next(after)
        assert slot is not None
        assert slot > after
        after = slot


@given(expressions, nights_of_change())
@settings(deadline=None, max_examples=100)
def test_slots_agree_with_a_walk_along_the_wall_clock(fields: Fields, place: tuple[str, datetime]) -> None:
    zone, after = place
    until = after + timedelta(days=2)

    found = list(parse_cron(fields.text, zone).between(after, until))

    assert found == slots_between(fields, ZoneInfo(zone), after, until)


@given(expressions, nights_of_change(), st.integers(0, 86400 * 20), st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_counting_and_the_last_slots_agree_with_visiting_each(
    fields: Fields, place: tuple[str, datetime], seconds: int, limit: int
) -> None:
    zone, after = place
    until = after + timedelta(seconds=seconds)
    cron = parse_cron(fields.text, zone)
    visited = list(cron.between(after, until))

    assert cron.grid.count(after, until) == len(visited)
    assert cron.grid.last(after, until, limit) == visited[-limit:]


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Beirut"])
@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_a_fixed_time_fires_exactly_once_on_each_local_day(zone: str, hour: int) -> None:
    cron = parse_cron(f"30 {hour} * * *", zone)

    slots = cron.between(instant("2007-01-01T12:00"), instant("2009-01-01T12:00"))

    days = [slot.astimezone(ZoneInfo(zone)).date() for slot in slots]
    assert days == [days[0] + timedelta(days=number) for number in range(731)]


@pytest.mark.parametrize(
    ("expression", "slots"),
    [
        ("30 2 * * *", ["29 03:00+0200", "30 02:30+0200"]),
        ("0,30 2 * * *", ["29 03:00+0200", "30 02:00+0200"]),
        ("15 2,3 * * *", ["29 03:00+0200", "29 03:15+0200", "30 02:15+0200"]),
        ("0 2,3 * * *", ["29 03:00+0200", "30 02:00+0200"]),
        ("*/30 2 * * *", ["30 02:00+0200", "30 02:30+0200"]),
    ],
)
def test_a_fixed_time_in_a_gap_fires_once_at_its_end_and_an_interval_does_not(
    expression: str, slots: list[str]
) -> None:
    assert local_slots(expression, "2026-03-29T00:30", len(slots)) == slots


@pytest.mark.parametrize(
    ("expression", "slots"),
    [
        ("30 2 * * *", ["25 02:30+0200", "26 02:30+0100"]),
        ("0 0-5 * * *", ["25 01:00+0200", "25 02:00+0200", "25 03:00+0100"]),
        ("*/30 * * * *", ["25 01:00+0200", "25 01:30+0200", "25 02:00+0200", "25 02:30+0200", "25 02:00+0100"]),
    ],
)
def test_a_fixed_time_in_a_fold_fires_the_first_time_only_and_an_interval_each_time(
    expression: str, slots: list[str]
) -> None:
    assert local_slots(expression, "2026-10-24T22:30", len(slots)) == slots


def test_started_in_the_second_pass_of_a_fold_it_does_not_step_backwards() -> None:
    assert parse_cron("45 2 * * *", AMSTERDAM).next(instant("2026-10-25T01:30")) == instant("2026-10-26T01:45")


def test_counting_from_within_the_second_pass_of_a_fold_counts_no_fixed_time_again() -> None:
    second_pass, after_it = instant("2026-10-25T01:10"), instant("2026-10-25T03:00")

    assert parse_cron("0,30 2 * * *", AMSTERDAM).grid.count(second_pass, after_it) == 0
    assert parse_cron("*/30 2 * * *", AMSTERDAM).grid.count(second_pass, after_it) == 1


def test_an_interval_half_a_year_ahead_follows_the_clock_of_that_day() -> None:
    assert parse_cron("0 * 1 7 *", AMSTERDAM).next(instant("2026-01-10T00:00")) == instant("2026-06-30T22:00")


def test_a_day_that_a_country_skipped_is_not_made_up_for() -> None:
    cron = parse_cron("0 12 * * *", "Pacific/Apia")  # which had no 30 December 2011

    slots = list(cron.between(instant("2011-12-28T00:00"), instant("2012-01-01T00:00")))

    assert [slot.astimezone(ZoneInfo("Pacific/Apia")).day for slot in slots] == [28, 29, 31, 1]


@pytest.mark.parametrize(
    ("expression", "slot"),
    [
        ("@daily", "2026-11-22"),
        ("@HOURLY", "2026-11-21T01:00"),
        ("@weekly", "2026-11-22"),
        ("@yearly", "2027-01-01"),
        ("0 0 L * *", "2026-11-30"),
        ("0 0 LW * *", "2026-11-30"),
        ("0 0 * * 5L", "2026-11-27"),
        ("0 0 * * FRI#1", "2026-12-04"),
        ("0 0 5W * *", "2026-12-04"),  # the 5th is a Saturday
        ("0 0 1W * *", "2026-12-01"),
        ("0 0 6W,24 * *", "2026-11-24"),
        ("0 0 6W * *", "2026-12-07"),  # the 6th is a Sunday
        ("0 0 31W * *", "2026-12-31"),
        ("0 0 13 * FRI", "2026-11-27"),  # either
        ("0 0 */13 * SUN", "2026-12-27"),  # both, since one field starts with a star: the 1st, 14th or 27th
        ("5-5/10 0 * * *", "2026-11-21T00:05"),
        ("0 0-0/1 * * *", "2026-11-22"),
        ("10 0 0 * * *", "2026-11-21T00:00:10"),
        ("*/20 * * * * *", "2026-11-21T00:00:20"),
        ("0 9 * jan,mar mon-fri", "2027-01-01T09:00"),
        ("0 0 29 2 *", "2028-02-29"),
    ],
)
def test_an_expression_names_its_next_slot(expression: str, slot: str) -> None:
    assert parse_cron(expression, "UTC").next(instant("2026-11-21T00:00:00")) == instant(slot)


def test_the_rarest_expression_is_found() -> None:
    # 29 February on a Sunday, across 2100, which is no leap year.
    assert parse_cron("0 0 29 2 */7", "UTC").next(instant("2088-03-01T00:00")) == instant("2128-02-29T00:00")


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("???", "five fields"),
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * * *", "five fields"),
        ("é * * * *", "ASCII"),
        ("0 " * 600, "ASCII"),
        ("60 * * * *", "the minute is 0 to 59"),
        ("* 24 * * *", "the hour is 0 to 23"),
        ("0 0 0 * *", "the day is 1 to 31"),
        ("0 0 32W * *", "the day is 1 to 31"),
        ("0 0 * 13 *", "the month is 1 to 12"),
        ("0 0 * * 8", "the weekday is 0 to 7"),
        ("0 0 * * MON#6", "the weekday is 0 to 7"),
        ("5-1 * * * *", "the minute is 0 to 59"),
        ("*/0 * * * *", "the minute is 0 to 59"),
        ("a b c d e f", "the second is 0 to 59"),
        ("61 0 0 * * *", "the second is 0 to 59"),
        ("0 0 30 2 *", "must fire at some time"),
        ("0 0 31 4,6 *", "must fire at some time"),
        ("0 0 31W 2 *", "must fire at some time"),
        ("@reboot", "not bound to a machine that boots"),
        ("@every 5m", "`every`"),
        ("@never", "@daily"),
        ("H * * * *", "no name here"),
        ("H(1-60) * * * *", "no name here"),
        ("0 0 ? * *", "no ?"),
    ],
)
def test_what_cannot_be_read_or_never_fires_is_refused_with_its_rule(expression: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_cron(expression, "UTC")

    assert refused.value.field == "cron"
    assert refused.value.value == expression
    assert rule in refused.value.rule


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=300)
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        cron = parse_cron(text, "UTC")
    except Invalid:
        return
    assert cron.next(instant("2026-11-21T00:00")) is not None


@pytest.mark.parametrize(
    ("expression", "notes"),
    [("0 0 13 * FRI", 1), ("0 0 */13 * FRI", 0), ("0 0 13 * *", 0), ("0 0 * * FRI", 0), ("30 0 0 1 * MON", 1)],
)
def test_two_restricted_day_fields_come_with_a_note(expression: str, notes: int) -> None:
    found = parse_cron(expression, "UTC").notes

    assert len(found) == notes
    assert all("either matches" in note for note in found)


class CountingPattern(Pattern):
    """Counts how often it is asked for the days of a month: what a bound means, without a clock."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.asked = 0

    def days_of_month(self, year: int, month: int) -> Sequence[int]:
        self.asked += 1
        return self.pattern.days_of_month(year, month)

    def times_on(self, day: date) -> Times:
        return self.pattern.times_on(day)


@pytest.mark.parametrize("expression", ["0 0 29 2 *", "0 0 29 2 */7", "0 0 29 2 1#5", "0 0 31 12 *", "0 0 * * *"])
@pytest.mark.parametrize("after", ["2088-03-01", "2096-02-29", "2026-11-21"])
def test_the_next_slot_is_found_in_few_steps_however_rare(expression: str, after: str) -> None:
    pattern = CountingPattern(parse_cron(expression, AMSTERDAM).grid._pattern)
    grid = LocalGrid(pattern, ZoneInfo(AMSTERDAM), Gap.SHIFT, Fold.FIRST)

    assert grid.next(instant(after)) is not None

    assert pattern.asked <= 2 * 12 * 41  # once or twice each month of the forty years that the rarest one waits


def test_a_month_of_minutes_is_counted_in_few_steps() -> None:
    pattern = CountingPattern(parse_cron("0-59 0-23 * * *", AMSTERDAM).grid._pattern)
    grid = LocalGrid(pattern, ZoneInfo(AMSTERDAM), Gap.SHIFT, Fold.FIRST)

    assert grid.count(instant("2026-11-01T00:00"), instant("2026-12-01T00:00")) == 43_200

    assert pattern.asked < 10


def test_a_limit_of_years_ends_without_an_overflow() -> None:
    for expression in ("0 0 * * *", "*/5 * * * *", "0 0 29 2 *", "* * * * * *"):
        for zone in ("Pacific/Apia", "Pacific/Honolulu", AMSTERDAM):
            cron = parse_cron(expression, zone)
            end = instant("2998-12-31T23:59:59")

            assert cron.next(end) is None
            assert cron.next(instant("9999-12-31T23:59:59")) is None
            assert all(slot.year <= 2998 for slot in cron.between(end - timedelta(hours=1), end + timedelta(days=9)))
            assert cron.grid.count(end, instant("9999-12-31")) == 0
            assert cron.grid.last(end, instant("9999-12-31"), 3) == []
            first = cron.next(instant("0001-01-01"))
            assert first is not None
            assert first >= instant("1900-01-01") - timedelta(days=1)
