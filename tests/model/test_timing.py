"""When a schedule is due: cron, every, at."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.timing import Timing
from tests.model.slow_cron import instant

ANCHOR = instant("2026-03-28T12:00:00.250000")
OFFSETS = st.timedeltas(timedelta(days=-3), timedelta(days=400))


def test_every_keeps_its_grid_through_a_change_of_the_clock() -> None:
    timing = Timing.every("1d", ANCHOR, "Europe/Amsterdam")

    assert list(islice(timing.preview(ANCHOR), 2)) == [ANCHOR + timedelta(days=1), ANCHOR + timedelta(days=2)]


@given(st.integers(1_000_000, 10**12), OFFSETS)
def test_every_is_later_on_its_grid_and_not_further_than_one_interval(micros: int, offset: timedelta) -> None:
    timing = Timing.every(timedelta(microseconds=micros), ANCHOR)
    after = ANCHOR + offset

    slot = timing.next(after)

    assert slot is not None
    assert after < slot
    assert slot - max(after, ANCHOR) <= timedelta(microseconds=micros)
    assert (slot - ANCHOR) % timedelta(microseconds=micros) == timedelta(0)
    assert slot > ANCHOR


@given(st.integers(3600, 10**6), OFFSETS, st.integers(0, 10**7), st.integers(1, 30))
def test_counting_and_the_last_slots_of_every_agree_with_visiting_each(
    seconds: int, offset: timedelta, length: int, limit: int
) -> None:
    timing = Timing.every(seconds, ANCHOR)
    after, until = ANCHOR + offset, ANCHOR + offset + timedelta(seconds=length)
    visited = timing.slots(after, until, 100_000)

    assert timing.count(after, until) == len(visited)
    assert timing.last(after, until, limit) == visited[-limit:]


def test_at_is_due_once() -> None:
    timing = Timing.at("2026-11-20T07:00", "Europe/Amsterdam")
    slot = instant("2026-11-20T06:00")

    assert timing.next(slot - timedelta(microseconds=1)) == slot
    assert timing.next(slot) is None
    assert timing.count(slot - timedelta(days=1), slot) == 1
    assert timing.count(slot, slot + timedelta(days=1)) == 0
    assert timing.last(slot - timedelta(days=1), slot, 5) == [slot]
    assert timing.period_seconds(slot) is None


def test_a_period_is_the_distance_to_the_next_slot() -> None:
    assert Timing.cron("0 9 * * mon-fri").period_seconds(instant("2026-11-20T09:00")) == 3 * 86400
    assert Timing.every("90s", ANCHOR).period_seconds(ANCHOR + timedelta(seconds=90)) == 90


@pytest.mark.parametrize(
    "timing",
    [
        Timing.cron("0 7 * * *", "Europe/Amsterdam"),
        Timing.cron("@daily"),
        Timing.every(1.5, ANCHOR),
        Timing.every("30d", ANCHOR, "Asia/Tokyo"),
        Timing.at(ANCHOR),
    ],
)
def test_what_the_store_keeps_is_read_back(timing: Timing) -> None:
    again = Timing.from_stored(str(timing.kind), timing.expression, timing.zone, timing.anchor)

    assert again == timing
    assert again.next(ANCHOR - timedelta(days=1)) == timing.next(ANCHOR - timedelta(days=1))
    assert timing.describe()


@pytest.mark.parametrize(
    ("kind", "expression", "zone", "anchor", "field"),
    [
        ("cron", "60 * * * *", "UTC", None, "cron"),
        ("cron", "* * * * *", "JST-9", None, "tz"),
        ("every", "soon", "UTC", ANCHOR, "every"),
        ("every", "0", "UTC", ANCHOR, "every"),
        ("every", "0.5", "UTC", ANCHOR, "every"),
        ("every", "5", "UTC", None, "anchor_at"),
        ("at", "tomorrow", "UTC", None, "at"),
        ("weekly", "", "UTC", None, "kind"),
        (None, "", "UTC", None, "kind"),
    ],
)
def test_a_row_broken_by_hand_is_refused(
    kind: Any, expression: str, zone: str, anchor: datetime | None, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        Timing.from_stored(kind, expression, zone, anchor)

    assert refused.value.field == field
