"""Findings: what does not go on by itself, and how bad that is.

A finding names one thing that somebody should look at. Two looks that find the same code about the same subject found
the same thing. Made by ``rota.store.health``; shown by every door.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rota.errors import Invalid
from rota.model.durations import format_duration, parse_duration

WARNING_LATE_SECONDS = 60.0
CRITICAL_LATE_SECONDS = 600.0


class Severity(StrEnum):
    """How bad a finding is."""

    INFO = "info"  # nothing is wrong
    WARNING = "warning"  # it goes on, or would, but somebody should look
    CRITICAL = "critical"  # work that has come is not done


class FindingCode(StrEnum):
    """What was found. The code is stable and meant for programs; the sentence beside it names the values."""

    SCHEDULER_STOPPED = "scheduler_stopped"  # no node is alive
    POOL_EMPTY = "pool_empty"  # there is work for a pool that no living node serves
    ENVIRONMENT_MISSING = "environment_missing"  # a job asks for an environment that no living node of its pool has
    CHANNEL_MISSING = "channel_missing"  # somebody is to be told of jobs, and no living node can tell them
    ALERT_UNSENT = "alert_unsent"  # what somebody is to be told could not be sent
    SECRET_MISSING = "secret_missing"  # a job names secrets that no living node of its pool can read
    POOL_BROKEN = "pool_broken"  # the rule of a pool cannot be read, so it names nobody
    POOL_PAUSED = "pool_paused"  # runs are ready in a pool that somebody paused
    POOL_DRAINED = "pool_drained"  # runs are ready in a pool whose nodes were all asked to drain
    NODE_SILENT = "node_silent"  # a node has not renewed its lease, and did not say goodbye
    NODE_CLOCK = "node_clock"  # the clock of a node is not the database's
    ZONE_DATA_DIFFERS = "zone_data_differs"  # living nodes have different rules of time zones
    KEEPING_DIFFERS = "keeping_differs"  # living nodes keep finished runs for different times
    SLOT_ABSENT = "slot_absent"  # slots are due, and nobody decides them
    RUN_STUCK = "run_stuck"  # runs whose time or window has come, and nobody moves them on
    LEASE_OVER = "lease_over"  # runs whose lease is over, and nobody takes them away
    RUN_LATE = "run_late"  # runs are ready, and nobody starts them
    RUN_LONG = "run_long"  # runs of a job take far longer than usual
    SCHEDULE_SET_ASIDE = "schedule_set_aside"  # a schedule that cannot be understood fires nothing
    SCHEDULE_STOPPED = "schedule_stopped"  # a schedule has no slots left, although nobody gave it an end
    SCHEDULE_ENDED = "schedule_ended"  # schedules have no slots left, as they were told
    SCHEDULE_SKIPPING = "schedule_skipping"  # a schedule skips slot after slot, since a run has not ended
    JOB_FAILING = "job_failing"  # the last runs of a job all failed
    UPSTREAM_FAILED = "upstream_failed"  # runs wait for a job that has ended, and did not succeed
    PERIOD_HELD = "period_held"  # a period failed for good, or again and again, and the later ones wait
    UPSTREAM_CYCLE = "upstream_cycle"  # runs wait for themselves: somebody has written into rota_dependency
    BREAKER_OPEN = "breaker_open"  # attempts of a job ended badly one after the other: its runs do not start
    CALENDAR_ENDING = "calendar_ending"  # the holidays of a calendar run out
    TRANSACTION_LONG = "transaction_long"  # somebody's transaction keeps the database from cleaning up
    CLOCK_STEPPED = "clock_stepped"  # the database's clock was put forward or back


_RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    code: FindingCode
    subject: str  # a name; for what is found together, what it is
    text: str
    since: datetime | None = None  # None: nobody knows
    jobs: tuple[str, ...] = ()  # whose runs or slots these are


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How late is late."""

    warning_late_seconds: float = WARNING_LATE_SECONDS
    critical_late_seconds: float = CRITICAL_LATE_SECONDS

    @classmethod
    def checked(cls, warning_late: object = None, critical_late: object = None) -> Thresholds:
        """Read what a user gave; where only one is given, the other gives way.

        Raises:
            Invalid: a value is no duration, or what is critical comes before what is only a warning.
        """
        warning = None if warning_late is None else parse_duration("warning_late", warning_late)
        critical = None if critical_late is None else parse_duration("critical_late", critical_late)
        if warning is not None and critical is not None and critical < warning:
            rule = f"it is at least warning_late, {format_duration(warning)}"
            raise Invalid("critical_late", format_duration(critical), rule)
        if warning is None:
            warning = WARNING_LATE_SECONDS if critical is None else min(WARNING_LATE_SECONDS, critical)
        return cls(warning, max(CRITICAL_LATE_SECONDS, warning) if critical is None else critical)

    def judge(self, late_seconds: float) -> Severity:
        """Return how bad it is to be late by so much."""
        return Severity.CRITICAL if late_seconds >= self.critical_late_seconds else Severity.WARNING


def worse(one: Severity, other: Severity) -> Severity:
    """Return the worse of the two."""
    return max(one, other, key=_RANK.__getitem__)


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Put what is worst first, and keep the order otherwise."""
    return sorted(findings, key=lambda finding: -_RANK[finding.severity])


def judge_all(findings: Iterable[Finding]) -> str:
    """Return how things stand: ``ok``, ``warning`` or ``critical``."""
    worst = max((finding.severity for finding in findings), key=_RANK.__getitem__, default=Severity.INFO)
    return "ok" if worst is Severity.INFO else worst.value
