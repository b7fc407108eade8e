"""Reading runs, waiting for them, and what people do to them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from rota.errors import AlreadyFinished, Conflict, NotFound
from rota.model.run import NewRun, Written
from rota.model.states import RunState
from rota.store import interventions, jobs, runs
from rota.store.firing import fire_schedules
from rota.store.requests import request_runs
from tests.clock import BEGINNING
from tests.store.ledger import Ledger, output_of, statements_of

ANN = "ann@desk"

KEYS = (
    "id job schedule key state reason args result error priority pool on node target_node environment slot run_at "
    "start_by enqueued_at started_at finished_at attempt max_attempts progress checkpoint attempts events"
).split()


def test_a_run_is_shown_with_the_documented_keys_and_times_in_utc(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=2)
    ledger.end(claim, "exited", exit_code=3, cpu_seconds=0.5)

    view = runs.read_run(ledger.database, claim.run_id)

    assert set(KEYS) <= set(view)
    assert view["reason"]["code"] == "retry"
    assert view["enqueued_at"] == "2026-11-02T12:00:00.000000Z"
    assert (view["attempt"], view["max_attempts"], view["on"], view["target_node"]) == (1, 3, "any", "")
    assert view["error"]["type"] is None
    assert "exited with 3" in view["error"]["message"]
    (attempt,) = view["attempts"]
    assert (attempt["exit_code"], attempt["node"], attempt["fence"], attempt["cpu_seconds"]) == (3, "a", 1, 0.5)
    assert [event["to"] for event in view["events"]] == ["ready", "running", "waiting"]
    assert json.loads(json.dumps(view)) == view


def test_what_went_wrong_is_said_in_full_where_the_job_has_not_said_it(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(claim, "signalled", signal=9, error_message="that came from outside Rota")

    view = runs.read_run(ledger.database, claim.run_id)

    said = "attempt 1 on a was ended by signal SIGKILL: that came from outside Rota"
    assert view["error"] == {"type": None, "message": said, "traceback": None}


def test_a_run_and_its_job_are_shown_with_how_long_it_usually_takes(ledger: Ledger) -> None:
    ledger.add_job()
    first = ledger.enqueue()
    unknown = runs.read_run(ledger.database, first)["expected_seconds"]
    for seconds in (30.0, 10.0, 20.0):
        ledger.end(ledger.claim_one(), seconds=seconds)
        ledger.enqueue()
    ledger.end(ledger.claim_one(), "exited", exit_code=1, seconds=500.0)

    assert unknown is None
    assert runs.read_run(ledger.database, first)["expected_seconds"] == 20.0
    usual = {"expected_seconds": 20.0, "high_seconds": 30.0, "attempt_count": 3}
    assert jobs.read_job(ledger.database, "job")["durations"] == usual


def test_the_list_is_newest_first_filtered_and_paged_by_number(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_job("other")
    ids = ledger.enqueue_many([NewRun("job") for _ in range(5)])
    other = ledger.enqueue("other")
    ledger.clock.advance(hours=1)
    late = ledger.enqueue("job")

    def listed(**options: Any) -> list[int]:
        return [view["id"] for view in runs.list_runs(ledger.database, **options)]

    assert listed() == [late, other, *reversed(ids)]
    assert listed(job="job", limit=3) == [late, ids[4], ids[3]]
    assert listed(job="job", limit=3, before=ids[3]) == [ids[2], ids[1], ids[0]]
    assert listed(job="other") == [other]
    assert listed(states=["running"]) == []
    assert listed(states=["running", "ready"], limit=1) == [late]
    assert listed(since=BEGINNING + timedelta(minutes=30)) == [late]
    assert listed(schedule="none") == []


def test_a_list_by_the_moments_that_runs_are_for_is_paged_and_holds_each_once(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_job("other")
    ids: list[int] = []
    for _ in range(3):  # of each moment two
        ids += ledger.enqueue_many([NewRun("job"), NewRun("job")])
        ledger.enqueue("other")
        ledger.clock.advance(hours=1)
    span = (BEGINNING, BEGINNING + timedelta(hours=2))

    def listed(**options: Any) -> list[int]:
        return [view["id"] for view in runs.list_runs(ledger.database, job="job", span=span, **options)]

    assert listed() == [ids[3], ids[2], ids[1], ids[0]]
    assert listed(limit=3) == [ids[3], ids[2], ids[1]]
    assert listed(limit=3, before=ids[1]) == [ids[0]]
    assert listed(limit=1, before=ids[3]) == [ids[2]]
    assert listed(states=["running"]) == []
    assert runs.list_runs(ledger.database, job="nobody", span=span) == []
    assert runs.list_runs(ledger.database, job="job", span=span, limit=3).next == ids[1]
    with pytest.raises(NotFound, match="begin with the first page again"):
        listed(before=10**9)


def test_a_list_until_a_moment_and_a_brief_one(ledger: Ledger) -> None:
    ledger.add_job()
    early = ledger.enqueue()
    ledger.clock.advance(hours=1)
    ledger.enqueue()

    (view,) = runs.list_runs(ledger.database, until=BEGINNING + timedelta(minutes=30), is_brief=True)

    assert view["id"] == early
    assert not {"attempts", "events", "error"} & view.keys()


def test_the_list_takes_a_number_of_statements_that_does_not_depend_on_its_length(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job") for _ in range(30)])
    ledger.claim(limit=30)

    counts: list[int] = []
    for limit in (1, 30):
        with statements_of(ledger.database) as sent:
            runs.list_runs(ledger.database, limit=limit)
        counts.append(len(sent))

    assert counts[0] == counts[1]


def test_a_broken_row_is_shown_as_it_is_and_does_not_break_the_list(ledger: Ledger) -> None:
    ledger.add_job()
    good, bad = ledger.enqueue(), ledger.enqueue()
    ledger.execute("update rota_run set args = '{not json', result = 'NaN', reason = 'gremlins' where id = :id", id=bad)

    shown = {view["id"]: view for view in runs.list_runs(ledger.database)}

    assert (shown[bad]["args"], shown[bad]["result"]) == ("{not json", "NaN")
    assert shown[bad]["reason"]["code"] == "gremlins"
    assert shown[good]["args"] == {}


@pytest.mark.breaks_invariants
def test_a_state_that_nobody_knows_is_shown_as_it_stands(ledger: Ledger) -> None:
    ledger.add_job()
    bad = ledger.enqueue()
    if ledger.database.dialect.name == "sqlite":
        ledger.database = ledger.connect(connections_max=1)  # the pragma is one connection's
        ledger.database.read(lambda connection: connection.exec_driver_sql("pragma ignore_check_constraints = on"))
    else:
        ledger.execute("alter table rota_run drop constraint rota_run_state_known")
    ledger.execute("update rota_run set state = 'confused'")

    (view,) = runs.list_runs(ledger.database)

    assert (view["id"], view["state"]) == (bad, "confused")
    assert not runs.read_ended(ledger.database, bad).is_finished


def test_a_waiting_or_ready_run_is_cancelled_at_once(ledger: Ledger) -> None:
    ledger.add_job()
    waiting, ready = ledger.enqueue(in_seconds=60.0), ledger.enqueue()

    states = [interventions.cancel_run(ledger.database, run_id, actor=ANN) for run_id in (waiting, ready)]

    assert states == ["cancelled", "cancelled"]
    assert ledger.history(waiting)[-1] == ("waiting", "cancelled", "cancel")
    assert ledger.events(ready)[-1].actor == ANN
    assert ledger.claim() == []


def test_a_running_run_is_asked_to_stop_once_and_ends_cancelled(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=5)

    states = [interventions.cancel_run(ledger.database, claim.run_id, actor=who) for who in (ANN, "bob@desk")]
    row = ledger.run(claim.run_id)
    ledger.end(claim, "cancelled")

    assert states == ["running", "running"]
    assert (row.cancel_asked_at, row.cancel_asked_by) == (BEGINNING, ANN)
    assert ledger.history(claim.run_id)[-2:] == [("running", "running", "cancel"), ("running", "cancelled", "cancel")]
    with pytest.raises(AlreadyFinished):
        interventions.cancel_run(ledger.database, claim.run_id, actor=ANN)


def test_a_finished_run_is_rerun_as_its_next_attempt_with_budgets_anew(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)
    with pytest.raises(Conflict, match=r"running.*run cancel"):
        interventions.rerun_run(ledger.database, claim.run_id, actor=ANN)
    ledger.set_run(claim.run_id, retries_used=1, start_by=ledger.clock.after(5))
    ledger.end(claim, "exited", exit_code=1)
    ledger.clock.advance(minutes=5)

    interventions.rerun_run(ledger.database, claim.run_id, actor=ANN)
    row = ledger.run(claim.run_id)
    again = ledger.claim_one()

    assert (row.retries_used, row.start_by, row.run_at) == (0, None, ledger.clock.now)
    assert (again.run_id, again.attempt, again.fence) == (claim.run_id, 2, 2)
    assert ledger.history(claim.run_id)[-2] == ("failed", "ready", "rerun")
    ledger.end(again)
    assert ledger.run(claim.run_id).state == "succeeded"


def test_a_run_whose_job_is_gone_is_not_rerun(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.execute("delete from rota_job")

    with pytest.raises(NotFound, match="job 'job'"):
        interventions.rerun_run(ledger.database, claim.run_id, actor=ANN)


def test_a_row_that_stands_for_many_slots_is_not_rerun(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING - timedelta(days=1))
    fire_schedules(ledger.database, fired_by="a")
    summary = next(run for run in ledger.runs() if run.slot_count > 1)

    with pytest.raises(Conflict, match=f"{summary.slot_count} slots.*job run"):
        interventions.rerun_run(ledger.database, summary.id, actor=ANN)
    interventions.mark_succeeded(ledger.database, summary.id, actor=ANN)

    assert ledger.run(summary.id).state == "succeeded"


def test_a_run_that_has_not_started_is_skipped_and_a_running_one_is_not(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ready = ledger.enqueue()

    interventions.skip_run(ledger.database, ready, actor=ANN)

    assert ledger.history(ready)[-1] == ("ready", "skipped", "operator")
    with pytest.raises(Conflict, match="run cancel"):
        interventions.skip_run(ledger.database, claim.run_id, actor=ANN)
    with pytest.raises(AlreadyFinished):
        interventions.skip_run(ledger.database, ready, actor=ANN)


def test_a_run_that_ended_otherwise_is_marked_succeeded_and_another_is_not(ledger: Ledger) -> None:
    claim = ledger.start_one()
    with pytest.raises(Conflict, match="run cancel"):
        interventions.mark_succeeded(ledger.database, claim.run_id, actor=ANN)
    ledger.end(claim, "exited", exit_code=1)

    interventions.mark_succeeded(ledger.database, claim.run_id, actor=ANN)

    row = ledger.run(claim.run_id)
    assert (row.state, row.reason) == ("succeeded", "marked")
    assert ANN in row.reason_text
    with pytest.raises(AlreadyFinished):
        interventions.mark_succeeded(ledger.database, claim.run_id, actor=ANN)


def test_cancelling_a_queued_slot_lets_the_next_one_go(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING - timedelta(minutes=2), catch_up="all")
    fire_schedules(ledger.database, fired_by="a")
    first, *_ = ledger.runs()

    interventions.cancel_run(ledger.database, first.id, actor=ANN)

    due = [run.due_at for run in ledger.runs() if run.state == RunState.WAITING.value]
    assert due
    assert all(moment <= BEGINNING for moment in due)


def test_output_is_read_back_with_a_line_for_what_was_left_out(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(
        claim,
        "exited",
        exit_code=0,
        stdout=Written(head=b"first", tail=b"last\n", bytes_total=1000),
        stderr=Written(head=b"oh\n", bytes_total=3),
    )

    both = output_of(ledger.database, claim.run_id)

    assert both == b"first\n[... 990 bytes of stdout left out ...]\nlast\noh\n"
    assert output_of(ledger.database, claim.run_id, stream="stderr") == b"oh\n"
    assert output_of(ledger.database, claim.run_id, attempt=1, stream="stdout").startswith(b"first")
    with pytest.raises(NotFound, match="attempt '2'"):
        output_of(ledger.database, claim.run_id, attempt=2)


def test_the_output_of_the_last_attempt_is_read_unless_told(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1, retry_delay_seconds=0.0)
    ledger.end(claim, "exited", exit_code=1, stdout=Written(head=b"one", bytes_total=3))
    interventions.cancel_run(ledger.database, claim.run_id, actor=ANN)
    interventions.rerun_run(ledger.database, claim.run_id, actor=ANN)
    ledger.end(ledger.claim_one(), "exited", exit_code=0, stdout=Written(head=b"two", bytes_total=3))

    assert output_of(ledger.database, claim.run_id) == b"two"
    assert output_of(ledger.database, claim.run_id, attempt=1) == b"one"


def test_a_run_without_an_attempt_has_no_output(ledger: Ledger) -> None:
    ledger.add_job()

    assert output_of(ledger.database, ledger.enqueue()) == b""


def test_many_requests_take_a_constant_number_of_statements_for_each_thousand(ledger: Ledger) -> None:
    ledger.add_job()

    counts: list[int] = []
    for count in (1, 1000, 2000):
        with statements_of(ledger.database) as sent:
            ids = request_runs(ledger.database, [NewRun("job") for _ in range(count)])
        assert len(set(ids)) == count
        counts.append(len(sent))

    assert counts == [counts[0], counts[0], 2 * counts[0]]
