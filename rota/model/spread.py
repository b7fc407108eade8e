"""Spreading what one row stands for over the time that it covers."""

from __future__ import annotations

STRETCHES_MAX = 10_000  # that one row is spread over


def spread_evenly(first: int, last: int, count: int) -> dict[int, int]:
    """Spread ``count`` (also one below zero) over the stretches from ``first`` to ``last``: how many fall into each.

    They lie at equal distances, at most 10,000 of them; the sum is ``count``. What was given can be
    taken back from the same ones.
    """
    sign, left = (1, count) if count >= 0 else (-1, -count)
    stretches = max(1, min(left, last - first + 1, STRETCHES_MAX))
    span = max(0, last - first + 1)
    found: dict[int, int] = {}
    for number in range(stretches):
        share = left * (number + 1) // stretches - left * number // stretches
        if share:
            found[first + span * number // stretches] = sign * share
    return found
