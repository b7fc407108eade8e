"""What is known: the nodes, and why things are as they are. ``rota.nodes`` and ``rota.why``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.client.runs import check_run_id
from rota.store import history, slot_history
from rota.store.nodes import list_nodes, read_node

if TYPE_CHECKING:
    from rota.client.rota import Rota


class Nodes:
    """All nodes."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def list(self) -> list[dict[str, Any]]:
        """Return all nodes, in the order of their names."""
        found: list[dict[str, Any]] = []
        while page := list_nodes(self._rota.database, after=found[-1]["name"] if found else ""):
            found += page
        return found

    def show(self, name: str) -> dict[str, Any]:
        """Return how a node is shown, with its history.

        Raises:
            NotFound: no node has that name.
        """
        return read_node(self._rota.database, name)


class Why:
    """Answers from recorded facts: ``subject``, ``state``, ``because`` (the deciding sentence first), ``events``."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def run(self, run_id: int | str) -> dict[str, Any]:
        """Tell why a run has not started, was skipped, missed, retried or lost.

        Raises:
            NotFound: there is no such run.
        """
        return history.why_run(self._rota.database, check_run_id(run_id))

    def job(self, name: str) -> dict[str, Any]:
        """Tell whether and when a job runs.

        Raises:
            NotFound: there is no such job.
        """
        return history.why_job(self._rota.database, name)

    def schedule(self, key: str, slot: str | datetime | None = None) -> dict[str, Any]:
        """Tell what a schedule does next and did last, or what became of one slot.

        A slot without an offset is in the schedule's zone. A date alone asks for its day, minutes for that minute.

        Raises:
            NotFound: there is no such schedule.
            Invalid: the slot cannot be read.
        """
        return slot_history.why_schedule(self._rota.database, key, slot)
