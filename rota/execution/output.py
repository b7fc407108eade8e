"""Output of a job, kept in bounded memory: its beginning and its end.

Invariant: what is kept never exceeds the cap, and it is known how much there was.
Used by the guardian. The marker between head and tail is made by whoever shows the output.
"""

from __future__ import annotations

import os

READ_BYTES = 65536
READS_PER_ROUND = 16  # so that a flood on one stream keeps neither the other nor the deadline waiting


class Capture:
    """Reads one pipe, and keeps the first and the last bytes of what came."""

    def __init__(self, bytes_max: int) -> None:
        self.pipe = -1  # a descriptor that does not block
        self.total = 0
        self.head = bytearray()
        self._head_max = bytes_max // 2
        self._tail_max = bytes_max - self._head_max
        self._tail = bytearray()

    def read(self) -> bool:
        """Read what is there, within bounds. Tell whether the pipe may still bring more."""
        for _ in range(READS_PER_ROUND):
            try:
                data = os.read(self.pipe, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._keep(data)
        return True

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
                del self._tail[: -self._tail_max]

    def tail(self) -> bytes:
        """Give the last bytes that are not part of the head."""
        return bytes(self._tail[-self._tail_max :]) if self._tail_max else b""
