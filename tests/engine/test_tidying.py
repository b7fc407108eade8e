"""A node deletes output that was kept long enough, when it looks at health."""

from __future__ import annotations

import dataclasses

import pytest

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
