"""The circuit breakers of jobs: what they hold, what they let through, and what they tell."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Connection

from rota.model.findings import FindingCode
from rota.model.job import JobSpec
from rota.model.run import NewRun
from rota.store.advancing import advance_runs
from rota.store.breakers import LET_RUN_THROUGH, LOCK_BREAKERS, let_runs_through
from rota.store.endings import rescue_runs
from rota.store.health import check_health
from rota.store.history import why_job, why_run
from rota.store.interventions import cancel_run
from rota.store.jobs import edit_job, pause_job, read_job, resume_job
from rota.store.outlook import look
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of

PAUSE = 300.0


def open_breaker(ledger: Ledger, *, runs: int = 5, failures: int = 2, **columns: Any) -> list[int]:
    """Let as many attempts end badly as open the breaker of a job; return the ids of all its runs, those first."""
    ledger.add_job(breaker_failures=failures, breaker_pause_seconds=PAUSE, **columns)
    run_ids = ledger.enqueue_many([NewRun("job")] * runs)
    for _ in range(failures):
        ledger.end(ledger.claim_one(), "exited", exit_code=1)
    return run_ids


def breaker(ledger: Ledger) -> dict[str, Any]:
    return read_job(ledger.database, "job")["breaker"]


def told(ledger: Ledger) -> list[str]:
    return [row.to_state for row in ledger.rows("select to_state from rota_event where kind = 'job' order by id")]


def has_ready(ledger: Ledger) -> bool:
    return look(ledger.database, identity_of("a"), ("default",)).has_ready


def test_it_opens_after_so_many_attempts_in_a_row_that_ended_badly_and_holds_the_jobs_runs(ledger: Ledger) -> None:
    run_ids = open_breaker(ledger)
    ledger.add_job("other")
    other = ledger.enqueue("other")

    assert [claim.run_id for claim in ledger.claim()] == [other]

    assert not has_ready(ledger)
    assert {ledger.run(run_id).state for run_id in run_ids[2:]} == {"ready"}
    assert breaker(ledger)["state"] == "open"
    assert breaker(ledger)["failures_in_row"] == 2
    (event,) = ledger.rows("select text, job from rota_event where kind = 'job'")
    assert event.job == "job"
    assert "2 attempts in a row ended badly" in event.text
    assert "none of its runs starts for 5m" in event.text


def test_attempts_are_counted_over_all_runs_and_their_retries_and_a_good_one_begins_anew(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=3, retries=1, retry_delay_seconds=0.0)
    ledger.enqueue_many([NewRun("job")] * 3)
    for kind in ("exited", "timeout", "succeeded", "not_started", "exited"):
        ledger.end(ledger.claim_one(), kind)
        advance_runs(ledger.database)
    assert breaker(ledger)["state"] == "closed"

    ledger.enqueue()
    ledger.end(ledger.claim_one(), "exited")

    assert breaker(ledger)["state"] == "open"


def test_what_ends_together_is_counted_together(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=3)
    ledger.enqueue_many([NewRun("job")] * 3)

    ledger.end_all(ledger.claim(), "exited")

    assert told(ledger) == ["breaker_opened"]
    assert breaker(ledger)["failures_in_row"] == 3


def test_after_the_pause_one_run_is_let_through_and_closes_it(ledger: Ledger) -> None:
    run_ids = open_breaker(ledger)
    ledger.clock.advance(seconds=PAUSE - 1)
    assert let_runs_through(ledger.database) == 0
    ledger.clock.advance(seconds=1)
    assert look(ledger.database, identity_of("a"), ("default",)).half_open_has_come
    assert ledger.claim() == []

    assert let_runs_through(ledger.database) == 1
    assert let_runs_through(ledger.database) == 0

    assert has_ready(ledger)
    (claim,) = ledger.claim()
    assert claim.run_id == run_ids[2]
    assert breaker(ledger) | {"until": None} == {
        "state": "half_open", "failures_in_row": 2, "until": None, "run": run_ids[2],
    }  # fmt: skip
    assert ledger.claim() == []
    assert let_runs_through(ledger.database) == 0
    ledger.end(claim)
    assert breaker(ledger) == {"state": "closed", "failures_in_row": 0, "until": None, "run": None}
    assert {claim.run_id for claim in ledger.claim()} == set(run_ids[3:])
    assert told(ledger) == ["breaker_opened", "breaker_half_open", "breaker_closed"]


def test_the_run_that_is_let_through_opens_it_again_when_it_ends_badly(ledger: Ledger) -> None:
    open_breaker(ledger)
    ledger.clock.advance(seconds=PAUSE)
    let_runs_through(ledger.database)

    ledger.end(ledger.claim_one(), "exited", exit_code=1)

    assert ledger.claim() == []
    assert let_runs_through(ledger.database) == 0
    assert (breaker(ledger)["state"], breaker(ledger)["failures_in_row"]) == ("open", 3)
    ledger.clock.advance(seconds=PAUSE)
    assert let_runs_through(ledger.database) == 1
    assert told(ledger) == ["breaker_opened", "breaker_half_open", "breaker_opened", "breaker_half_open"]


def test_a_retry_waits_for_the_pause_as_well(ledger: Ledger) -> None:
    (run_id,) = open_breaker(ledger, runs=1, failures=1, retries=5, retry_delay_seconds=10.0)
    ledger.clock.advance(seconds=10)
    advance_runs(ledger.database)
    assert ledger.run(run_id).state == "ready"

    assert ledger.claim() == []

    ledger.clock.advance(seconds=PAUSE)
    let_runs_through(ledger.database)
    assert ledger.claim_one().run_id == run_id


@pytest.mark.parametrize("what", ["cancelled", "released", "lost"])
def test_another_run_is_let_through_when_the_first_one_tells_nothing(ledger: Ledger, what: str) -> None:
    run_ids = open_breaker(ledger)
    ledger.clock.advance(seconds=PAUSE)
    let_runs_through(ledger.database)
    claim = ledger.claim_one()

    if what == "cancelled":
        cancel_run(ledger.database, claim.run_id, actor="ann")
        ledger.end(claim, "cancelled")
        following = run_ids[3]
    elif what == "released":
        ledger.end(claim, "released")
        following = run_ids[2]
    else:
        ledger.clock.advance(seconds=LEASE_SECONDS + 1)
        rescue_runs(ledger.database, rescuer="b")
        following = run_ids[2]
    let_runs_through(ledger.database)

    assert [claim.run_id for claim in ledger.claim()] == [following]
    assert breaker(ledger)["state"] == "half_open"


def test_a_run_that_was_let_through_and_withdrawn_gives_its_place_to_the_next(ledger: Ledger) -> None:
    run_ids = open_breaker(ledger)
    ledger.clock.advance(seconds=PAUSE)
    let_runs_through(ledger.database)
    cancel_run(ledger.database, run_ids[2], actor="ann")

    assert let_runs_through(ledger.database) == 1

    assert [claim.run_id for claim in ledger.claim()] == [run_ids[3]]


def test_a_look_that_others_have_overtaken_lets_nothing_through(ledger: Ledger) -> None:
    open_breaker(ledger)
    which = {"of_id": ledger.value("select id from rota_job"), "before": 0, "through": 3}

    def too_early(connection: Connection) -> int:  # it was half open when we looked, and has opened again since
        return connection.execute(LET_RUN_THROUGH, which).rowcount

    assert ledger.database.write(too_early, repeatable=False) == 0
    ledger.clock.advance(seconds=PAUSE)
    assert let_runs_through(ledger.database) == 1
    assert ledger.database.write(too_early, repeatable=False) == 0


def test_a_breaker_whose_pause_is_over_waits_for_a_run(ledger: Ledger) -> None:
    open_breaker(ledger, runs=2)
    ledger.clock.advance(seconds=PAUSE)
    assert let_runs_through(ledger.database) == 0

    run_id = ledger.enqueue()

    assert ledger.claim() == []
    assert let_runs_through(ledger.database) == 1
    assert ledger.claim_one().run_id == run_id


def test_one_that_was_under_way_when_it_opened_closes_it_by_ending_well(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=2)
    ledger.enqueue_many([NewRun("job")] * 5)
    first, second, third, fourth = ledger.claim(limit=4)
    ledger.end_all([first, second], "exited")
    assert breaker(ledger)["state"] == "open"
    until = breaker(ledger)["until"]
    ledger.clock.advance(seconds=10)

    ledger.end(third, "exited")
    assert breaker(ledger)["until"] == until
    ledger.end(fourth)

    assert breaker(ledger)["state"] == "closed"
    assert len(ledger.claim()) == 1


def test_a_start_window_binds_behind_an_open_breaker_and_the_reason_says_what_held_it(ledger: Ledger) -> None:
    open_breaker(ledger, runs=2)
    run_id = ledger.enqueue(start_within_seconds=60)
    ledger.clock.advance(seconds=61)

    advance_runs(ledger.database)

    row = ledger.run(run_id)
    assert (row.state, row.reason) == ("missed", "window_passed")
    assert row.reason_text.endswith("the breaker of its job is open")


def test_why_and_check_name_the_breaker_that_holds_a_run(ledger: Ledger) -> None:
    run_ids = open_breaker(ledger)

    def said(run_id: int) -> str:
        return "\n".join(why_run(ledger.database, run_id)["because"])

    assert "the breaker of job job is open, since 2 attempts in a row ended badly" in said(run_ids[2])
    assert "`rota job resume job`" in said(run_ids[2])
    assert "is open" in "\n".join(why_job(ledger.database, "job")["because"])
    ledger.clock.advance(seconds=120)  # late, but for the breaker
    (finding,) = [found for found in check_health(ledger.database).findings if found.subject == "job"]
    assert (finding.code, finding.severity.value) == (FindingCode.BREAKER_OPEN, "warning")
    assert not any(found.code is FindingCode.RUN_LATE for found in check_health(ledger.database).findings)
    ledger.clock.advance(seconds=PAUSE)
    assert "the next run that is ready goes first" in said(run_ids[2])
    let_runs_through(ledger.database)
    assert "breaker" not in said(run_ids[2])
    assert f"run {run_ids[2]} goes first" in said(run_ids[3])


@pytest.mark.parametrize("how", ["resumed", "edited away", "paused and resumed"])
def test_a_person_closes_it(ledger: Ledger, how: str) -> None:
    open_breaker(ledger)

    if how == "edited away":
        edit_job(ledger.database, "job", lambda spec: spec.edited(breaker_failures=None), actor="ann")
        assert breaker(ledger) is None
        edit_job(ledger.database, "job", lambda spec: spec.edited(breaker_failures=2), actor="ann")
    else:
        if how == "paused and resumed":
            pause_job(ledger.database, "job", actor="ann")
        resume_job(ledger.database, "job", actor="ann")
        assert told(ledger)[-1] == "resumed"

    assert breaker(ledger) == {"state": "closed", "failures_in_row": 0, "until": None, "run": None}
    assert len(ledger.claim()) == 3


def test_a_paused_job_lets_nothing_through(ledger: Ledger) -> None:
    open_breaker(ledger)
    pause_job(ledger.database, "job", actor="ann")
    ledger.clock.advance(seconds=PAUSE)

    assert let_runs_through(ledger.database) == 0
    assert ledger.claim() == []


def test_a_job_without_a_breaker_is_not_written_by_its_ends(ledger: Ledger) -> None:
    claim = ledger.start_one()

    with statements_of(ledger.database) as sent:
        ledger.end(claim, "exited", exit_code=1)

    assert not any(statement.lower().startswith("update rota_job") for statement in sent)
    assert not any("for update" in statement.lower() and "from rota_job" in statement.lower() for statement in sent)
    assert ledger.value("select failures_in_row from rota_job") == 0
    assert breaker(ledger) is None


def test_what_is_left_of_a_breaker_that_was_taken_away_by_hand_holds_nothing(ledger: Ledger) -> None:
    open_breaker(ledger)

    ledger.set_job(breaker_failures=None)

    assert len(ledger.claim()) == 3
    assert breaker(ledger) is None


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_that_no_door_accepts_opens_it_at_the_first_bad_end(ledger: Ledger, number: int) -> None:
    claim = ledger.start_one(breaker_failures=number)

    ledger.end(claim, "exited", exit_code=1)

    assert breaker(ledger)["state"] == "open"


def test_a_claim_neither_waits_for_an_end_that_counts_nor_overlooks_the_breaker_meanwhile(ledger: Ledger) -> None:
    if ledger.database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    open_breaker(ledger)
    ledger.add_job("other")
    other = ledger.enqueue("other")
    job_id = ledger.value("select id from rota_job where name = 'job'")
    database, claimed = ledger.connect(), []

    def claim() -> None:
        claimed.extend(ledger.claim("b", database=database))

    with ledger.connect().engine.begin() as connection:
        assert connection.execute(LOCK_BREAKERS, {"job_ids": [job_id]}).all()
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join(20)
        was_waiting = thread.is_alive()
    thread.join(20)

    assert not was_waiting
    assert [claim.run_id for claim in claimed] == [other]


def test_the_ends_of_two_nodes_are_all_counted(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=100)
    ledger.add_job("other", breaker_failures=100)
    ledger.enqueue_many([NewRun(name) for _ in range(20) for name in ("job", "other")])
    claims = {node: ledger.claim(node, 20) for node in ("a", "b")}
    databases = {node: ledger.connect() for node in claims}
    together, failures = threading.Barrier(2), []

    def end_all(node: str) -> None:
        from rota.model.run import End
        from rota.store.endings import end_runs

        try:
            together.wait(30)
            for number in range(0, 20, 2):
                two = claims[node][number : number + 2]
                end_runs(databases[node], [End(one.claim_id, one.run_id, "exited", exit_code=1) for one in two])
        except Exception as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=end_all, args=(node,)) for node in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not failures
    assert ledger.rows("select distinct failures_in_row from rota_job") == [(20,)]


def test_a_job_with_a_breaker_reads_back_as_it_was_given(ledger: Ledger) -> None:
    from rota.store.jobs import READ_JOB, add_job, spec_of

    wanted = JobSpec.checked(
        "job", kind="shell", target="true", breaker_failures=5, breaker_pause="10m", retry_on=["exit:75", "OSError"],
        no_retry_on="timeout", deadline="1h", no_op_exit_code=99, cancel_exit_code=98, backoff="jitter",
    )  # fmt: skip

    view = add_job(ledger.database, wanted, actor="ann")

    row = ledger.database.read(lambda connection: connection.execute(READ_JOB, {"name": "job"}).one())
    assert spec_of(row) == wanted
    assert (view["retry_on"], view["no_retry_on"], view["deadline"]) == (["OSError", "exit:75"], ["timeout"], 3600)
    assert (view["no_op_exit_code"], view["cancel_exit_code"], view["breaker_pause"]) == (99, 98, 600)
