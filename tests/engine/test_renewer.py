"""The renewer's round: what it asks of the database, and what it tells the watch."""

from __future__ import annotations

import time

import pytest

from rota.engine.renewer import RenewalAsked, Renewed, Renewer
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


def test_a_new_deadline_is_counted_from_before_the_request(ledger: Ledger) -> None:
    ledger.add_job()
    run_ids = [ledger.enqueue(), ledger.enqueue()]
    kept, lost = ledger.claim()
    assert {kept.run_id, lost.run_id} == set(run_ids)
    ledger.execute("update rota_run set claim_id = 'other' where id = :id", id=lost.run_id)
    told: list[Renewed] = []
    renewer = Renewer(ledger.connect(), identity_of("a"), LEASE_SECONDS, told.append, lambda: None)

    renewer.round([RenewalAsked({kept.claim_id: 7.0, lost.claim_id: 7.0}, asked_at=100.0)])

    (renewed,) = told
    assert renewed.kept == {kept.claim_id: 107.0}  # a moment long past: whoever waited for the answer has less left
    assert renewed.lost == {lost.claim_id}
    ledger.execute("update rota_run set claim_id = :claim where id = :id", claim=lost.claim_id, id=lost.run_id)


def test_what_a_worker_with_a_longer_lease_has_left_is_renewed_for_as_long_as_its_guardian_counts(
    ledger: Ledger,
) -> None:
    claim = ledger.start_one()
    told: list[Renewed] = []
    renewer = Renewer(ledger.connect(), identity_of("a"), 15.0, told.append, lambda: None)

    renewer.round([RenewalAsked({claim.claim_id: 60.0}, asked_at=100.0)])

    assert told[0].kept == {claim.claim_id: 160.0}
    assert ledger.run(claim.run_id).lease_ends_at == ledger.clock.after(60)


def test_renewals_that_fail_for_a_reason_that_nobody_foresaw_do_not_flood_the_log(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renewer = Renewer(ledger.connect(), identity_of("a"), LEASE_SECONDS, lambda _: None, lambda: None)
    left = iter(range(4, -1, -1))

    def fail(_: object) -> None:
        if next(left) == 0:
            renewer.stop()
        renewer.ask(RenewalAsked({}, 0.0))
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(renewer, "round", fail)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    renewer.ask(RenewalAsked({}, 0.0))

    renewer.run()

    assert [record.getMessage()[-16:] for record in caplog.records] == [f"{n} times in a row" for n in (1, 2, 4)]
