"""Threads for what blocks: as many as there are connections, so that none waits for one in vain.

Invariant: whoever only looks never waits for those who write. While others hold what these want to write, they have
some of the threads and wait in line, not for longer than is bearable for whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio

from rota.errors import DatabaseUnavailable

T = TypeVar("T")

LOOKING = 2  # threads that nobody gets who writes
PATIENCE_SECONDS = 3.0  # of what is asked of the database here; a try that begins before may end as much later
IN_LINE_SECONDS = 3.0


class Threads:
    """Runs what blocks in at most ``number`` threads at a time; more wait for a free one."""

    def __init__(self, number: int, *, in_line_seconds: float = IN_LINE_SECONDS) -> None:
        self._number = number
        self._in_line_seconds = in_line_seconds
        self._limiter: anyio.CapacityLimiter | None = None
        self._writers: anyio.CapacityLimiter | None = None

    async def run_soon(self, work: Callable[[], T], seconds_max: float) -> T:
        """Do as ``run`` does if there is a free one before ``seconds_max`` have passed.

        Raises:
            TimeoutError: there was none, and nothing was done.
        """
        limiter = self._limiter = self._limiter or anyio.CapacityLimiter(self._number)
        turn = object()
        try:
            limiter.acquire_on_behalf_of_nowait(turn)
        except anyio.WouldBlock:
            with anyio.fail_after(seconds_max):
                await limiter.acquire_on_behalf_of(turn)
        try:
            # The one of the turn is this; a second limiter would count it twice.
            return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
        finally:
            limiter.release_on_behalf_of(turn)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` and return what it returns. Whoever stops waiting leaves it to run to its end."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._number)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    async def run_writing(self, work: Callable[[], T]) -> T:
        """Run ``work``, which writes.

        Raises:
            DatabaseUnavailable: the others who write have not got on; ``work`` was not begun.
        """
        if self._writers is None:
            self._writers = anyio.CapacityLimiter(max(1, self._number - LOOKING))
        try:
            with anyio.fail_after(self._in_line_seconds):
                await self._writers.acquire()
        except TimeoutError:
            rule = "what others want to write has waited for it too long, and nothing of this was begun"
            raise DatabaseUnavailable(f"the database does not answer: {rule}") from None
        try:
            return await self.run(work)
        finally:
            self._writers.release()
