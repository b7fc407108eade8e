"""Slots that calendars move to another day, against moving each slot by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.cron import CronPattern
from rota.model.moved import MovedGrid
from rota.model.timing import Fold, Gap, Timing
from tests.model.slow_cron import MINUTE, instant, show

DAY = timedelta(days=1)
REACH_DAYS = 366
# Months looked at for one slot: a few for each day of the year that it may be moved by, and for forty years ahead.
STEPS_MAX = 5000

WEEKENDS = Calendar.checked("weekends", weekdays=["sat", "sun"])
EASTER = Calendar.checked("easter", dates=["2026-04-03..2026-04-06"], open_dates=["2026-04-04"])
NIGHTS = Calendar.checked(
    "nights",
    windows=[
        "2026-03-27T22:00..2026-03-30T06:00",
        "2026-04-01T02:15..2026-04-01T02:45",
        "2026-10-24T01:00..2026-10-26",
    ],
)
LUNCHES = Calendar.checked(
    "lunches",
    windows=[
        (f"{date(2026, 3, 1) + DAY * number}T12:00", f"{date(2026, 3, 1) + DAY * number}T13:30") for number in range(99)
    ],
)
# Beside the nights on which clocks change, which are Sundays, and 28 March and 24 October 2026, which are Saturdays.
SATURDAYS = Calendar.checked("saturdays", weekdays=["sat"])
SUNDAYS = Calendar.checked("sundays", weekdays=["sun"])
YEAR_OFF = Calendar.checked("year-off", dates=["2025-03-28..2026-03-28"])
FEW_DAYS = Calendar.checked(
    "few-days", weekdays=["mon", "tue", "wed", "thu", "fri", "sat", "sun"], open_dates=["2026-04-01", "2026-10-25"]
)
CALENDARS = [
    [WEEKENDS],
    [SATURDAYS],
    [SUNDAYS],
    [EASTER, WEEKENDS],
    [NIGHTS],
    [NIGHTS, WEEKENDS],
    [LUNCHES],
    [YEAR_OFF],
    [FEW_DAYS],
]

ZONES = ["Europe/Amsterdam", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo"]


def timings_in(zone: str, gap: Gap, fold: Fold) -> list[Timing]:
    anchor = instant("2025-01-01T10:00")
    return [
        Timing.cron("30 2 * * *", zone, gap=gap, fold=fold),
        Timing.cron("0,30 1-3 * * *", zone, gap=gap, fold=fold),
        Timing.cron("0 0 * * MON,SAT", zone, gap=gap, fold=fold),
        Timing.cron("0 12,13 1,28 * *", zone, gap=gap, fold=fold),
        Timing.cron("0 */5 * * *", zone, gap=gap, fold=fold),
        Timing.weekly("fri 23:45; sat 00:15,02:30,23:30; sun 02:30,12:00", zone, gap=gap, fold=fold),
        Timing.checked([("every", "7h")], zone, anchor, gap=gap, fold=fold),
        Timing.checked([("interval", "1 month at 02:30")], zone, anchor, gap=gap, fold=fold),
        Timing.checked([("at", "2026-03-29T02:30"), ("cron", "0 9 * * SUN")], zone, gap=gap, fold=fold),
    ]


def move(slot: datetime, timing: Timing, calendars: list[Calendar], direction: str) -> list[datetime]:
    """Move one slot by hand."""
    zone = ZoneInfo(timing.zone)
    local = show(slot, zone)
    if not any(calendar.closed_at_local(local) for calendar in calendars):
        return [slot]
    for _ in range(REACH_DAYS):
        local += DAY if direction == "next" else -DAY
        if not any(calendar.closed_at_local(local) for calendar in calendars):
            return resolve_slowly(local, zone, timing.gap, timing.fold)
    return []


def resolve_slowly(local: datetime, zone: ZoneInfo, gap: Gap, fold: Fold) -> list[datetime]:
    around = [local.replace(tzinfo=UTC) + timedelta(hours=hours) for hours in (-30, 30)]
    offsets = sorted({moment.astimezone(zone).utcoffset() or timedelta(0) for moment in around})
    shown = sorted({around[0] + timedelta(hours=30) - offset for offset in offsets})
    found = [moment for moment in shown if show(moment, zone) == local]
    if found:
        return found if fold is Fold.BOTH else found[:1] if fold is Fold.FIRST else found[-1:]
    if gap is Gap.SKIP:
        return []
    moment = shown[0].replace(second=0, microsecond=0) - 5 * MINUTE * 60
    while show(moment, zone) < local:
        moment += MINUTE
    return [moment]


def by_hand(
    timing: Timing, calendars: list[Calendar], direction: str, after: datetime, until: datetime
) -> dict[datetime, list[datetime]]:
    """Return the slots in (``after``, ``until``] with where they come from."""
    reach = (REACH_DAYS + 2) * DAY
    low, high = (after - reach, until + DAY) if direction == "next" else (after - DAY, until + reach)
    found: dict[datetime, list[datetime]] = {}
    for slot in timing.slots(low, high, 100_000):
        for moved in move(slot, timing, calendars, direction):
            if after < moved <= until:
                found.setdefault(moved, []).append(slot)
    return dict(sorted(found.items()))


@given(
    st.sampled_from(ZONES),
    st.integers(0, 8),
    st.sampled_from(CALENDARS),
    st.sampled_from(["next", "previous"]),
    st.sampled_from(Gap),
    st.sampled_from(Fold),
    st.sampled_from(["2026-03-24", "2026-03-29", "2026-03-31", "2026-04-03", "2010-11-06", "2026-10-02", "2026-10-23"]),
    st.integers(0, 36 * 60),
    st.integers(1, 40),
)
@settings(deadline=None, max_examples=80)
def test_moved_slots_agree_with_moving_each_by_hand(
    zone: str,
    number: int,
    calendars: list[Calendar],
    direction: str,
    gap: Gap,
    fold: Fold,
    day: str,
    minutes: int,
    limit: int,
) -> None:
    timing = timings_in(zone, gap, fold)[number]
    after = instant(day) + minutes * MINUTE
    until = after + 9 * DAY
    expected = by_hand(timing, calendars, direction, after, until)

    moved = timing.shifted(calendars, direction)
    found = moved.slots(after, until, 100_000)

    assert found == list(expected)
    assert moved.count(after, until) == len(expected)
    assert moved.last(after, until, limit) == found[-limit:]
    assert [moved.origin(slot) for slot in found] == [
        [origin for origin in origins if origin != slot] for slot, origins in expected.items()
    ]


def local(timing: Timing, after: str, count: int) -> list[str]:
    found = islice(timing.preview(instant(after)), count)
    return [f"{slot.astimezone(ZoneInfo(timing.zone)):%a %Y-%m-%d %H:%M}" for slot in found]


def test_a_weekend_moves_to_monday_and_what_meets_there_is_one() -> None:
    timing = Timing.cron("0 7 * * *", "Europe/Amsterdam").shifted([WEEKENDS], "next")

    assert local(timing, "2026-11-19T12:00", 3) == [
        "Fri 2026-11-20 07:00",
        "Mon 2026-11-23 07:00",
        "Tue 2026-11-24 07:00",
    ]
    assert timing.origin(instant("2026-11-23T06:00")) == [instant("2026-11-21T06:00"), instant("2026-11-22T06:00")]
    assert timing.origin(instant("2026-11-24T06:00")) == []
    assert timing.notes(instant("2026-11-23T06:00")) == [
        "moved from 2026-11-21 07:00, closed: Saturday (calendar weekends)",
        "moved from 2026-11-22 07:00, closed: Sunday (calendar weekends)",
    ]
    assert timing.closed_at(instant("2026-11-21T06:00")) == "calendar weekends: Saturday"
    assert timing.closed_at(instant("2026-11-23T06:00")) is None


def test_a_weekend_moves_back_to_friday() -> None:
    timing = Timing.weekly("sat 09:00; fri 12:00", "Europe/Amsterdam").shifted([WEEKENDS], "previous")

    assert local(timing, "2026-11-19T12:00", 3) == [
        "Fri 2026-11-20 09:00",
        "Fri 2026-11-20 12:00",
        "Fri 2026-11-27 09:00",
    ]


def test_moved_slots_overtake_others_in_their_order() -> None:
    timing = Timing.weekly("sat 18:00; sun 06:00; mon 12:00").shifted([WEEKENDS], "next")

    assert local(timing, "2026-11-20T12:00", 4) == [
        "Mon 2026-11-23 06:00", "Mon 2026-11-23 12:00", "Mon 2026-11-23 18:00", "Mon 2026-11-30 06:00",
    ]  # fmt: skip


def test_a_slot_that_is_moved_into_a_gap_fires_at_its_end() -> None:
    closed = Calendar.checked("closed", dates=["2026-03-28"])  # the day before the clocks go from 02:00 to 03:00

    for gap, expected in ((Gap.SHIFT, "Sun 2026-03-29 03:00"), (Gap.SKIP, "Mon 2026-03-30 02:30")):
        timing = Timing.cron("30 2 * * *", "Europe/Amsterdam", gap=gap).shifted([closed], "next")

        assert local(timing, "2026-03-27T12:00", 1) == [expected]


def test_a_slot_that_is_moved_into_a_gap_is_one_with_what_is_due_at_its_end() -> None:
    timing = Timing.cron("0,30 2-3 * * *", "Europe/Amsterdam").shifted([SATURDAYS], "next")
    low, high = instant("2026-03-28T23:00"), instant("2026-03-29T12:00")
    expected = [instant("2026-03-29T01:00"), instant("2026-03-29T01:30")]  # 03:00 and 03:30

    assert timing.slots(low, high, 10) == expected
    assert timing.count(low, high) == 2
    assert timing.last(low, high, 10) == expected


@pytest.mark.parametrize(("fold", "passes"), [(Fold.FIRST, [0]), (Fold.LAST, [1]), (Fold.BOTH, [0, 1])])
def test_a_slot_that_is_moved_into_a_fold_fires_in_the_passes_that_are_chosen(fold: Fold, passes: list[int]) -> None:
    timing = Timing.weekly("sat 02:30", "Europe/Amsterdam", fold=fold).shifted([SATURDAYS], "next")
    first = instant("2026-10-25T00:30")

    found = timing.slots(instant("2026-10-23"), instant("2026-10-30"), 10)

    assert found == [first + timedelta(hours=number) for number in passes]
    assert timing.count(instant("2026-10-23"), instant("2026-10-30")) == len(passes)


def test_an_evening_that_comes_again_after_midnight_keeps_its_slots() -> None:
    # At one minute past midnight, on Sunday 7 November 2010, the clocks of St John's went back to Saturday, 23:01.
    closed = Calendar.checked("closed", dates=["2010-11-07..2010-11-20"])
    timing = Timing.cron("30 23 * * *", "America/St_Johns", fold=Fold.BOTH).shifted([closed], "previous")

    found = timing.slots(instant("2010-11-06T12:00"), instant("2010-11-07T12:00"), 10)

    assert found == [instant("2010-11-07T02:00"), instant("2010-11-07T03:00")]
    assert timing.count(instant("2010-11-06T12:00"), instant("2010-11-07T12:00")) == 2


def test_a_day_that_a_country_skipped_is_no_day_to_move_to() -> None:
    closed = Calendar.checked("closed", dates=["2011-12-29"])
    timing = Timing.cron("0 12 29 12 *", "Pacific/Apia").shifted([closed], "next")

    assert local(timing, "2011-12-01", 1) == ["Sat 2011-12-31 12:00"]
    assert timing.origin(instant("2011-12-30T22:00")) == [instant("2011-12-29T22:00")]


def test_a_slot_with_no_free_day_within_a_year_does_not_exist() -> None:
    reach = Calendar.checked("reach", dates=["2027-01-01..2028-01-01"])  # 366 days
    beyond = Calendar.checked("beyond", dates=["2027-01-01..2028-01-02"])
    once = Timing.at("2027-01-01T07:00")

    assert once.shifted([reach], "next").next(instant("2026-01-01")) == instant("2028-01-02T07:00")
    assert once.shifted([beyond], "next").next(instant("2026-01-01")) is None
    assert once.shifted([beyond], "next").count(instant("2026-01-01"), instant("2030-01-01")) == 0
    assert once.shifted([beyond], "previous").next(instant("2026-01-01")) == instant("2026-12-31T07:00")


def test_a_slot_is_moved_over_days_that_are_open_at_other_times() -> None:
    for direction, closed, moved in (
        ("next", "2026-03-01T12:30", "2026-06-08T12:30"),
        ("previous", "2026-06-07T12:30", "2026-02-28T12:30"),
    ):
        timing = Timing.at(closed).shifted([LUNCHES], direction)

        assert timing.slots(instant("2026-01-01"), instant("2027-01-01"), 9) == [instant(moved)]
        assert timing.last(instant("2026-01-01"), instant("2027-01-01"), 9) == [instant(moved)]
        assert timing.count(instant("2026-01-01"), instant("2027-01-01")) == 1
        assert timing.origin(instant(moved)) == [instant(closed)]


def test_many_windows_at_all_hours_are_heeded() -> None:
    closed = Calendar.checked(
        "many",
        windows=[(f"2026-03-01T{hour:02}:{hour + 5}", f"2026-03-01T{hour:02}:{hour + 30}") for hour in range(10, 24)],
    )
    timing = Timing.cron("*/15 * * * *").shifted([closed], "next")
    low, high = instant("2026-03-01T09:59"), instant("2026-03-02T23:59")

    expected = by_hand(Timing.cron("*/15 * * * *"), [closed], "next", low, high)

    assert timing.slots(low, high, 1000) == list(expected)
    assert len(expected) < 38 * 4


def test_calendars_that_close_everything_between_them_leave_no_slot() -> None:
    workdays = Calendar.checked("workdays", weekdays=["mon", "tue", "wed", "thu", "fri"])

    for direction in ("next", "previous"):
        timing = Timing.cron("* * * * *").shifted([WEEKENDS, workdays], direction)

        assert timing.next(instant("2026-01-01")) is None
        assert timing.count(instant("2026-01-01"), instant("2027-01-01")) == 0


def test_a_start_and_an_end_hold_for_where_slots_are_moved_to() -> None:
    timing = Timing.cron("0 7 * * SAT").within(instant("2026-11-22"), instant("2026-11-25"))

    for both in (
        timing.shifted([WEEKENDS], "next"),
        Timing.cron("0 7 * * SAT").shifted([WEEKENDS], "next").within(instant("2026-11-22"), instant("2026-11-25")),
    ):
        assert list(both.preview(instant("2026-01-01"))) == [instant("2026-11-23T07:00")]


@pytest.mark.parametrize(
    "expression", ["* * * * *", "* * * * * *", "0 7 * * *", "0 0 29 2 *", "0 0 29 2 */7", "0 0 1 1 *"]
)
@pytest.mark.parametrize("direction", ["next", "previous"])
@pytest.mark.parametrize(
    "calendar",
    [
        Calendar.checked("decade", dates=["2026-01-01..2035-12-31"]),
        Calendar.checked("window", windows=["2026-01-01..2036-01-01"]),
        Calendar.checked("nights", windows=[("2026-01-01", "2026-01-02T07:00"), ("2026-01-03", "2035-12-31T12:00")]),
        WEEKENDS,
        LUNCHES,
        FEW_DAYS,
    ],
    ids=lambda calendar: calendar.name,
)
def test_the_next_slot_is_found_in_few_steps_whatever_is_closed(
    expression: str, direction: str, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = Timing.cron(expression, "Europe/Amsterdam").shifted([calendar], direction)
    asked = Counter[str]()
    monkeypatch.setattr(CronPattern, "days_of_month", counting(asked, CronPattern.days_of_month))
    monkeypatch.setattr(MovedGrid, "_cells", counting(asked, MovedGrid._cells))
    after = instant("2026-03-01T12:00")

    for _ in range(3):
        asked.clear()
        slot = timing.next(after)

        assert slot is None or slot > after
        assert asked["asked"] < STEPS_MAX
        after = slot or after


def counting(asked: Counter[str], ask: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        asked["asked"] += 1
        return ask(*args, **options)

    return wrapped


def test_a_month_of_minutes_is_counted_with_its_weekends_moved() -> None:
    low, high = instant("2026-11-01"), instant("2026-12-01")
    dense = Timing.cron("* * * * *").shifted([WEEKENDS], "next")

    assert dense.count(low, high) == 21 * 1440 + 1  # and midnight of 1 December
    assert all(earlier < later for earlier, later in pairwise(dense.last(low, high, 5000)))


def test_there_are_two_directions() -> None:
    with pytest.raises(Invalid) as refused:
        Timing.cron("0 7 * * *").shifted([WEEKENDS], "skip")

    assert refused.value.field == "on_closed"


def test_without_calendars_nothing_moves() -> None:
    assert Timing.cron("0 7 * * *").shifted([], "next") == Timing.cron("0 7 * * *")
    assert Timing.cron("0 7 * * *").origin(instant("2026-11-23T07:00")) == []
