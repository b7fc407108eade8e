"""What one row stands for is spread over its time, whole and evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.model.spread import STRETCHES_MAX, spread_evenly


@pytest.mark.parametrize(
    ("first", "last", "count", "found"),
    [
        (10, 10, 5, {10: 5}),
        (10, 12, 3, {10: 1, 11: 1, 12: 1}),
        (10, 12, 180, {10: 60, 11: 60, 12: 60}),
        (0, 9, 2, {0: 1, 5: 1}),
        (10, 12, -3, {10: -1, 11: -1, 12: -1}),
        (10, 9, 4, {10: 4}),
        (10, 12, 0, {}),
    ],
    ids=["one stretch", "one each", "many each", "fewer than stretches", "taken back", "backwards", "none"],
)
def test_it_is_spread_evenly(first: int, last: int, count: int, found: dict[int, int]) -> None:
    assert spread_evenly(first, last, count) == found


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(1, 10**9))
def test_nothing_is_lost_or_made_and_what_is_taken_back_is_what_was_given(first: int, span: int, count: int) -> None:
    found = spread_evenly(first, first + span, count)

    assert sum(found.values()) == count
    assert len(found) <= STRETCHES_MAX
    assert all(first <= one <= first + span for one in found)
    assert max(found.values()) - min(found.values()) <= 1
    assert spread_evenly(first, first + span, -count) == {one: -number for one, number in found.items()}
