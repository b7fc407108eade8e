"""How soon others see what a job tells: no longer than promised, whatever waits for whatever."""

from __future__ import annotations

from rota.client import runs
from rota.engine import books
from rota.execution import attempt

PROMISED_SECONDS = 2.0
FOR_STATEMENTS_SECONDS = 0.2


def test_what_a_job_tells_is_seen_within_two_seconds_also_when_each_has_just_looked() -> None:
    first = max(attempt.REPORT_AFTER_SECONDS, attempt.REPORT_SECONDS)

    waits = first + books.REPORT_SECONDS + runs.FOLLOW_SECONDS

    assert waits + FOR_STATEMENTS_SECONDS <= PROMISED_SECONDS
