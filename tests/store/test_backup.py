"""An old backup is put back below nodes that live on: what it knows stays, and numbers that are given a second time
lead to no wrong end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rota.store.endings import rescue_runs
from rota.store.firing import fire_schedules
from rota.store.leases import mark_started, renew_claims
from tests.clock import BEGINNING
from tests.store.backup import Backup
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of

MINUTE = timedelta(minutes=1)


def fire_and_finish(ledger: Ledger) -> None:
    fire_schedules(ledger.database, fired_by="a")
    while claims := ledger.claim(limit=100):
        ledger.end_all(claims)


def test_slots_that_the_backup_has_are_not_fired_again_and_those_since_are_late(ledger: Ledger) -> None:
    ledger.add_job()
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING, overlap="allow", catch_up="all")
    for _ in range(3):
        fire_and_finish(ledger)
        ledger.clock.advance(minutes=1)
    backup, known = Backup(ledger.url), ledger.runs()
    for _ in range(2):
        fire_and_finish(ledger)
        ledger.clock.advance(minutes=1)
    lost = ledger.runs()[3:]

    backup.put_back()
    fire_and_finish(ledger)

    assert [run.slot_at for run in lost] == [BEGINNING + 3 * MINUTE, BEGINNING + 4 * MINUTE]
    assert ledger.runs()[:3] == known
    again = ledger.runs()[3:]
    assert [run.slot_at for run in again] == [BEGINNING + number * MINUTE for number in (3, 4, 5)]
    assert [run.id for run in again[:2]] == [run.id for run in lost]  # Rota cannot know that they were run
    assert ledger.schedule(schedule_id).next_slot_at == BEGINNING + 6 * MINUTE


def test_a_claim_since_the_backup_neither_ends_nor_renews_the_run_that_has_its_number_now(ledger: Ledger) -> None:
    ledger.add_job()
    backup = Backup(ledger.url)
    forgotten = ledger.enqueue()
    before, unmarked = ledger.started(ledger.claim_one("a")), ledger.enqueue()
    held = ledger.claim_one("a")

    backup.put_back()
    assert [ledger.enqueue(), ledger.enqueue()] == [forgotten, unmarked]
    now = ledger.started(ledger.claim_one("b"))
    fresh = ledger.run(now.run_id)
    marked = mark_started(ledger.database, [held.claim_id])
    renewed = renew_claims(ledger.database, identity_of("a"), [before.claim_id, held.claim_id], LEASE_SECONDS)
    told = ledger.end(before, "failed", error_message="of a run that nobody knows")

    assert (now.run_id, now.fence) == (before.run_id, before.fence)
    assert marked == set()
    assert renewed.kept == set()
    assert renewed.lost == {before.claim_id, held.claim_id}
    assert (told.applied, told.orphaned) == (set(), {before.claim_id})
    assert ledger.run(now.run_id) == fresh
    assert [found.orphan_at for found in ledger.attempts(now.run_id)] == [None]
    assert ledger.end(now).applied == {now.claim_id}
    assert ledger.run(now.run_id).state == "succeeded"


@pytest.mark.parametrize(("delivery", "becomes"), [("at_least_once", "ready"), ("at_most_once", "lost")])
def test_a_run_that_has_ended_since_the_backup_is_taken_for_one_whose_node_died(
    ledger: Ledger, delivery: str, becomes: str
) -> None:
    claim = ledger.start_one("a", delivery=delivery)
    backup = Backup(ledger.url)
    ledger.end(claim)
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)

    backup.put_back()
    assert ledger.run(claim.run_id).state == "running"
    assert rescue_runs(ledger.database, rescuer="b") == 1

    assert ledger.run(claim.run_id).state == becomes
    assert rescue_runs(ledger.database, rescuer="b") == 0
