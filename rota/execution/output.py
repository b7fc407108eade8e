"""Output of a job, kept in bounded memory: its beginning and its end, and when each part of it came.

Invariant: what is kept never exceeds the cap, and it is known how much there was.
Used by the guardian. The marker between head and tail is made by whoever shows the output.
"""

from __future__ import annotations

import os

from rota.execution.linux import boottime

READ_BYTES = 65536
READS_PER_ROUND = 16  # so that a flood on one stream keeps neither the other nor the deadline waiting
LIVE_BYTES_MAX = 128 * 1024  # of one stream in one report: of a flood, people see samples until its end
MARK_SECONDS = 0.01  # what comes within it is one moment, unless the other stream came in between
MARKS_MAX = 4000


class Capture:
    """Reads one pipe, and keeps the first and the last bytes of what came.

    ``marks`` are pairs: the position of a byte, and the microseconds from ``born_at`` to when it came.
    """

    def __init__(self, bytes_max: int, born_at: float = 0.0) -> None:
        self.pipe = -1  # a descriptor that does not block
        self.total = 0
        self.head = bytearray()
        self.marks: list[tuple[int, int]] = []
        self.told = 0  # the position up to which somebody who looks on has been told
        self._born_at = born_at
        self._mark_again_us = int(MARK_SECONDS * 1e6)
        self._head_max = bytes_max // 2
        self._tail_max = bytes_max - self._head_max
        self._tail = bytearray()

    def read(self, *, is_other: bool = False) -> bool:
        """Read what is there, within bounds. Tell whether the pipe may still bring more.

        ``is_other`` says that another stream was read since: what comes now is marked, so that their order is known.
        """
        for _ in range(READS_PER_ROUND):
            try:
                data = os.read(self.pipe, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.take(data, is_other=is_other)
        return True

    def take(self, data: bytes, *, is_other: bool = False) -> None:
        """Keep what has come."""
        self._mark(is_other=is_other)
        self._keep(data)

    def _mark(self, *, is_other: bool) -> None:
        at = int((boottime() - self._born_at) * 1e6)
        if self.marks and at - self.marks[-1][1] < self._mark_again_us and not is_other:
            return
        self.marks.append((self.total, at))
        if len(self.marks) > MARKS_MAX:
            del self.marks[1::2]  # coarser from now on, and for what was
            self._mark_again_us *= 2

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_max - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            # Cut rarely: each cut moves the tail in memory once.
            if len(self._tail) > 2 * self._tail_max + READ_BYTES:
                del self._tail[: len(self._tail) - self._tail_max]

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody was told."""
        return self.told < self.total

    def end(self) -> None:
        """Take in that nothing more comes."""

    def tail(self) -> bytes:
        """Give the last bytes that are not part of the head."""
        return bytes(self._tail[-self._tail_max :]) if self._tail_max else b""

    def news(self) -> tuple[int, bytes]:
        """Give what has come since this was asked last, and its position: the oldest of the head, the newest after."""
        start = self.told
        if start < len(self.head):
            data = bytes(self.head[start : start + LIVE_BYTES_MAX])
        else:
            start = max(start, self.total - min(len(self._tail), LIVE_BYTES_MAX))
            data = bytes(self._tail[len(self._tail) - (self.total - start) :])
        self.told = start + len(data)
        return start, data

    def marks_within(self, start: int, end: int) -> list[tuple[int, int]]:
        """Give the marks of the bytes from ``start`` to ``end``, the first of them for ``start``."""
        if start >= end or not self.marks:
            return []
        before = [mark for mark in self.marks if mark[0] <= start]
        first = (start, before[-1][1] if before else self.marks[0][1])
        return [first, *(mark for mark in self.marks if start < mark[0] < end)]
