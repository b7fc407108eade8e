"""A node that follows the rules of pools: it serves what names it, says so, and claims exactly that."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rota.engine.bookkeeper import RULES_SECONDS
from rota.model.placement import PoolRule
from rota.model.run import NodeIdentity
from rota.store.membership import add_member, create_pool, edit_pool
from rota.store.nodes import register_node
from tests.engine.node import Node
from tests.store.ledger import LEASE_SECONDS, Ledger, statements_of
from tests.store.living import start_node

ANN = "ann"


@pytest.fixture
def served(ledger: Ledger) -> Node:
    start_node(ledger)
    ledger.add_job(pool="p")
    return Node(ledger)


def pools_of(node: Node) -> list[str]:
    return json.loads(node.ledger.value("select pools from rota_node where name = 'a'"))


def test_a_node_takes_the_runs_of_a_pool_from_when_its_rule_names_it_until_it_does_not(served: Node) -> None:
    database = served.ledger.database
    first, second = served.ledger.enqueue(), served.ledger.enqueue()
    served.settle()
    before = pools_of(served)
    create_pool(database, PoolRule("p"), actor=ANN)
    served.settle()
    assert served.started == []

    add_member(database, "p", "a", actor=ANN)
    served.ledger.clock.advance(seconds=RULES_SECONDS)
    served.settle()

    assert (before, pools_of(served)) == (["default"], ["default", "p"])
    assert [claim.run_id for claim in served.started] == [first, second]
    edit_pool(database, "p", lambda _: PoolRule("p"), actor=ANN)
    served.ledger.clock.advance(seconds=RULES_SECONDS)
    served.settle()
    served.ledger.enqueue()
    served.settle()
    assert pools_of(served) == ["default"]
    assert len(served.started) == 2


def test_new_labels_count_at_once(served: Node) -> None:
    create_pool(served.ledger.database, PoolRule.checked("p", labels={"gpu": "yes"}), actor=ANN)
    run_id = served.ledger.enqueue()
    served.settle()
    assert served.started == []

    served.bookkeeper.apply(dataclasses.replace(served.settings, labels={"gpu": "yes"}))
    served.settle()

    assert [claim.run_id for claim in served.started] == [run_id]
    served.bookkeeper.apply(served.settings)
    served.settle()
    assert pools_of(served) == ["default"]


def test_rules_are_read_every_few_seconds_and_where_there_are_none_never(served: Node) -> None:
    def readings() -> int:
        with statements_of(served.database) as sent:
            served.round()
        return sum("rota_pool.members, rota_pool.patterns" in statement for statement in sent)

    served.settle()  # the node looks for findings first, which reads them too
    without = [readings() for _ in range(3)]
    create_pool(served.ledger.database, PoolRule.checked("p", ["x"]), actor=ANN)
    several = [readings() for _ in range(3)]
    served.ledger.clock.advance(seconds=RULES_SECONDS)

    assert without == [0, 0, 0]
    assert several == [1, 0, 0]
    assert readings() == 1


def test_what_other_nodes_may_take_first_is_looked_at_again_soon_and_taken_then(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job(prefer='["b"]')
    run_id = ledger.enqueue()
    node = Node(ledger)
    node.settle()
    held = list(node.started)

    ledger.clock.advance(seconds=10)
    node.settle()

    assert held == []
    assert [claim.run_id for claim in node.started] == [run_id]


def test_a_node_that_died_before_a_rule_changed_follows_it_at_the_next_look_after_its_lease(served: Node) -> None:
    database, clock = served.ledger.database, served.ledger.clock
    create_pool(database, PoolRule.checked("p", ["dead"]), actor=ANN)
    register_node(
        database,
        NodeIdentity("", "holder-of-dead", "boot"),
        host="dead",
        pid=1,
        pid_started=1,
        pools=["default"],
        slots=1,
        version="0.1.0",
        lease_seconds=LEASE_SECONDS,
    )
    edit_pool(database, "p", lambda _: PoolRule.checked("p", ["a"]), actor=ANN)

    clock.advance(seconds=LEASE_SECONDS + 1)
    start_node(served.ledger)
    served.settle()

    assert json.loads(served.ledger.value("select pools from rota_node where name = 'dead'")) == ["default"]
