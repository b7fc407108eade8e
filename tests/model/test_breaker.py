"""When the circuit breaker of a job opens and closes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.model.breaker import Breaker, BreakerMove, count_end
from rota.model.states import AttemptState

FAILED, SUCCEEDED = AttemptState.FAILED, AttemptState.SUCCEEDED


def test_it_opens_after_so_many_attempts_in_a_row_that_ended_badly():
    breaker = Breaker(3)
    moves = []

    for _ in range(3):
        breaker, moved = count_end(breaker, 1, FAILED)
        moves.append(moved)

    assert moves == [None, None, BreakerMove.OPENED]
    assert (breaker.is_open, breaker.failures_in_row, breaker.run_id) == (True, 3, None)


@pytest.mark.parametrize("well", [SUCCEEDED, AttemptState.SKIPPED])
def test_an_attempt_that_ends_well_begins_the_count_anew(well):
    breaker, moved = count_end(Breaker(3, failures_in_row=2), 1, well)

    assert (breaker, moved) == (Breaker(3), None)


@pytest.mark.parametrize("ended", [AttemptState.CANCELLED, AttemptState.RELEASED, AttemptState.LOST])
def test_what_was_stopped_given_back_or_lost_says_nothing(ended):
    before = Breaker(3, failures_in_row=2)

    assert count_end(before, 1, ended) == (before, None)


def test_the_run_that_is_let_through_decides():
    half_open = Breaker(3, failures_in_row=3, is_open=True, run_id=7)

    again, opened = count_end(half_open, 7, FAILED)
    closed, done = count_end(half_open, 7, SUCCEEDED)

    assert (opened, again.is_open, again.run_id) == (BreakerMove.OPENED_AGAIN, True, None)
    assert (done, closed) == (BreakerMove.CLOSED, Breaker(3))


def test_others_that_were_under_way_do_not_prolong_the_pause_but_close_it_when_they_end_well():
    half_open = Breaker(3, failures_in_row=3, is_open=True, run_id=7)

    assert count_end(half_open, 8, FAILED) == (replace(half_open, failures_in_row=4), None)
    assert count_end(half_open, 8, SUCCEEDED) == (Breaker(3), BreakerMove.CLOSED)


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(1, 3), st.sampled_from(AttemptState)), max_size=30))
def test_it_is_never_open_without_enough_failures_since_the_last_good_end(failures, ends):
    breaker = Breaker(failures)

    for run_id, state in ends:
        breaker, moved = count_end(breaker, run_id, state)
        assert breaker.is_open == (breaker.failures_in_row >= failures)
        assert (moved is BreakerMove.CLOSED) <= (not breaker.is_open)
