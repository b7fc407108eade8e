"""What tests of the engine begin with: a database, a clock that stands still, and a node stepped by hand."""

from __future__ import annotations

import pytest

from tests.engine.node import Node
from tests.store.ledger import Ledger
from tests.store.reused import database_url

__all__ = ["database_url"]


@pytest.fixture
def node(ledger: Ledger) -> Node:
    return Node(ledger)
