"""What a backfill makes of a slot, of a range and of a row that stands for many: by values alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.backfill import (
    Decided,
    Fate,
    SlotRange,
    Span,
    Wish,
    decide_slot,
    has_passed,
    take_slots,
)
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUpOrder
from rota.model.states import RunState
from rota.model.timing import Timing

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
HOURLY = Timing.every(3600, NOON - timedelta(days=30))
ENDED = Decided(
    state=RunState.FAILED,
    reason=Reason.EXIT_CODE.value,
    is_done=False,
    is_ours=False,
    is_of_node=False,
    is_awaiting=False,
    was_tried=True,
    finished_at=NOON - timedelta(days=1),
)
DONE = replace(ENDED, state=RunState.SUCCEEDED, is_done=True)
DEFAULT, AGAIN, FAILED = Wish(), Wish(again=True), Wish(failed_only=True)


def hour(number: float) -> datetime:
    return NOON + timedelta(hours=number)


@pytest.mark.parametrize(
    ("rows", "wish", "built_on", "expected"),
    [
        ([], DEFAULT, False, Fate.NEW),
        ([], FAILED, False, Fate.PASSED),
        ([ENDED], DEFAULT, False, Fate.AGAIN),
        ([ENDED], FAILED, False, Fate.AGAIN),
        ([replace(ENDED, state=RunState.CANCELLED)], DEFAULT, False, Fate.AGAIN),
        ([replace(ENDED, state=RunState.CANCELLED)], FAILED, False, Fate.PASSED),
        ([replace(ENDED, state=RunState.SKIPPED)], FAILED, False, Fate.PASSED),
        ([replace(ENDED, state=RunState.SKIPPED, reason="upstream_failed")], FAILED, False, Fate.AGAIN),
        ([DONE], DEFAULT, False, Fate.PASSED),
        ([DONE], AGAIN, False, Fate.AGAIN),
        ([DONE], FAILED, True, Fate.AGAIN),
        ([replace(DONE, finished_at=NOON)], AGAIN, False, Fate.PASSED),
        ([replace(DONE, finished_at=NOON)], AGAIN, True, Fate.AGAIN),
        ([replace(DONE, is_ours=True)], AGAIN, True, Fate.PASSED),
        ([replace(DONE, is_of_node=True)], AGAIN, False, Fate.PASSED),
        ([replace(ENDED, state=RunState.RUNNING)], AGAIN, False, Fate.PASSED),
        ([replace(ENDED, state=RunState.RUNNING)], AGAIN, True, Fate.HELD),
        ([replace(ENDED, state=RunState.READY)], AGAIN, True, Fate.AGAIN),
        ([replace(ENDED, state=RunState.WAITING, is_awaiting=True)], AGAIN, True, Fate.PASSED),
    ],
)
def test_what_the_ledger_has_says_what_becomes_of_a_slot(
    rows: list[Decided], wish: Wish, built_on: bool, expected: Fate
) -> None:
    assert decide_slot(rows, wish, NOON, closed=False, built_on=built_on) is expected


def test_what_a_calendar_closes_is_not_run_and_neither_is_what_is_not_built_on_it() -> None:
    assert decide_slot([], DEFAULT, NOON, closed=True, built_on=False) is Fate.CLOSED
    assert decide_slot([ENDED], DEFAULT, NOON, closed=True, built_on=False) is Fate.PASSED
    assert decide_slot([ENDED], FAILED, NOON, closed=False, built_on=True, in_scope=False) is Fate.PASSED


def test_a_range_has_its_first_moment_and_not_its_last() -> None:
    slots = SlotRange(HOURLY, hour(-5), hour(0))

    assert slots.count() == 5
    assert slots.oldest(2) == [hour(-5), hour(-4)]
    assert slots.newest(9) == [hour(-1), hour(-2), hour(-3), hour(-4), hour(-5)]
    assert slots.beyond(hour(-4), CatchUpOrder.OLDEST).oldest(9) == [hour(-3), hour(-2), hour(-1)]
    assert slots.beyond(hour(-4), CatchUpOrder.NEWEST).newest(9) == [hour(-5)]
    assert slots.from_place(hour(-2), CatchUpOrder.OLDEST).oldest(9) == [hour(-2), hour(-1)]
    assert slots.from_place(hour(-4), CatchUpOrder.NEWEST).newest(9) == [hour(-4), hour(-5)]


def test_the_first_run_of_a_schedule_is_its_first_slot_wherever_the_others_lie() -> None:
    slots = SlotRange(HOURLY, hour(-5), hour(0), first=hour(-2.5))

    assert slots.count() == 3
    assert slots.oldest(9) == [hour(-2.5), hour(-2), hour(-1)]
    assert slots.newest(9) == [hour(-1), hour(-2), hour(-2.5)]
    assert slots.newest(2) == [hour(-1), hour(-2)]
    assert SlotRange(HOURLY, hour(-5), hour(-3), first=hour(-2.5)).count() == 0


@given(low=st.integers(-50, 0), high=st.integers(-50, 0), limit=st.integers(1, 60), first=st.integers(-200, 4))
def test_counting_and_listing_agree_from_both_ends(low: int, high: int, limit: int, first: int) -> None:
    slots = SlotRange(HOURLY, hour(low / 2), hour(high / 2), first=hour(first / 4) if first < 0 else None)
    oldest = slots.oldest(1000)

    assert len(oldest) == slots.count()
    assert slots.newest(1000) == oldest[::-1]
    assert slots.oldest(limit) == oldest[:limit]
    assert slots.newest(limit) == oldest[::-1][:limit]


def test_what_is_built_on_a_slot_is_reached_when_the_latest_one_before_it_was_taken() -> None:
    oldest, newest = CatchUpOrder.OLDEST, CatchUpOrder.NEWEST

    assert [has_passed(HOURLY, hour(-3), hour(n), oldest) for n in (-4, -3.5, -3, -2)] == [True, True, False, False]
    assert [has_passed(HOURLY, hour(-3), hour(n), newest) for n in (-3, -2.5, -2, -1)] == [False, False, True, True]
    assert has_passed(HOURLY, None, hour(5), oldest)


@given(count=st.integers(2, 20), data=st.data())
def test_slots_taken_out_of_a_row_for_many_leave_all_others_in_it(count: int, data: st.DataObject) -> None:
    slots = [hour(-number) for number in range(count, 0, -1)]
    taken = data.draw(st.lists(st.sampled_from(slots), unique=True, min_size=1))

    left = take_slots(HOURLY, Span(slots[0], slots[-1], count), taken)

    found = [SlotRange(HOURLY, span.first, span.last + timedelta(seconds=1)).oldest(99) for span in left]
    assert [slot for of_span in found for slot in of_span] == [slot for slot in slots if slot not in taken]
    assert [span.count for span in left] == [len(of_span) for of_span in found]


@given(count=st.integers(2, 20), minutes=st.lists(st.integers(0, 600), unique=True, min_size=1, max_size=9))
def test_of_a_row_by_another_timing_no_slot_is_lost_and_what_is_left_does_not_overlap(
    count: int, minutes: list[int]
) -> None:
    span = Span(hour(-10), hour(0), count)
    taken = [hour(-10) + timedelta(minutes=minute) for minute in minutes]

    left = take_slots(HOURLY, span, taken)

    assert sum(one.count for one in left) >= count - len(taken)
    moments = [moment for one in left for moment in (one.first, one.last)]
    assert moments == sorted(moments)
    assert len({one.first for one in left}) == len(left)
    assert not {one.first for one in left if one.count == 1} & set(taken)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_active": 0}, "max_active"),
        ({"max_active": "many"}, "max_active"),
        ({"max_active": True}, "max_active"),
        ({"order": "random"}, "order"),
        ({"again": True, "failed_only": True}, "failed_only"),
    ],
)
def test_what_cannot_be_wished_for_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Wish.checked(**options)  # pyright: ignore[reportArgumentType]

    assert refused.value.field == field


def test_what_is_built_on_a_slot_is_done_again_whatever_became_of_it() -> None:
    assert Wish.checked(downstream=True) == Wish(downstream=True, again=True)
    assert Wish.checked(downstream=True, failed_only=True, max_active="3") == Wish(
        downstream=True, failed_only=True, max_active=3
    )
