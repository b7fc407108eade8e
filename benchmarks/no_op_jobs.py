"""What the small jobs of the benchmarks call."""

from __future__ import annotations


def no_op() -> None:
    """Do nothing, in a thread."""


async def no_op_async() -> None:
    """Do nothing, as a task."""
