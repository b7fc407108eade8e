"""What is known: the nodes and pools, and why things are as they are. ``rota.nodes``, ``rota.pools``, ``rota.why``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.client.listing import check_search, gather
from rota.client.runs import check_run_id
from rota.errors import Invalid
from rota.model.names import check_name, check_pool
from rota.model.pages import Page
from rota.model.placement import PoolRule
from rota.store import forgetting, history, membership, period_view, slot_history, suspension
from rota.store.jobs import check_if_exists
from rota.store.nodes import list_nodes, read_node

if TYPE_CHECKING:
    from rota.client.rota import Rota

    Labels = Mapping[str, str] | Sequence[str]


class Nodes:
    """All nodes."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def list(
        self, *, search: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Page[dict[str, Any]]:
        """Return nodes in the order of their names: all of them, or up to ``limit`` after the name ``after``.

        Those whose name holds ``search``. ``next`` of what is returned is the ``after`` of the next page.

        Raises:
            Invalid: a value breaks its rule.
        """
        part, database = check_search(search), self._rota.database
        return gather(
            lambda place, most: list_nodes(database, after=place, limit=most, search=part),
            "name",
            after=None if after is None else check_name("after", after),
            limit=limit,
        )

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

    def forget(self, name: str) -> int:
        """Forget a node that is gone for good; return how many runs that were for it alone are missed now.

        Raises:
            NotFound: no node has that name.
            Conflict: it is alive, or runs of it go on.
        """
        return forgetting.forget_node(self._rota.database, check_name("node", name), actor=self._rota.actor)


class Pools:
    """All pools: one is known once it was created, or a node works for it."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def list(
        self, *, search: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Page[dict[str, Any]]:
        """Return pools in the order of their names: all of them, or up to ``limit`` after the name ``after``.

        With the nodes that claim for each and what is ready. Those whose name holds ``search``. ``next`` of what is
        returned is the ``after`` of the next page.

        Raises:
            Invalid: a value breaks its rule.
        """
        part, database = check_search(search), self._rota.database
        return gather(
            lambda place, most: suspension.list_pools(database, after=place, limit=most, search=part),
            "name",
            after=None if after is None else check_name("after", after),
            limit=limit,
        )

    def show(self, name: str) -> dict[str, Any]:
        """Return how a pool is shown, with all nodes that serve it and by what each does.

        Raises:
            NotFound: there is no such pool.
        """
        return membership.read_pool(self._rota.database, check_pool(name))

    def is_known(self, name: str) -> bool:
        """Tell whether there is such a pool: somebody created it, or a node works for it."""
        return membership.is_known(self._rota.database, check_pool(name))

    def create(
        self,
        name: str,
        *,
        members: Sequence[str] | None = None,
        nodes: Sequence[str] | None = None,
        labels: Labels | None = None,
        if_exists: str = "error",
    ) -> dict[str, Any]:
        """Create a pool and return how it is shown.

        Nodes serve it that are among ``members`` (names), whose name matches one of ``nodes`` (patterns such as
        ``web*``) or that have all of ``labels`` (a mapping, or a list of ``K=V``); and those that name it themselves.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            AlreadyExists: there is one, and ``if_exists`` is ``"error"``.
        """
        rule = PoolRule.checked(name, members, nodes, labels)
        decision = check_if_exists(if_exists)
        return membership.create_pool(self._rota.database, rule, actor=self._rota.actor, if_exists=decision)

    def edit(self, name: str, **changes: Any) -> dict[str, Any]:
        """Replace what is given of ``members``, ``nodes`` and ``labels``; None takes it away.

        Nodes follow within seconds. Runs that were taken go on.

        Raises:
            NotFound: there is no such pool.
            Invalid: a value breaks its rule; nothing was changed.
        """
        for given in changes:
            if given not in ("members", "nodes", "labels"):
                raise Invalid(given, changes[given], "a pool has members, nodes and labels")

        def change(rule: PoolRule) -> PoolRule:
            parts = {"members": rule.members, "nodes": rule.patterns, "labels": rule.labels} | changes
            return PoolRule.checked(name, parts["members"], parts["nodes"], parts["labels"])

        return membership.edit_pool(self._rota.database, check_pool(name), change, actor=self._rota.actor)

    def add(self, name: str, node: str) -> dict[str, Any]:
        """Make a node a member of the pool, whether it is known already or not.

        Raises:
            NotFound: there is no such pool.
        """
        member = check_name("node", node)
        return membership.add_member(self._rota.database, check_pool(name), member, actor=self._rota.actor)

    def remove(self, name: str, node: str) -> dict[str, Any]:
        """Take a node out of the members of the pool.

        Raises:
            NotFound: there is no such pool, or the node is no member; the message says why it serves it all the same.
        """
        member = check_name("node", node)
        return membership.remove_member(self._rota.database, check_pool(name), member, actor=self._rota.actor)

    def delete(self, name: str) -> None:
        """Delete a pool that nothing names any more.

        Raises:
            NotFound: there is no such pool.
            Conflict: jobs, unfinished runs, or nodes that are there name it.
        """
        membership.delete_pool(self._rota.database, check_pool(name), actor=self._rota.actor)

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

    def period(self, job: str, period: str) -> dict[str, Any]:
        """Tell what a period of a job waits for, down to the first cause, or how it was finished.

        Raises:
            NotFound: there is no such job.
            Invalid: it has no periods, or none of that name, or that lies before the first.
            Conflict: that period has not begun.
        """
        return period_view.why_period(self._rota.database, check_name("job", job), period)

    def schedule(self, key: str, slot: str | datetime | None = None) -> dict[str, Any]:
        """Tell what a schedule does next and did last, or what became of one slot.

        A slot without an offset is in the schedule's zone. A date alone asks for its day, minutes for that minute.

        Raises:
            NotFound: there is no such schedule.
            Invalid: the slot cannot be read.
        """
        return slot_history.why_schedule(self._rota.database, key, slot)
