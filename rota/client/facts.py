"""What is known: the nodes and pools, and why things are as they are. ``rota.nodes``, ``rota.pools``, ``rota.why``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.client.runs import check_run_id
from rota.model.names import check_name, check_pool
from rota.store import history, slot_history, suspension
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

    def drain(self, name: str) -> dict[str, Any]:
        """Let the node claim nothing more. It goes on with its runs, fires schedules, and stays.

        It holds for whoever goes by the name, also after a restart, until ``resume``.

        Raises:
            NotFound: no node has that name.
        """
        return suspension.drain_node(self._rota.database, check_name("node", name), actor=self._rota.actor)

    def resume(self, name: str) -> dict[str, Any]:
        """Let the node claim again.

        Raises:
            NotFound: no node has that name.
        """
        return suspension.resume_node(self._rota.database, check_name("node", name), actor=self._rota.actor)


class Pools:
    """All pools: a pool is known once a node works for it."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def list(self) -> list[dict[str, Any]]:
        """Return all pools, in the order of their names, with the nodes that claim for them and what is ready."""
        found: list[dict[str, Any]] = []
        while page := suspension.list_pools(self._rota.database, after=found[-1]["name"] if found else ""):
            found += page
        return found

    def pause(self, name: str) -> dict[str, Any]:
        """Start no more runs of the pool, on any node. Those that run go on, schedules fire, start windows bind.

        Raises:
            NotFound: no node has worked for such a pool yet.
        """
        return suspension.pause_pool(self._rota.database, check_pool(name), actor=self._rota.actor)

    def resume(self, name: str) -> dict[str, Any]:
        """Let the pool's runs start again.

        Raises:
            NotFound: no node has worked for such a pool yet.
        """
        return suspension.resume_pool(self._rota.database, check_pool(name), actor=self._rota.actor)


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
