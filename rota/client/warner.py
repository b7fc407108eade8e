"""Warnings: what a caller is told although nothing was refused. To the logger ``rota.client``.

Invariant: a warning costs next to nothing and fails nobody. Each job and each pool is looked at once a minute at most,
and what was asked for has been done by then, whether the look succeeds or not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rota.model.job import POOL_DEFAULT
from rota.store.pools import read_pools_of, say_unserved

if TYPE_CHECKING:
    from rota.client.rota import Rota
    from rota.model.run import Made, NewRun

log = logging.getLogger("rota.client")

LOOK_SECONDS = 60.0
JOBS_MAX = 500  # in one look
REMEMBERED_MAX = 10_000  # then all are looked at anew


class Warner:
    """Warns of jobs whose runs no node would take."""

    def __init__(self, rota: Rota, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rota = rota
        self._clock = clock
        self._looked_at: dict[tuple[str, str, bool], float] = {}

    def look_at_made(self, wanted: Sequence[NewRun], made: Sequence[Made]) -> None:
        """Warn of runs that were made, each for the one of ``wanted`` in its place."""
        self.look_at_jobs((new.job for new, one in zip(wanted, made, strict=True) if one.is_new), is_asked=True)

    def look_at_jobs(self, names: Iterable[str], *, is_asked: bool = False) -> None:
        """Warn of the pools of these jobs; ``is_asked`` tells that runs of them were asked for."""
        jobs = self._keep_due("job", names, lambda _: is_asked)
        try:
            for start in range(0, len(jobs), JOBS_MAX):
                self._look(read_pools_of(self._rota.database, jobs[start : start + JOBS_MAX]), is_asked=is_asked)
        except Exception as error:  # noqa: BLE001 - it is committed: whoever were told of an error would ask again
            log.debug("whether nodes serve the pools is not known: %s", error)

    def look_at_pool(self, name: str) -> None:
        """Warn of the pool of a job that was defined."""
        try:
            self._look([name], is_asked=False)
        except Exception as error:  # noqa: BLE001 - likewise
            log.debug("whether a node serves pool %s is not known: %s", name, error)

    def _look(self, pools: Iterable[str], *, is_asked: bool) -> None:
        # Of `default` there is more to say once a run is asked for.
        due = self._keep_due("pool", pools, lambda name: is_asked or name != POOL_DEFAULT)
        if due:
            for sentence in say_unserved(self._rota.database, due, is_asked=is_asked):
                log.warning("%s", sentence)

    def _keep_due(self, kind: str, names: Iterable[str], is_asked: Callable[[str], bool]) -> list[str]:
        """Return those that nobody has looked at for a minute, and take them for looked at."""
        now = self._clock()
        keys = [(kind, name, is_asked(name)) for name in dict.fromkeys(names)]
        due = [key for key in keys if now - self._looked_at.get(key, -LOOK_SECONDS) >= LOOK_SECONDS]
        if len(self._looked_at) + len(due) > REMEMBERED_MAX:
            self._looked_at.clear()
        self._looked_at |= dict.fromkeys(due, now)
        return [name for _, name, _ in due]
