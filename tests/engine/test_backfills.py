"""A node makes the runs of a backfill by itself, one after the other, and tells when it looks again."""

from __future__ import annotations

from datetime import timedelta

from rota.model.backfill import Wish
from rota.store.backfill_steps import LOOK_SECONDS
from rota.store.backfills import read_backfill, start_backfill
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import Ledger


def test_a_node_runs_slot_after_slot_each_when_the_one_before_it_has_ended(ledger: Ledger) -> None:
    node = Node(ledger)
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(minutes=1))
    low = BEGINNING - timedelta(minutes=3)
    made = start_backfill(ledger.database, "each", low, BEGINNING, Wish.checked(), actor="ann")["id"]

    for number in range(3):
        node.settle()
        assert len(node.started) == number + 1
        node.end(node.started[-1])
    node.settle()

    assert [claim.slot_at for claim in node.started] == [low + timedelta(minutes=number) for number in range(3)]
    view = read_backfill(ledger.database, made)
    assert (view["state"], view["succeeded"]) == ("ended", 3)


def test_a_node_looks_again_by_itself_while_a_backfill_has_something_unfinished(ledger: Ledger) -> None:
    node = Node(ledger)
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING + timedelta(days=1))
    low = BEGINNING - timedelta(minutes=3)
    start_backfill(ledger.database, "each", low, BEGINNING, Wish.checked(), actor="ann")
    node.start_one()

    outlook = node.bookkeeper._scheduler.look()
    assert node.bookkeeper._scheduler.seconds_until_next(outlook) == LOOK_SECONDS
