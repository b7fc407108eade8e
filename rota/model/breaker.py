"""The circuit breaker of a job: after so many attempts in a row that ended badly none of its runs starts for a while.

Pure decisions. Closed: everything starts. Open: nothing does, until the pause is over. Half open: one run is let
through, and its attempt decides: it ends well and the breaker closes, or badly and the pause begins anew. Attempts that
were under way when it opened count too: any that ends well closes it, and one that ends badly does not prolong the
pause. What was given back, cancelled or lost says nothing about the job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from rota.model.states import AttemptState

BREAKER_PAUSE_SECONDS = 300.0
BREAKER_FAILURES_MAX = 1_000_000
_COUNTED_MAX = 1_000_000_000  # what the column holds


class BreakerState(StrEnum):
    """How a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerMove(StrEnum):
    """What an end did to a breaker."""

    OPENED = "opened"
    OPENED_AGAIN = "opened_again"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker: its rule, and how it stands."""

    failures: int  # so many in a row open it
    failures_in_row: int = 0
    is_open: bool = False  # or half open
    run_id: int | None = None  # the run that is let through


def count_end(breaker: Breaker, run_id: int, ended: AttemptState) -> tuple[Breaker, BreakerMove | None]:
    """Count the end of an attempt of ``run_id``, and tell what that did."""
    if ended in {AttemptState.SUCCEEDED, AttemptState.SKIPPED}:
        closed = replace(breaker, failures_in_row=0, is_open=False, run_id=None)
        return closed, BreakerMove.CLOSED if breaker.is_open else None
    if ended is not AttemptState.FAILED:
        return breaker, None
    failed = replace(breaker, failures_in_row=min(breaker.failures_in_row + 1, _COUNTED_MAX))
    if not breaker.is_open:
        if failed.failures_in_row < breaker.failures:
            return failed, None
        return replace(failed, is_open=True, run_id=None), BreakerMove.OPENED
    if run_id != breaker.run_id:
        return failed, None
    return replace(failed, run_id=None), BreakerMove.OPENED_AGAIN
