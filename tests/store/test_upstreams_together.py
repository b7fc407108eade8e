"""Upstreams while others act at the same time, and while time, retention and people do what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from rota.model.keeping import KEEP_DEFAULT
from rota.model.run import End, NewRun
from rota.model.states import RunState
from rota.store import upstreams
from rota.store.endings import end_runs
from rota.store.interventions import rerun_run
from rota.store.retention import remove_runs
from rota.store.schedules import delete_schedule, edit_schedule
from rota.store.upstreams import look_at_upstreams
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.test_in_order import add_days, day, work
from tests.store.test_upstreams import add, chain, finish, fire, run_of, set_after, settle, slots

MANY = 66_000  # more than a statement of PostgreSQL has parameters
WAIT_SECONDS = 30.0


def without_sqlite(ledger: Ledger) -> None:
    if ledger.database.dialect.one_writer:
        pytest.skip("one writer at a time there")


# Several nodes


def test_a_rerun_between_a_look_and_its_commit_waits_for_it_and_does_again_what_it_let_go(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sqlite(ledger)
    chain(ledger)
    fire(ledger)
    ledger.end_all(ledger.claim())
    load, other = run_of(ledger, "load").id, ledger.connect()
    judge_runs, began = upstreams.judge_runs, threading.Event()

    def rerun() -> None:
        began.set()
        rerun_run(other, load, actor="ann", downstream=True)

    person = threading.Thread(target=rerun)

    def judge_and_let_others_act(*given: Any) -> Any:
        judged = judge_runs(*given)
        if not began.is_set():
            person.start()
            assert began.wait(WAIT_SECONDS)
        return judged

    monkeypatch.setattr(upstreams, "judge_runs", judge_and_let_others_act)
    look_at_upstreams(ledger.database)
    person.join(WAIT_SECONDS)

    settle(ledger)
    assert [claim.job for claim in ledger.claim()] == ["load"]
    assert slots(ledger, "report") == ["waiting"]


def test_two_nodes_that_look_at_one_schedule_let_one_of_its_runs_go(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sqlite(ledger)
    chain(ledger)
    ledger.execute("update rota_schedule set overlap = case when name = 'load' then 'allow' else 'queue' end")
    fire(ledger)
    ledger.clock.advance(minutes=1)
    fire(ledger)
    first, second = ledger.claim()
    ledger.end(second)
    other, read = ledger.connect(), upstreams._read_in_the_way
    ended = threading.Event()

    def end_and_look() -> None:
        end_runs(other, [End(first.claim_id, first.run_id, "succeeded")])
        ended.set()
        look_at_upstreams(other)

    node = threading.Thread(target=end_and_look)

    def read_and_let_others_act(*given: Any) -> Any:
        found = read(*given)
        if threading.current_thread() is not node and not ended.is_set():
            node.start()
            assert ended.wait(WAIT_SECONDS)
        return found

    monkeypatch.setattr(upstreams, "_read_in_the_way", read_and_let_others_act)
    look_at_upstreams(ledger.database)
    node.join(WAIT_SECONDS)
    settle(ledger)

    assert sorted(slots(ledger, "report")) == ["ready", "waiting"]


def test_a_dependant_that_somebody_keeps_locked_holds_up_no_end(ledger: Ledger) -> None:
    without_sqlite(ledger)
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.enqueue("load")
    waiting = ledger.enqueue("report")
    (claim,) = ledger.claim()
    add(ledger, "aside")
    ledger.enqueue_many([NewRun("aside")] * 200)  # of two rows, MariaDB would lock both to change one
    with create_engine(ledger.url, poolclass=NullPool).connect() as holder:
        holder.execute(text(f"select id from rota_run where id = {waiting} for update"))
        delivered = end_runs(ledger.database, [End(claim.claim_id, claim.run_id, "succeeded")], waits=False)
        holder.rollback()

    assert delivered.applied == {claim.claim_id}
    ledger.clock.advance(minutes=6)
    settle(ledger)
    assert ledger.run(waiting).state == RunState.READY


def test_very_many_dependants_do_not_keep_their_upstream_from_ending(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.enqueue("load")
    (claim,) = ledger.claim()
    count = MANY if ledger.database.dialect.name == "postgresql" else 1000
    for number in range(0, count, 10_000):
        ledger.enqueue_many([NewRun("report")] * min(10_000, count - number))

    ledger.end(claim)

    assert ledger.run(claim.run_id).state == RunState.SUCCEEDED
    looked = look_at_upstreams(ledger.database)
    assert (looked.ready, looked.is_full) == (500, True)


def test_an_upstream_with_very_many_schedules_is_looked_at_for_few_runs_at_a_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "PAIRS_MAX", 10)
    add(ledger, "load")
    add(ledger, "report", "load")
    for number in range(4):
        ledger.add_schedule(f"load{number}", "load", next_slot_at=BEGINNING)
    fire(ledger)
    finish(ledger)
    ledger.clock.advance(seconds=1)
    runs = ledger.enqueue_many([NewRun("report")] * 5)

    looks = [look_at_upstreams(ledger.database) for _ in range(4)]

    assert [(looked.ready, looked.is_full) for looked in looks] == [(2, True), (2, True), (1, False), (0, False)]
    assert {ledger.run(run_id).state for run_id in runs} == {RunState.READY}


# Time


def test_a_delayed_run_is_looked_at_when_its_time_has_come_and_its_window_begins_then(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.add_schedule("load", "load", next_slot_at=BEGINNING)
    ledger.add_schedule("report", "report", next_slot_at=BEGINNING, delay_seconds=300.0, overlap="allow")
    for _ in range(8):
        fire(ledger)
        finish(ledger)
        ledger.clock.advance(minutes=1)

    assert set(slots(ledger, "report")) == {"succeeded", "waiting"}


@pytest.mark.parametrize(("kind", "state"), [("succeeded", "ready"), ("failed", "waiting")])
def test_a_run_for_tomorrow_goes_by_what_is_done_then(ledger: Ledger, kind: str, state: str) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    run_id = ledger.enqueue("report", run_at=ledger.clock.after(86_400), start_within_seconds=3600.0)
    ledger.enqueue("load")
    finish(ledger)
    ledger.clock.advance(hours=23)
    ledger.enqueue("load")
    finish(ledger, kind)
    ledger.clock.advance(hours=1, seconds=1)
    settle(ledger)

    found = ledger.run(run_id)
    assert found.state == state
    if state == "ready":
        assert (found.start_by - ledger.clock.now).total_seconds() == 3600


def test_after_an_outage_no_window_passes_before_the_upstream_is_done(ledger: Ledger) -> None:
    chain(ledger, start_within="30m")
    ledger.set_job("load", start_within_seconds=None)
    ledger.execute("update rota_schedule set expression = '0 12 * * *'")
    ledger.clock.advance(hours=1)
    fire(ledger)

    assert (slots(ledger, "load"), slots(ledger, "report")) == (["ready"], ["waiting"])


def test_an_upstream_that_is_asked_for_next_week_keeps_nobody_waiting_today(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.enqueue("load")
    finish(ledger)
    ledger.enqueue("load", run_at=ledger.clock.after(7 * 86_400))
    run_id = ledger.enqueue("report")
    settle(ledger)

    assert ledger.run(run_id).state == RunState.READY


# Retention


def test_what_a_waiting_run_builds_on_is_kept(ledger: Ledger) -> None:
    chain(ledger)
    ledger.execute("update rota_schedule set expression = '0 12 * * *'")
    fire(ledger)
    finish(ledger, "failed")
    failed = run_of(ledger, "load").id
    for _ in range(40):
        ledger.clock.advance(days=1)
        fire(ledger)
        finish(ledger)
        finish(ledger)
    ledger.clock.advance(days=200)
    after, is_over = 0, False
    while not is_over:
        removed = remove_runs(ledger.database, KEEP_DEFAULT, after=after)
        after, is_over = removed.after, removed.is_over

    assert len(ledger.runs()) < 10
    assert ledger.run(failed).state == RunState.FAILED
    settle(ledger)
    assert run_of(ledger, "report", BEGINNING).state == RunState.WAITING


# People


def change_each(ledger: Ledger, **changes: Any) -> None:
    edit_schedule(ledger.database, "each", lambda spec: spec.edited(**changes), actor="ann")


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger: change_each(ledger, in_order=False),
        lambda ledger: delete_schedule(ledger.database, "each", actor="ann"),
    ],
    ids=["not in order any more", "deleted"],
)
def test_slots_that_wait_run_one_after_the_other_whatever_becomes_of_their_schedule(
    ledger: Ledger, change: Callable[[Ledger], None]
) -> None:
    add_days(ledger)
    ledger.execute("update rota_schedule set overlap = 'skip'")
    ledger.clock.advance(days=3)
    fire(ledger)
    change(ledger)
    ledger.clock.advance(minutes=6)
    settle(ledger)

    assert [work(ledger) for _ in range(4)] == [[day(number)] for number in range(4)]


def test_an_older_slot_that_is_done_again_takes_no_turn_from_a_new_one(ledger: Ledger) -> None:
    add_days(ledger)
    ledger.execute("update rota_schedule set overlap = 'skip'")
    fire(ledger)
    work(ledger)
    rerun_run(ledger.database, run_of(ledger, "job", BEGINNING).id, actor="ann", force=True)
    ledger.clock.advance(days=1)
    fire(ledger)

    assert [work(ledger), work(ledger)] == [[day(0)], [day(1)]]


def test_a_schedule_that_is_added_to_an_upstream_has_nothing_to_wait_for_before_its_first_slot(ledger: Ledger) -> None:
    chain(ledger)
    ledger.add_schedule("yearly", "load", next_slot_at=ledger.clock.after(86_400), expression="0 0 1 1 *")
    fire(ledger)
    finish(ledger)

    assert slots(ledger, "report") == ["ready"]


def test_what_waits_for_an_upstream_that_is_taken_away_goes_at_once(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    run_id = ledger.enqueue("report")
    settle(ledger)
    ledger.clock.advance(hours=2)
    settle(ledger)

    set_after(ledger, "report")
    settle(ledger)

    assert ledger.run(run_id).state == RunState.READY


@pytest.mark.writes_runs_by_hand
def test_a_row_that_a_hand_has_moved_on_is_looked_away_from(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    waiting = run_of(ledger, "report").id
    ledger.set_run(waiting, state="cancelled", finished_at=ledger.clock.now)
    ledger.execute("update rota_event set to_state = 'cancelled' where run_id = :id", id=waiting)
    ledger.clock.advance(hours=1)
    settle(ledger)

    assert ledger.run(waiting).upstreams_due_at is None


def test_what_can_never_go_holds_up_nothing_behind_it(ledger: Ledger) -> None:
    for name in ("never", "load"):
        add(ledger, name)
    add(ledger, "waits", "never")
    add(ledger, "report", "load")
    ledger.enqueue("load")
    ledger.end_all(ledger.claim())
    ledger.enqueue_many([NewRun("waits")] * 600)
    run_id = ledger.enqueue("report")

    settle(ledger)

    assert ledger.run(run_id).state == RunState.READY
