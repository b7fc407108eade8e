"""The database's clock steps: nothing is caught up, missed or rescued for one lease, and nothing fires twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rota.model.clock_guard import ClockGuard
from rota.model.run import Claim
from rota.store.leases import renew_claims
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of

TOLD = "select count(*) from rota_event where kind = 'clock'"


def start_before_others(node: Node) -> tuple[Claim, Node]:
    """Let a node start a run, and another node look at it."""
    other = Node(node.ledger, "b")
    node.ledger.add_job()
    node.ledger.enqueue()
    claim = node.start_one()
    other.settle()
    return claim, other


def test_a_slow_answer_is_no_step_and_time_that_passes_is_none() -> None:
    guard = ClockGuard(60)
    assert guard.observe(100.0, 100.1, BEGINNING) == 0.0
    # Asked at 110, answered at 140: the database read its clock at 110.5.
    assert guard.observe(110.0, 140.0, BEGINNING + timedelta(seconds=10.5)) == 0.0
    assert guard.observe(200.0, 200.1, BEGINNING + timedelta(seconds=100.05)) == 0.0


@pytest.mark.parametrize(
    ("step", "lease", "seen"), [(6.0, 60, True), (4.0, 60, False), (2.0, 3, True), (-6.0, 60, True)]
)
def test_what_no_delay_explains_is_a_step(step: float, lease: float, seen: bool) -> None:
    guard = ClockGuard(lease)
    guard.observe(100.0, 100.1, BEGINNING)

    found = guard.observe(200.0, 200.1, BEGINNING + timedelta(seconds=100 + step))

    assert (found != 0) is seen
    if seen:
        assert found == pytest.approx(step, abs=0.2)
    assert guard.observe(300.0, 300.1, BEGINNING + timedelta(seconds=200 + step)) == 0.0  # told once


def test_after_a_step_forward_nothing_is_caught_up_or_missed_for_one_lease(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule("each", next_slot_at=BEGINNING + timedelta(minutes=1))
    ledger.add_schedule("soon", next_slot_at=BEGINNING + timedelta(hours=1, seconds=10))
    node.settle()

    ledger.clock.step(hours=1)
    node.round()
    assert ledger.runs() == []
    assert ledger.value(TOLD) == 1
    ledger.clock.advance(seconds=10)
    node.round()
    assert [run.schedule for run in ledger.runs()] == ["soon"]  # what is due now is on time

    ledger.clock.advance(seconds=LEASE_SECONDS)
    node.round()

    assert ledger.value("select count(*) from rota_run where schedule = 'each'") > 0
    assert ledger.value(TOLD) == 1


def test_a_step_after_the_look_or_amidst_of_it_changes_nothing_of_what_follows_from_it(
    node: Node, ledger: Ledger
) -> None:
    claim, other = start_before_others(node)
    ledger.add_schedule("each", next_slot_at=BEGINNING + timedelta(minutes=1))
    ledger.add_job("elsewhere", pool="elsewhere")
    ledger.enqueue("elsewhere", start_within_seconds=60)
    scheduler = other.bookkeeper._scheduler
    outlook = scheduler.look()

    ledger.clock.step(hours=1)
    # What was compared late in the look has seen the step, and the moment that the guard saw has not.
    done = scheduler.round(replace(outlook, slot_has_come=True, due_has_come=True, lease_has_ended=True))

    assert (done.trouble, done.slots, done.missed, done.rescued) == (None, 0, 0, 0)
    assert ledger.run(claim.run_id).claim_id == claim.claim_id
    other.round()
    assert ledger.value(TOLD) == 1
    assert ledger.run(claim.run_id).claim_id == claim.claim_id


def test_a_step_back_after_the_look_fires_nothing_before_its_time(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule("each", next_slot_at=BEGINNING + timedelta(minutes=30))
    node.settle()
    ledger.clock.step(hours=1)
    scheduler = node.bookkeeper._scheduler
    outlook = scheduler.look()

    ledger.clock.step(hours=-1)
    scheduler.round(replace(outlook, is_held=False))
    scheduler.round(outlook)

    assert ledger.runs() == []


def test_after_a_step_forward_a_window_does_not_pass_for_one_lease(node: Node, ledger: Ledger) -> None:
    ledger.add_job(pool="elsewhere")
    ledger.enqueue(start_within_seconds=60)
    node.settle()

    ledger.clock.step(hours=1)
    node.round()
    assert [run.state for run in ledger.runs()] == ["ready"]
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    node.round()

    assert [run.state for run in ledger.runs()] == ["missed"]


def test_after_a_step_forward_no_lease_is_lost_that_its_node_renews(node: Node, ledger: Ledger) -> None:
    claim, other = start_before_others(node)

    ledger.clock.step(hours=1)
    other.round()
    renewal = renew_claims(ledger.database, identity_of("a"), [claim.claim_id], LEASE_SECONDS)
    ledger.clock.advance(seconds=LEASE_SECONDS - 1)
    other.round()

    assert renewal.kept == {claim.claim_id}
    assert ledger.run(claim.run_id).claim_id == claim.claim_id
    assert ledger.run(claim.run_id).state == "running"


def test_a_node_that_starts_after_the_step_honours_the_hold(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue()
    claim = node.start_one()
    node.settle()
    ledger.clock.step(hours=1)
    node.round()

    Node(ledger, "late").round()

    assert ledger.run(claim.run_id).state == "running"


def test_a_node_that_is_gone_is_still_rescued_after_the_hold(node: Node, ledger: Ledger) -> None:
    claim, other = start_before_others(node)
    ledger.clock.step(hours=1)
    other.round()

    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    other.round()

    assert ledger.run(claim.run_id).losses == 1


def test_a_step_back_fires_nothing_twice_and_is_told(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="allow")
    ledger.clock.advance(minutes=2)
    node.settle()
    before = [run.slot_at for run in ledger.runs()]

    ledger.clock.step(seconds=-90)
    node.round()
    ledger.clock.advance(seconds=60)
    node.round()
    assert [run.slot_at for run in ledger.runs()] == before
    ledger.clock.advance(seconds=90)
    node.round()

    assert [run.slot_at for run in ledger.runs()] == [*before, BEGINNING + timedelta(minutes=3)]
    assert ledger.value(TOLD) == 1


def test_a_clock_that_is_put_back_again_ends_the_hold(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(minutes=1))
    node.settle()
    ledger.clock.step(hours=1)
    node.round()

    ledger.clock.step(hours=-1)
    node.round()
    ledger.clock.advance(minutes=1, seconds=30)
    node.round()

    assert len(ledger.runs()) == 1
