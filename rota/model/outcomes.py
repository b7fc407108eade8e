"""What the code of a job raises to say how its attempt is to end, other than well or badly.

Invariant: each carries ``__rota_outcome__``, so that whoever runs a job can tell them apart without this module.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from rota.model.durations import parse_duration


class Outcome(Exception):
    """An end that the job asks for. Raised by a job; never seen by whoever waits for the run."""

    __rota_outcome__: ClassVar[str]


class Retry(Outcome):
    """Try again, after the job's retry delay or after one given here. Spends one of the job's retries.

    Raises:
        Invalid: ``after`` is no duration.
    """

    __rota_outcome__: ClassVar[str] = "retry"

    def __init__(
        self, reason: str = "the job asked for a retry", *, after: str | float | timedelta | None = None
    ) -> None:
        super().__init__(reason)
        self.after_seconds = None if after is None else parse_duration("after", after, zero_ok=True)


class Release(Outcome):
    """Give the run back unspent: any node may take it at once; from the fourth time on after up to a minute."""

    __rota_outcome__: ClassVar[str] = "release"

    def __init__(self, reason: str = "the job gave it back") -> None:
        super().__init__(reason)


class Skip(Outcome):
    """There was nothing to do: the run ends as skipped."""

    __rota_outcome__: ClassVar[str] = "skip"

    def __init__(self, reason: str = "the job found nothing to do") -> None:
        super().__init__(reason)
