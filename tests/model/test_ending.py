"""What follows from the end of an attempt, or of its lease."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.model.ending import (
    Backoff,
    RetryRule,
    RunFacts,
    chance_of,
    decide_end,
    decide_rescue,
    lost_delay_seconds,
    say_silent,
)
from rota.model.reasons import Reason
from rota.model.run import End
from rota.model.states import AttemptState, Delivery, RunState, check_move

FACTS = RunFacts(
    state=RunState.RUNNING,
    attempt=1,
    node="a",
    delivery=Delivery.AT_LEAST_ONCE,
    marked=True,
    retries_used=0,
    losses=0,
    cancel_asked=False,
    cancel_asked_by=None,
)
BAD_ENDS = {
    "exited": Reason.EXIT_CODE,
    "signalled": Reason.SIGNAL,
    "not_started": Reason.START_ERROR,
    "timeout": Reason.TIMEOUT,
    "exception": Reason.EXCEPTION,
    "bad_result": Reason.BAD_RESULT,
    "no_result": Reason.NO_RESULT,
}
KINDS = [*BAD_ENDS, "deadline", "cancelled", "released", "lease_over", "no_op", "succeeded"]


def end_of(kind: str, exit_code: int | None = 3) -> End:
    return End(claim_id="c", run_id=1, kind=kind, exit_code=exit_code if kind == "exited" else None, signal=9)


@pytest.mark.parametrize(
    ("kind", "delivery", "target", "losses"),
    [
        ("lease_over", Delivery.AT_LEAST_ONCE, RunState.READY, 1),
        ("lease_over", Delivery.AT_MOST_ONCE, RunState.LOST, 1),
        ("released", Delivery.AT_LEAST_ONCE, RunState.READY, 0),
        ("released", Delivery.AT_MOST_ONCE, RunState.LOST, 1),
    ],
)
def test_a_run_that_was_cut_off_in_its_executor_ends_by_its_delivery(
    kind: str, delivery: Delivery, target: RunState, losses: int
) -> None:
    end = replace(end_of(kind), error_type="ExecutorLost", error_message="its process ended")

    ending = decide_end(end, replace(FACTS, delivery=delivery), RetryRule())

    assert (ending.target, ending.losses_added) == (target, losses)
    assert "its process ended" in ending.text


facts = st.builds(
    RunFacts,
    state=st.sampled_from([RunState.RUNNING, RunState.LOST]),
    attempt=st.integers(1, 9),
    node=st.just("a"),
    delivery=st.sampled_from(Delivery),
    marked=st.booleans(),
    retries_used=st.integers(0, 5),
    losses=st.integers(0, 8),
    cancel_asked=st.booleans(),
    cancel_asked_by=st.none(),
    deadline_left_seconds=st.sampled_from([None, -1.0, 0.0, 5.0, 1e6]),
)
rules = st.builds(
    RetryRule,
    retries=st.integers(-1, 4),
    lost_max=st.integers(0, 6),
    backoff=st.sampled_from(Backoff),
    retry_on=st.sampled_from([(), ("exit:3",), ("timeout", "signal:SIGKILL")]),
    no_retry_on=st.sampled_from([(), ("exception",)]),
    no_op_exit_code=st.sampled_from([None, 3]),
    cancel_exit_code=st.sampled_from([None, 3, 4]),
    deadline_seconds=st.just(60.0),
)


@given(st.sampled_from(KINDS), st.sampled_from([0, 3]), facts, rules)
def test_every_decision_is_a_move_the_table_of_states_knows(
    kind: str, exit_code: int, given_facts: RunFacts, rule: RetryRule
) -> None:
    ending = decide_end(end_of(kind, exit_code), given_facts, rule)

    check_move(given_facts.state, ending.target, ending.because)
    assert ending.text
    assert (ending.wait_seconds is not None) == (ending.target is RunState.WAITING)
    assert ending.retries_added + ending.losses_added <= 1
    left = given_facts.deadline_left_seconds
    assert ending.wait_seconds is None or left is None or ending.wait_seconds < left


@pytest.mark.parametrize(("kind", "reason"), BAD_ENDS.items())
def test_an_attempt_that_ended_badly_is_retried_while_retries_are_left_and_then_failed(
    kind: str, reason: Reason
) -> None:
    rule = RetryRule(retries=1)

    first = decide_end(end_of(kind), FACTS, rule)
    second = decide_end(end_of(kind), replace(FACTS, attempt=2, retries_used=1), rule)

    assert (first.target, first.reason, first.retries_added) == (RunState.WAITING, Reason.RETRY, 1)
    assert (second.target, second.reason, second.retries_added) == (RunState.FAILED, reason, 0)


@pytest.mark.parametrize(
    ("kind", "error_type", "reason", "sentence"),
    [
        ("signalled", "CpuLimit", Reason.CPU_LIMIT, "attempt 1 on a used up its CPU time: the figures"),
        ("exception", "CpuLimit", Reason.CPU_LIMIT, "attempt 1 on a used up its CPU time: the figures"),
        ("signalled", "OutOfMemory", Reason.OUT_OF_MEMORY, "attempt 1 on a ran out of memory: the figures"),
        ("exception", "MemoryError", Reason.OUT_OF_MEMORY, "attempt 1 on a ran out of memory: the figures"),
        ("exception", "app.OutOfMemory", Reason.EXCEPTION, "attempt 1 on a raised app.OutOfMemory: the figures"),
        ("exited", None, Reason.EXIT_CODE, "attempt 1 on a exited with 3: the figures"),
        ("signalled", None, Reason.SIGNAL, "attempt 1 on a was ended by signal SIGKILL: the figures"),
    ],
)
def test_what_a_limit_has_ended_is_told_apart(kind: str, error_type: str | None, reason: Reason, sentence: str) -> None:
    end = replace(end_of(kind), error_type=error_type, error_message="the figures")

    ending = decide_end(end, FACTS, RetryRule())
    cancelled = decide_end(end, replace(FACTS, cancel_asked=True), RetryRule())

    assert (ending.target, ending.reason, ending.text) == (RunState.FAILED, reason, sentence)
    assert (cancelled.target is RunState.CANCELLED) == (kind == "signalled")


@pytest.mark.parametrize("end", [end_of("exited", 0), end_of("succeeded")])
def test_an_attempt_that_ended_well_succeeds(end: End) -> None:
    ending = decide_end(end, FACTS, RetryRule(retries=5))

    assert (ending.target, ending.reason) == (RunState.SUCCEEDED, Reason.ENDED_WELL)


def test_retries_for_ever_never_run_out() -> None:
    ending = decide_end(end_of("exited"), replace(FACTS, retries_used=10**6), RetryRule(retries=-1))

    assert ending.target is RunState.WAITING


def test_a_run_that_was_cancelled_is_never_retried() -> None:
    asked = replace(FACTS, cancel_asked=True, cancel_asked_by="bob")

    stopped = decide_end(end_of("cancelled"), asked, RetryRule(retries=-1))
    failed_first = decide_end(end_of("exited"), asked, RetryRule(retries=-1))

    assert (stopped.target, stopped.attempt_state) == (RunState.CANCELLED, AttemptState.CANCELLED)
    assert "bob" in stopped.text
    assert failed_first.target is RunState.FAILED


def test_a_run_given_back_is_ready_and_spends_no_budget() -> None:
    ending = decide_end(end_of("released"), FACTS, RetryRule())

    assert (ending.target, ending.retries_added, ending.losses_added) == (RunState.READY, 0, 0)


@pytest.mark.parametrize("delivery", list(Delivery))
def test_what_the_database_has_undone_is_lost_and_spends_no_retry(delivery: Delivery) -> None:
    undone = End("c", 1, "undone", exit_code=1, error_message="deadlock detected")

    ending = decide_end(undone, replace(FACTS, delivery=delivery), RetryRule())

    assert (ending.target, ending.retries_added, ending.losses_added) == (RunState.READY, 0, 1)
    assert "deadlock detected" in ending.text


def test_a_job_that_gives_every_attempt_back_waits_longer_and_longer_and_one_whose_worker_does_so_never() -> None:
    asked = End("c", 1, "released", exit_code=1, error_type="Release")
    stopped = End("c", 1, "released", signal=15)

    endings = [decide_end(asked, replace(FACTS, attempt=attempt), RetryRule()) for attempt in range(1, 13)]

    assert [ending.wait_seconds for ending in endings] == [None, None, None, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert {ending.target for ending in endings[3:]} == {RunState.WAITING}
    assert decide_end(asked, replace(FACTS, attempt=9, retries_used=5, losses=1), RetryRule()).wait_seconds is None
    assert decide_end(stopped, replace(FACTS, attempt=99), RetryRule()).target is RunState.READY


@pytest.mark.parametrize(
    ("end", "target"),
    [
        (End("c", 1, "released", signal=15), RunState.LOST),
        (End("c", 1, "released", exit_code=1), RunState.LOST),
        (End("c", 1, "cancelled", signal=15), RunState.LOST),
        (End("c", 1, "released", exit_code=1, error_type="Release"), RunState.READY),
        (End("c", 1, "released", error_message="the worker is leaving"), RunState.READY),
    ],
)
def test_what_may_start_once_is_not_given_back_when_it_has_begun_unless_it_says_so(end: End, target: RunState) -> None:
    once = replace(FACTS, delivery=Delivery.AT_MOST_ONCE)

    assert decide_end(end, once, RetryRule()).target is target
    assert decide_end(end, replace(once, marked=False), RetryRule()).target is RunState.READY
    assert decide_end(end, FACTS, RetryRule()).target is RunState.READY


def test_the_first_lost_attempt_is_started_again_at_once_and_later_ones_wait_longer_and_longer() -> None:
    endings = [decide_rescue(replace(FACTS, losses=losses), RetryRule(), say_silent(FACTS, 1.0)) for losses in range(6)]

    assert [ending.target for ending in endings] == [RunState.READY, *[RunState.WAITING] * 4, RunState.FAILED]
    assert [ending.wait_seconds for ending in endings[1:5]] == [5, 10, 20, 40]
    assert all(ending.losses_added == 1 and ending.retries_added == 0 for ending in endings)
    assert endings[-1].reason is Reason.LOST_MAX
    assert lost_delay_seconds(10**6) == 3600


def test_at_most_once_is_not_started_again_after_its_start_mark_and_is_before() -> None:
    once = replace(FACTS, delivery=Delivery.AT_MOST_ONCE)

    assert decide_rescue(once, RetryRule(), say_silent(FACTS, 1.0)).target is RunState.LOST
    assert decide_rescue(replace(once, marked=False), RetryRule(), say_silent(FACTS, 1.0)).target is RunState.READY
    assert decide_end(end_of("lease_over"), once, RetryRule()).target is RunState.LOST


def test_the_truth_about_a_lost_run_ends_it_without_a_retry() -> None:
    lost = replace(FACTS, state=RunState.LOST)

    assert decide_end(end_of("exited", 0), lost, RetryRule(retries=9)).target is RunState.SUCCEEDED
    assert decide_end(end_of("exited", 1), lost, RetryRule(retries=9)).target is RunState.FAILED


def test_the_delay_of_a_retry_is_fixed_or_doubles_up_to_its_limit() -> None:
    fixed = RetryRule(retry_delay_seconds=10)
    doubling = RetryRule(retry_delay_seconds=10, backoff=Backoff.EXPONENTIAL, retry_delay_max_seconds=60)

    assert [fixed.delay_seconds(used) for used in range(4)] == [10, 10, 10, 10]
    assert [doubling.delay_seconds(used) for used in range(4)] == [10, 20, 40, 60]
    assert doubling.delay_seconds(10**6) == 60


def test_full_jitter_waits_anything_up_to_what_doubling_would_wait_and_its_limit() -> None:
    rule = RetryRule(retries=-1, retry_delay_seconds=10, backoff=Backoff.JITTER, retry_delay_max_seconds=60)

    ending = decide_end(end_of("exited"), replace(FACTS, retries_used=1), rule, 0.25)

    assert [rule.delay_seconds(used, 0.5) for used in range(4)] == [5, 10, 20, 30]
    assert [rule.delay_seconds(used, 0.0) for used in range(4)] == [0, 0, 0, 0]
    assert ending.wait_seconds == 5
    assert ending.text.endswith("retry 2 in 5 s")


def test_the_chance_of_a_delay_is_spread_evenly_and_the_same_each_time_it_is_asked_for() -> None:
    drawn = [chance_of("job", run_id, attempt) for run_id in range(100) for attempt in range(1, 11)]

    assert drawn == [chance_of("job", run_id, attempt) for run_id in range(100) for attempt in range(1, 11)]
    assert all(0 <= chance < 1 for chance in drawn)
    tenths = [sum(number / 10 <= chance < (number + 1) / 10 for chance in drawn) for number in range(10)]
    assert min(tenths) > 60


def test_only_what_retry_on_names_is_retried_and_the_reason_says_why_not() -> None:
    rule = RetryRule(retries=3, retry_on=("OSError", "exit:75"))

    chosen = decide_end(end_of("exited", 75), FACTS, rule)
    other = decide_end(end_of("exited", 1), FACTS, rule)

    assert chosen.target is RunState.WAITING
    assert (other.target, other.reason, other.retries_added) == (RunState.FAILED, Reason.EXIT_CODE, 0)
    assert other.text == "attempt 1 on a exited with 1; not retried: retry_on names only OSError, exit:75"


def test_what_no_retry_on_names_is_not_retried_even_if_retry_on_names_it_too() -> None:
    error = End("c", 1, "exception", error_type="FileNotFoundError", error_bases=("OSError", "Exception"))
    rule = RetryRule(retries=3, retry_on=("OSError",), no_retry_on=("FileNotFoundError",))

    ending = decide_end(error, FACTS, rule)

    assert decide_end(replace(error, error_type="PermissionError"), FACTS, rule).target is RunState.WAITING
    assert (ending.target, ending.reason) == (RunState.FAILED, Reason.EXCEPTION)
    assert ending.text.endswith("not retried: no_retry_on names FileNotFoundError")


def test_a_retry_that_the_job_asks_for_is_made_whatever_it_retries_on() -> None:
    rule = RetryRule(retries=1, retry_on=("timeout",), no_retry_on=("exception",))
    asked = End("c", 1, "exception", error_type="Retry", error_message="later", retry_after_seconds=7.0)

    assert decide_end(asked, FACTS, rule).wait_seconds == 7


@pytest.mark.parametrize(
    ("retries", "used", "why"),
    [
        (0, 0, "not retried: it has no retries: give it some with --retries"),
        (1, 1, "its one retry is used"),
        (3, 3, "its 3 retries are used"),
    ],
)
def test_a_retry_that_is_asked_for_and_not_left_says_why_none_is_made(retries: int, used: int, why: str) -> None:
    asked = End("c", 1, "exception", error_type="Retry", error_message="later")

    ending = decide_end(asked, replace(FACTS, retries_used=used), RetryRule(retries=retries))

    assert (ending.target, ending.reason) == (RunState.FAILED, Reason.EXCEPTION)
    assert ending.text == f"attempt 1 on a asked for a retry: later; {why}"


def test_retries_without_a_number_are_counted_all_the_same() -> None:
    ending = decide_end(end_of("exited", 1), replace(FACTS, retries_used=4), RetryRule(retries=-1))

    assert ending.text == "attempt 1 on a exited with 1; retry 5 in 10 s"


def test_a_job_without_retries_does_not_speak_of_what_it_retries_on() -> None:
    ending = decide_end(end_of("exited", 1), FACTS, RetryRule(retry_on=("OSError",)))

    assert ending.text == "attempt 1 on a exited with 1"


def test_a_rule_that_cannot_be_read_retries_nothing_and_says_so() -> None:
    ending = decide_end(end_of("exited", 1), FACTS, RetryRule(retries=5, problem="retry_on is no list"))

    assert ending.target is RunState.FAILED
    assert ending.text.endswith("not retried: retry_on is no list")


def test_the_special_exit_codes_of_a_job_skip_and_cancel_its_run() -> None:
    rule = RetryRule(retries=5, no_op_exit_code=99, cancel_exit_code=98)

    skipped, cancelled = (decide_end(end_of("exited", code), FACTS, rule) for code in (99, 98))
    told = decide_end(replace(end_of("exited", 99), error_type="ValueError"), FACTS, rule)

    skip = (RunState.SKIPPED, Reason.NO_OP, AttemptState.SKIPPED)
    cancel = (RunState.CANCELLED, Reason.CANCEL, AttemptState.CANCELLED)
    assert (skipped.target, skipped.reason, skipped.attempt_state) == skip
    assert (cancelled.target, cancelled.reason, cancelled.attempt_state) == cancel
    assert "exited with 99" in skipped.text
    assert "exited with 98" in cancelled.text
    assert told.target is RunState.WAITING  # it raised: the exit status of its process says nothing more


def test_no_retry_begins_after_the_deadline() -> None:
    rule = RetryRule(retries=-1, retry_delay_seconds=10, deadline_seconds=60)

    in_time = decide_end(end_of("exited"), replace(FACTS, deadline_left_seconds=10.1), rule)
    too_late = decide_end(end_of("exited"), replace(FACTS, deadline_left_seconds=10.0), rule)
    passed = decide_end(end_of("timeout"), replace(FACTS, deadline_left_seconds=-1.0), rule)

    assert in_time.target is RunState.WAITING
    assert (too_late.target, too_late.reason) == (RunState.FAILED, Reason.DEADLINE)
    assert too_late.text.endswith("in 10 s it would begin after its deadline, 1m after its first start")
    assert (passed.target, passed.reason) == (RunState.FAILED, Reason.DEADLINE)
    assert passed.text.endswith("its deadline, 1m after its first start, has passed")


def test_an_attempt_that_was_stopped_at_the_deadline_is_not_retried_and_told_as_that() -> None:
    ending = decide_end(End("c", 1, "deadline"), FACTS, RetryRule(retries=-1, deadline_seconds=60))

    told = (ending.target, ending.reason, ending.attempt_state)
    assert told == (RunState.FAILED, Reason.DEADLINE, AttemptState.FAILED)


def test_a_lost_attempt_is_not_started_again_after_the_deadline() -> None:
    rule = RetryRule(deadline_seconds=60)
    late = replace(FACTS, deadline_left_seconds=0.0)

    ending = decide_rescue(late, rule, "its node died")
    waiting = decide_rescue(replace(FACTS, losses=1, deadline_left_seconds=4.0), rule, "its node died")
    unclear = decide_rescue(replace(late, delivery=Delivery.AT_MOST_ONCE), rule, "its node died")

    assert (ending.target, ending.reason, ending.attempt_state) == (RunState.FAILED, Reason.DEADLINE, AttemptState.LOST)
    assert waiting.reason is Reason.DEADLINE
    assert unclear.target is RunState.LOST
