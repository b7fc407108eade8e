"""Handing messages from one thread to another that waits on file descriptors."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Many threads put, one takes; ``fileno`` becomes readable when there is something."""

    def __init__(self) -> None:
        self._messages: deque[T] = deque()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def put(self, message: T) -> None:
        """Leave a message."""
        self._messages.append(message)
        os.eventfd_write(self._fd, 1)

    def take_all(self) -> list[T]:
        """Return the messages in the order they came, possibly none."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        taken: list[T] = []
        while self._messages:
            taken.append(self._messages.popleft())
        return taken

    def close(self) -> None:
        """Close the descriptor; nobody may put any more."""
        os.close(self._fd)
