"""What tests of the Python door begin with: a ``Rota`` on a database whose clock stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rota import Rota
from rota.store.database import Database
from tests.clock import Clock
from tests.store.reused import database_url

__all__ = ["database_url"]


@pytest.fixture
def rota(database_url: str, clock: Clock) -> Iterator[Rota]:
    made = Rota(database_url, actor="ann@desk")
    # Before it connects for the first time, or SQLite's clock would be the real one.
    database = Database(database_url, connections_max=5)
    clock.govern(database)
    made._database = database
    made._poller._clock = clock.uptime
    yield made
    made.close()
