"""Runs that nobody can hold where they are, or could not let go on: asking for it is refused, and changes nothing."""

from __future__ import annotations

import pytest

from rota.errors import Conflict
from rota.model.run import Claim
from rota.store.endings import rescue_runs
from rota.store.interventions import freeze_run, thaw_run
from rota.store.leases import renew_claims
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of


def frozen(ledger: Ledger, claim: Claim) -> frozenset[str]:
    return renew_claims(ledger.database, identity_of("a"), [claim.claim_id], LEASE_SECONDS).frozen


def test_a_transaction_that_may_hold_what_renewals_wait_for_is_not_frozen(ledger: Ledger) -> None:
    run_id = ledger.start_one(kind="call", target="a:b", delivery="transactional").run_id

    with pytest.raises(Conflict, match=r"hold what it has locked.*cancel it"):
        freeze_run(ledger.database, run_id, actor="ann@desk")

    assert ledger.run(run_id).freeze_asked_at is None


def test_statements_that_keep_all_others_from_writing_are_not_frozen(ledger: Ledger) -> None:
    columns = {"kind": "sql", "target": '["select 1"]', "delivery": "at_least_once", "connection": "rota"}
    run_id = ledger.start_one(**columns).run_id

    if not ledger.database.dialect.one_writer:
        freeze_run(ledger.database, run_id, actor="ann@desk")
        assert ledger.run(run_id).freeze_asked_by == "ann@desk"
        thaw_run(ledger.database, run_id, actor="ann@desk")
        return
    with pytest.raises(Conflict, match=r"hold what it has locked.*cancel it"):
        freeze_run(ledger.database, run_id, actor="ann@desk")

    assert ledger.run(run_id).freeze_asked_at is None


def test_another_attempt_of_a_frozen_run_is_not_frozen(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one()
    freeze_run(ledger.database, claim.run_id, actor="ann@desk")
    assert frozen(ledger, claim) == {claim.claim_id}

    clock.advance(seconds=LEASE_SECONDS + 1)
    rescue_runs(ledger.database, rescuer="b")
    again = ledger.claim_one("b")

    assert (again.run_id, frozen(ledger, again), ledger.run(again.run_id).freeze_asked_at) == (
        claim.run_id, frozenset(), None,
    )  # fmt: skip


def test_statements_on_another_connection_may_be_frozen(ledger: Ledger) -> None:
    run_id = ledger.start_one(kind="sql", target='["select 1"]', connection="warehouse").run_id

    freeze_run(ledger.database, run_id, actor="ann@desk")

    assert ledger.run(run_id).freeze_asked_by == "ann@desk"
