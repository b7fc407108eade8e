"""Every kind of expression on the changes of all the clocks of the world, against a walk along the wall clock.

The normal suite takes a sample, always the same one; ``make test-zones`` takes all zones, all expressions and all
choices of gap and fold.
"""

from __future__ import annotations

import random
from datetime import date, timedelta
from functools import cache
from itertools import pairwise, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rota.model.timing import Fold, Gap, Timing
from tests.model.clock_changes import Change, all_zones, distinct_changes
from tests.model.corpus import CORPUS, FIXED, INTERVALS
from tests.model.slow_cron import Fields, Wall, instant, read_expression, show

CHOICES = list(product(Gap, Fold))
# Half hours, changes at midnight, moves over the date line, odd offsets, folds of many hours.
NOTABLE_ZONES = (
    "Europe/Amsterdam", "America/Los_Angeles", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo", "Asia/Beirut",
    "America/Havana", "Africa/Casablanca", "Pacific/Apia", "Pacific/Kwajalein", "Antarctica/Troll", "Antarctica/Vostok",
    "Africa/Monrovia", "Asia/Pyongyang", "America/Caracas", "Asia/Kathmandu",
)  # fmt: skip
CHANGES_SAMPLED = 120
EXPRESSIONS_SAMPLED = 12
PARTS = 60


@cache
def read(expression: str) -> Fields:
    return read_expression(expression)


@cache
def changes_of_all_zones() -> list[Change]:
    return distinct_changes(all_zones())


def assert_agrees(change: Change, wall: Wall, expression: str, gap: Gap, fold: Fold) -> None:
    timing = Timing.cron(expression, change.zone, gap=gap, fold=fold)
    expected = wall.slots(read(expression), gap, fold)

    found = timing.slots(wall.after, wall.until, len(expected) + 2)

    assert found == expected, (expression, change, gap, fold)
    assert all(earlier < later for earlier, later in pairwise(found))
    assert timing.count(wall.after, wall.until) == len(expected), (expression, change, gap, fold)
    assert timing.last(wall.after, wall.until, 3) == expected[-3:], (expression, change, gap, fold)
    if len(expected) < 100:
        assert timing.last(wall.after, wall.until, 100) == expected, (expression, change, gap, fold)


def choices_for(expression: str) -> list[tuple[Gap, Fold]]:
    return CHOICES if expression in FIXED else [(Gap.SHIFT, Fold.FIRST)]  # the choices do not touch an interval


def test_the_corpus_is_large_and_is_read_as_it_is_meant() -> None:
    assert len(CORPUS) == len(set(CORPUS)) >= 200
    assert all(read(expression).is_fixed_time for expression in FIXED)
    assert not any(read(expression).is_fixed_time for expression in INTERVALS)


def test_a_sample_of_all_changes_agrees_with_a_walk_along_the_wall_clock() -> None:
    chance = random.Random(20261121)
    zones = {*NOTABLE_ZONES, *chance.sample(all_zones(), 10)}
    changes = distinct_changes(sorted(zones))
    unusual = [change for change in changes if abs(change.offset_after - change.offset_before) != timedelta(hours=1)]

    for change in [*unusual, *chance.sample(changes, CHANGES_SAMPLED)]:
        wall = Wall(ZoneInfo(change.zone), change.after, change.until)
        for expression in chance.sample(CORPUS, EXPRESSIONS_SAMPLED):
            for gap, fold in choices_for(expression):
                assert_agrees(change, wall, expression, gap, fold)


def test_every_expression_agrees_on_one_gap_and_one_fold() -> None:
    for change in distinct_changes(["Europe/Amsterdam"])[-2:]:
        wall = Wall(ZoneInfo(change.zone), change.after, change.until)
        for expression in CORPUS:
            for gap, fold in choices_for(expression):
                assert_agrees(change, wall, expression, gap, fold)


@pytest.mark.zones
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_all_expressions_agree_on_all_changes_of_all_zones(part: int) -> None:
    for change in changes_of_all_zones()[part::PARTS]:
        wall = Wall(ZoneInfo(change.zone), change.after, change.until)
        for expression in CORPUS:
            for gap, fold in choices_for(expression):
                assert_agrees(change, wall, expression, gap, fold)


@pytest.mark.parametrize("hour", range(24))
def test_a_fixed_time_fires_once_on_each_local_day_that_exists(hour: int) -> None:
    for zone in ("Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia", "America/Havana", "Antarctica/Troll"):
        timing = Timing.cron(f"30 {hour} * * *", zone)
        low, high = instant("2009-06-01T12:00"), instant("2012-06-01T12:00")

        slots = timing.slots(low, high, 10_000)

        first, last = slots[0].astimezone(ZoneInfo(zone)).date(), slots[-1].astimezone(ZoneInfo(zone)).date()
        every_day = {first + timedelta(days=number) for number in range((last - first).days + 1)}
        missing = {date(2011, 12, 30)} if zone == "Pacific/Apia" else set[date]()
        assert [show(slot, ZoneInfo(zone)).date() for slot in slots] == sorted(every_day - missing)


@pytest.mark.parametrize(
    ("day", "hourly", "quarter_hourly"), [("2027-03-14", 23, 92), ("2027-11-07", 25, 100), ("2027-11-08", 24, 96)]
)
def test_a_day_of_change_in_los_angeles_has_as_many_slots_as_hours(day: str, hourly: int, quarter_hourly: int) -> None:
    zone = ZoneInfo("America/Los_Angeles")

    for expression, expected in (("0 * * * *", hourly), ("*/15 * * * *", quarter_hourly)):
        slots = Timing.cron(expression, zone.key).slots(instant(day), instant(day) + timedelta(days=2), 1000)

        of_day = [slot for slot in slots if slot.astimezone(zone).date() == date.fromisoformat(day)]
        assert len(of_day) == expected


def local(timing: Timing, after: str, count: int) -> list[str]:
    found = timing.slots(instant(after), instant("2100-01-01"), count)
    return [slot.astimezone(ZoneInfo(timing.zone)).strftime("%m-%d %H:%M%z") for slot in found]


def test_lord_howe_changes_its_clocks_by_half_an_hour() -> None:
    # In 2026 from 02:00 to 01:30 on 5 April, and from 02:00 to 02:30 on 4 October.
    zone = "Australia/Lord_Howe"

    assert local(Timing.cron("45 1 * * *", zone), "2026-04-04T12:00", 2) == ["04-05 01:45+1100", "04-06 01:45+1030"]
    assert local(Timing.cron("45 1 * * *", zone, fold=Fold.BOTH), "2026-04-04T12:00", 2) == [
        "04-05 01:45+1100", "04-05 01:45+1030",
    ]  # fmt: skip
    assert local(Timing.cron("0,15 2 * * *", zone), "2026-10-03T12:00", 2) == ["10-04 02:30+1100", "10-05 02:00+1100"]


def test_apia_had_no_30_december_2011() -> None:
    zone = "Pacific/Apia"

    assert local(Timing.cron("0 12 * * *", zone), "2011-12-29T00:00", 3) == [
        "12-29 12:00-1000", "12-31 12:00+1400", "01-01 12:00+1400",
    ]  # fmt: skip
    assert Timing.cron("0 12 30 12 *", zone).next(instant("2011-12-01")) == instant("2012-12-29T22:00")


def test_cairo_skips_midnight() -> None:
    # On Friday 24 April 2026 the clocks go from 00:00 to 01:00.
    zone = "Africa/Cairo"

    assert local(Timing.cron("0 0 * * *", zone), "2026-04-23T12:00", 2) == ["04-24 01:00+0300", "04-25 00:00+0300"]
    assert local(Timing.cron("0 0 * * *", zone, gap=Gap.SKIP), "2026-04-23T12:00", 1) == ["04-25 00:00+0300"]
    assert local(Timing.cron("*/30 * * * *", zone), "2026-04-23T21:00", 3) == [
        "04-23 23:30+0200", "04-24 01:00+0300", "04-24 01:30+0300",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "after", "slots"),
    [
        ({"fold": Fold.FIRST}, "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ({"fold": Fold.LAST}, "2026-10-24T12:00", ["10-25 02:30+0100", "10-26 02:30+0100"]),
        ({"fold": Fold.BOTH}, "2026-10-24T12:00", ["10-25 02:30+0200", "10-25 02:30+0100"]),
        ({"gap": Gap.SHIFT}, "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ({"gap": Gap.SKIP}, "2026-03-28T12:00", ["03-30 02:30+0200", "03-31 02:30+0200"]),
    ],
)
def test_every_kind_that_means_local_times_heeds_gap_and_fold(
    choice: dict[str, Any], after: str, slots: list[str]
) -> None:
    zone, anchor = "Europe/Amsterdam", instant("2026-03-20T12:00")

    assert local(Timing.cron("30 2 * * *", zone, **choice), after, 2) == slots
    assert local(Timing.weekly("daily 02:30", zone, **choice), after, 2) == slots
    assert local(Timing.interval("1 day at 02:30", anchor, zone, **choice), after, 2) == slots
