"""Alerts are made with what they tell of, or not at all, and as often as a job says."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Literal

import pytest
from sqlalchemy import select

from rota.errors import RotaError
from rota.model.alerts import ALERT_CALL
from rota.model.findings import FindingCode
from rota.model.instants import format_instant
from rota.model.run import Claim, End, NewRun
from rota.store import jobs
from rota.store.advancing import advance_runs, miss_unreachable
from rota.store.database import Database
from rota.store.endings import end_runs, rescue_runs
from rota.store.findings import watch_health
from rota.store.firing import fire_schedules
from rota.store.forgetting import forget_node
from rota.store.health import check_health
from rota.store.requests import request_runs
from rota.store.status import read_status
from rota.store.tables import alert, job, run
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, statements_of
from tests.store.living import start_node, stop_node
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.cases_take_turns

OPS = {"alert": '["ops"]', "alert_quiet_seconds": 900.0}


def told(ledger: Ledger, channel: str = "ops") -> list[dict[str, Any]]:
    """The alerts for which there are runs, oldest first."""
    rows = ledger.rows(select(run.c.args).where(run.c.job == f"rota:alert:{channel}").order_by(run.c.id))
    return [json.loads(row.args)["alert"] for row in rows]


def kinds(ledger: Ledger) -> list[tuple[str, int]]:
    return [(one["kind"], one["held"]) for one in told(ledger)]


def fail(ledger: Ledger, kind: str = "exited", *, count: int = 1) -> list[int]:
    """Let so many runs of the job end in one batch."""
    run_ids = [ledger.enqueue() for _ in range(count)]
    claims = [ledger.started(claim) for claim in ledger.claim(limit=count)]
    facts = {"exit_code": 3} if kind == "exited" else {}
    end_runs(ledger.database, [End(claim.claim_id, claim.run_id, kind, **facts) for claim in claims])
    return run_ids


def minute(ledger: Ledger, clock: Clock, count: int = 1) -> None:
    for _ in range(count):
        clock.advance(seconds=60)
        start_node(ledger)
        watch_health(ledger.database, node="a")


def test_a_run_that_fails_makes_a_run_that_tells_it(ledger: Ledger) -> None:
    ledger.add_job(**OPS)

    (run_id,) = fail(ledger)

    (one,) = told(ledger)
    assert (one["kind"], one["job"], one["run"], one["state"]) == ("failure", "job", run_id, "failed")
    assert one["reason"]["code"] == "exit_code"
    assert (one["attempt"], one["node"], one["held"]) == (1, "a", 0)
    made = ledger.row(select(job).where(job.c.name == "rota:alert:ops"))
    assert (made.kind, made.target, made.secrets) == ("call", ALERT_CALL, '["ROTA_ALERT_ops"]')
    assert ledger.violations() == []


def test_an_alert_is_not_there_without_what_it_tells_of(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job(**OPS)
    ledger.enqueue()
    claim = ledger.started(ledger.claim_one())

    def dies(_connection: Any, _moves: Any, _queued: Any, **_options: Any) -> None:
        raise KeyboardInterrupt  # the last thing before the commit

    with monkeypatch.context() as patch:
        patch.setattr("rota.store.endings._wake_others", dies)
        with pytest.raises(KeyboardInterrupt):
            ledger.end(claim, "exited", exit_code=1)
    before = (ledger.run(claim.run_id).state, told(ledger))
    ledger.end(claim, "exited", exit_code=1)
    ledger.end(claim, "exited", exit_code=1)  # delivered again

    assert before == ("running", [])
    assert (ledger.run(claim.run_id).state, kinds(ledger)) == ("failed", [("failure", 0)])


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_alert_is_made_once_though_the_answer_to_its_commit_is_lost(
    ledger: Ledger, clock: Clock, when: Literal["before", "after"]
) -> None:
    ledger.add_job(**OPS)
    ledger.enqueue_many([NewRun("job")] * 2)
    claims = [ledger.started(claim) for claim in ledger.claim(limit=2)]

    for claim in claims:
        with commit_breaks(ledger.database, when):
            ledger.end(claim, "exited", exit_code=1)
    with commit_breaks(ledger.database, when, times=2):
        minute(ledger, clock, 16)

    assert kinds(ledger) == [("failure", 0), ("failure", 0)]
    assert ledger.row(select(alert)).held_count == 0


def test_what_follows_within_the_quiet_time_is_counted_and_told_when_it_is_over(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    fail(ledger)
    for _ in range(4):
        clock.advance(seconds=60)
        run_ids = fail(ledger)
    during = kinds(ledger)

    minute(ledger, clock, 10)
    shortly_before = kinds(ledger)
    minute(ledger, clock, 2)
    minute(ledger, clock, 30)

    assert during == shortly_before == [("failure", 0)]
    assert kinds(ledger) == [("failure", 0), ("failure", 3)]
    assert told(ledger)[1]["run"] == run_ids[0]


def test_a_failure_after_the_quiet_time_is_told_at_once_with_what_was_held_back(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    fail(ledger, count=3)
    clock.advance(seconds=900)

    fail(ledger)

    assert kinds(ledger) == [("failure", 0), ("failure", 2)]
    assert ledger.row(select(alert)).held_count == 0


def test_without_a_quiet_time_each_is_told(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops", "boss"]', alert_quiet_seconds=0.0)

    fail(ledger, count=3)

    assert kinds(ledger) == [("failure", 0)] * 3
    assert len(told(ledger, "boss")) == 3
    assert len({one["id"] for one in told(ledger)}) == 3


@pytest.mark.parametrize("quiet_seconds", [0.0, 900.0])
def test_a_batch_takes_the_same_statements_whatever_its_size(ledger: Ledger, quiet_seconds: float) -> None:
    ledger.add_job(alert='["ops"]', alert_quiet_seconds=quiet_seconds)
    fail(ledger)
    sent: list[int] = []
    for count in (2, 40):
        for _ in range(count):
            ledger.enqueue()
        claims = [ledger.started(claim) for claim in ledger.claim(limit=100) if claim.job == "job"]
        with statements_of(ledger.database) as statements:
            ledger.end_all(claims, "signalled")
        sent.append(len(statements))

    assert sent[0] == sent[1]


def test_the_first_success_after_a_failure_that_was_told_is_told_once(ledger: Ledger) -> None:
    ledger.add_job(**OPS)
    fail(ledger, "succeeded")
    fail(ledger)
    fail(ledger, "succeeded")
    fail(ledger, "succeeded")

    assert [one["kind"] for one in told(ledger)] == ["failure", "recovered"]
    assert told(ledger)[1]["recovered_from"] == "failure"


def test_a_success_after_a_failure_that_was_only_counted_is_not_told(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    for kind in ("exited", "succeeded", "exited", "succeeded"):
        fail(ledger, kind)

    minute(ledger, clock, 17)

    assert [one["kind"] for one in told(ledger)] == ["failure", "recovered", "failure"]
    assert ledger.row(select(alert)).open_since is None


def test_nobody_is_told_of_kinds_that_the_job_does_not_name(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops"]', alert_on='["lost"]')

    fail(ledger)

    assert told(ledger) == []


def test_a_run_that_is_tried_again_is_not_told(ledger: Ledger) -> None:
    ledger.add_job(retries=1, **OPS)

    fail(ledger)

    assert told(ledger) == []


def test_a_lost_run_is_told(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one(delivery="at_most_once", **OPS)
    clock.advance(seconds=LEASE_SECONDS + 1)

    rescue_runs(ledger.database, rescuer="b")

    assert [(one["kind"], one["run"]) for one in told(ledger)] == [("lost", claim.run_id)]


def test_a_run_that_does_not_start_in_its_window_is_told_and_the_next_success_too(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(start_within_seconds=60.0, **OPS)
    ledger.add_job("other", start_within_seconds=60.0)
    run_id = ledger.enqueue()
    ledger.enqueue("other")
    clock.advance(seconds=59)
    advance_runs(ledger.database)
    assert told(ledger) == []
    clock.advance(seconds=2)

    advance_runs(ledger.database)
    advance_runs(ledger.database)

    (one,) = told(ledger)
    assert (one["kind"], one["job"], one["run"], one["state"]) == ("missed", "job", run_id, "missed")
    assert (one["reason"]["code"], one["attempt"], one["node"]) == ("window_passed", 0, None)
    fail(ledger, "succeeded")
    assert [(one["kind"], one.get("recovered_from")) for one in told(ledger)][1:] == [("recovered", "missed")]


def test_slots_that_nobody_has_looked_at_in_time_are_told(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    each_hour = {"expression": "0 * * * *", "catch_up": "none", "next_slot_at": clock.now - timedelta(hours=5)}
    ledger.add_schedule(**each_hour)
    clock.advance(minutes=30)

    fire_schedules(ledger.database, fired_by="a", limit=10)
    fire_schedules(ledger.database, fired_by="a", limit=10)

    (one,) = told(ledger)
    missed, *more = (row for row in ledger.runs() if row.job == "job" and row.state == "missed")
    assert ledger.row(select(alert)).held_count == len(more)
    assert (one["kind"], one["schedule"], one["run"], one["state"]) == ("missed", "each", missed.id, "missed")
    assert one["slot"] == format_instant(missed.slot_at)
    assert one["reason"] == {"code": missed.reason, "text": missed.reason_text}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_missed_is_told_once_though_the_answer_to_its_commit_is_lost(
    ledger: Ledger, clock: Clock, when: Literal["before", "after"]
) -> None:
    ledger.add_job(start_within_seconds=60.0, **OPS)
    ledger.enqueue()
    ledger.add_schedule(expression="0 * * * *", catch_up="none", next_slot_at=clock.now - timedelta(hours=5))
    clock.advance(seconds=61)

    with commit_breaks(ledger.database, when, times=2):
        advance_runs(ledger.database)
    with commit_breaks(ledger.database, when, times=2):
        fire_schedules(ledger.database, fired_by="a", limit=10)

    assert kinds(ledger) == [("missed", 0)]
    assert ledger.row(select(alert)).held_count == len([row for row in ledger.runs() if row.state == "missed"]) - 1


@pytest.mark.parametrize("gone", ["forgotten", "deleted", "excluded"])
def test_a_run_for_a_node_that_is_gone_is_told(ledger: Ledger, gone: str) -> None:
    ledger.add_job(runs_on="all", **OPS)
    for name in ("a", "b"):
        start_node(ledger, name)
    request_runs(ledger.database, [NewRun("job")])
    of_b = ledger.row(select(run.c.id).where(run.c.target_node == "b")).id

    match gone:
        case "forgotten":
            stop_node(ledger, "b")
            forget_node(ledger.database, "b", actor="ann")
        case "deleted":
            ledger.execute("delete from rota_node where name = 'b'")
        case _:
            ledger.set_job(exclude='["b"]')
    miss_unreachable(ledger.database)

    code = "node_forgotten" if gone == "forgotten" else "no_node"
    assert [(one["kind"], one["run"], one["reason"]["code"]) for one in told(ledger)] == [("missed", of_b, code)]


def test_nothing_is_told_of_what_tells(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops"]', alert_quiet_seconds=0.0)
    fail(ledger)
    ledger.set_job("rota:alert:ops", alert='["ops"]', retries=0)  # as somebody may do with SQL
    claim = ledger.started(ledger.claim_one(secrets=["ROTA_ALERT_ops"]))

    ledger.end(claim, "exited", exit_code=1)

    assert ledger.run(claim.run_id).state == "failed"
    assert kinds(ledger) == [("failure", 0)]


def test_a_node_without_the_channel_leaves_its_runs_alone(ledger: Ledger) -> None:
    ledger.add_job(**OPS)
    fail(ledger)

    assert ledger.claim(secrets=["ROTA_ALERT_other"]) == []
    assert [claim.job for claim in ledger.claim(secrets=["ROTA_ALERT_ops"])] == ["rota:alert:ops"]


def test_a_late_job_is_told_once_and_once_more_when_it_is_late_no_more(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    ledger.add_job("other")
    ledger.enqueue()
    ledger.enqueue("other")
    clock.advance(seconds=70)
    start_node(ledger)
    watch_health(ledger.database, node="a")
    minute(ledger, clock, 3)
    ledger.end_all([ledger.started(claim) for claim in ledger.claim()])
    minute(ledger, clock, 4)

    assert [(one["kind"], one["job"], one.get("recovered_from")) for one in told(ledger)] == [
        ("late", "job", None),
        ("recovered", "job", "late"),
    ]


def test_an_absent_slot_is_told_to_those_who_are_told_of_its_job(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(**OPS)
    ledger.add_schedule(next_slot_at=clock.now)
    clock.advance(seconds=90)
    start_node(ledger)

    watch_health(ledger.database, node="a")

    (one,) = told(ledger)
    assert (one["kind"], one["job"]) == ("absent", "job")
    assert "1 slot is due and not decided" in one["reason"]["text"]


def test_what_somebody_wrote_into_the_row_by_hand_holds_up_no_end(ledger: Ledger) -> None:
    ledger.add_job(alert="nonsense")

    (run_id,) = fail(ledger)

    assert ledger.run(run_id).state == "failed"


def test_how_alerts_stand_goes_with_the_job(ledger: Ledger) -> None:
    ledger.add_job(**OPS)
    fail(ledger)

    jobs.delete_job(ledger.database, "job", actor="ann")

    assert ledger.rows(select(alert)) == []


def test_it_is_found_that_nobody_can_send_what_a_job_tells(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops", "boss"]')
    start_node(ledger, secrets=("ROTA_ALERT_boss",))

    found = [one for one in check_health(ledger.database).findings if one.code is FindingCode.CHANNEL_MISSING]

    assert [one.subject for one in found] == ["ops"]
    assert found[0].text.startswith("alerts of job go to channel ops, and no node alive can send them")


def unsent(ledger: Ledger) -> list[str]:
    return [one.text for one in check_health(ledger.database).findings if one.code is FindingCode.ALERT_UNSENT]


def send(ledger: Ledger, kind: str = "succeeded", **facts: Any) -> int:
    """Let the next alert be sent, or fail to be."""
    claim = ledger.started(ledger.claim(secrets=["ROTA_ALERT_ops"])[0])
    ledger.end(claim, kind, **facts)
    return claim.run_id


def test_one_alert_that_could_not_be_sent_is_found_until_one_is(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops"]', alert_quiet_seconds=0.0)
    start_node(ledger, secrets=("ROTA_ALERT_ops",))
    fail(ledger)
    ledger.set_job("rota:alert:ops", retries=0)

    before = unsent(ledger)
    run_id = send(ledger, "exited", exit_code=9)
    failed = unsent(ledger)
    fail(ledger)
    send(ledger)

    assert before == []
    (text,) = failed
    assert text.startswith(f"an alert could not be sent to channel ops; run {run_id}, which is failed: ")
    assert unsent(ledger) == []


def test_an_alert_that_is_tried_again_has_not_been_sent(ledger: Ledger) -> None:
    ledger.add_job(**OPS)
    start_node(ledger, secrets=("ROTA_ALERT_ops",))
    fail(ledger)

    run_id = send(ledger, "exited", exit_code=9)

    (text,) = unsent(ledger)
    assert f"run {run_id}, which is waiting: attempt 1 on a exited with 9" in text


def test_runs_that_send_alerts_are_none_of_those_that_ended_lately(ledger: Ledger) -> None:
    ledger.add_job(alert='["ops"]', alert_quiet_seconds=0.0)
    (first,) = fail(ledger)
    send(ledger)
    (second,) = fail(ledger)
    ledger.set_job("rota:alert:ops", retries=0)
    send(ledger, "exited", exit_code=9)

    view = read_status(ledger.database)

    assert (view["counts"]["failed"], view["counts"]["succeeded"]) == (2, 0)
    assert [one["id"] for one in view["failed"]] == [second, first]


def test_nodes_that_end_runs_at_the_same_time_make_one_alert_between_them(ledger: Ledger) -> None:
    ledger.add_job(**OPS)
    for _ in range(6):
        ledger.enqueue()
    claims = [ledger.started(claim) for claim in ledger.claim()]
    databases = [ledger.connect() for _ in claims]
    begin = threading.Barrier(len(claims))

    def end(database: Database, claim: Claim) -> None:
        begin.wait()
        end_runs(database, [End(claim.claim_id, claim.run_id, "exited", exit_code=1)])

    with ThreadPoolExecutor(len(claims)) as threads:
        for done in [threads.submit(end, *each) for each in zip(databases, claims, strict=True)]:
            done.result()

    assert kinds(ledger) == [("failure", 0)]
    assert ledger.row(select(alert)).held_count == 5


def test_a_job_of_which_nobody_is_told_costs_nothing(ledger: Ledger) -> None:
    claim = ledger.start_one()

    with statements_of(ledger.database) as sent:
        ledger.end(claim, "exited", exit_code=1)

    assert [one for one in sent if "rota_alert" in one] == []


def test_a_success_of_a_job_of_which_somebody_is_told_costs_one_look(ledger: Ledger) -> None:
    claim = ledger.start_one(**OPS)

    with statements_of(ledger.database) as sent:
        ledger.end(claim)

    assert len([one for one in sent if "rota_alert" in one]) == 1


def test_a_quiet_time_that_is_none_is_refused_by_every_database(ledger: Ledger) -> None:
    with pytest.raises(RotaError, match="alert_quiet_seconds"):
        ledger.add_job(alert_quiet_seconds=-1.0)
