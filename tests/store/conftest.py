"""What tests of the store begin with: a database, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clock import Clock
from tests.store.ledger import Ledger
from tests.store.reused import database_url

__all__ = ["database_url"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database_url: str, clock: Clock) -> Iterator[Ledger]:
    made = Ledger(database_url, clock)
    yield made
    made.close()
