"""What will run when, and how full the pools will be: the scheduler's own decisions, taken ahead of time.

Each coming slot is decided by ``decide_slots`` at its instant, with what the schedule's earlier runs are expected to do
by then. Invariant: the work is bounded. A schedule with more than 60 slots in an hour is counted there and not visited,
schedules without a slot in the time asked for cost nothing, and whole hours are looked at until ``STEPS_MAX`` is used
up, so that the answer may end early and says so. What runs, waits or is asked for now is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

from rota.model.instants import format_instant
from rota.model.policy import SlotDecision, Unfinished, decide_slots
from rota.model.reasons import Reason
from rota.model.slot_rule import Overlap, SlotRule

DAYS_MAX = 366
STEPS_MAX = 200_000  # a slot decided, or a schedule counted for an hour
VISITED_PER_HOUR_MAX = 60
# An attempt takes far longer than usual when it takes so many times as long, and so much more; once so many are known.
FAR_LONGER_TIMES = 3.0
FAR_LONGER_SECONDS = 60.0
FAR_LONGER_ATTEMPTS = 5
TOLD_MAX = 100  # of collisions, of overlaps, and of notes each

HOUR = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_CHANGE_NEAR = timedelta(days=1, hours=2)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long the latest good attempts of a job took."""

    expected_seconds: float  # their median
    high_seconds: float  # nine of ten took no longer
    attempt_count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Durations | None:
        """Sum up what was measured; None where nothing was."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        return cls(median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], len(ordered))

    @property
    def far_longer_seconds(self) -> float | None:
        """Return after how long an attempt takes far longer than usual; None while too little is known to say so.

        What one in ten takes is usual: a job that is quick on most days and slow on the first of a month.
        """
        if self.attempt_count < FAR_LONGER_ATTEMPTS:
            return None
        expected = self.expected_seconds
        return max(FAR_LONGER_TIMES * expected, expected + FAR_LONGER_SECONDS, self.high_seconds)


@dataclass(frozen=True, slots=True)
class Subject:
    """A schedule to look ahead for."""

    key: str
    job: str
    pool: str
    rule: SlotRule
    next_slot: datetime
    durations: Durations | None = None  # None: its job has no good attempt yet
    job_paused: bool = False
    runs_per_slot: int = 1  # one for each registered node where its job runs on all


@dataclass(slots=True)
class PoolHour:
    """What is expected of one pool in one hour."""

    runs: int = 0
    busy_seconds: float = 0.0  # of all its runs together
    peak: int = 0  # so many at once, if there was room for all
    wait_seconds: float = 0.0  # the longest that one waits for a free slot

    def occupancy(self, slots: int) -> float | None:
        """Return which share of ``slots`` is taken; above 1 there is more to do than can be done."""
        return self.busy_seconds / (slots * HOUR.total_seconds()) if slots else None


@dataclass(slots=True)
class Hour:
    """What is expected of one hour."""

    start: datetime
    slots: int = 0  # due, whatever becomes of them
    runs: int = 0
    pools: dict[str, PoolHour] = field(default_factory=dict[str, PoolHour])


@dataclass(slots=True)
class Forecast:
    """What is expected until ``until``, hour by hour."""

    start: datetime
    until: datetime
    hours: list[Hour]
    overlaps: list[dict[str, Any]]  # schedules whose runs outlast their period, as dicts
    notes: list[dict[str, Any]]  # slots that a change of offset or a calendar has moved


class _Course:
    """One schedule on its way through the hours."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seconds = subject.durations.expected_seconds if subject.durations else None
        self.is_serial = subject.rule.overlap is not Overlap.ALLOW
        self.next_slot: datetime | None = subject.next_slot
        self.busy_until: datetime | None = None
        self.queued: list[datetime] = []  # when those that wait for the run before them are expected to start
        self.period_seconds: float | None = None  # the shortest seen
        self.slots = 0
        self.kept_off = 0  # slots that an earlier run keeps from running

    def unfinished(self, at: datetime) -> Unfinished:
        """Return what is expected to be unfinished at ``at``."""
        self.queued = [start for start in self.queued if start > at]
        return Unfinished(int(self.busy_until is not None and self.busy_until > at), len(self.queued))

    def start_of(self, decision: SlotDecision) -> datetime:
        """Return when the run of ``decision`` is expected to start, and take note of its end."""
        start = decision.run_at
        if decision.queued and not decision.replaces and self.busy_until is not None and self.busy_until > start:
            start = self.busy_until
            self.queued.append(start)
        if self.seconds:
            self.busy_until = max(start + timedelta(seconds=self.seconds), self.busy_until or start)
        return start

    def note_period(self, seconds: float) -> None:
        """Take note of the time between two slots."""
        self.period_seconds = seconds if self.period_seconds is None else min(seconds, self.period_seconds)


class _Pool:
    """The runs of one pool in the order of their starts: how many at once, and how long they wait for a free slot."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._ends: list[datetime] = []
        self._free_at: list[datetime] = []
        self.busy: dict[datetime, float] = {}  # seconds by hour

    def start(self, at: datetime, seconds: float, until: datetime) -> tuple[int, float]:
        """Start a run; return how many there are at once then, and how long it waits."""
        end = at + timedelta(seconds=seconds)
        while self._ends and self._ends[0] <= at:
            heappop(self._ends)
        heappush(self._ends, end)
        self._spread(at, min(end, until))
        wait = 0.0
        if len(self._free_at) < self._slots:
            heappush(self._free_at, end)
        elif self._slots:
            begin = max(at, self._free_at[0])
            wait = (begin - at).total_seconds()
            heapreplace(self._free_at, begin + timedelta(seconds=seconds))
        return len(self._ends), wait

    def still(self, at: datetime) -> int:
        """Return how many go on at ``at``."""
        while self._ends and self._ends[0] <= at:
            heappop(self._ends)
        return len(self._ends)

    def _spread(self, start: datetime, end: datetime) -> None:
        while start < end:
            hour = hour_of(start)
            edge = min(end, hour + HOUR)
            self.busy[hour] = self.busy.get(hour, 0.0) + (edge - start).total_seconds()
            start = edge


def hour_of(moment: datetime) -> datetime:
    """Return when the hour of ``moment`` begins, in UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def notes_of(rule: SlotRule, slot: datetime) -> list[str]:
    """Say what is special about a slot: moved, doubled, or closed by a calendar."""
    closed = rule.closed(slot)
    return [*rule.timing.notes(slot), *([f"skipped: {closed}"] if closed is not None else [])]


def _is_near_change(zone: str, slot: datetime) -> bool:
    where = ZoneInfo(zone)
    before, after = slot - _CHANGE_NEAR, slot + _CHANGE_NEAR
    return before.astimezone(where).utcoffset() != after.astimezone(where).utcoffset()


def look_ahead(
    subjects: Sequence[Subject], pools: Mapping[str, int], now: datetime, until: datetime, steps_max: int = STEPS_MAX
) -> Forecast:
    """Decide what comes from ``now`` up to ``until``, hour by hour; ``pools`` has the slots of living nodes by pool.

    It ends before ``until``, after a whole hour, when ``steps_max`` steps were taken.
    """
    return _Look(subjects, pools, now, until).run(steps_max)


class _Look:
    """One look ahead."""

    def __init__(self, subjects: Sequence[Subject], pools: Mapping[str, int], now: datetime, until: datetime) -> None:
        self._now = now
        self._until = until
        self._courses = [_Course(subject) for subject in subjects]
        self._coming = [(course.subject.next_slot, number) for number, course in enumerate(self._courses)]
        heapify(self._coming)
        self._slots = pools
        self._pools: dict[str, _Pool] = {}
        # Expected starts that lie in hours to come: when, a number that no two share, of what, how long.
        self._starting: list[tuple[datetime, int, Subject, float | None]] = []
        self._numbers = count()
        self._notes: list[dict[str, Any]] = []
        self._steps = 0

    def run(self, steps_max: int) -> Forecast:
        hours: list[Hour] = []
        begin = hour_of(self._now)
        while begin < self._until and self._steps < steps_max:
            hour = Hour(begin)
            end = min(begin + HOUR, self._until)
            while self._coming and self._coming[0][0] < end:
                _, number = heappop(self._coming)
                course = self._courses[number]
                self._visit(course, hour, end)
                if course.next_slot is not None:
                    heappush(self._coming, (course.next_slot, number))
            self._fill(hour, end)
            hours.append(hour)
            begin += HOUR
        overlaps = [_tell_overlap(course) for course in self._courses if _is_too_long(course)]
        overlaps.sort(key=lambda told: (-told["kept_off"], told["schedule"]))
        return Forecast(self._now, min(begin, self._until), hours, overlaps[:TOLD_MAX], self._notes)

    def _visit(self, course: _Course, hour: Hour, end: datetime) -> None:
        """Decide the next slot of a schedule, or count all of this hour where they are many."""
        slot, timing = course.next_slot, course.subject.rule.timing
        assert slot is not None
        self._steps += 1
        following = timing.next(slot)
        if slot >= self._now and following is not None and following < end:
            number = 1 + timing.count(slot, end - _MICROSECOND)
            if number > VISITED_PER_HOUR_MAX:
                self._count(course, hour, number, (following - slot).total_seconds())
                course.next_slot = timing.next(end - _MICROSECOND)
                return
        if following is not None:
            course.note_period((following - slot).total_seconds())
        at = max(slot, self._now)
        firing = decide_slots(
            course.subject.rule, slot, at, unfinished=course.unfinished(at), job_paused=course.subject.job_paused
        )
        for decision in firing.decisions:
            hour.slots += decision.slot_count
            course.slots += decision.slot_count
            if decision.makes_run:
                hour.runs += course.subject.runs_per_slot
                self._steps += course.subject.runs_per_slot - 1
                start = max(course.start_of(decision), self._now)
                heappush(self._starting, (start, next(self._numbers), course.subject, course.seconds))
                if decision.queued:
                    course.kept_off += 1
            elif decision.reason is Reason.OVERLAP:
                course.kept_off += decision.slot_count
        self._note(course.subject, slot)
        course.next_slot = firing.next_slot

    def _count(self, course: _Course, hour: Hour, number: int, period_seconds: float) -> None:
        """Take the many slots of a schedule in an hour as an even load."""
        subject = course.subject
        course.note_period(period_seconds)
        course.slots += number
        hour.slots += number
        runs = 0 if subject.job_paused else number - self._count_closed(subject, hour, number)
        seconds = course.seconds or 0.0
        busy = runs * seconds
        room = HOUR.total_seconds()
        if busy > room and course.is_serial:
            fit = max(1, int(room / seconds))
            course.kept_off += runs - fit
            runs, busy = (fit, room) if subject.rule.overlap is Overlap.SKIP else (runs, room)
        hour.runs += runs * subject.runs_per_slot
        pool = self._pool_hour(hour, subject.pool)
        pool.runs += runs * subject.runs_per_slot
        pool.busy_seconds += busy * subject.runs_per_slot
        pool.peak += math.ceil(busy / room) * subject.runs_per_slot

    def _count_closed(self, subject: Subject, hour: Hour, number: int) -> int:
        # By the minute: exact for what opens and closes on whole minutes and is due evenly.
        if not subject.rule.calendars:
            return 0
        self._steps += VISITED_PER_HOUR_MAX
        minutes = (hour.start + timedelta(minutes=minute) for minute in range(60))
        return number * sum(subject.rule.closed(minute) is not None for minute in minutes) // 60

    def _note(self, subject: Subject, slot: datetime) -> None:
        if len(self._notes) >= TOLD_MAX:
            return
        timing = subject.rule.timing
        # Asking the timing costs as much as a slot, so only where there can be something to say.
        if (timing.calendars or _is_near_change(timing.zone, slot)) and (notes := timing.notes(slot)):
            self._notes.append({"schedule": subject.key, "slot": format_instant(slot), "notes": notes})

    def _pool_hour(self, hour: Hour, name: str) -> PoolHour:
        return hour.pools.setdefault(name, PoolHour())

    def _fill(self, hour: Hour, end: datetime) -> None:
        """Let the runs of this hour start in their pools."""
        steady = {name: of_hour.peak for name, of_hour in hour.pools.items()}
        for name, pool in self._pools.items():
            if going_on := pool.still(hour.start):
                self._pool_hour(hour, name).peak = steady.get(name, 0) + going_on
        while self._starting and self._starting[0][0] < end:
            at, _, subject, seconds = heappop(self._starting)
            name = subject.pool
            of_hour = self._pool_hour(hour, name)
            of_hour.runs += subject.runs_per_slot
            for _ in range(subject.runs_per_slot if seconds else 0):
                assert seconds
                pool = self._pools.setdefault(name, _Pool(self._slots.get(name, 0)))
                at_once, wait = pool.start(at, seconds, self._until)
                of_hour.peak = max(of_hour.peak, steady.get(name, 0) + at_once)
                of_hour.wait_seconds = max(of_hour.wait_seconds, wait)
        for name, pool in self._pools.items():
            if busy := pool.busy.pop(hour.start, 0.0):
                self._pool_hour(hour, name).busy_seconds += busy


def find_collisions(forecast: Forecast, pools: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the first hours in which more runs are expected at once than a pool has slots."""
    found = [
        {
            "hour": format_instant(hour.start),
            "pool": name,
            "peak": of_hour.peak,
            "slots": pools.get(name, 0),
            "wait_seconds": round(of_hour.wait_seconds, 3),
        }
        for hour in forecast.hours
        for name, of_hour in sorted(hour.pools.items())
        if of_hour.peak > pools.get(name, 0)
    ]
    return found[:TOLD_MAX]


def _is_too_long(course: _Course) -> bool:
    if not course.seconds or course.period_seconds is None or not course.slots:
        return False
    return course.is_serial and (course.kept_off > 0 or course.seconds > course.period_seconds)


def _tell_overlap(course: _Course) -> dict[str, Any]:
    return {
        "schedule": course.subject.key,
        "job": course.subject.job,
        "overlap": str(course.subject.rule.overlap),
        "expected_seconds": course.seconds,
        "period_seconds": course.period_seconds,
        "slots": course.slots,
        "kept_off": course.kept_off,
    }
