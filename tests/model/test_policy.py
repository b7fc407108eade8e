"""What becomes of the slots that are due."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.model.grids import LocalGrid
from rota.model.policy import LATE_SLOTS_MAX, Firing, SlotDecision, Unfinished, decide_resumed, decide_slots
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUp, CatchUpOrder, Overlap, SlotRule, jitter_of
from rota.model.states import RunState
from rota.model.timing import Timing
from tests.model.slow_cron import instant

NOON = instant("2026-11-20T12:00:00")
HOURLY = Timing.cron("0 * * * *")
MINUTELY = Timing.cron("* * * * *", "Europe/Amsterdam")


def decide(
    rule: SlotRule,
    first: datetime,
    now: datetime,
    *,
    unfinished: bool = False,
    queued: int = 0,
    job_paused: bool = False,
    skips_in_row: int = 0,
) -> Firing:
    before = Unfinished(int(unfinished) + queued, queued)
    return decide_slots(rule, first, now, unfinished=before, job_paused=job_paused, skips_in_row=skips_in_row)


def only(firing: Firing) -> SlotDecision:
    (decision,) = firing.decisions
    return decision


def reasons(firing: Firing) -> list[Reason]:
    return [decision.reason for decision in firing.decisions]


rules = st.builds(
    SlotRule,
    timing=st.sampled_from(
        [
            MINUTELY,
            HOURLY,
            Timing.cron("0,7 1-5 * * *", "Europe/Amsterdam"),
            Timing.cron("*/5 * * * * *"),
            Timing.every("90s", NOON - timedelta(days=300)),
            Timing.every(1, NOON - timedelta(days=300)),
        ]
    ),
    delay_seconds=st.sampled_from([0.0, 1.5, 30.0, 7200.0]),
    start_within_seconds=st.sampled_from([None, None, 5.0, 300.0, 10_000.0]),
    catch_up=st.sampled_from(CatchUp),
    catch_up_limit=st.sampled_from([1, 5, 100, 300]),
    catch_up_order=st.sampled_from(CatchUpOrder),
    overlap=st.sampled_from(Overlap),
    name=st.just("each"),
    jitter_seconds=st.sampled_from([0.0, 0.0, 0.9]),
)
ages = st.one_of(st.integers(0, 400), st.integers(0, 90_000), st.integers(0, 4_000_000))


@given(rules, ages, st.integers(0, 999_999), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_every_slot_is_decided_exactly_once_and_the_rules_hold(
    rule: SlotRule, age: int, micros: int, unfinished: bool, job_paused: bool
) -> None:
    first = rule.timing.next(NOON - timedelta(seconds=age))
    assert first is not None
    now = max(NOON, first) + timedelta(microseconds=micros)

    firing = decide(rule, first, now, unfinished=unfinished, job_paused=job_paused)

    # The ledger is complete: the decisions are in order, touch, and together count all that is due.
    cursor: datetime | None = first
    for decision in firing.decisions:
        assert decision.slot == cursor
        last = decision.slot_last or decision.slot
        assert rule.timing.count(decision.slot, last) + 1 == decision.slot_count
        cursor = rule.timing.next(last)
    assert cursor == firing.next_slot
    assert cursor is None or cursor > now
    assert sum(decision.slot_count for decision in firing.decisions) == 1 + rule.timing.count(first, now)
    assert len(firing.decisions) <= max(LATE_SLOTS_MAX, rule.catch_up_limit) + 5 + 2

    for decision in firing.decisions:
        assert decision.text
        put_off = (decision.run_at - decision.slot).total_seconds() - rule.delay_seconds
        assert -1e-6 <= put_off <= rule.jitter_seconds
        window_passed = decision.start_by is not None and decision.start_by < now
        if decision.makes_run:
            assert not window_passed
            assert decision.slot_count == 1
            assert not job_paused
        if decision.slot_count == 1:
            assert (decision.reason is Reason.WINDOW_PASSED) == window_passed
        if decision.state is RunState.READY:
            assert decision.run_at <= now
        on_time = now - decision.slot <= timedelta(seconds=2)
        if on_time:
            assert decision.reason not in {Reason.CATCH_UP_LATEST, Reason.CATCH_UP_NONE, Reason.CATCH_UP_LIMIT}
    at_once = [decision for decision in firing.decisions if decision.makes_run and not decision.queued]
    queued = [decision for decision in firing.decisions if decision.queued]
    if rule.overlap is not Overlap.ALLOW:
        assert len(at_once) <= (0 if unfinished else 1)
    if rule.overlap is Overlap.ALLOW or (rule.overlap is Overlap.SKIP and rule.catch_up is not CatchUp.ALL):
        assert queued == []
    assert len(queued) <= rule.catch_up_limit + 4
    replacing = [decision for decision in firing.decisions if decision.replaces]
    assert len(replacing) <= int(unfinished and rule.overlap is Overlap.REPLACE)
    if rule.overlap is Overlap.REPLACE:
        assert sum(decision.makes_run for decision in firing.decisions) <= 1


def test_a_slot_on_time_becomes_a_ready_run() -> None:
    decision = only(decide(SlotRule(HOURLY), NOON, NOON + timedelta(seconds=1)))

    assert (decision.state, decision.reason) == (RunState.READY, Reason.DUE)
    assert decision.start_by == NOON + timedelta(hours=1)


def test_a_delay_keeps_the_run_waiting_and_moves_its_window() -> None:
    decision = only(decide(SlotRule(HOURLY, delay_seconds=30, start_within_seconds=60), NOON, NOON))

    assert (decision.state, decision.reason) == (RunState.WAITING, Reason.DELAY)
    assert decision.run_at == NOON + timedelta(seconds=30)
    assert decision.start_by == NOON + timedelta(seconds=90)
    assert "30s" in decision.text


def test_a_slot_whose_window_passed_is_missed_and_says_by_how_much() -> None:
    rule = SlotRule(Timing.cron("0 7 * * *", "Europe/Amsterdam"), start_within_seconds=300)

    decision = only(decide(rule, instant("2026-11-20T06:00"), instant("2026-11-20T08:15")))

    assert (decision.state, decision.reason) == (RunState.MISSED, Reason.WINDOW_PASSED)
    assert decision.text == "its start window of 5m after 2026-11-20T06:00:00Z passed 2h10m ago"


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [
        (Timing.cron("*/10 * * * *"), 600),
        (Timing.every(5, NOON), 60),
        (Timing.cron("0 0 1 * *"), 86400),
        (Timing.at(NOON), 86400),
    ],
)
def test_without_a_window_of_its_own_a_slot_has_one_period_between_a_minute_and_a_day(
    timing: Timing, seconds: float
) -> None:
    assert SlotRule(timing).window_seconds(NOON) == seconds
    assert SlotRule(timing, catch_up=CatchUp.ALL).window_seconds(NOON) is None
    assert SlotRule(timing, catch_up=CatchUp.ALL, start_within_seconds=7).window_seconds(NOON) == 7


def test_latest_runs_the_newest_late_slot_only() -> None:
    rule = SlotRule(HOURLY, start_within_seconds=86400)

    firing = decide(rule, NOON - timedelta(hours=3), NOON + timedelta(minutes=10))

    assert reasons(firing) == [Reason.CATCH_UP_LATEST] * 3 + [Reason.DUE]
    assert firing.decisions[-1].slot == NOON
    assert "10m late" in firing.decisions[-1].text


def test_latest_prefers_a_slot_on_time_to_any_late_one() -> None:
    rule = SlotRule(HOURLY, start_within_seconds=86400)

    firing = decide(rule, NOON - timedelta(hours=1), NOON + timedelta(seconds=1))

    assert reasons(firing) == [Reason.CATCH_UP_LATEST, Reason.DUE]


def test_none_runs_what_is_late_by_a_minute_and_misses_what_is_later() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.NONE)

    assert only(decide(rule, NOON, NOON + timedelta(seconds=60))).reason is Reason.DUE
    assert only(decide(rule, NOON, NOON + timedelta(seconds=61))).reason is Reason.CATCH_UP_NONE


def test_all_runs_late_slots_one_at_a_time_oldest_first() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.ALL)

    firing = decide(rule, NOON - timedelta(hours=2), NOON + timedelta(minutes=1))

    assert [(decision.reason, decision.queued) for decision in firing.decisions] == [
        (Reason.DUE, False),
        (Reason.QUEUED, True),
        (Reason.QUEUED, True),
    ]


def test_all_queues_a_slot_on_time_behind_those_that_are_caught_up() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.ALL)

    together = decide(rule, NOON - timedelta(hours=1), NOON + timedelta(seconds=1))
    later = decide(rule, NOON, NOON, unfinished=True, queued=1)
    without = decide(rule, NOON, NOON, unfinished=True)

    assert reasons(together) == [Reason.DUE, Reason.OVERLAP]  # the one before it is not queued, it runs
    assert reasons(later) == [Reason.QUEUED]
    assert reasons(without) == [Reason.OVERLAP]


def test_all_runs_late_slots_together_where_overlap_is_allowed() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)

    firing = decide(rule, NOON - timedelta(hours=2), NOON + timedelta(minutes=1), unfinished=True)

    assert reasons(firing) == [Reason.DUE] * 3


def test_all_keeps_the_newest_within_its_limit() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.ALL, catch_up_limit=2)

    firing = decide(rule, NOON - timedelta(hours=3), NOON + timedelta(minutes=1))

    assert reasons(firing) == [Reason.CATCH_UP_LIMIT, Reason.CATCH_UP_LIMIT, Reason.DUE, Reason.QUEUED]


def test_an_unfinished_run_makes_the_next_slot_skipped_unless_overlap_is_allowed() -> None:
    skipped = only(decide(SlotRule(HOURLY), NOON, NOON, unfinished=True))
    allowed = only(decide(SlotRule(HOURLY, overlap=Overlap.ALLOW), NOON, NOON, unfinished=True))

    assert (skipped.state, skipped.reason) == (RunState.SKIPPED, Reason.OVERLAP)
    assert allowed.reason is Reason.DUE


def test_a_paused_job_skips_the_slots_that_would_run_and_no_others() -> None:
    rule = SlotRule(HOURLY, start_within_seconds=86400)

    firing = decide(rule, NOON - timedelta(hours=1), NOON + timedelta(minutes=1), job_paused=True, unfinished=True)

    assert reasons(firing) == [Reason.CATCH_UP_LATEST, Reason.JOB_PAUSED]


@pytest.mark.parametrize(("catch_up", "rows"), [(CatchUp.LATEST, 1), (CatchUp.NONE, 1), (CatchUp.ALL, 100)])
def test_a_month_of_a_minutely_schedule_leaves_one_row_for_what_does_not_run(catch_up: CatchUp, rows: int) -> None:
    first = instant("2026-10-20T12:00")  # the clock changes on the way

    firing = decide(SlotRule(MINUTELY, catch_up=catch_up), first, NOON + timedelta(seconds=3))

    summary, *runs = firing.decisions
    assert summary.state is RunState.MISSED
    assert summary.slot_count == 31 * 24 * 60 + 1 - rows
    assert (summary.slot, summary.slot_last) == (first, NOON - timedelta(minutes=rows))
    assert str(summary.slot_count) in summary.text
    assert Counter(decision.makes_run for decision in runs) == {True: rows}
    assert firing.next_slot == NOON + timedelta(minutes=1)


def test_an_outage_of_a_year_is_counted_without_visiting_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = 0
    find_next = LocalGrid.next

    def count_visits(grid: LocalGrid, after: datetime) -> datetime | None:
        nonlocal visited
        visited += 1
        return find_next(grid, after)

    monkeypatch.setattr(LocalGrid, "next", count_visits)
    timing = Timing.cron("* * * * * *", "Europe/Amsterdam")

    firing = decide(SlotRule(timing), NOON - timedelta(days=365), NOON)

    assert sum(decision.slot_count for decision in firing.decisions) == 365 * 86400 + 1
    assert 0 < visited < 1000


def test_a_slot_that_the_timing_no_longer_names_is_decided_all_the_same() -> None:
    odd = NOON - timedelta(minutes=7)  # edited in SQL, for one

    firing = decide(SlotRule(HOURLY, start_within_seconds=3600), odd, NOON)

    assert [decision.slot for decision in firing.decisions] == [odd, NOON]


def test_queue_lets_each_slot_wait_for_the_one_before_it_up_to_the_limit() -> None:
    rule = SlotRule(HOURLY, overlap=Overlap.QUEUE, catch_up_limit=2)

    one = only(decide(rule, NOON, NOON, unfinished=True))
    full = only(decide(rule, NOON, NOON, unfinished=True, queued=2))

    assert (one.state, one.reason, one.queued, one.start_by) == (RunState.WAITING, Reason.QUEUED, True, None)
    assert (full.state, full.reason) == (RunState.SKIPPED, Reason.OVERLAP)
    assert "catch-up limit" in full.text


def test_replace_waits_for_the_end_of_what_it_replaces_and_only_the_newest_slot_does() -> None:
    rule = SlotRule(HOURLY, overlap=Overlap.REPLACE)

    first = only(decide(rule, NOON, NOON))
    second = only(decide(rule, NOON, NOON, unfinished=True))

    assert (first.state, first.replaces) == (RunState.READY, False)
    assert (second.state, second.reason, second.queued, second.replaces) == (
        RunState.WAITING,
        Reason.QUEUED,
        True,
        True,
    )
    # Two slots in one second: the older one is not even begun.
    twice = decide(SlotRule(Timing.every(1, NOON), overlap=Overlap.REPLACE), NOON, NOON + timedelta(seconds=1))
    assert reasons(twice) == [Reason.REPLACED, Reason.DUE]


def test_newest_first_runs_the_newest_late_slot_and_queues_the_older_ones() -> None:
    rule = SlotRule(HOURLY, catch_up=CatchUp.ALL, catch_up_order=CatchUpOrder.NEWEST)

    firing = decide(rule, NOON - timedelta(hours=2), NOON + timedelta(minutes=1))

    assert reasons(firing) == [Reason.QUEUED, Reason.QUEUED, Reason.DUE]


def test_skips_are_counted_until_a_slot_runs() -> None:
    rule = SlotRule(HOURLY)

    skipped = decide(rule, NOON, NOON, unfinished=True, skips_in_row=4)
    ran = decide(rule, NOON, NOON, skips_in_row=5)
    missed = decide(rule, NOON, NOON + timedelta(days=2), unfinished=True, skips_in_row=5)

    assert (skipped.skips_in_row, ran.skips_in_row) == (5, 0)
    assert missed.skips_in_row == 6  # the newest one; those it stands before were late


def test_jitter_is_the_same_for_a_slot_at_all_times_and_differs_between_slots_and_schedules() -> None:
    slots = [NOON + timedelta(hours=hour) for hour in range(50)]
    found = [jitter_of("each", slot, 60) for slot in slots]

    assert found == [jitter_of("each", slot, 60) for slot in slots]
    assert all(0 <= seconds <= 60 for seconds in found)
    assert max(found) - min(found) > 30
    assert found != [jitter_of("other", slot, 60) for slot in slots]
    rule = SlotRule(HOURLY, name="each", delay_seconds=5, jitter_seconds=60)
    decision = only(decide(rule, NOON, NOON))
    assert decision.slot == NOON
    assert decision.run_at == NOON + timedelta(seconds=5 + jitter_of("each", NOON, 60))
    assert "jitter" in decision.text


@pytest.mark.parametrize("latest", [False, True])
def test_what_went_by_during_a_pause_is_told_and_with_latest_the_newest_that_may_start_runs(latest: bool) -> None:
    first, now = NOON - timedelta(hours=5), NOON + timedelta(minutes=10)

    firing = decide_resumed(SlotRule(HOURLY), first, now, "it was paused", unfinished=Unfinished(), latest=latest)

    summary, *rest = firing.decisions
    assert (summary.state, summary.reason) == (RunState.SKIPPED, Reason.SCHEDULE_PAUSED)
    assert (summary.slot, summary.slot_count) == (first, 5 if latest else 6)
    assert [decision.reason for decision in rest] == ([Reason.DUE] if latest else [])
    assert firing.next_slot == NOON + timedelta(hours=1)


def test_with_latest_nothing_runs_whose_window_has_passed() -> None:
    rule = SlotRule(HOURLY, start_within_seconds=300)

    firing = decide_resumed(
        rule, NOON - timedelta(hours=5), NOON + timedelta(minutes=10), "paused", unfinished=Unfinished(), latest=True
    )

    assert reasons(firing) == [Reason.SCHEDULE_PAUSED]
