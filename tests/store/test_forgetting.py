"""Forgetting a node: only one that is gone, and nothing waits for it afterwards."""

from __future__ import annotations

import pytest

from rota.errors import Conflict, NotFound
from rota.model.reasons import Reason
from rota.model.run import Made, NewRun
from rota.model.states import RunState
from rota.store.advancing import miss_unreachable
from rota.store.database import Database
from rota.store.forgetting import forget_node
from rota.store.interventions import cancel_run, rerun_run
from rota.store.nodes import list_nodes
from rota.store.requests import request_runs
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger
from tests.store.living import start_node, stop_node

ANN = "ann@desk"


def forget(ledger: Ledger, name: str = "a") -> int:
    return forget_node(ledger.database, name, actor=ANN)


def test_a_node_that_is_alive_is_not_forgotten(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)

    with pytest.raises(Conflict, match="node 'a' is alive"):
        forget(ledger)
    clock.advance(seconds=LEASE_SECONDS + 1)
    forget(ledger)

    assert list_nodes(ledger.database) == []
    with pytest.raises(NotFound):
        forget(ledger)


def test_what_was_for_it_alone_and_has_not_started_is_missed_and_all_else_stays(ledger: Ledger) -> None:
    for name in ("a", "b"):
        start_node(ledger, name)
    ledger.add_job()
    ready, waiting, other, any_node, done = ledger.enqueue_many(
        [NewRun("job"), NewRun("job", in_seconds=60.0), NewRun("job"), NewRun("job"), NewRun("job")]
    )
    for run_id, name in ((ready, "a"), (waiting, "a"), (other, "b"), (done, "a")):
        ledger.set_run(run_id, target_node=name)
    (claim,) = [claim for claim in ledger.claim("a") if claim.run_id == done or ledger.end(claim, "released") is None]
    ledger.end(claim)
    stop_node(ledger)

    assert forget(ledger) == 2

    missed = [ledger.run(run_id) for run_id in (ready, waiting)]
    assert [(row.state, row.reason) for row in missed] == [(RunState.MISSED, Reason.NODE_FORGOTTEN)] * 2
    assert {row.reason_text for row in missed} == {"node a was forgotten"}
    assert [ledger.run(run_id).state for run_id in (other, any_node, done)] == ["ready", "ready", "succeeded"]
    (told,) = ledger.rows("select actor, node from rota_event where kind = 'node' and to_state = 'forgotten'")
    assert tuple(told) == (ANN, "a")


def test_a_node_whose_runs_go_on_without_it_is_not_forgotten(ledger: Ledger) -> None:
    start_node(ledger)
    claim = ledger.start_one()
    stop_node(ledger)

    with pytest.raises(Conflict, match=f"go on without it \\(run {claim.run_id}\\)"):
        forget(ledger)
    ledger.end(claim)
    assert forget(ledger) == 0


def test_a_run_for_a_node_that_nobody_knows_does_not_wait_for_ever(ledger: Ledger) -> None:
    start_node(ledger, "b")
    start_node(ledger)
    ledger.add_job()
    run_id, late, of_other = ledger.enqueue_many([NewRun("job")] * 3)
    ledger.set_run(run_id, target_node="a")
    ledger.set_run(of_other, target_node="b")
    stop_node(ledger)
    forget(ledger)

    rerun_run(ledger.database, run_id, actor=ANN)
    ledger.set_run(late, target_node="a")  # made while it was being forgotten

    assert miss_unreachable(ledger.database) == 2
    assert [ledger.run(one).state for one in (run_id, late, of_other)] == ["missed", "missed", "ready"]
    assert miss_unreachable(ledger.database) == 0


def test_the_name_is_free_afterwards_and_its_drain_is_forgotten_too(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.execute("update rota_node set drain_asked_at = seen_at, drain_asked_by = 'ann'")
    stop_node(ledger)
    forget(ledger)

    start_node(ledger)

    (view,) = list_nodes(ledger.database)
    assert (view["name"], view["state"], view["drain_asked_at"]) == ("a", "alive", None)


def ask_for_ever(ledger: Ledger, key: str = "once") -> list[Made]:
    return request_runs(ledger.database, [NewRun("job", run_key=key, unique_seconds=-1.0)])


@pytest.mark.parametrize("ends", [True, False])
def test_a_key_goes_on_holding_when_all_nodes_of_its_group_are_forgotten(ledger: Ledger, ends: bool) -> None:
    for name in "ab":
        start_node(ledger, name)
    ledger.add_job(runs_on="all")

    first, other = ask_for_ever(ledger), ask_for_ever(ledger, "other")
    for name in "ab":
        if ends:
            ledger.end_all(ledger.claim(name))
        stop_node(ledger, name)
    start_node(ledger, "c")

    assert [forget(ledger, name) for name in "ab"] == ([0, 0] if ends else [2, 2])

    assert (ask_for_ever(ledger), ask_for_ever(ledger, "other")) == (first, other)
    assert len(ledger.runs()) == 4
    start_node(ledger, "a")
    assert ask_for_ever(ledger) == first
    ledger.set_job(runs_on="any")
    assert ask_for_ever(ledger) == first
    assert ledger.violations() == []


def test_a_key_of_a_run_that_ends_while_its_node_is_forgotten_goes_on_holding_from_the_same_commit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_node(ledger)
    ledger.add_job(runs_on="all")
    first = ask_for_ever(ledger)
    stop_node(ledger)

    def cancel_late(_database: Database, _name: str) -> None:
        cancel_run(ledger.database, ledger.runs()[0].id, actor=ANN)

    monkeypatch.setattr("rota.store.forgetting._keep_most_keys", cancel_late)
    assert forget(ledger) == 0
    start_node(ledger, "b")

    assert ask_for_ever(ledger) == first
    assert len(ledger.runs()) == 1


def test_a_key_of_a_run_made_while_its_node_was_forgotten_goes_on_holding(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job(runs_on="all")
    first = ask_for_ever(ledger)
    ledger.execute("delete from rota_node")
    start_node(ledger, "b")

    assert miss_unreachable(ledger.database) == 1

    assert ask_for_ever(ledger) == first
    assert len(ledger.runs()) == 1


def test_a_key_whose_time_is_over_is_free_also_after_its_node_was_forgotten(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job(runs_on="all")
    wanted = [NewRun("job", run_key="k", unique_seconds=100.0)]
    first = request_runs(ledger.database, wanted)
    ledger.end_all(ledger.claim("a"))
    stop_node(ledger)
    forget(ledger)
    start_node(ledger, "b")

    again = request_runs(ledger.database, wanted)
    clock.advance(seconds=101)

    assert again == first
    assert request_runs(ledger.database, wanted) != first
