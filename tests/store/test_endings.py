"""What the end of an attempt, or of its lease, does to its run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from rota.model.run import End, NewRun, Written
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.endings import end_runs, rescue_runs, surrender_runs
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run
from rota.store.leases import mark_started, renew_claims
from rota.store.moves import APPLY_MOVES
from tests.store.ledger import LEASE_SECONDS, Ledger, statements_of
from tests.store.trouble import commit_breaks, forget_row_locks


def rescue(ledger: Ledger, rescuer: str = "b") -> int:
    return rescue_runs(ledger.database, rescuer=rescuer)


def outlive_lease(ledger: Ledger) -> None:
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)


def test_a_good_end_makes_the_run_succeeded(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.clock.advance(seconds=3)

    delivered = ledger.end(
        claim,
        "exited",
        exit_code=0,
        result='{"rows": 12}',
        seconds=2.5,
        cpu_seconds=0.25,
        memory_bytes_max=5_000_000_000,
        read_bytes=6_000_000_000,
        written_bytes=7_000_000_000,
        pid=4711,
    )

    row = ledger.run(claim.run_id)
    (attempt,) = ledger.attempts(claim.run_id)
    assert delivered.applied == {claim.claim_id}
    assert (row.state, row.reason, row.result) == ("succeeded", "ended_well", '{"rows": 12}')
    assert row.finished_at == attempt.finished_at == ledger.clock.now
    assert row.lease_ends_at is row.marked_at is row.due_at is None
    assert (attempt.state, attempt.exit_code, attempt.result) == ("succeeded", 0, '{"rows": 12}')
    assert (attempt.seconds, attempt.cpu_seconds, attempt.memory_bytes_max) == (2.5, 0.25, 5_000_000_000)
    assert (attempt.read_bytes, attempt.written_bytes) == (6_000_000_000, 7_000_000_000)
    assert attempt.pid == 4711
    assert ledger.history(claim.run_id)[-1] == ("running", "succeeded", "ended_well")


@pytest.mark.parametrize(
    ("kind", "facts", "reason", "said"),
    [
        ("exited", {"exit_code": 3}, "exit_code", "exited with 3"),
        ("signalled", {"signal": 9}, "signal", "SIGKILL"),
        ("timeout", {}, "timeout", "time limit"),
        ("exception", {"error_type": "ValueError", "error_message": "no ✓"}, "exception", "raised ValueError: no ✓"),
        ("not_started", {"error_message": "no such file"}, "start_error", "could not be started: no such file"),
        ("bad_result", {"error_message": "too large"}, "bad_result", "too large"),
        ("no_result", {}, "no_result", "without saying"),
    ],
)
def test_a_bad_end_without_retries_makes_the_run_failed(
    ledger: Ledger, kind: str, facts: dict[str, object], reason: str, said: str
) -> None:
    claim = ledger.start_one()

    ledger.end(claim, kind, **facts)

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.finished_at) == ("failed", reason, ledger.clock.now)
    assert said in row.reason_text
    (attempt,) = ledger.attempts(claim.run_id)
    assert (attempt.state, attempt.reason) == ("failed", reason)
    assert (attempt.exit_code, attempt.exit_signal) == (facts.get("exit_code"), facts.get("signal"))
    assert (attempt.error_type, attempt.error_message) == (facts.get("error_type"), facts.get("error_message"))


def test_the_traceback_and_long_messages_are_kept_whole(ledger: Ledger) -> None:
    claim = ledger.start_one()
    long = "ü" * 100_000

    ledger.end(claim, "exception", error_type="E", error_message=long, traceback=long)

    (attempt,) = ledger.attempts(claim.run_id)
    assert (attempt.error_message, attempt.traceback) == (long, long)


def retry_delays(ledger: Ledger, **job: object) -> list[float]:
    """Let a run fail until it has failed for good; return how long it waited each time."""
    ledger.add_job(**job)
    run_id = ledger.enqueue()
    waits: list[float] = []
    while True:
        ledger.end(ledger.claim_one(), "exited", exit_code=1)
        row = ledger.run(run_id)
        if row.state == "failed":
            return waits
        assert (row.state, row.reason, row.due_at) == ("waiting", "retry", row.run_at)
        waits.append((row.run_at - ledger.clock.now).total_seconds())
        assert ledger.claim() == []
        ledger.clock.now = row.run_at
        assert advance_runs(ledger.database).ready == 1


def test_retries_wait_the_same_each_time_until_they_are_used_up(ledger: Ledger) -> None:
    assert retry_delays(ledger, retries=3, retry_delay_seconds=2.5) == [2.5, 2.5, 2.5]
    row = ledger.runs()[0]
    assert (row.attempt, row.retries_used, row.losses) == (4, 3, 0)
    assert "its 3 retries are used" in row.reason_text


def test_exponential_retries_wait_longer_each_time_up_to_a_bound(ledger: Ledger) -> None:
    waits = retry_delays(
        ledger, retries=5, retry_delay_seconds=2.0, backoff="exponential", retry_delay_max_seconds=10.0
    )

    assert waits == [2, 4, 8, 10, 10]


def test_retries_for_ever_are_never_used_up(ledger: Ledger) -> None:
    ledger.add_job(retries=-1, retry_delay_seconds=0.0)
    run_id = ledger.enqueue()

    for _ in range(12):
        ledger.end(ledger.claim_one(), "exited", exit_code=1)
        advance_runs(ledger.database)

    assert ledger.run(run_id).state == "ready"
    assert ledger.run(run_id).retries_used == 12


def test_a_job_may_ask_for_its_own_delay_before_the_retry(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)

    delivered = ledger.end(claim, "exception", retry_after_seconds=300)

    assert ledger.run(claim.run_id).run_at == ledger.clock.after(300)
    assert delivered.waiting_seconds_min == 300


def test_a_release_spends_neither_budget(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)

    ledger.end(claim, "released", error_message="the worker leaves")

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason) == ("ready", "released")
    assert (row.retries_used, row.losses, row.attempt, row.due_at) == (0, 0, 1, None)
    assert ledger.attempts(claim.run_id)[0].state == "released"
    assert "the worker leaves" in row.reason_text


def test_a_no_op_makes_the_run_skipped(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3)

    ledger.end(claim, "no_op", error_message="nothing new")

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.reason_text) == ("skipped", "no_op", "nothing new")
    assert ledger.attempts(claim.run_id)[0].state == "skipped"


@pytest.mark.parametrize("kind", ["cancelled", "signalled", "released"])
def test_a_run_that_was_to_be_cancelled_is_not_tried_again(ledger: Ledger, kind: str) -> None:
    claim = ledger.start_one(retries=3)
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")

    ledger.end(claim, kind)

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.cancel_asked_by) == ("cancelled", "cancel", "ann")
    assert "ann" in row.reason_text
    assert ledger.attempts(claim.run_id)[0].state == "cancelled"


def test_a_run_that_ends_well_before_its_cancellation_reaches_it_has_succeeded(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")

    ledger.end(claim, "exited", exit_code=0)

    row = ledger.run(claim.run_id)
    assert (row.state, row.cancel_asked_at, row.cancel_asked_by) == ("succeeded", None, None)


def test_a_run_that_fails_while_it_is_to_be_cancelled_is_not_retried(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3)
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")

    ledger.end(claim, "exited", exit_code=1)

    assert ledger.run(claim.run_id).state == "failed"


def test_an_end_delivered_again_changes_nothing(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)
    end = End(claim.claim_id, claim.run_id, "exited", exit_code=1, stdout=Written(b"once", b"", 4))
    first = end_runs(ledger.database, [end])
    before, events, attempts = ledger.run(claim.run_id), ledger.events(claim.run_id), ledger.attempts(claim.run_id)
    ledger.clock.advance(seconds=1)

    again = end_runs(ledger.database, [end])

    assert first.applied == again.applied == {claim.claim_id}
    assert ledger.run(claim.run_id) == before
    assert ledger.events(claim.run_id) == events
    assert ledger.attempts(claim.run_id) == attempts


def test_an_end_delivered_again_while_the_next_attempt_runs_changes_nothing(ledger: Ledger) -> None:
    first = ledger.start_one(retries=1, retry_delay_seconds=0.0)
    ledger.end(first, "exited", exit_code=1)
    advance_runs(ledger.database)
    ledger.claim_one("b")
    before = ledger.run(first.run_id)

    delivered = ledger.end(first, "exited", exit_code=1)

    assert delivered.applied == {first.claim_id}
    assert ledger.run(first.run_id) == before


def test_an_end_whose_commit_answer_was_lost_is_delivered_once(ledger: Ledger) -> None:
    claim = ledger.start_one()

    with commit_breaks(ledger.database, "after") as broken:
        delivered = ledger.end(claim, "exited", exit_code=1)

    assert broken == ["after"]
    assert delivered.applied == {claim.claim_id}
    assert [found for found in ledger.history(claim.run_id) if found[1] == "failed"] == [
        ("running", "failed", "exit_code")
    ]


def test_an_end_that_was_not_committed_is_delivered_again(ledger: Ledger) -> None:
    claim = ledger.start_one()

    with commit_breaks(ledger.database, "before") as broken:
        ledger.end(claim)

    assert broken == ["before"]
    assert ledger.run(claim.run_id).state == "succeeded"


def test_the_end_of_a_zombie_changes_nothing_and_is_kept_as_an_orphan(ledger: Ledger) -> None:
    zombie = ledger.start_one()
    outlive_lease(ledger)
    rescue(ledger)
    current = ledger.claim_one("b")
    before = ledger.run(zombie.run_id)

    delivered = ledger.end(zombie, "exited", exit_code=0, result='"late"', stdout=Written(b"abc", b"", 3))

    assert delivered.orphaned == {zombie.claim_id}
    assert delivered.applied == frozenset()
    assert ledger.run(zombie.run_id) == before
    attempt, other = ledger.attempts(zombie.run_id)
    assert (attempt.state, attempt.orphan_at, other.orphan) == ("lost", ledger.clock.now, None)
    orphan = json.loads(attempt.orphan)
    assert (orphan["kind"], orphan["result"], orphan["stdout"]) == ("exited", '"late"', 3)
    assert ledger.end(current).applied == {current.claim_id}


def test_the_first_orphan_stays(ledger: Ledger) -> None:
    zombie = ledger.start_one()
    outlive_lease(ledger)
    rescue(ledger)
    ledger.end(zombie, "exited", exit_code=1)

    ledger.end(zombie, "exited", exit_code=2)

    assert json.loads(ledger.attempts(zombie.run_id)[0].orphan)["exit_code"] == 1


def test_an_end_whose_lease_is_over_but_whose_run_nobody_took_still_counts(ledger: Ledger) -> None:
    claim = ledger.start_one()
    outlive_lease(ledger)

    assert ledger.end(claim).applied == {claim.claim_id}
    assert ledger.run(claim.run_id).state == "succeeded"


def test_an_end_that_nobody_knows_stops_no_other(ledger: Ledger) -> None:
    claim = ledger.start_one()
    unknown = End("no-such-claim", 4711, "succeeded")

    delivered = end_runs(ledger.database, [unknown, End(claim.claim_id, claim.run_id, "succeeded")])

    assert delivered.orphaned == {"no-such-claim"}
    assert delivered.applied == {claim.claim_id}
    assert ledger.run(claim.run_id).state == "succeeded"


def test_a_stale_end_in_a_batch_stops_no_other(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 3)
    claims = ledger.claim()
    ledger.set_run(claims[1].run_id, lease_ends_at=ledger.clock.after(-1))
    rescue(ledger)

    delivered = ledger.end_all(claims)

    assert delivered.orphaned == {claims[1].claim_id}
    assert [ledger.run(claim.run_id).state for claim in claims] == ["succeeded", "ready", "succeeded"]


def test_nothing_is_asked_for_no_ends(ledger: Ledger) -> None:
    with statements_of(ledger.database) as sent:
        delivered = end_runs(ledger.database, [])

    assert (sent, delivered.applied) == ([], frozenset())


def test_what_the_attempts_wrote_is_kept_as_head_and_tail(ledger: Ledger) -> None:
    claim = ledger.start_one()

    end_runs(
        ledger.database,
        [
            End(
                claim.claim_id,
                claim.run_id,
                "succeeded",
                stdout=Written(b"head\xff\x00", b"tail", 1_000_000),
                stderr=Written(b"all", b"", 3),
            )
        ],
    )

    kept = ledger.rows("select stream, position, data from rota_output order by stream, position")
    assert [(row.stream, row.position, bytes(row.data)) for row in kept] == [
        ("stderr", 0, b"all"),
        ("stdout", 0, b"head\xff\x00"),
        ("stdout", 999_996, b"tail"),
    ]
    (attempt,) = ledger.attempts(claim.run_id)
    assert (attempt.stdout_bytes, attempt.stderr_bytes) == (1_000_000, 3)


# When the lease is over


def test_nobody_is_rescued_before_the_lease_is_over(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.clock.advance(seconds=LEASE_SECONDS)

    assert rescue(ledger) == 0
    assert ledger.run(claim.run_id).state == "running"


def test_a_run_whose_lease_is_over_becomes_ready_exactly_once(ledger: Ledger) -> None:
    claim = ledger.start_one()
    outlive_lease(ledger)

    assert [rescue(ledger), rescue(ledger)] == [1, 0]

    row = ledger.run(claim.run_id)
    (attempt,) = ledger.attempts(claim.run_id)
    assert (row.state, row.reason, row.losses, row.retries_used) == ("ready", "lease_over", 1, 0)
    assert "a fell silent with attempt 1: its lease ended 1.0 s ago" in row.reason_text
    assert (attempt.state, attempt.finished_at) == ("lost", ledger.clock.now)
    assert ledger.events(claim.run_id)[-1].actor == "b"


def test_the_second_loss_waits_and_each_further_one_twice_as_long(ledger: Ledger) -> None:
    ledger.add_job(lost_max=4)
    run_id = ledger.enqueue()
    waits: list[float] = []

    for _ in range(4):
        ledger.claim_one()
        outlive_lease(ledger)
        rescue(ledger)
        row = ledger.run(run_id)
        waits.append((row.run_at - ledger.clock.now).total_seconds() if row.state == "waiting" else 0)
        ledger.clock.now = max(ledger.clock.now, row.run_at)
        advance_runs(ledger.database)

    assert waits == [0, 5, 10, 20]
    ledger.claim_one()
    outlive_lease(ledger)
    rescue(ledger)
    row = ledger.run(run_id)
    assert (row.state, row.reason, row.losses, row.attempt) == ("failed", "lost_max", 5, 5)


def test_a_run_that_was_lost_keeps_its_retries(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)
    outlive_lease(ledger)
    rescue(ledger)

    ledger.end(ledger.claim_one("b"), "exited", exit_code=1)

    assert ledger.run(claim.run_id).state == "waiting"
    assert ledger.run(claim.run_id).reason == "retry"


def test_at_most_once_is_ready_again_when_it_was_lost_before_its_start_mark(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    run_id = ledger.enqueue()
    claim = ledger.claim_one()
    outlive_lease(ledger)

    assert rescue(ledger) == 1

    assert (ledger.run(run_id).state, ledger.run(run_id).reason) == ("ready", "lease_over")
    assert mark_started(ledger.database, [claim.claim_id]) == frozenset()


def test_at_most_once_is_lost_when_it_had_started(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once", retries=5)
    outlive_lease(ledger)

    rescue(ledger)

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.finished_at) == ("lost", "lost", ledger.clock.now)
    assert ledger.claim() == []


def test_a_run_that_was_to_be_cancelled_is_cancelled_when_its_node_falls_silent(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")
    outlive_lease(ledger)

    rescue(ledger)

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason) == ("cancelled", "cancel")
    assert ledger.attempts(claim.run_id)[0].state == "lost"


@pytest.mark.parametrize(
    ("kind", "facts", "state", "attempt_state"),
    [("exited", {"exit_code": 0}, "succeeded", "succeeded"), ("exited", {"exit_code": 1}, "failed", "failed")],
)
def test_the_same_claim_brings_the_truth_about_a_lost_run_late(
    ledger: Ledger, kind: str, facts: dict[str, int], state: str, attempt_state: str
) -> None:
    claim = ledger.start_one(delivery="at_most_once", retries=5)
    outlive_lease(ledger)
    rescue(ledger)

    delivered = ledger.end(claim, kind, stdout=Written(b"late", b"", 4), **facts)

    row = ledger.run(claim.run_id)
    assert delivered.applied == {claim.claim_id}
    assert (row.state, row.reason, row.attempt) == (state, "late_truth", 1)
    assert ledger.attempts(claim.run_id)[0].state == attempt_state
    assert ledger.value("select count(*) from rota_output") == 1


@pytest.mark.parametrize(("kind", "facts"), [("lease_over", {}), ("released", {"exit_code": 1})])
def test_an_end_by_which_a_run_is_lost_is_no_truth_about_it_when_it_comes_again(
    ledger: Ledger, kind: str, facts: dict[str, int]
) -> None:
    claim = ledger.start_one(delivery="at_most_once")

    with commit_breaks(ledger.database, "after") as broken:
        ledger.end(claim, kind, **facts)
    ledger.end(claim, kind, **facts)

    assert broken
    assert ledger.run(claim.run_id).state == "lost"
    assert ledger.history(claim.run_id)[-1][:2] == ("running", "lost")


def test_the_truth_comes_too_late_once_an_operator_has_decided(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once")
    outlive_lease(ledger)
    rescue(ledger)
    mark_succeeded(ledger.database, claim.run_id, actor="ann")

    delivered = ledger.end(claim, "exited", exit_code=1)

    assert delivered.orphaned == {claim.claim_id}
    assert (ledger.run(claim.run_id).state, ledger.run(claim.run_id).reason) == ("succeeded", "marked")


def test_the_truth_comes_too_late_once_the_run_was_asked_for_again(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once")
    outlive_lease(ledger)
    rescue(ledger)
    rerun_run(ledger.database, claim.run_id, actor="ann")

    assert ledger.end(claim).orphaned == {claim.claim_id}
    assert ledger.run(claim.run_id).state == "ready"
    ledger.claim_one("b")
    assert ledger.end(claim).orphaned == {claim.claim_id}
    assert ledger.run(claim.run_id).state == "running"


def test_a_guardian_that_died_is_a_loss_without_waiting_for_the_lease(ledger: Ledger) -> None:
    claim = ledger.start_one()

    assert surrender_runs(ledger.database, [claim.claim_id], actor="a") == frozenset()
    assert surrender_runs(ledger.database, [claim.claim_id], actor="a") == frozenset()

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason, row.losses) == ("ready", "lease_over", 1)
    assert "the guardian of attempt 1 on a died" in row.reason_text


def test_a_guardian_that_died_under_an_old_claim_takes_nothing_away(ledger: Ledger) -> None:
    old = ledger.start_one()
    ledger.end(old, "released")
    ledger.claim_one("b")

    assert surrender_runs(ledger.database, [old.claim_id], actor="a") == frozenset()
    assert ledger.run(old.run_id).state == "running"


def _meanwhile(database: Database, statement: Any, step: Callable[[], object]) -> None:
    """Do ``step`` once, right before ``statement`` is sent: others have committed what it was decided without."""

    steps = [step]

    def do(_connection: Any, sent: Any, _many: Any, _parameters: Any, _options: Any) -> None:
        if sent is statement and steps:
            steps.pop()()

    event.listen(database.engine, "before_execute", do)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_run_that_is_renewed_while_it_is_rescued_stays_where_rows_cannot_be_locked(
    ledger: Ledger, database_kind: str, delivery: str
) -> None:
    if database_kind == "sqlite":
        pytest.skip("has one writer at a time")
    claim = ledger.start_one(delivery=delivery)
    outlive_lease(ledger)
    rescuer = ledger.connect()
    forget_row_locks(rescuer)
    _meanwhile(rescuer, APPLY_MOVES, lambda: renew_claims(ledger.database, None, [claim.claim_id], LEASE_SECONDS))

    assert rescue_runs(rescuer, rescuer="b") == 0
    assert ledger.run(claim.run_id).state == "running"


@pytest.mark.parametrize("how", ["its end is told", "its lease is over"])
def test_a_cancellation_is_not_lost_while_an_attempt_ends_where_rows_cannot_be_locked(
    ledger: Ledger, database_kind: str, how: str
) -> None:
    if database_kind == "sqlite":
        pytest.skip("has one writer at a time")
    claim = ledger.start_one(retries=1)
    outlive_lease(ledger)
    other = ledger.connect()
    forget_row_locks(other)
    _meanwhile(other, APPLY_MOVES, lambda: cancel_run(ledger.database, claim.run_id, actor="ann"))

    if how == "its end is told":
        end_runs(other, [End(claim.claim_id, claim.run_id, "exited", exit_code=1)])
    else:
        rescue_runs(other, rescuer="b")

    assert ledger.run(claim.run_id).state == ("failed" if how == "its end is told" else "cancelled")


def test_two_rescuers_at_once_have_one_effect(ledger: Ledger) -> None:
    ledger.add_job()
    run_ids = ledger.enqueue_many([NewRun("job")] * 50)
    ledger.claim(limit=50)
    outlive_lease(ledger)
    together, rescued = threading.Barrier(2), []

    def take_part() -> None:
        database = ledger.connect()
        together.wait(30)
        rescued.append(rescue_runs(database, rescuer="b"))

    threads = [threading.Thread(target=take_part) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sum(rescued) == 50
    assert {ledger.run(run_id).losses for run_id in run_ids} == {1}
    assert all(len(ledger.history(run_id)) == 3 for run_id in run_ids)


def test_an_end_and_a_rescue_at_once_have_one_effect(ledger: Ledger) -> None:
    ledger.add_job()
    run_ids = ledger.enqueue_many([NewRun("job")] * 40)
    claims = ledger.claim(limit=40)
    outlive_lease(ledger)
    together, counts = threading.Barrier(2), {}
    enders, rescuers = ledger.connect(), ledger.connect()

    def end() -> None:
        together.wait(30)
        ends = [End(claim.claim_id, claim.run_id, "succeeded") for claim in reversed(claims)]
        counts["ended"] = len(end_runs(enders, ends).applied)

    def take_away() -> None:
        together.wait(30)
        counts["rescued"] = rescue_runs(rescuers, rescuer="b")

    threads = [threading.Thread(target=work) for work in (end, take_away)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    states = [ledger.run(run_id).state for run_id in run_ids]
    assert counts["ended"] + counts["rescued"] == 40
    assert states.count("succeeded") == counts["ended"]
    assert states.count("ready") == counts["rescued"]


def test_rescuing_takes_as_many_statements_for_many_runs_as_for_one(ledger: Ledger) -> None:
    ledger.add_job()
    counts: set[int] = set()
    for number in (1, 10, 100):
        ledger.enqueue_many([NewRun("job")] * number)
        assert len(ledger.claim(limit=number)) == number
        outlive_lease(ledger)
        with statements_of(ledger.database) as sent:
            assert rescue(ledger) == number
        counts.add(len(sent))
        ledger.end_all(ledger.claim(limit=number))

    assert len(counts) == 1, counts


def test_no_more_is_rescued_at_once_than_was_asked_for(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 5)
    ledger.claim()
    outlive_lease(ledger)

    assert [rescue_runs(ledger.database, rescuer="b", limit=3) for _ in range(3)] == [3, 2, 0]


def test_the_budgets_of_a_job_that_is_gone_are_the_defaults(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=3)
    ledger.execute("delete from rota_job")

    ledger.end(claim, "exited", exit_code=1)

    assert ledger.run(claim.run_id).state == "failed"
