"""Schedules whose slots run in order: each exactly once to success, the oldest first, and none given up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rota.errors import Conflict, Invalid, NotFound
from rota.model.findings import FindingCode
from rota.model.policy import IN_ORDER_MAX
from rota.model.states import RunState
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.history import why_run
from rota.store.interventions import mark_succeeded, rerun_run
from rota.store.marking import mark_slot
from rota.store.schedules import pause_schedule, resume_schedule
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.living import start_node
from tests.store.test_upstreams import chain, finish, fire, settle, slots


def add_days(ledger: Ledger, **job_columns: Any) -> int:
    """Add a job of each day, which was due for the first time at the beginning."""
    ledger.add_job(**({"retry_delay_seconds": 0.0} | job_columns))
    return ledger.add_schedule(
        next_slot_at=BEGINNING, expression="0 12 * * *", catch_up="all", overlap="queue", in_order=True
    )


def work(ledger: Ledger, kind: str = "succeeded") -> list[Any]:
    """Let all that is ready run and end like that; return the slots."""
    claims = ledger.claim()
    ledger.end_all(claims, kind)
    settle(ledger)
    return [claim.slot_at for claim in claims]


def day(number: int) -> Any:
    return BEGINNING + timedelta(days=number)


def test_late_slots_run_one_after_the_other_each_with_its_own_date(ledger: Ledger) -> None:
    add_days(ledger)
    ledger.clock.advance(days=3)
    fire(ledger)

    assert [work(ledger) for _ in range(5)] == [[day(0)], [day(1)], [day(2)], [day(3)], []]


def test_a_slot_that_fails_is_tried_again_for_ever_before_later_ones_are_tried(ledger: Ledger) -> None:
    add_days(ledger)
    ledger.clock.advance(days=1)
    fire(ledger)

    assert [work(ledger, "failed") for _ in range(4)] == [[day(0)]] * 4
    assert work(ledger) == [day(0)]
    assert work(ledger) == [day(1)]
    assert [row.attempt for row in ledger.runs()] == [5, 1]


def test_a_job_that_says_how_often_is_tried_so_often_and_then_waited_for(ledger: Ledger) -> None:
    start_node(ledger)
    add_days(ledger, retries=1)
    ledger.clock.advance(days=1)
    fire(ledger)
    work(ledger, "failed")
    work(ledger, "failed")

    assert ledger.states() == [RunState.FAILED, RunState.WAITING]
    assert work(ledger) == []
    because = why_run(ledger.database, ledger.runs()[1].id)["because"]
    assert because[0] == "it waits for its own schedule each, whose slot 2026-11-02T12:00:00Z (run 1) has failed"
    codes = [found.code for found in check_health(ledger.database).findings]
    assert FindingCode.UPSTREAM_FAILED in codes
    with pytest.raises(Conflict, match="is waiting: wait for its end"):
        rerun_run(ledger.database, ledger.runs()[1].id, actor="ann")

    mark_succeeded(ledger.database, ledger.runs()[0].id, actor="ann")
    settle(ledger)
    assert work(ledger) == [day(1)]


def test_a_retry_past_midnight_loses_no_day(ledger: Ledger) -> None:
    add_days(ledger)
    fire(ledger)
    for _ in range(3):
        work(ledger, "failed")
        ledger.clock.advance(days=1)
        fire(ledger)

    assert [work(ledger) for _ in range(4)] == [[day(0)], [day(1)], [day(2)], [day(3)]]


def test_while_the_job_is_paused_its_slots_are_kept(ledger: Ledger) -> None:
    add_days(ledger)
    ledger.set_job(state="paused")
    ledger.clock.advance(days=1)
    fire(ledger)
    assert work(ledger) == []

    ledger.set_job(state="active")
    settle(ledger)
    assert [work(ledger), work(ledger)] == [[day(0)], [day(1)]]


def test_slots_that_went_by_while_the_schedule_was_paused_are_skipped_and_hold_up_nothing(ledger: Ledger) -> None:
    add_days(ledger)
    fire(ledger)
    work(ledger)
    pause_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(days=2)
    resume_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(days=1)
    fire(ledger)

    assert work(ledger) == [day(3)]


def test_very_many_late_slots_all_get_their_rows(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all", overlap="queue", in_order=True)
    ledger.clock.advance(minutes=IN_ORDER_MAX + 10)

    made = [fire_schedules(ledger.database, fired_by="a").runs for _ in range(3)]

    assert made == [IN_ORDER_MAX, 11, 0]
    settle(ledger)
    assert work(ledger) == [BEGINNING]


def test_each_runs_when_its_upstream_and_the_slot_before_are_done(ledger: Ledger) -> None:
    ledger.add_job("load")
    ledger.add_schedule(
        "load", "load", next_slot_at=BEGINNING, expression="0 12 * * *", catch_up="all", overlap="allow"
    )
    add_days(ledger, after='["load"]')
    ledger.execute(
        "insert into rota_dependency (job_id, upstream_id)"
        " select j.id, u.id from rota_job j, rota_job u where j.name = 'job' and u.name = 'load'"
    )
    ledger.clock.advance(days=1)
    fire(ledger)
    first, second = ledger.claim()

    ledger.end(second)
    settle(ledger)
    assert [row.state for row in ledger.runs() if row.job == "job"] == ["waiting", "waiting"]
    ledger.end(first)
    settle(ledger)
    assert [row.state for row in ledger.runs() if row.job == "job"] == ["ready", "waiting"]


# Letting a slot count as done


def test_a_slot_that_failed_waits_or_was_never_decided_is_marked_without_a_run(ledger: Ledger) -> None:
    add_days(ledger, retries=1)
    ledger.clock.advance(days=2)
    fire(ledger)
    work(ledger, "failed")
    work(ledger, "failed")
    assert ledger.states() == [RunState.FAILED, RunState.WAITING, RunState.WAITING]

    assert mark_slot(ledger.database, "each", day(0), actor="ann") == [1]
    mark_slot(ledger.database, "each", day(1), actor="ann")
    (made,) = mark_slot(ledger.database, "each", day(-1), actor="ann")

    settle(ledger)
    assert ledger.states() == [RunState.SUCCEEDED] * 3 + [RunState.READY]
    assert [row.slot_at for row in ledger.runs()] == [day(number) for number in (-1, 0, 1, 2)]
    row = ledger.run(made)
    assert (row.reason, row.attempt, row.finished_at) == ("marked", 0, ledger.clock.now)
    assert work(ledger) == [day(2)]


def test_what_waits_for_a_slot_goes_on_when_it_is_marked(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger, "failed")
    mark_slot(ledger.database, "load", BEGINNING, actor="ann")
    settle(ledger)

    assert slots(ledger, "report") == ["ready"]


def test_a_slot_that_cannot_be_marked_is_refused_with_the_reason(ledger: Ledger) -> None:
    add_days(ledger)
    fire(ledger)
    claim = ledger.claim_one()
    for slot, error, said in (
        (day(0), Conflict, r"run 1 of slot .* is running on a: cancel it"),
        (day(1), Conflict, "is not decided yet"),
        (day(-1) + timedelta(hours=1), Invalid, "has no such slot; the next one after it is 2026-11-02T12:00:00Z"),
    ):
        with pytest.raises(error, match=said):
            mark_slot(ledger.database, "each", slot, actor="ann")
    ledger.end(claim)
    with pytest.raises(Conflict, match="has succeeded already"):
        mark_slot(ledger.database, "each", day(0), actor="ann")
    with pytest.raises(NotFound):
        mark_slot(ledger.database, "other", day(0), actor="ann")


def test_slots_that_were_passed_over_together_are_marked_together(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(minutes=200)
    fire_schedules(ledger.database, fired_by="a")

    with pytest.raises(Conflict, match=r"shares run 1 with \d+ others .* `rota run mark-succeeded 1`"):
        mark_slot(ledger.database, "each", BEGINNING + timedelta(minutes=1), actor="ann")
