"""A node deletes output that was kept long enough, when it looks at health."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from rota.model.accounts import Source
from rota.model.keeping import KEEP_DEFAULT
from rota.model.roles import Role
from rota.model.run import NewRun
from rota.store.log_ins import open_session
from rota.store.retention import REMOVED_MAX
from tests.engine.node import Node
from tests.store.ledger import Ledger
from tests.store.test_tidying import DAY, end_one, wrote


@pytest.mark.parametrize(("keep_seconds", "is_kept"), [(DAY, False), (None, True)])
def test_a_node_does_it_beside_its_look_at_health(
    node: Node, ledger: Ledger, keep_seconds: float | None, is_kept: bool
) -> None:
    ledger.add_job()
    run_id = end_one(ledger)
    ledger.clock.advance(days=2)
    node.bookkeeper.apply(dataclasses.replace(node.settings, keep_output_seconds=keep_seconds))

    node.round()

    assert wrote(ledger, run_id) is is_kept


FOR_A_DAY = dict.fromkeys(KEEP_DEFAULT, DAY)


@pytest.mark.breaks_invariants  # what is counted by quarters and hours goes too
@pytest.mark.parametrize(
    ("keep_runs", "days", "left"), [(FOR_A_DAY, 2, [3]), (KEEP_DEFAULT, 2, [1, 2, 3]), (KEEP_DEFAULT, 31, [3])]
)
def test_a_node_removes_runs_that_were_kept_long_enough(
    node: Node, ledger: Ledger, keep_runs: Mapping[str, float | None], days: float, left: list[int]
) -> None:
    ledger.add_job()
    for _ in range(3):
        end_one(ledger)
    ledger.clock.advance(days=days)
    node.bookkeeper.apply(dataclasses.replace(node.settings, keep_runs=keep_runs))

    node.round()

    assert [row.id for row in ledger.runs()] == left


def test_a_node_removes_a_batch_and_lets_time_pass_before_the_next_one(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * (2 * REMOVED_MAX + 1))
    ledger.end_all(ledger.claim(limit=2 * REMOVED_MAX + 1))
    ledger.clock.advance(days=2)
    node.bookkeeper.apply(dataclasses.replace(node.settings, keep_runs=FOR_A_DAY))
    counts: list[int] = []

    for _ in range(3):
        node.round()
        counts.append(len(ledger.runs()))
        node.round()  # too soon
        counts.append(len(ledger.runs()))
        ledger.clock.advance(seconds=1)

    assert counts == [REMOVED_MAX + 1, REMOVED_MAX + 1, 1, 1, 1, 1]


@pytest.mark.breaks_invariants  # what is counted by quarters and hours goes too
def test_a_node_whose_database_clock_has_stepped_removes_nothing_for_a_day(node: Node, ledger: Ledger) -> None:
    ledger.add_job()
    end_one(ledger)
    end_one(ledger)
    node.round()
    ledger.clock.step(hours=24 * 400)

    node.round()

    assert len(ledger.runs()) == 2
    ledger.clock.advance(days=2)
    node.round()
    assert len(ledger.runs()) == 1


@pytest.mark.parametrize(("keep_seconds", "left"), [(DAY, 1), (None, 2)])
def test_a_node_removes_what_was_kept_long_enough_of_the_audit_and_the_log_ins(
    node: Node, ledger: Ledger, keep_seconds: float | None, left: int
) -> None:
    open_session(ledger.database, "ann", role=Role.VIEWER, source=Source.OIDC)
    ledger.clock.advance(days=2)
    open_session(ledger.database, "ann", role=Role.VIEWER, source=Source.OIDC)
    node.bookkeeper.apply(dataclasses.replace(node.settings, keep_audit_seconds=keep_seconds))

    node.round()

    assert ledger.value("select count(*) from rota_audit") == left
    assert ledger.value("select count(*) from rota_session") == 1
