"""Bring your own worker: a claim is taken, kept, ended once, and worth nothing after its lease."""

from __future__ import annotations

from typing import Any

import pytest

from rota import AlreadyFinished, Claim, Invalid, Preempted, Rota
from rota.errors import Conflict
from rota.store.endings import rescue_runs
from tests.clock import Clock
from tests.store.ledger import Ledger


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("job", shell="true", retries=1, retry_delay="10s")
    return "job"


def poll(rota: Rota, **options: Any) -> Claim:
    claim = rota.poll(**options)
    assert claim is not None
    return claim


def duties_are_due(rota: Rota) -> None:
    """Let the next poll look after the ledger again, as it does after a second."""
    rota._poller._tended_at = None


def test_a_claim_brings_all_that_a_handler_needs(rota: Rota, job: str, ledger: Ledger) -> None:
    rota.enqueue(job, {"day": 1}, key="k")

    claim = poll(rota)

    assert (claim.job, claim.args, claim.key, claim.attempt, claim.fence) == ("job", {"day": 1}, "k", 1, 1)
    assert (claim.schedule, claim.slot, claim.lease_seconds, claim.timeout_seconds) == (None, None, 60, None)
    assert ledger.run(claim.run_id).node.startswith("client:")
    assert rota.poll() is None


def test_whoever_looks_after_the_ledger_without_a_node_takes_nothing_away_when_the_clock_steps(
    rota: Rota, job: str, ledger: Ledger
) -> None:
    rota.enqueue(job)
    claim = poll(rota)
    duties_are_due(rota)
    assert rota.poll() is None

    ledger.clock.step(hours=1)
    for _ in range(2):
        duties_are_due(rota)
        assert rota.poll() is None
    assert ledger.run(claim.run_id).losses == 0
    assert ledger.value("select count(*) from rota_event where kind = 'clock'") == 1
    ledger.clock.advance(seconds=61)
    duties_are_due(rota)
    rota.poll()

    assert ledger.run(claim.run_id).losses == 1


def test_what_commits_with_its_writes_is_left_to_a_worker(rota: Rota, job: str) -> None:
    rota.jobs.add("count", call="totals:count", delivery="transactional", timeout="5s")
    waiting = rota.enqueue("count", priority=10)
    other = rota.enqueue(job)

    assert poll(rota).run_id == other.id
    assert rota.poll() is None
    assert waiting.state == "ready"


def test_whoever_brings_a_worker_cannot_be_asked_to_freeze(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    claim = poll(rota)

    with pytest.raises(Conflict, match="brings its own worker"):
        handle.freeze()

    assert handle.show()["freeze_asked_at"] is None
    handle.cancel()
    assert claim.heartbeat()


def test_a_claim_is_of_the_pool_that_is_asked_for(rota: Rota, job: str) -> None:
    rota.jobs.add("other", shell="true", pool="reports")
    rota.enqueue("other")

    assert rota.poll() is None
    assert poll(rota, pool="reports").job == "other"


def test_an_ended_claim_cannot_be_ended_or_renewed_again(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    claim = poll(rota)

    claim.finish({"rows": 12})

    assert handle.result == {"rows": 12}
    for act in (claim.finish, claim.heartbeat, claim.release, lambda: claim.fail("x"), claim.retry, claim.skip):
        with pytest.raises(AlreadyFinished, match="succeeded"):
            act()
    assert handle.state == "succeeded"


def test_a_result_that_is_not_json_is_refused_and_the_claim_is_still_held(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    claim = poll(rota)

    with pytest.raises(Invalid, match="result"):
        claim.finish(object())

    assert handle.state == "running"
    claim.finish("done")
    assert handle.result == "done"


def test_a_heartbeat_keeps_the_lease_and_without_one_it_is_taken_away(
    rota: Rota, job: str, ledger: Ledger, clock: Clock
) -> None:
    rota.enqueue(job)
    claim = poll(rota, lease="60s")

    clock.advance(seconds=50)
    cancelled = claim.heartbeat()
    clock.advance(seconds=50)
    kept = rescue_runs(ledger.database, rescuer="b")
    clock.advance(seconds=20)
    taken = rescue_runs(ledger.database, rescuer="b")

    assert (cancelled, kept, taken) == (False, 0, 1)
    with pytest.raises(Preempted):
        claim.heartbeat()


def test_a_claim_whose_run_went_to_another_changes_nothing(rota: Rota, job: str, ledger: Ledger, clock: Clock) -> None:
    handle = rota.enqueue(job)
    stale = poll(rota)
    clock.advance(seconds=61)
    rescue_runs(ledger.database, rescuer="b")
    other = ledger.claim_one("b")

    with pytest.raises(Preempted):
        stale.finish("stale")
    ledger.end(other, result='"fresh"')

    assert handle.result == "fresh"
    first, second = handle.show()["attempts"]
    assert (first["state"], first["orphan"]["result"], second["state"]) == ("lost", '"stale"', "succeeded")


def test_a_retry_waits_as_long_as_asked_and_spends_one_of_the_retries(rota: Rota, job: str, clock: Clock) -> None:
    handle = rota.enqueue(job)

    poll(rota).retry(after="5m", reason="the supplier is closed")
    waiting = handle.show()
    clock.advance(minutes=5)
    duties_are_due(rota)
    again = poll(rota)
    again.retry()

    assert (waiting["state"], waiting["run_at"]) == ("waiting", "2026-11-02T12:05:00.000000Z")
    assert "the supplier is closed" in waiting["reason"]["text"]
    assert again.attempt == 2
    assert handle.state == "failed"


def test_a_failure_keeps_type_message_and_traceback_whatever_text_they_hold(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    claim = poll(rota)

    try:
        raise ValueError("half \ud800 and \0 none ✓")
    except ValueError as error:
        claim.fail(error)

    error = handle.show()["error"]
    assert error["type"] == "ValueError"
    assert error["message"] == "half ? and \N{REPLACEMENT CHARACTER} none ✓"
    assert "test_claims.py" in error["traceback"]


def test_a_released_run_is_ready_at_once_and_unspent(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)

    poll(rota).release("not here")

    view = handle.show()
    assert (view["state"], view["reason"]["code"]) == ("ready", "released")
    assert "not here" in view["reason"]["text"]
    assert ledger.run(handle.id).retries_used == 0


def test_a_skipped_run_says_why(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)

    poll(rota).skip("no mail today")

    assert handle.show()["reason"] == {"code": "no_op", "text": "no mail today"}


def test_a_cancellation_is_brought_by_the_heartbeat_and_a_release_ends_it(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    claim = poll(rota)

    handle.cancel()

    assert not claim.is_cancelled
    assert claim.heartbeat()
    assert claim.is_cancelled
    claim.release()
    assert handle.state == "cancelled"


def test_a_run_of_delivery_at_most_once_is_marked_started_before_it_is_given_out(rota: Rota, ledger: Ledger) -> None:
    rota.jobs.add("once", shell="true", delivery="at_most_once")
    rota.enqueue("once")

    claim = poll(rota)

    assert ledger.run(claim.run_id).marked_at is not None


def test_a_run_whose_arguments_were_broken_by_hand_fails_and_the_next_one_is_taken(
    rota: Rota, ledger: Ledger, job: str
) -> None:
    broken, good = rota.enqueue(job), rota.enqueue(job)
    ledger.set_job(retries=0)
    ledger.set_run(broken.id, args="{not json")

    claim = poll(rota)

    assert claim.run_id == good.id
    assert broken.show()["reason"]["code"] == "start_error"
    assert "arguments are not JSON" in broken.show()["reason"]["text"]


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("variables", "[1]", "is not a JSON object"),
        ("secrets", "no list", "secrets"),
        ("mutexes", "{", "mutexes"),
        ("prefer", "web1", "prefer"),
        ("retry_node", "elsewhere", "it is any or other"),
    ],
)
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_run_whose_job_was_broken_by_hand_fails_as_at_a_worker_and_the_next_one_is_taken(
    rota: Rota, ledger: Ledger, job: str, column: str, text: str, said: str, delivery: str
) -> None:
    rota.jobs.add("odd", shell="true", delivery=delivery)
    broken, good = rota.enqueue("odd"), rota.enqueue(job)
    ledger.set_job("odd", **{column: text})

    claim = poll(rota)

    assert claim.run_id == good.id
    shown = broken.show()
    assert (shown["state"], shown["reason"]["code"]) == ("failed", "start_error")
    assert said in shown["reason"]["text"]
    assert ledger.violations() == []


def test_polling_fires_schedules_and_rescues_where_no_worker_does(
    rota: Rota, job: str, ledger: Ledger, clock: Clock
) -> None:
    rota.schedules.add("each", job, every="5m")
    clock.advance(seconds=299.5)
    assert rota.poll() is None
    clock.advance(seconds=0.5)

    quiet = rota.poll()  # within a second of the last look
    clock.advance(seconds=0.5)
    fired = poll(rota)
    clock.advance(seconds=61)
    duties_are_due(rota)
    rescued = poll(rota)

    assert quiet is None
    assert fired.schedule == "each"
    assert fired.slot == clock.after(-61.5)
    assert (rescued.run_id, rescued.attempt) == (fired.run_id, 2)


@pytest.mark.parametrize(
    ("options", "field"), [({"lease": "0s"}, "lease"), ({"lease": "1.5x"}, "lease"), ({"pool": ""}, "pool")]
)
def test_a_poll_with_bad_input_is_refused_and_takes_nothing(
    rota: Rota, job: str, options: dict[str, Any], field: str
) -> None:
    handle = rota.enqueue(job)

    with pytest.raises(Invalid) as refusal:
        rota.poll(**options)

    assert refusal.value.field == field
    assert handle.state == "ready"


def test_a_run_is_not_given_out_after_its_deadline_and_its_limit_is_what_is_left(
    rota: Rota, ledger: Ledger, clock: Clock
) -> None:
    rota.jobs.add("job", shell="true", deadline="60s", timeout="50s")
    handle = rota.enqueue("job")
    claim = poll(rota)
    assert claim.timeout_seconds == 50
    clock.advance(seconds=20)
    claim.release()
    claim = poll(rota)
    assert claim.timeout_seconds == 40
    claim.release()
    clock.advance(seconds=40)

    assert rota.poll() is None

    assert (handle.state, ledger.run(handle.id).reason) == ("failed", "deadline")


def test_an_error_is_chosen_for_a_retry_by_its_base_class(rota: Rota) -> None:
    rota.jobs.add("job", shell="true", retries=1, retry_on="OSError")
    chosen, other = rota.enqueue("job"), rota.enqueue("job")

    poll(rota).fail(ConnectionError("no"))
    poll(rota).fail(ValueError("no"))

    assert (chosen.state, other.state) == ("waiting", "failed")


def test_polling_lets_one_run_through_a_breaker_whose_pause_is_over(rota: Rota, clock: Clock) -> None:
    rota.jobs.add("job", shell="true", breaker_failures=1, breaker_pause="5m")
    rota.enqueue_many([("job", None)] * 3)
    poll(rota).fail("no")
    assert rota.poll() is None
    clock.advance(minutes=5)
    duties_are_due(rota)

    claim = poll(rota)

    assert rota.poll() is None
    claim.finish()
    assert poll(rota).run_id > claim.run_id
