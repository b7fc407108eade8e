"""A node that was asked to drain, and one whose pool is paused: what its rounds still do."""

from __future__ import annotations

import logging

import pytest

from rota.engine.bookkeeper import VAIN_CLAIMS_MAX
from rota.model.states import RunState
from rota.store.nodes import read_node
from rota.store.suspension import drain_node, pause_pool, resume_node, resume_pool
from tests.engine.node import Node
from tests.store.living import start_node

ANN = "ann@desk"


@pytest.fixture(autouse=True)
def registered(node: Node) -> None:
    start_node(node.ledger)
    node.ledger.add_job()


def test_a_node_that_drains_goes_on_with_its_runs_and_fires_but_claims_nothing(node: Node) -> None:
    first = node.ledger.enqueue()
    running = node.start_one()
    drain_node(node.database, "a", actor=ANN)
    node.ledger.enqueue()
    node.ledger.add_schedule(next_slot_at=node.ledger.clock.now)

    node.settle()
    node.end(running)

    assert [claim.run_id for claim in node.started] == [first]
    assert node.acknowledged == [running.claim_id]
    assert sorted(node.ledger.states()) == [RunState.READY, RunState.READY, RunState.SUCCEEDED]  # one was fired
    assert node.bookkeeper.is_accepting  # guardians are still taken over, and it does not leave


def test_a_node_that_is_resumed_claims_in_its_next_round_and_its_log_tells_both(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rota.worker")
    run_id = node.ledger.enqueue()
    drain_node(node.database, "a", actor=ANN)
    node.settle()
    node.settle()
    resume_node(node.database, "a", actor=ANN)

    claim = node.start_one()

    assert claim.run_id == run_id
    said = [record.message for record in caplog.records if record.name == "rota.worker"]
    assert said == ["asked to drain: no new claims until `rota node resume a`", "resumed: claiming again"]


def test_a_new_configuration_does_not_end_a_drain(node: Node) -> None:
    node.ledger.enqueue()
    drain_node(node.database, "a", actor=ANN)
    node.settle()

    node.bookkeeper.apply(node.settings)
    node.settle()

    assert node.started == []
    assert read_node(node.database, "a")["state"] == "draining"


def test_a_worker_that_leaves_says_so_again_when_a_drain_from_elsewhere_ends(node: Node) -> None:
    drain_node(node.database, "a", actor=ANN)
    node.settle()
    node.bookkeeper.stop_claiming(tell=True)
    node.settle()
    resume_node(node.database, "a", actor=ANN)

    node.settle()
    node.round()

    view = read_node(node.database, "a")
    assert (view["state"], view["drain_asked_at"]) == ("draining", None)
    assert not node.bookkeeper.is_accepting


def test_one_pass_is_over_although_runs_are_ready_in_a_paused_pool_or_the_node_drains(node: Node) -> None:
    node.ledger.enqueue()
    pause_pool(node.database, "default", actor=ANN)
    node.settle()  # comes to rest, which is when a pass leaves
    drain_node(node.database, "a", actor=ANN)
    resume_pool(node.database, "default", actor=ANN)
    node.settle()

    assert node.started == []
    assert node.bookkeeper.idle_rounds > 0


def test_one_pass_is_over_although_a_mutex_is_free_that_is_kept_for_another_run(node: Node) -> None:
    for name, mutexes in (("a", '["a"]'), ("b", '["b"]'), ("both", '["a", "b"]')):
        node.ledger.add_job(name, mutexes=mutexes)
    node.ledger.enqueue("b")
    node.ledger.claim_one("elsewhere")
    for name in ("both", "a"):
        node.ledger.enqueue(name)

    for _ in range(VAIN_CLAIMS_MAX):
        assert node.bookkeeper.idle_rounds == 0
        node.bookkeeper.hint()
        node.round()
    node.bookkeeper.hint()
    node.round()

    assert node.started == []
    assert node.bookkeeper.idle_rounds > 0


def test_a_pool_that_is_resumed_goes_on_where_it_stood(node: Node) -> None:
    runs = [node.ledger.enqueue(priority=priority) for priority in (0, 5)]
    pause_pool(node.database, "default", actor=ANN)
    node.settle()
    resume_pool(node.database, "default", actor=ANN)

    node.round()

    assert [claim.run_id for claim in node.started] == runs[::-1]
