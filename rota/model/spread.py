"""Spreading what one row stands for over the time that it covers."""

from __future__ import annotations

HOURS_MAX = 10_000  # that one row is spread over


def spread_evenly(first: int, last: int, count: int) -> dict[int, int]:
    """Spread ``count`` (also one below zero) over the hours from ``first`` to ``last``: how many fall into each.

    They lie at equal distances, at most 10,000 of them; the sum is ``count``. What was taken for some hours can be
    given back for the same hours.
    """
    sign, left = (1, count) if count >= 0 else (-1, -count)
    hours = max(1, min(left, last - first + 1, HOURS_MAX))
    span = max(0, last - first + 1)
    found: dict[int, int] = {}
    for number in range(hours):
        share = left * (number + 1) // hours - left * number // hours
        if share:
            found[first + span * number // hours] = sign * share
    return found
