"""What becomes of the slots that are due."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.errors import Invalid, NotSupported
from rota.model.cron import Cron
from rota.model.policy import (
    LATE_SLOTS_MAX,
    CatchUp,
    Firing,
    Overlap,
    SlotDecision,
    SlotRule,
    check_catch_up,
    check_overlap,
    decide_slots,
)
from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.model.timing import Timing
from tests.model.slow_cron import instant

NOON = instant("2026-11-20T12:00:00")
HOURLY = Timing.cron("0 * * * *")
MINUTELY = Timing.cron("* * * * *", "Europe/Amsterdam")


def decide(
    rule: SlotRule, first: datetime, now: datetime, *, unfinished: bool = False, job_paused: bool = False
) -> Firing:
    return decide_slots(rule, first, now, unfinished=unfinished, job_paused=job_paused)


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
    overlap=st.sampled_from(Overlap),
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
        assert decision.run_at == decision.slot + timedelta(seconds=rule.delay_seconds)
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
    if rule.overlap is Overlap.SKIP:
        assert len(at_once) <= (0 if unfinished else 1)
    else:
        assert not any(decision.queued for decision in firing.decisions)
    if rule.catch_up is not CatchUp.ALL:
        assert not any(decision.queued for decision in firing.decisions)


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
    assert decision.text == "its start window of 5m after 2026-11-20 06:00:00Z passed 2h10m ago"


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
    later = decide_slots(rule, NOON, NOON, unfinished=True, job_paused=False, backlog=True)
    without = decide_slots(rule, NOON, NOON, unfinished=True, job_paused=False)

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
    find_next = Cron.next

    def count_visits(cron: Cron, after: datetime) -> datetime | None:
        nonlocal visited
        visited += 1
        return find_next(cron, after)

    monkeypatch.setattr(Cron, "next", count_visits)
    timing = Timing.cron("* * * * * *", "Europe/Amsterdam")

    firing = decide(SlotRule(timing), NOON - timedelta(days=365), NOON)

    assert sum(decision.slot_count for decision in firing.decisions) == 365 * 86400 + 1
    assert 0 < visited < 1000


def test_a_slot_that_the_timing_no_longer_names_is_decided_all_the_same() -> None:
    odd = NOON - timedelta(minutes=7)  # edited in SQL, for one

    firing = decide(SlotRule(HOURLY, start_within_seconds=3600), odd, NOON)

    assert [decision.slot for decision in firing.decisions] == [odd, NOON]


def test_policies_that_are_to_come_are_told_from_words_that_mean_nothing() -> None:
    assert check_overlap("allow") is Overlap.ALLOW
    assert check_catch_up("none") is CatchUp.NONE
    for overlap in ("queue", "replace"):
        with pytest.raises(NotSupported, match="not supported yet"):
            check_overlap(overlap)
    for wrong in ("", "SKIP", None, 3, ["skip"]):
        with pytest.raises(Invalid, match="skip, allow"):
            check_overlap(wrong)
        with pytest.raises(Invalid, match="latest, all, none"):
            check_catch_up(wrong)
