"""Firing schedules, and moving on the runs whose time has come."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from rota.model.run import NewRun
from rota.model.states import RunState
from rota.store import firing
from rota.store.advancing import Advanced, advance_runs
from rota.store.firing import Fired, fire_schedules
from rota.store.outlook import look
from tests.clock import BEGINNING
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.cases_take_turns

MINUTE = timedelta(minutes=1)


@pytest.fixture
def job(ledger: Ledger) -> int:
    return ledger.add_job()


def fire(ledger: Ledger) -> Fired:
    return fire_schedules(ledger.database, fired_by="a")


def finish_all(ledger: Ledger) -> None:
    while claims := ledger.claim(limit=100):
        ledger.end_all(claims)


def test_a_due_slot_makes_one_run_and_the_cursor_moves_past_it(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING, args='{"a": 1}')

    assert fire(ledger) == Fired(schedules=1, runs=1, ready=1)

    (run,) = ledger.runs()
    schedule = ledger.schedule(schedule_id)
    assert (run.job_id, run.schedule_id, run.slot_at, run.target_node) == (job, schedule_id, BEGINNING, "")
    assert (run.state, run.reason, run.args, run.requested_by) == ("ready", "due", '{"a": 1}', "schedule:each")
    assert (run.run_at, run.start_by, run.due_at) == (BEGINNING, BEGINNING + MINUTE, BEGINNING + MINUTE)
    assert (schedule.next_slot_at, schedule.last_slot_at) == (BEGINNING + MINUTE, BEGINNING)
    assert schedule.cursor_version == 2
    assert ledger.history(run.id) == [(None, "ready", "due")]


def test_nothing_is_fired_before_its_slot(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(microseconds=1))

    assert fire(ledger) == Fired()
    assert ledger.runs() == []


def test_a_slot_is_fired_once(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)

    assert [fire(ledger).runs for _ in range(3)] == [1, 0, 0]


def test_each_slot_of_an_hour_makes_its_run(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="allow")

    for _ in range(60):
        fire(ledger)
        ledger.clock.advance(minutes=1)

    assert [run.slot_at for run in ledger.runs()] == [BEGINNING + MINUTE * number for number in range(60)]
    assert set(ledger.states()) == {RunState.READY}


def test_every_counts_from_its_anchor_and_not_from_now(ledger: Ledger, job: int) -> None:
    anchor = BEGINNING - timedelta(seconds=100)
    schedule_id = ledger.add_schedule(
        kind="every", expression="7", anchor_at=anchor, next_slot_at=anchor + timedelta(seconds=105), overlap="allow"
    )

    ledger.clock.advance(seconds=6.5)
    fire(ledger)

    assert [run.slot_at for run in ledger.runs()] == [anchor + timedelta(seconds=105)]
    assert ledger.schedule(schedule_id).next_slot_at == anchor + timedelta(seconds=112)


def test_at_is_due_once_and_then_never(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(kind="at", expression="2026-11-02T12:00:00Z", next_slot_at=BEGINNING)

    fire(ledger)

    assert ledger.schedule(schedule_id).next_slot_at is None
    ledger.clock.advance(days=400)
    assert fire(ledger) == Fired()
    assert [run.slot_at for run in ledger.runs()] == [BEGINNING]


def test_a_cron_expression_is_read_in_the_schedules_zone(ledger: Ledger, job: int) -> None:
    due = datetime(2026, 11, 2, 6, 0, tzinfo=UTC)
    ledger.clock.now = due
    schedule_id = ledger.add_schedule(expression="0 7 * * *", zone="Europe/Amsterdam", next_slot_at=due)

    fire(ledger)

    assert ledger.schedule(schedule_id).next_slot_at == due + timedelta(days=1)


def test_a_run_with_a_delay_waits_for_it(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, delay_seconds=30.0)

    assert fire(ledger) == Fired(schedules=1, runs=1, ready=0)

    (run,) = ledger.runs()
    assert (run.state, run.reason, run.due_at) == ("waiting", "delay", BEGINNING + timedelta(seconds=30))
    ledger.clock.advance(seconds=29)
    assert advance_runs(ledger.database) == Advanced()
    ledger.clock.advance(seconds=1)
    assert advance_runs(ledger.database) == Advanced(ready=1)
    assert ledger.history(run.id)[-1] == ("waiting", "ready", "due")


@pytest.mark.parametrize(
    ("of_schedule", "of_job", "expected"), [(90.0, 600.0, 90), (None, 600.0, 600), (None, None, 60)]
)
def test_the_schedules_window_goes_before_the_jobs(
    ledger: Ledger, of_schedule: float | None, of_job: float | None, expected: float
) -> None:
    ledger.add_job(start_within_seconds=of_job)
    ledger.add_schedule(next_slot_at=BEGINNING, start_within_seconds=of_schedule)

    fire(ledger)

    assert ledger.runs()[0].start_by == BEGINNING + timedelta(seconds=expected)


def test_priority_pool_delivery_and_lease_come_from_the_job(ledger: Ledger) -> None:
    ledger.add_job(priority=7, pool="far", delivery="at_most_once", lease_seconds=9.0)
    ledger.add_schedule(next_slot_at=BEGINNING)

    fire(ledger)

    (run,) = ledger.runs()
    assert (run.priority, run.pool, run.delivery, run.lease_seconds) == (7, "far", "at_most_once", 9)


# Late


def test_catch_up_latest_runs_the_newest_late_slot_and_accounts_for_the_others(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, start_within_seconds=3600.0)
    ledger.clock.advance(minutes=4, seconds=30)

    assert fire(ledger).runs == 5

    assert [(run.state, run.reason) for run in ledger.runs()] == [("missed", "catch_up_latest")] * 4 + [
        ("ready", "due")
    ]
    assert all("newer slot is due" in run.reason_text for run in ledger.runs()[:4])


def test_a_slot_whose_window_has_passed_is_missed_whatever_catch_up_says(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(expression="0 * * * *", next_slot_at=BEGINNING, start_within_seconds=300.0)
    ledger.clock.advance(minutes=6)

    fire(ledger)

    (run,) = ledger.runs()
    assert (run.state, run.reason, run.finished_at) == ("missed", "window_passed", ledger.clock.now)
    assert "5m" in run.reason_text


def test_catch_up_none_runs_no_late_slot(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="none", start_within_seconds=3600.0)
    ledger.clock.advance(minutes=3, seconds=1)

    fire(ledger)

    assert [(run.state, run.reason) for run in ledger.runs()][:3] == [("missed", "catch_up_none")] * 3


def test_catch_up_all_runs_each_late_slot_oldest_first_one_at_a_time(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    ledger.clock.advance(minutes=3, seconds=30)
    fire(ledger)
    assert ledger.states() == [RunState.READY, RunState.WAITING, RunState.WAITING, RunState.WAITING]
    assert [run.reason for run in ledger.runs()[1:]] == ["queued"] * 3

    order: list[datetime | None] = []
    for number in range(4):
        advance_runs(ledger.database)
        assert ledger.states().count(RunState.READY) == 1, number
        claim = ledger.claim_one()
        order.append(claim.slot_at)
        advance_runs(ledger.database)
        assert ledger.claim() == []
        ledger.end(claim)

    assert order == [BEGINNING + MINUTE * number for number in range(4)]
    assert set(ledger.states()) == {RunState.SUCCEEDED}


def test_the_next_in_the_queue_goes_as_soon_as_the_one_before_it_has_ended(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    ledger.clock.advance(minutes=1, seconds=30)
    fire(ledger)
    claim = ledger.claim_one()
    advance_runs(ledger.database)
    ledger.clock.advance(seconds=1)

    ledger.end(claim)

    assert advance_runs(ledger.database).ready == 1


def test_one_that_waits_for_its_retry_keeps_the_queue_waiting(ledger: Ledger) -> None:
    ledger.add_job(retries=1)
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    ledger.clock.advance(minutes=1, seconds=30)
    fire(ledger)

    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    advance_runs(ledger.database)

    assert [run.reason for run in ledger.runs()] == ["retry", "queued"]
    ledger.clock.advance(seconds=10)
    advance_runs(ledger.database)
    assert ledger.claim_one().slot_at == BEGINNING


def test_a_blocked_run_is_looked_at_again_even_if_nobody_wakes_it(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    ledger.clock.advance(minutes=1, seconds=30)
    fire(ledger)

    assert advance_runs(ledger.database) == Advanced(postponed=1)
    assert advance_runs(ledger.database) == Advanced()
    ledger.clock.advance(seconds=5)
    assert advance_runs(ledger.database) == Advanced(postponed=1)


def test_more_late_slots_than_the_limit_are_missed_and_say_so(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all", catch_up_limit=3)
    ledger.clock.advance(minutes=5, seconds=30)

    fire(ledger)

    assert [run.reason for run in ledger.runs()] == ["catch_up_limit"] * 3 + ["due", "queued", "queued"]


def test_a_month_of_a_minutely_schedule_is_one_run_and_one_row_for_the_rest(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(days=30, seconds=30)

    with statements_of(ledger.database) as sent:
        fired = fire(ledger)

    assert fired == Fired(schedules=1, runs=2, ready=1)
    rest, run = ledger.runs()
    assert (rest.state, rest.slot_at, rest.slot_count) == ("missed", BEGINNING, 30 * 24 * 60)
    assert rest.slot_last_at == run.slot_at - MINUTE
    assert (run.state, run.slot_at) == ("ready", BEGINNING + timedelta(days=30))
    assert ledger.schedule(schedule_id).next_slot_at == run.slot_at + MINUTE
    assert len(sent) == 6


def test_the_past_is_decided_once_also_when_it_was_long(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(days=30, seconds=30)
    fire(ledger)

    assert fire(ledger) == Fired()


# Overlap, and jobs that are paused


def test_a_slot_that_comes_while_the_run_before_it_is_unfinished_is_skipped(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    claim = ledger.claim_one()
    ledger.clock.advance(minutes=1)

    fire(ledger)

    skipped = ledger.runs()[1]
    assert (skipped.state, skipped.reason) == ("skipped", "overlap")
    ledger.end(claim)
    ledger.clock.advance(minutes=1)
    fire(ledger)
    assert ledger.states() == [RunState.SUCCEEDED, RunState.SKIPPED, RunState.READY]


def test_overlap_asks_for_runs_of_the_same_schedule_only(ledger: Ledger, job: int) -> None:
    ledger.add_schedule("one", next_slot_at=BEGINNING)
    fire(ledger)
    ledger.enqueue()
    ledger.add_schedule("two", next_slot_at=BEGINNING)

    fire(ledger)

    assert ledger.states().count(RunState.READY) == 3


def test_overlap_allow_lets_them_run_beside_each_other(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="allow")
    fire(ledger)
    ledger.claim_one()
    ledger.clock.advance(minutes=1)

    fire(ledger)

    assert ledger.states() == [RunState.RUNNING, RunState.READY]


def test_the_slots_of_a_paused_job_are_skipped(ledger: Ledger) -> None:
    ledger.add_job(state="paused")
    ledger.add_schedule(next_slot_at=BEGINNING)

    fire(ledger)

    assert [(run.state, run.reason) for run in ledger.runs()] == [("skipped", "job_paused")]


def test_a_paused_schedule_is_not_fired(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, state="paused")

    assert fire(ledger) == Fired()


# Many nodes


def test_nodes_that_fire_at_once_make_one_run_of_each_slot(ledger: Ledger, job: int) -> None:
    for number in range(20):
        ledger.add_schedule(f"s{number}", next_slot_at=BEGINNING, overlap="allow")
    together, failures = threading.Barrier(3), []

    def take_part(name: str) -> None:
        database = ledger.connect()
        try:
            together.wait(30)
            for _ in range(3):
                fire_schedules(database, fired_by=name, limit=7)
        except Exception as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=take_part, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failures:
        raise failures[0]

    fire(ledger)
    assert Counter(run.schedule for run in ledger.runs()) == {f"s{number}": 1 for number in range(20)}
    assert {row.cursor_version for row in ledger.rows("select cursor_version from rota_schedule")} == {2}


def test_a_firing_whose_commit_answer_was_lost_happened_once(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)

    with commit_breaks(ledger.database, "after") as broken:
        fire(ledger)

    assert broken == ["after"]
    assert len(ledger.runs()) == 1
    assert ledger.schedule(schedule_id).cursor_version == 2


def test_a_slot_that_has_its_row_already_keeps_it(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    finish_all(ledger)
    before, events = ledger.runs(), ledger.rows("select * from rota_event")
    ledger.set_schedule(schedule_id, next_slot_at=BEGINNING)  # by hand, or by a backup that was put back

    fire(ledger)

    assert ledger.runs() == before
    assert ledger.rows("select * from rota_event") == events
    assert ledger.schedule(schedule_id).next_slot_at == BEGINNING + MINUTE


def test_a_schedule_that_is_paused_by_hand_while_it_is_decided_fires_nothing(
    ledger: Ledger, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ledger.database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    ledger.add_schedule("paused", next_slot_at=BEGINNING)
    ledger.add_schedule("other", next_slot_at=BEGINNING)
    by_hand = ledger.connect()
    decide = firing.decide_slots

    def decide_late(*arguments: Any, **options: Any) -> Any:
        pause = text("update rota_schedule set state = 'paused' where name = 'paused'")
        by_hand.write(lambda connection: connection.execute(pause), repeatable=True)
        return decide(*arguments, **options)

    monkeypatch.setattr(firing, "decide_slots", decide_late)

    fire(ledger)

    assert [run.schedule for run in ledger.runs()] == ["other"]


def test_no_more_schedules_are_fired_at_once_than_the_limit_says(ledger: Ledger, job: int) -> None:
    for number in range(5):
        ledger.add_schedule(f"s{number}", next_slot_at=BEGINNING)

    fired = [fire_schedules(ledger.database, fired_by="a", limit=2).schedules for _ in range(4)]

    assert fired == [2, 2, 1, 0]


def test_firing_takes_as_many_statements_for_many_schedules_as_for_one(ledger: Ledger, job: int) -> None:
    counts: set[int] = set()
    for size in (1, 10, 50):
        for number in range(size):
            ledger.add_schedule(f"s{size}.{number}", next_slot_at=ledger.clock.now, overlap="allow")
        with statements_of(ledger.database) as sent:
            assert fire(ledger).schedules == size
        counts.add(len(sent))
        ledger.execute("update rota_schedule set state = 'paused'")

    assert counts == {5}


# Broken by hand


BROKEN = {
    "cron": {"expression": "60 * * * *"},
    "cron that never fires": {"expression": "0 0 30 2 *"},
    "zone": {"zone": "JST-9"},
    "kind": {"kind": "sundial"},
    "every without an anchor": {"kind": "every", "expression": "5"},
    "every of nothing": {"kind": "every", "expression": "0", "anchor_at": BEGINNING},
    "every that is no number": {"kind": "every", "expression": "soon", "anchor_at": BEGINNING},
    "at": {"kind": "at", "expression": "tomorrow"},
    "catch_up": {"catch_up": "some"},
    "catch_up_limit": {"catch_up": "all", "catch_up_limit": 0},
    "overlap": {"overlap": "maybe"},
    "order": {"catch_up": "all", "catch_up_order": "random"},
    "all and replace": {"catch_up": "all", "overlap": "replace"},
    "gap": {"gap": "jump"},
    "fold": {"fold": "twice"},
    "jitter": {"jitter_seconds": 1e7},
    "end before start": {"start_at": BEGINNING, "end_at": BEGINNING - timedelta(days=1)},
    "calendars": {"calendars": "weekends"},
    "unknown calendar": {"calendars": '["nowhere"]'},
    "unknown calendar that moves": {"calendars": '["nowhere"]', "on_closed": "next"},
    "on closed": {"on_closed": "ignore"},
    "delay": {"delay_seconds": 1e300},
    "negative delay": {"delay_seconds": -5.0},
    "window": {"start_within_seconds": -1.0},
    "window of the job": {},
    "args": {"args": "{not json"},
    "args that are no object": {"args": "[1]"},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_schedule_is_set_aside_with_a_reason_and_stops_no_other(ledger: Ledger, job: int, what: str) -> None:
    ledger.add_job("odd", start_within_seconds=0.5 if what == "window of the job" else None)
    broken = ledger.add_schedule("broken", "odd", next_slot_at=BEGINNING - MINUTE, **BROKEN[what])
    good = ledger.add_schedule("good", next_slot_at=BEGINNING)

    fired = fire(ledger)

    assert fired == Fired(schedules=2, runs=1, set_aside=1, ready=1)
    row = ledger.schedule(broken)
    assert (row.next_slot_at, row.state) == (BEGINNING - MINUTE, "active")
    assert row.problem.startswith("cannot be fired: ")
    assert [run.schedule_id for run in ledger.runs()] == [good]
    (told,) = ledger.rows("select kind, to_state, text, node from rota_event where schedule = 'broken'")
    assert tuple(told) == ("schedule", "set aside", row.problem, "a")


def test_a_schedule_that_was_set_aside_is_not_looked_at_again(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, zone="JST-9")
    fire(ledger)

    assert fire(ledger) == Fired()
    assert look(ledger.database, identity_of("a"), ["default"]).next_slot_at is None


# Advancing


def test_a_ready_run_whose_window_closes_is_missed(ledger: Ledger, job: int) -> None:
    run_id = ledger.enqueue(start_within_seconds=30)
    ledger.clock.advance(seconds=30)
    assert advance_runs(ledger.database) == Advanced()
    ledger.clock.advance(seconds=1)

    assert advance_runs(ledger.database) == Advanced(missed=1)

    row = ledger.run(run_id)
    assert (row.state, row.reason, row.finished_at, row.due_at) == (
        "missed",
        "window_passed",
        ledger.clock.now,
        None,
    )
    assert "no node had taken it" in row.reason_text


def test_a_run_that_is_missed_under_a_paused_job_says_so(ledger: Ledger, job: int) -> None:
    run_id = ledger.enqueue(start_within_seconds=30)
    ledger.set_job(state="paused")
    ledger.clock.advance(seconds=31)

    advance_runs(ledger.database)

    row = ledger.run(run_id)
    assert (row.state, row.reason_text.rpartition(": ")[2]) == ("missed", "its job is paused")


def test_a_waiting_run_whose_window_closes_is_missed(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, delay_seconds=30.0, start_within_seconds=60.0)
    fire(ledger)
    ledger.clock.advance(seconds=91)

    assert advance_runs(ledger.database) == Advanced(missed=1)
    assert "it was still waiting" in ledger.runs()[0].reason_text


def test_the_window_does_not_bind_a_run_that_has_started_once(ledger: Ledger) -> None:
    ledger.add_job(retries=1)
    ledger.enqueue(start_within_seconds=30)
    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    ledger.clock.advance(seconds=60)

    assert advance_runs(ledger.database) == Advanced(ready=1)


def test_the_window_still_binds_a_run_that_was_claimed_but_never_started(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    run_id = ledger.enqueue(start_within_seconds=30)
    ledger.end(ledger.claim_one(), "released")
    ledger.clock.advance(seconds=31)

    assert advance_runs(ledger.database) == Advanced(missed=1)
    assert ledger.run(run_id).attempt == 1


def test_no_more_runs_are_moved_on_at_once_than_the_limit_says(ledger: Ledger, job: int) -> None:
    ledger.enqueue_many([NewRun("job", in_seconds=5)] * 5)
    ledger.clock.advance(seconds=5)

    assert [advance_runs(ledger.database, limit=3).ready for _ in range(3)] == [3, 2, 0]


def test_nodes_that_advance_at_once_move_each_run_on_once(ledger: Ledger, job: int) -> None:
    run_ids = ledger.enqueue_many([NewRun("job", in_seconds=5)] * 50)
    ledger.clock.advance(seconds=5)
    together, moved = threading.Barrier(2), []

    def take_part() -> None:
        database = ledger.connect()
        together.wait(30)
        moved.append(advance_runs(database).ready)

    threads = [threading.Thread(target=take_part) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sum(moved) == 50
    assert all(len(ledger.history(run_id)) == 2 for run_id in run_ids)


# Looking


def test_a_look_tells_what_lies_ahead_in_one_statement(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=ledger.clock.after(40))
    ledger.enqueue(in_seconds=20)
    ledger.enqueue()
    ledger.claim_one(lease_seconds=30)

    with statements_of(ledger.database) as sent:
        seen = look(ledger.database, identity_of("a"), ["default"])

    assert len(sent) == 1
    assert seen.now == ledger.clock.now
    assert seen.seconds_until(seen.next_slot_at) == 40
    assert seen.seconds_until(seen.next_due_at) == 20
    assert seen.seconds_until(seen.next_lease_end_at) == 30
    assert (seen.has_ready, seen.has_cancelled) == (False, False)


def test_a_look_at_nothing_finds_nothing(ledger: Ledger) -> None:
    seen = look(ledger.database, identity_of("a"), ["default"])

    assert (seen.next_slot_at, seen.next_due_at, seen.next_lease_end_at) == (None, None, None)
    assert (seen.has_ready, seen.has_cancelled) == (False, False)


def test_a_look_sees_what_this_node_may_claim(ledger: Ledger, job: int) -> None:
    run_id = ledger.enqueue(start_within_seconds=LEASE_SECONDS)

    def sees(node: str = "a", pool: str = "default") -> bool:
        return look(ledger.database, identity_of(node), ["x", pool]).has_ready

    assert sees()
    assert not sees(pool="other")
    ledger.set_run(run_id, target_node="b")
    assert (sees("a"), sees("b")) == (False, True)
    ledger.set_run(run_id, target_node="")
    ledger.set_job(state="paused")
    assert not sees()
    ledger.set_job(state="active")
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    assert not sees()


def test_a_look_sees_a_cancellation_of_this_nodes_runs_only(ledger: Ledger) -> None:
    claim = ledger.start_one("a")
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")

    assert look(ledger.database, identity_of("a"), ["default"]).has_cancelled
    assert not look(ledger.database, identity_of("b"), ["default"]).has_cancelled
