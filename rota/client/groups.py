"""Groups, as applications see them: the runs of one request, or of one slot, on all nodes of a pool, under one handle.

What can be asked of a run can be asked of a group, where it has a meaning for several.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from rota.client.runs import Output, RunHandle, Sleep
from rota.errors import AlreadyFinished, Conflict, NotSupported, RunFailed
from rota.model.completeness import judge
from rota.model.states import FINISHED, RunState
from rota.store import interventions
from rota.store.groups import read_group
from rota.store.runs import Ended

if TYPE_CHECKING:
    from rota.client.rota import Rota
    from rota.model.run import Made

_FINISHED = {state.value for state in FINISHED}
_NOT_DONE = _FINISHED - {RunState.SUCCEEDED.value}


class GroupHandle(RunHandle):
    """The runs of a job on all nodes of its pool: look at them, wait for them, act on them together.

    ``id`` is the number of the first one, ``group`` what they have in common. What is written, or frozen, is that of a
    single run: ask one of ``runs``.
    """

    def __init__(self, rota: Rota, run_id: int, group: str, *, is_new: bool = True, sleep: Sleep = time.sleep) -> None:
        super().__init__(rota, run_id, is_new=is_new, sleep=sleep)
        self.group = group

    def __repr__(self) -> str:
        return f"<group {self.group}>"

    def show(self) -> dict[str, Any]:
        """Return how complete the group is (``state``, ``summary``, ``counts``, ``total``), and the run of each node.

        Raises:
            NotFound: there is no such group.
        """
        return read_group(self._rota.database, self.group)

    @property
    def runs(self) -> dict[str, RunHandle]:
        """A handle for the run of each node, by the node's name."""
        return {one["node"]: RunHandle(self._rota, one["id"], sleep=self._sleep) for one in self.show()["runs"]}

    def _ended(self) -> Ended:
        view = self.show()
        results = {one["node"]: one["result"] for one in view["runs"]}
        finished = view["is_finished"]
        return Ended(view["state"], finished, finished, "", view["summary"], results)

    @property
    def state(self) -> str:
        """The state of the group: ``succeeded`` once all of its runs have, else that of the one that stands worst."""
        return self._ended().state

    @property
    def result(self) -> Any:
        """What each node's run returned, by the node's name.

        Raises:
            RunFailed: they ended, and not all of them succeeded.
            Conflict: one has not ended: wait for it.
        """
        ended = self._ended()
        if not ended.is_finished:
            raise Conflict(f"group {self.group} has no result yet, {ended.text}: wait for it with .wait()")
        if ended.state != RunState.SUCCEEDED.value:
            raise RunFailed(self.id, ended.state, ended.text)
        return ended.result

    def wait(self, timeout: str | float | timedelta | None = None) -> GroupHandle:
        """Wait until all runs of the group have ended, however they did; return the handle.

        A node that is down is waited for until the start window of its run has passed.

        Raises:
            RunTimeout: one has not ended within ``timeout``; they go on.
        """
        super().wait(timeout)
        return self

    def cancel(self) -> str:
        """Withdraw the runs that have not ended, or have their nodes stop them; return the state of the group then.

        Raises:
            AlreadyFinished: all of them have ended.
        """
        view = self.show()
        if view["is_finished"]:
            raise AlreadyFinished(self.id, view["state"])
        states: list[tuple[str, str]] = []
        for one in view["runs"]:
            state = one["state"]
            if state not in _FINISHED:
                with contextlib.suppress(AlreadyFinished):
                    state = interventions.cancel_run(self._rota.database, one["id"], actor=self._rota.actor)
            states.append((one["node"], state))
        return judge(states).state

    def rerun(self, *, force: bool = False, downstream: bool = False) -> GroupHandle:
        """Have those done again that ended and did not succeed: the same runs, on the same nodes.

        With ``force`` and ``downstream`` as a single run.

        Raises:
            Conflict: there is none.
        """
        wanted = [one for one in self.show()["runs"] if one["state"] in _NOT_DONE]
        if not wanted:
            raise Conflict(f"no run of group {self.group} has ended otherwise than well: there is nothing to do again")
        for one in wanted:
            interventions.rerun_run(
                self._rota.database, one["id"], actor=self._rota.actor, force=force, downstream=downstream
            )
        return self

    def _refuse(self, what: str) -> NoReturn:
        raise NotSupported(f"{what} is asked of one run; group {self.group} has one for each node: see .runs")

    def logs(self, attempt: int | None = None, stream: str | None = None) -> bytes:
        """Refuse: each run of a group has its own; ask one of ``runs``."""
        self._refuse("output")

    def transcript(self, attempt: int | None = None, stream: str | None = None) -> NoReturn:
        """Refuse: each run of a group has its own; ask one of ``runs``."""
        self._refuse("output")

    def follow(self, stream: str | None = None) -> Iterator[Output]:
        """Refuse: each run of a group has its own; ask one of ``runs``."""
        self._refuse("output")

    def freeze(self) -> NoReturn:
        """Refuse: ask one of ``runs``."""
        self._refuse("freezing")

    def thaw(self) -> NoReturn:
        """Refuse: ask one of ``runs``."""
        self._refuse("thawing")

    def skip(self) -> None:
        """Refuse: ask one of ``runs``."""
        self._refuse("skipping")

    def mark_succeeded(self) -> None:
        """Refuse: ask one of ``runs``."""
        self._refuse("marking")


def handle_of(rota: Rota, made: Made) -> RunHandle:
    """Return the handle of what a request made: a run, or a group of them."""
    if made.group_id is None:
        return RunHandle(rota, made.run_id, is_new=made.is_new)
    return GroupHandle(rota, made.run_id, made.group_id, is_new=made.is_new)
