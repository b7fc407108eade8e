"""A node and the breakers of jobs: it wakes when a pause is over, lets one run through, and goes on when it closes."""

from __future__ import annotations

from rota.engine.scheduler import Scheduler
from rota.store.outlook import Outlook, look
from tests.engine.node import Node
from tests.store.ledger import identity_of


def outlook(node: Node) -> Outlook:
    return look(node.database, identity_of("a"), ("default",))


def test_a_node_wakes_when_the_pause_is_over_and_starts_one_run(node: Node) -> None:
    node.ledger.add_job(breaker_failures=1, breaker_pause_seconds=300.0)
    for _ in range(3):
        node.ledger.enqueue()
    node.round()
    first, *others = node.started
    node.end(first, "exited", exit_code=1)
    for claim in others:  # the node had room for all three: those go back unspent
        node.end(claim, "released")
    node.settle()
    assert len(node.started) == 3
    assert Scheduler.seconds_until_next(outlook(node)) == 300

    node.ledger.clock.advance(seconds=300)
    assert Scheduler.seconds_until_next(outlook(node)) is None  # it has come
    through = node.start_one()
    node.settle()
    assert len(node.started) == 4

    node.end(through)
    node.settle()
    assert len(node.started) == 5


def test_a_half_open_breaker_without_a_ready_run_keeps_no_node_awake(node: Node) -> None:
    node.ledger.add_job(breaker_failures=1, breaker_pause_seconds=300.0)
    node.ledger.enqueue()
    node.end(node.start_one(), "exited", exit_code=1)
    node.ledger.clock.advance(seconds=300)

    node.settle()

    assert outlook(node).half_open_has_come
    assert Scheduler.seconds_until_next(outlook(node)) is None
    node.ledger.enqueue()
    node.start_one()
