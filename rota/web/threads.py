"""Threads for what blocks: as many as there are connections, so that none waits for one in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


class Threads:
    """Runs what blocks in at most ``number`` threads at a time; more wait for a free one."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` and return what it returns. Whoever stops waiting leaves it to run to its end."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._number)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)
