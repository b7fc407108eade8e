"""Each invariant, broken by hand, is found by its own query and by no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rota.store.firing import fire_schedules
from rota.store.schedules import pause_schedule, resume_schedule
from rota.store.violations import VIOLATIONS
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.living import start_node

pytestmark = pytest.mark.cases_take_turns

Breaker = Callable[[Ledger], int | None]
BREAKERS: dict[str, Breaker] = {}


def breaks(breaker: Breaker) -> Breaker:
    """Register a function that breaks the invariant it is named after, and returns the run that breaks it then."""
    BREAKERS[breaker.__name__] = breaker
    return breaker


@breaks
def running_unclaimed(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.set_run(claim.run_id, holder=None)
    return claim.run_id


@breaks
def running_without_attempt(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.execute("update rota_attempt set fence = 7")
    return claim.run_id


@breaks
def attempt_left_open(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim, "exited", exit_code=1)
    ledger.execute("update rota_attempt set state = 'running'")
    return claim.run_id


@breaks
def attempts_uncounted(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.set_run(claim.run_id, attempt=2)
    return claim.run_id


@breaks
def fence_falls(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim, "released")
    ledger.end(ledger.claim_one())
    ledger.execute("update rota_attempt set fence = 1 where attempt = 2")
    return claim.run_id


@breaks
def finish_unset(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.set_run(claim.run_id, finished_at=None)
    return claim.run_id


@breaks
def key_held(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.set_run(claim.run_id, active_key="k")
    return claim.run_id


@breaks
def forgotten(ledger: Ledger) -> int:
    ledger.add_job()
    run_id = ledger.enqueue(in_seconds=60)
    ledger.set_run(run_id, due_at=None)
    return run_id


@breaks
def success_unproved(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.execute("update rota_attempt set state = 'failed'")
    return claim.run_id


@breaks
def event_missing(ledger: Ledger) -> int:
    claim = ledger.start_one()
    ledger.end(claim)
    ledger.execute("delete from rota_event where to_state = 'succeeded'")
    return claim.run_id


@breaks
def cursor_behind(ledger: Ledger) -> int:
    ledger.add_job()
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    fire_schedules(ledger.database, fired_by="a")
    ledger.set_schedule(schedule_id, next_slot_at=BEGINNING)
    return ledger.runs()[0].id


@breaks
def slot_decided_twice(ledger: Ledger) -> int:
    ledger.add_job()
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    pause_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(minutes=3)
    resume_schedule(ledger.database, "each", actor="ann")
    ledger.set_schedule(schedule_id, next_slot_at=ledger.clock.after(-60))
    fire_schedules(ledger.database, fired_by="a")
    return ledger.runs()[0].id


@breaks
def permit_stray(ledger: Ledger) -> None:
    ledger.start_one(max_running=1)
    ledger.execute("update rota_permit set claim_id = 'nobody'")


@breaks
def awaiting_half(ledger: Ledger) -> int:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.execute("update rota_run set awaiting_job_id = job_id")
    return run_id


@pytest.mark.breaks_invariants
@pytest.mark.parametrize("rule", BREAKERS)
def test_a_row_that_was_broken_by_hand_is_found_by_exactly_its_rule(ledger: Ledger, rule: str) -> None:
    run_id = BREAKERS[rule](ledger)

    found = ledger.violations()

    schedule_id = None if run_id is None else ledger.run(run_id).schedule_id
    shown = [(name, *(None if one is None else int(one) for one in row)) for name, *row in found]
    assert shown == [(rule, run_id, schedule_id)]


def test_each_rule_is_shown_to_find_something() -> None:
    assert set(BREAKERS) == set(VIOLATIONS)


def test_slots_that_are_decided_for_each_node_are_decided_once_each(ledger: Ledger) -> None:
    ledger.add_job(runs_on="all")
    ledger.add_schedule(next_slot_at=BEGINNING)
    for node in ("a", "b"):
        start_node(ledger, node)
    pause_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(minutes=3)
    resume_schedule(ledger.database, "each", actor="ann")

    assert [(row.target_node, row.slot_count) for row in ledger.runs()] == [("a", 4), ("b", 4)]
    assert ledger.violations() == []


def test_runs_of_every_state_break_no_rule(ledger: Ledger) -> None:
    ledger.add_job(retries=1)
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(days=2)
    fire_schedules(ledger.database, fired_by="a")
    ledger.enqueue(in_seconds=60)
    for kind in ("succeeded", "no_op", "released", "exception"):
        ledger.enqueue()
        ledger.end(ledger.claim_one(), kind)
    ledger.enqueue()
    ledger.claim_one()

    assert len(set(ledger.states())) >= 5
    assert ledger.violations() == []
