"""Looking ahead: the scheduler's decisions over future time, and what they mean for the pools."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rota.model.calendars import Calendar
from rota.model.forecast import Durations, Forecast, Hour, Subject, find_collisions, look_ahead
from rota.model.slot_rule import CatchUp, Overlap, SlotRule
from rota.model.timing import Timing

NOW = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
DAY = NOW + timedelta(days=1)
POOLS = {"default": 2}


def taking(seconds: float) -> Durations:
    return Durations(seconds, seconds, 1)


def subject(cron: str = "0 * * * *", key: str = "s", seconds: float | None = None, **options: Any) -> Subject:
    zone = options.pop("zone", "UTC")
    timing = Timing.every(options.pop("every"), NOW) if "every" in options else Timing.cron(cron, zone)
    first = timing.next(options.pop("after", NOW - timedelta(microseconds=1)))
    assert first is not None
    paused = options.pop("job_paused", False)
    rule = SlotRule(timing, name=key, **options)
    return Subject(key, f"job of {key}", "default", rule, first, None if seconds is None else taking(seconds), paused)


def look(*subjects: Subject, until: datetime = DAY, **options: Any) -> Forecast:
    return look_ahead(subjects, POOLS, NOW, until, **options)


def slots_of(forecast: Forecast) -> list[int]:
    return [hour.slots for hour in forecast.hours]


def in_use(hour: Hour) -> tuple[int, float, int, float]:
    """Runs, busy seconds, how many at once, and the longest wait."""
    pool = hour.pools["default"]
    return pool.runs, pool.busy_seconds, pool.peak, pool.wait_seconds


def test_slots_are_counted_hour_by_hour() -> None:
    forecast = look(subject("0 * * * *"), subject("*/15 9-10 * * *"), subject("30 9 * * *"))

    assert slots_of(forecast) == [1] * 9 + [6, 5] + [1] * 13
    assert (forecast.start, forecast.until) == (NOW, DAY)


@pytest.mark.parametrize("options", [{"every": 1.0}, {"cron": "* * * * * *"}, {"every": 7.0}])
def test_a_schedule_of_every_few_seconds_is_counted_and_not_visited(options: dict[str, Any]) -> None:
    of_second = subject(seconds=0.5, **options)
    forecast = look(of_second, steps_max=100)

    timing = of_second.rule.timing
    assert sum(slots_of(forecast)) == timing.count(NOW - timedelta(microseconds=1), DAY - timedelta(microseconds=1))
    assert forecast.until == DAY
    assert in_use(forecast.hours[5])[1] == pytest.approx(forecast.hours[5].runs * 0.5)


def test_counting_and_visiting_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    every_minute = subject("* * * * *", seconds=20.0)
    visited = look(every_minute)
    monkeypatch.setattr("rota.model.forecast.VISITED_PER_HOUR_MAX", 10)
    counted = look(every_minute)

    assert slots_of(visited) == slots_of(counted) == [60] * 24
    assert [hour.runs for hour in visited.hours] == [hour.runs for hour in counted.hours]
    assert in_use(visited.hours[3]) == in_use(counted.hours[3]) == (60, 1200.0, 1, 0.0)


def test_how_full_a_pool_is_follows_from_durations() -> None:
    forecast = look(subject("0 * * * *", seconds=1800.0), subject("0 12 * * *", key="long", seconds=7200.0))

    assert in_use(forecast.hours[3]) == (1, 1800.0, 1, 0.0)
    assert in_use(forecast.hours[12]) == (2, 5400.0, 2, 0.0)
    assert in_use(forecast.hours[13])[1:3] == (5400.0, 2)
    assert forecast.hours[12].pools["default"].occupancy(2) == 0.75
    assert forecast.hours[12].pools["default"].occupancy(0) is None


def test_more_runs_at_once_than_slots_collide_and_wait() -> None:
    forecast = look(*(subject("0 3 * * *", key=f"s{number}", seconds=600.0) for number in range(5)))

    (collision,) = find_collisions(forecast, POOLS)
    assert collision == {
        "hour": "2026-03-02T03:00:00.000000Z", "pool": "default", "peak": 5, "slots": 2, "wait_seconds": 1200.0,
    }  # fmt: skip


def test_delay_and_jitter_move_the_load_and_not_the_slots() -> None:
    forecast = look(subject("55 3 * * *", seconds=60.0, delay_seconds=600.0, jitter_seconds=10.0))

    assert [hour.slots for hour in forecast.hours[3:5]] == [1, 0]
    assert [sorted(hour.pools) for hour in forecast.hours[3:5]] == [[], ["default"]]


def test_a_run_that_outlasts_its_period_skips_as_the_scheduler_would() -> None:
    forecast = look(subject("0 * * * *", seconds=5400.0))

    assert sum(hour.runs for hour in forecast.hours) == 12
    (told,) = forecast.overlaps
    assert (told["overlap"], told["kept_off"], told["slots"], told["period_seconds"]) == ("skip", 12, 24, 3600.0)


@pytest.mark.parametrize(
    ("overlap", "runs", "peak"), [(Overlap.QUEUE, 24, 1), (Overlap.ALLOW, 24, 2), (Overlap.REPLACE, 24, 2)]
)
def test_other_overlaps_run_all_of_them(overlap: Overlap, runs: int, peak: int) -> None:
    forecast = look(subject("0 * * * *", seconds=5400.0, overlap=overlap))

    assert sum(hour.runs for hour in forecast.hours) == runs
    assert in_use(forecast.hours[10])[2] == peak
    assert bool(forecast.overlaps) is (overlap is not Overlap.ALLOW)


def test_a_counted_schedule_that_outlasts_its_period_skips_too() -> None:
    forecast = look(subject(every=10.0, seconds=25.0))

    assert forecast.hours[1].slots == 360
    assert in_use(forecast.hours[1])[:2] == (144, 3600.0)
    assert forecast.overlaps[0]["kept_off"] == 24 * (360 - 144) - 1  # its first slot comes after ten seconds


def test_what_a_calendar_closes_is_due_and_does_not_run() -> None:
    rest = Calendar.checked("rest", weekdays=["tue"])
    closed = subject("0 9 * * *", calendars=(rest,))
    forecast = look(closed, until=NOW + timedelta(days=3))

    assert [(hour.slots, hour.runs) for hour in forecast.hours if hour.slots] == [(1, 1), (1, 0), (1, 1)]


def test_a_counted_schedule_rests_as_well() -> None:
    rest = Calendar.checked("rest", windows=[("2026-03-02T05:30", "2026-03-02T07:00")])
    forecast = look(subject(every=1.0, calendars=(rest,)))

    assert [hour.runs for hour in forecast.hours[4:8]] == [3600, 1800, 0, 3600]


def test_a_paused_job_runs_nothing() -> None:
    forecast = look(subject("0 * * * *", job_paused=True), subject(every=1.0, job_paused=True))

    assert sum(slots_of(forecast)) == 24 + 86399
    assert sum(hour.runs for hour in forecast.hours) == 0


@pytest.mark.parametrize(("catch_up", "runs"), [(CatchUp.LATEST, 1), (CatchUp.ALL, 6)])
def test_late_slots_are_decided_as_if_somebody_looked_now(catch_up: CatchUp, runs: int) -> None:
    forecast = look(subject("0 * * * *", catch_up=catch_up, after=NOW - timedelta(hours=5, microseconds=1)))

    assert (forecast.hours[0].slots, forecast.hours[0].runs) == (6, runs)
    assert slots_of(forecast)[1:] == [1] * 23


def test_slots_in_a_gap_or_a_fold_are_named() -> None:
    start, until = datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
    nightly = subject("30 2 * * *", zone="Europe/Amsterdam", after=start)
    forecast = look_ahead([nightly], POOLS, start, until)

    assert [(note["schedule"], note["slot"]) for note in forecast.notes] == [("s", "2026-03-29T01:00:00.000000Z")]
    assert forecast.notes[0]["notes"]


def test_an_answer_ends_early_rather_than_late() -> None:
    many = [subject("*/2 * * * *", key=f"s{number}") for number in range(100)]
    forecast = look(*many, steps_max=4000)

    assert forecast.until == NOW + timedelta(hours=2)
    assert slots_of(forecast) == [3000, 3000]


def test_schedules_without_a_slot_in_time_cost_nothing() -> None:
    forecast = look(subject("0 0 1 1 *"), steps_max=1)

    assert (len(forecast.hours), sum(slots_of(forecast))) == (24, 0)


def test_a_schedule_that_ends_has_no_slots_after_it() -> None:
    ending = subject("0 * * * *")
    timing = ending.rule.timing.within(None, NOW + timedelta(hours=3))
    forecast = look(replace(ending, rule=replace(ending.rule, timing=timing)))

    assert sum(slots_of(forecast)) == 4


def test_durations_are_a_median_and_what_nine_of_ten_keep() -> None:
    assert Durations.of([]) is None
    assert Durations.of([3.0, 1.0, 100.0]) == Durations(3.0, 100.0, 3)
    assert Durations.of([float(number) for number in range(1, 11)]) == Durations(5.5, 9.0, 10)


def test_thousands_of_schedules_take_seconds() -> None:
    many = [subject(f"{number % 60} {number % 24} * * *", key=f"s{number}", seconds=5.0) for number in range(5000)]
    many += [subject(every=1.0, key=f"e{number}") for number in range(100)]

    began = time.process_time()
    forecast = look(*many)
    spent = time.process_time() - began

    assert sum(slots_of(forecast)) == 5000 + 100 * 86399
    assert spent < 10


def test_a_slot_on_all_nodes_is_one_slot_and_a_run_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_minute = replace(subject("* * * * *", seconds=20.0), runs_per_slot=3)
    visited = look(every_minute)
    monkeypatch.setattr("rota.model.forecast.VISITED_PER_HOUR_MAX", 10)
    counted = look(every_minute)

    assert slots_of(visited) == slots_of(counted) == [60] * 24
    assert {hour.runs for hour in (*visited.hours, *counted.hours)} == {180}
    assert in_use(visited.hours[3])[:3] == in_use(counted.hours[3])[:3] == (180, 3600.0, 3)
    assert {hour.runs for hour in look(replace(every_minute, runs_per_slot=0)).hours} == {0}
