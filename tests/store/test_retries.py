"""What is retried, when, and until when: by the job's rule, or by what was asked for with the run."""

from __future__ import annotations

import pytest

from rota.model.ending import chance_of
from rota.model.run import NewRun
from rota.store.advancing import advance_runs
from rota.store.endings import end_runs, rescue_runs
from rota.store.history import why_run
from rota.store.interventions import rerun_run
from rota.store.runs import read_run
from tests.store.ledger import LEASE_SECONDS, Ledger

pytestmark = pytest.mark.cases_take_turns


def advance(ledger: Ledger, run_id: int) -> None:
    """Let the wait for a retry pass."""
    ledger.clock.now = ledger.run(run_id).run_at
    assert advance_runs(ledger.database).ready == 1


def test_an_end_that_is_not_chosen_fails_at_once_and_why_says_so(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3, retry_on='["OSError", "exit:75"]')

    ledger.end(claim, "exception", error_type="ValueError", error_bases=("Exception",))

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.retries_used) == ("failed", "exception", 0)
    said = why_run(ledger.database, claim.run_id)["because"][0]
    assert "not retried: retry_on names only OSError, exit:75" in said


def test_an_error_is_chosen_by_the_name_of_a_base(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3, retry_on='["OSError"]')

    ledger.end(claim, "exception", error_type="ConnectionError", error_bases=("OSError", "Exception"))

    assert ledger.run(claim.run_id).state == "waiting"


@pytest.mark.parametrize("written", ["OSError", "{", '{"a": 1}', '["timout"]', "[" * 50_000, "null", '[1, "x"]'])
def test_a_choice_that_was_broken_by_hand_fails_its_own_run_only(ledger: Ledger, written: str) -> None:
    broken = ledger.start_one(retries=3, retry_on=written)
    ledger.add_job("sound", retries=3)
    sound_id = ledger.enqueue("sound")
    sound = ledger.claim_one()

    ledger.end_all([broken, sound], "exited")

    assert ledger.run(sound_id).state == "waiting"
    row = ledger.run(broken.run_id)
    if written == "null":  # nothing is chosen
        assert row.state == "waiting"
    else:
        assert row.state == "failed"
        assert "correct it with `rota job edit`" in row.reason_text


def test_full_jitter_is_recorded_as_it_was_drawn_and_told(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1, backoff="jitter", retry_delay_seconds=1000.0, retry_delay_max_seconds=5000.0)

    delivered = ledger.end(claim, "exited", exit_code=1)

    row = ledger.run(claim.run_id)
    drawn = round(1000 * chance_of("job", claim.run_id, 1), 3)
    assert delivered.waiting_seconds_min == drawn
    assert (row.run_at - ledger.clock.now).total_seconds() == pytest.approx(drawn, abs=1e-5)
    assert f"in {drawn:g} s" in row.reason_text


def test_what_is_asked_for_with_a_run_goes_before_the_jobs(ledger: Ledger) -> None:
    ledger.add_job(retries=0, retry_delay_seconds=500.0)
    own, plain = ledger.enqueue_many([NewRun("job", retries=1, retry_delay_seconds=7.0), NewRun("job")])

    ledger.end_all(ledger.claim(), "exited")

    row = ledger.run(own)
    assert (row.state, (row.run_at - ledger.clock.now).total_seconds()) == ("waiting", 7)
    assert ledger.run(plain).state == "failed"
    shown = read_run(ledger.database, own)
    assert (shown["retries"], shown["retry_delay"], shown["max_attempts"]) == (1, 7, 2)
    assert (read_run(ledger.database, plain)["retries"], read_run(ledger.database, plain)["max_attempts"]) == (None, 1)
    advance(ledger, own)
    claim = ledger.claim_one()
    assert claim.retries == 1
    ledger.end(claim, "exited", exit_code=1)
    assert ledger.run(own).state == "failed"


def test_a_run_may_be_asked_for_with_no_retry_or_one_for_ever(ledger: Ledger) -> None:
    ledger.add_job(retries=3, retry_delay_seconds=0.0)
    none, ever = ledger.enqueue_many([NewRun("job", retries=0), NewRun("job", retries=-1)])

    ledger.end_all(ledger.claim(), "exited")

    assert (ledger.run(none).state, ledger.run(ever).state) == ("failed", "waiting")
    shown = read_run(ledger.database, ever)
    assert (shown["retries"], shown["max_attempts"]) == ("forever", None)


@pytest.mark.parametrize(
    ("code", "state", "reason", "attempt_state"),
    [(99, "skipped", "no_op", "skipped"), (98, "cancelled", "cancel", "cancelled"), (97, "waiting", "retry", "failed")],
)
def test_the_special_exit_codes_of_a_job(
    ledger: Ledger, code: int, state: str, reason: str, attempt_state: str
) -> None:
    claim = ledger.start_one(retries=3, no_op_exit_code=99, cancel_exit_code=98)

    ledger.end(claim, "exited", exit_code=code)

    row = ledger.run(claim.run_id)
    (attempt,) = ledger.attempts(claim.run_id)
    assert (row.state, row.reason, attempt.state, attempt.exit_code) == (state, reason, attempt_state, code)
    assert f"exited with {code}" in row.reason_text


def test_the_deadline_counts_from_the_first_start_over_all_attempts(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=-1, retry_delay_seconds=20.0, deadline_seconds=60.0, timeout_seconds=50.0)
    assert (claim.limit_seconds, claim.limited_by) == (50, "timeout")
    assert any("stopped at its deadline" in said for said in why_run(ledger.database, claim.run_id)["because"])

    ledger.clock.advance(seconds=15)
    ledger.end(claim, "exited", exit_code=1)
    advance(ledger, claim.run_id)
    second = ledger.claim_one()

    assert (second.limit_seconds, second.limited_by) == (25, "deadline")
    ledger.clock.advance(seconds=5)
    ledger.end(second, "exited", exit_code=1)
    row = ledger.run(claim.run_id)
    assert (row.state, row.reason) == ("failed", "deadline")
    assert "in 20 s it would begin after its deadline, 1m after its first start" in row.reason_text


def test_the_deadline_of_a_job_that_is_delivered_once_counts_from_the_mark(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once", deadline_seconds=60.0, retries=1, retry_delay_seconds=0.0)
    run_id = ledger.enqueue()

    claim = ledger.claim_one()
    assert (claim.deadline_left_seconds, ledger.run(run_id).deadline_from_at) == (60, None)
    ledger.clock.advance(seconds=5)
    ledger.started(claim)

    assert ledger.run(run_id).deadline_from_at == ledger.clock.now
    ledger.clock.advance(seconds=10)
    ledger.end(claim, "exited", exit_code=1)
    advance_runs(ledger.database)
    assert ledger.claim_one().deadline_left_seconds == 50


def test_a_run_that_finds_its_place_only_after_its_deadline_is_not_to_start(ledger: Ledger) -> None:
    claim = ledger.start_one(deadline_seconds=60.0, retries=3)
    ledger.end(claim, "released")
    ledger.clock.advance(seconds=60)
    assert any("its deadline passed" in said for said in why_run(ledger.database, claim.run_id)["because"])

    second = ledger.claim_one()
    assert second.is_too_late
    ledger.end(second, "deadline")

    assert (ledger.run(claim.run_id).state, ledger.run(claim.run_id).reason) == ("failed", "deadline")


def test_a_run_whose_node_died_is_not_rescued_past_its_deadline(ledger: Ledger) -> None:
    claim = ledger.start_one(deadline_seconds=LEASE_SECONDS)
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)

    rescue_runs(ledger.database, rescuer="b")

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.losses) == ("failed", "deadline", 1)
    assert ledger.history(claim.run_id)[-1] == ("running", "failed", "deadline")


def test_a_rerun_counts_its_deadline_anew(ledger: Ledger) -> None:
    claim = ledger.start_one(deadline_seconds=60.0)
    ledger.clock.advance(seconds=100)
    ledger.end(claim, "deadline")

    rerun_run(ledger.database, claim.run_id, actor="ann")

    first_start = ledger.run(claim.run_id).started_at
    assert ledger.claim_one().deadline_left_seconds == 60
    assert ledger.run(claim.run_id).started_at == first_start


def test_the_same_end_delivered_twice_is_retried_once_after_the_same_delay(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3, backoff="jitter", retry_delay_seconds=100.0)
    ledger.end(claim, "exited", exit_code=1)
    before = ledger.run(claim.run_id)

    ledger.end(claim, "exited", exit_code=1)

    assert ledger.run(claim.run_id) == before
    assert end_runs(ledger.database, []).applied == frozenset()
