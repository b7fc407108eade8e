"""A page: part of a list that goes on after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class Page(list[T]):
    """Some of a list, in its order. ``next`` is where it goes on, to be given as ``after``; None: it ends here."""

    def __init__(self, items: Iterable[T] = (), next: str | int | None = None) -> None:  # noqa: A002 - its name
        super().__init__(items)
        self.next = next
