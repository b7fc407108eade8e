"""Spans: half-open intervals, merged and in order, to be asked which one something lies in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T", int, datetime)


class Spans(Generic[T]):
    """Half-open intervals ``[low, high)`` that neither touch nor overlap, in their order."""

    __slots__ = ("_lows", "spans")

    def __init__(self, spans: Iterable[tuple[T, T]]) -> None:
        merged: list[tuple[T, T]] = []
        for low, high in sorted(spans):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self.spans = tuple(merged)
        self._lows = [low for low, _ in merged]

    def at(self, place: T) -> tuple[T, T] | None:
        """Return the interval that ``place`` lies in."""
        at = bisect_right(self._lows, place) - 1
        return self.spans[at] if at >= 0 and place < self.spans[at][1] else None

    def after(self, place: T) -> tuple[T, T] | None:
        """Return the first interval that begins after ``place``."""
        at = bisect_right(self._lows, place)
        return self.spans[at] if at < len(self.spans) else None

    def within(self, low: T, high: T) -> tuple[tuple[T, T], ...]:
        """Return the intervals that overlap ``[low, high)``."""
        first = bisect_right(self._lows, low) - 1
        if first < 0 or self.spans[first][1] <= low:
            first += 1
        last = bisect_right(self._lows, high)
        return tuple(span for span in self.spans[first:last] if span[0] < high)
