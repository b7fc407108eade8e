"""Periods, as applications see them: ``rota.periods``.

Checks are ``rota.model.period``'s; rows are those of ``rota.store``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rota.errors import PeriodTimeout
from rota.model.backfill import Wish
from rota.model.durations import parse_duration
from rota.model.names import check_name
from rota.model.pages import Page
from rota.model.values import check_whole
from rota.store import period_actions, period_view

if TYPE_CHECKING:
    from rota.client.rota import Rota

WAIT_SECONDS_MIN = 0.05
WAIT_SECONDS_MAX = 1.0


class Periods:
    """The periods of jobs that have some."""

    def __init__(self, rota: Rota, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rota = rota
        self._sleep = sleep

    def list(
        self,
        job: str,
        *,
        state: str | Sequence[str] = (),
        first: str | None = None,
        last: str | None = None,
        before: str | None = None,
        limit: int = period_view.LIMIT_DEFAULT,
    ) -> Page[dict[str, Any]]:
        """Return up to ``limit`` periods of a job, the latest of those asked for, oldest first.

        ``first`` and ``last`` are names of periods, or of longer ones for all of these, ``state`` one state or several.
        ``next`` of what is returned is the ``before`` of the next page: the name of its first one.

        Raises:
            NotFound: there is no such job.
            Invalid: it has no periods, or none of that name or state.
        """
        states = period_view.check_states([state] if isinstance(state, str) else state)
        most = check_whole("limit", limit, 1, period_view.LIST_MAX)
        found = period_view.list_periods(
            self._rota.database,
            check_name("job", job),
            states=states,
            first=first,
            last=last,
            before=before,
            limit=most + 1,
        )
        return Page(found[-most:], found[-most]["period"] if len(found) > most else None)

    def wait(self, job: str, period: str, timeout: str | float | timedelta | None = None) -> dict[str, Any]:
        """Wait until a period is finished, one that has not begun too, and return it: see its ``state`` then.

        Raises:
            NotFound: there is no such job.
            Invalid: it has no periods, or none of that name, or that lies before the first.
            PeriodTimeout: it is not finished within ``timeout``.
        """
        name = check_name("job", job)
        seconds = None if timeout is None else parse_duration("timeout", timeout, zero_ok=True)
        ends = None if seconds is None else time.monotonic() + seconds
        pause = WAIT_SECONDS_MIN
        while True:
            found = period_view.read_period(self._rota.database, name, period)
            if found is not None and found["finished_at"] is not None:
                return found
            left = None if ends is None else ends - time.monotonic()
            if seconds is not None and left is not None and left <= 0:
                raise PeriodTimeout(name, period, seconds)
            # Quick at first, for what is done at once; then no more than a statement a second.
            self._sleep(min(pause * random.uniform(0.8, 1.2), left if left is not None else pause))
            pause = min(WAIT_SECONDS_MAX, pause * 1.5)

    def tree(self, job: str) -> dict[str, Any]:
        """Return the tree of a job: counts by state and the oldest unfinished period, of it and of what it rolls up.

        ``because`` says what that of the job itself waits for, down to the first cause.

        Raises:
            NotFound: there is no such job.
            Invalid: it has no periods.
        """
        return period_view.read_tree(self._rota.database, check_name("job", job))

    def reprocess(
        self, job: str, period: str, to: str | None = None, *, failed_only: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take periods back, from one to another, with all that is built on them; return which these are, by job.

        The name of a longer period, such as a day of hours, stands for all of it. They are worked on anew, in order.
        Runs that are at work for them are withdrawn or stopped first. In one transaction. With ``failed_only`` only
        those that failed, were given up, or skipped for something else that was, with ``dry_run`` nothing is changed.

        Raises:
            NotFound: there is no such job.
            Invalid: it has no periods, or none of that name; it lies before the first, or the range is the wrong way
                round.
            Conflict: the period has not begun.
        """
        wish = Wish(again=not failed_only, failed_only=failed_only)
        return period_actions.reprocess_periods(
            self._rota.database, check_name("job", job), period, to, wish=wish, actor=self._rota.actor, dry_run=dry_run
        )

    def skip(self, job: str, period: str, to: str | None = None, *, dry_run: bool = False) -> dict[str, Any]:
        """Do without periods, from one to another, what lies within them, and what runs after these within their time.

        What is finished stays as it is. Raises as ``reprocess``.
        """
        return period_actions.skip_periods(
            self._rota.database, check_name("job", job), period, to, actor=self._rota.actor, dry_run=dry_run
        )
