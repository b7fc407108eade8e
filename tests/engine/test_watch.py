"""The watch: what it does by itself, without being told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rota.engine.renewer import RenewalAsked
from rota.engine.settings import NodeSettings
from rota.engine.watch import Watch
from rota.execution.crew import Crew
from rota.execution.door import Door
from tests.execution.harness import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as sockets need."""
    with tempfile.TemporaryDirectory(prefix="rota-") as name:
        yield Path(name)


def test_a_guardian_that_opens_its_door_late_is_soon_taken_over(folder: Path) -> None:
    crew = Crew(folder)
    crew.open(nursery=False)
    watch = Watch(crew, NodeSettings(database_url="sqlite://", state_dir=folder, lease_seconds=600.0), "a")
    asked: list[RenewalAsked] = []
    bookkeeper, renewer = SimpleNamespace(is_accepting=True), SimpleNamespace(ask=asked.append)
    wake = os.eventfd(0)

    def look() -> Any:
        watch.round(cast("Any", bookkeeper), cast("Any", renewer), wake)
        return door.let_in()

    watch.take_over(cast("Any", bookkeeper))
    watch.round(cast("Any", bookkeeper), cast("Any", renewer), wake)  # from here on it renews every 200 s
    door = Door(str(folder), "late")
    connection = wait_until(look, "somebody is at the door")

    assert len(asked) == 1  # it was not in the course of a renewal
    connection.close()
    door.close()
    crew.close()
    os.close(wake)
