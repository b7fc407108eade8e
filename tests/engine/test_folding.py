"""Tallies are folded in the turn of the node that looks for findings, a batch at a time."""

from __future__ import annotations

import pytest

from rota.engine.tidier import PAUSE_SECONDS, Tidier
from rota.store import rollups
from tests.store.ledger import Ledger


def left(ledger: Ledger) -> int:
    return ledger.value("select count(*) from rota_tally")


def ended(ledger: Ledger, count: int) -> Tidier:
    ledger.add_job()
    for _ in range(count):
        ledger.enqueue()
        ledger.end(ledger.claim_one())
    return Tidier(ledger.database, ledger.clock.uptime)


def test_few_are_folded_at_once_and_nothing_is_due_then(ledger: Ledger) -> None:
    tidier = ended(ledger, 2)

    tidier.begin()

    assert (left(ledger), tidier.seconds_until_next) == (0, None)


def test_many_are_folded_in_batches_with_pauses(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    tidier = ended(ledger, 3)  # each tells of its job and of its node
    monkeypatch.setattr(rollups, "FIND_TALLIES", rollups.FIND_TALLIES.limit(4))
    monkeypatch.setattr(rollups, "FOLD_MAX", 4)

    tidier.begin()
    assert (left(ledger), tidier.seconds_until_next) == (2, PAUSE_SECONDS)
    tidier.round()
    assert left(ledger) == 2
    ledger.clock.advance(seconds=PAUSE_SECONDS)
    tidier.round()
    assert (left(ledger), tidier.seconds_until_next) == (0, None)
