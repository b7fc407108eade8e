"""What becomes of the slots that are due: which get a run, and why the others do not.

``decide_slots`` answers for one schedule, from values alone. Invariant: every slot from the first undecided one up to
now is in exactly one decision, which says why; beyond 100 late slots one decision stands for the older ones. Called by
the scheduler, which writes one row for each decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from rota.errors import Invalid, NotSupported
from rota.model.durations import format_duration
from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.model.timing import Timing, TimingKind

# A slot seen this soon is on time, whatever catch-up says: the scheduler's own poll and a dead leader cost that much.
ON_TIME_SECONDS = 2.0
# Catch-up `none` still runs a slot that a slow minute held up: a restart of the workers is no outage.
LATE_SECONDS = 60.0
# More late slots than this get one row together, save those that run.
LATE_SLOTS_MAX = 100
CATCH_UP_LIMIT = 100
CATCH_UP_LIMIT_MAX = 1000
WINDOW_SECONDS_MIN = 60.0
WINDOW_SECONDS_MAX = 86400.0

_MICROSECOND = timedelta(microseconds=1)


class CatchUp(StrEnum):
    """What happens to slots that nobody served in time."""

    LATEST = "latest"  # the newest of them runs
    ALL = "all"  # each runs, oldest first
    NONE = "none"


class Overlap(StrEnum):
    """What happens to a slot that is due while an earlier run of its schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"


_OVERLAPS_TO_COME = ("queue", "replace")


def check_catch_up(value: object) -> CatchUp:
    """Return the catch-up of that name."""
    try:
        return CatchUp(value)
    except ValueError:
        raise Invalid("catch_up", value, f"it is one of {', '.join(CatchUp)}") from None


def check_overlap(value: object) -> Overlap:
    """Return the overlap of that name.

    Raises:
        NotSupported: it is one that this version does not have yet.
    """
    if value in _OVERLAPS_TO_COME:
        raise NotSupported(f"overlap {value!r} is not supported yet; choose skip or allow")
    try:
        return Overlap(value)
    except ValueError:
        raise Invalid("overlap", value, f"it is one of {', '.join(Overlap)}") from None


@dataclass(frozen=True, slots=True)
class SlotRule:
    """What a schedule says about its slots, with what its job says where it is silent."""

    timing: Timing
    delay_seconds: float = 0.0
    start_within_seconds: float | None = None  # None: one period
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = CATCH_UP_LIMIT
    overlap: Overlap = Overlap.SKIP

    def run_at(self, slot: datetime) -> datetime:
        """Return when the run of ``slot`` may start."""
        return slot + timedelta(seconds=self.delay_seconds)

    def window_seconds(self, slot: datetime) -> float | None:
        """Return how late the run of ``slot`` may start; None for any time."""
        if self.start_within_seconds is not None:
            return self.start_within_seconds
        if self.catch_up is CatchUp.ALL:
            return None
        period = None if self.timing.kind is TimingKind.AT else self.timing.period_seconds(slot)
        return WINDOW_SECONDS_MAX if period is None else min(max(period, WINDOW_SECONDS_MIN), WINDOW_SECONDS_MAX)

    def start_by(self, slot: datetime) -> datetime | None:
        """Return the end of the start window of ``slot``; None when it has no end."""
        window = self.window_seconds(slot)
        return None if window is None else self.run_at(slot) + timedelta(seconds=window)


@dataclass(frozen=True, slots=True)
class SlotDecision:
    """What becomes of one slot, or of ``slot_count`` of them from ``slot`` to ``slot_last``."""

    slot: datetime
    state: RunState
    reason: Reason
    text: str
    run_at: datetime
    start_by: datetime | None
    queued: bool = False
    slot_count: int = 1
    slot_last: datetime | None = None

    @property
    def makes_run(self) -> bool:
        """Whether something is to be executed, now or later."""
        return self.state in {RunState.WAITING, RunState.READY}


@dataclass(frozen=True, slots=True)
class Firing:
    """All decisions of one look at a schedule, oldest first, and where its cursor goes."""

    decisions: tuple[SlotDecision, ...]
    next_slot: datetime | None


def decide_slots(
    rule: SlotRule, first: datetime, now: datetime, *, unfinished: bool, job_paused: bool, backlog: bool = False
) -> Firing:
    """Decide all slots from ``first``, the oldest undecided one, up to ``now``.

    ``unfinished`` tells whether an earlier run of this schedule has not ended, ``backlog`` whether one still queues:
    while late slots are caught up, the next ones queue behind them, or catching up would cost what it wins.
    """
    assert first <= now, "a slot is decided once it is due"
    older, slots = _split_slots(rule, first, now)
    candidates = _choose_candidates(rule, slots, now)
    decisions = [] if older is None else [_sum_up(rule, older, now)]
    earlier = "an earlier run of this schedule has not finished" if unfinished else None
    for slot in slots:
        if slot not in candidates:
            decision = _miss(rule, slot, now)
        elif job_paused:
            decision = _decide(rule, slot, RunState.SKIPPED, Reason.JOB_PAUSED, "the job was paused when the slot came")
        elif earlier is None or rule.overlap is Overlap.ALLOW:
            decision = _run(rule, slot, now)
            earlier = earlier or f"the run of the slot {_say(slot)} comes first"
        elif rule.catch_up is CatchUp.ALL and (backlog or _is_late(slot, now)):
            backlog = True
            text = f"caught up one at a time: {earlier}"
            decision = _decide(rule, slot, RunState.WAITING, Reason.QUEUED, text, queued=True)
        else:
            decision = _decide(rule, slot, RunState.SKIPPED, Reason.OVERLAP, f"{earlier}, and overlap is skip")
        decisions.append(decision)
    return Firing(tuple(decisions), rule.timing.next(slots[-1]))


@dataclass(frozen=True, slots=True)
class _Older:
    """Late slots that are decided together."""

    first: datetime
    last: datetime
    count: int


def _split_slots(rule: SlotRule, first: datetime, now: datetime) -> tuple[_Older | None, list[datetime]]:
    """Split what is due into the slots decided together, if they are many, and those decided one by one."""
    total = _count(rule, first, now)
    on_time = _count_younger(rule, first, now, ON_TIME_SECONDS)
    if total - on_time <= LATE_SLOTS_MAX:
        return None, _newest(rule, first, now, total)
    match rule.catch_up:
        case CatchUp.LATEST:
            kept = on_time
        case CatchUp.NONE:
            kept = _count_younger(rule, first, now, LATE_SECONDS)
        case CatchUp.ALL:
            kept = on_time + rule.catch_up_limit
    slots = _newest(rule, first, now, max(kept, 1))
    if len(slots) == total:
        return None, slots
    last = _newest(rule, first, slots[0] - _MICROSECOND, 1)[0]
    return _Older(first, last, total - len(slots)), slots


def _count(rule: SlotRule, first: datetime, until: datetime) -> int:
    # ``first`` is due because the cursor says so, also if the timing would no longer name it.
    return 0 if until < first else 1 + rule.timing.count(first, until)


def _count_younger(rule: SlotRule, first: datetime, now: datetime, seconds: float) -> int:
    edge = now - timedelta(seconds=seconds)
    return _count(rule, first, now) - _count(rule, first, edge - _MICROSECOND)


def _newest(rule: SlotRule, first: datetime, until: datetime, limit: int) -> list[datetime]:
    found = rule.timing.last(first, until, limit)
    return found if len(found) == limit else [first, *found]


def _choose_candidates(rule: SlotRule, slots: list[datetime], now: datetime) -> frozenset[datetime]:
    """Choose the slots that get a run, unless the job or the run before them stands in the way."""
    may_start = [slot for slot in slots if not _has_window_passed(rule, slot, now)]
    on_time = [slot for slot in may_start if not _is_late(slot, now)]
    late = [slot for slot in may_start if _is_late(slot, now)]
    match rule.catch_up:
        case CatchUp.LATEST:
            late = [] if on_time else late[-1:]
        case CatchUp.NONE:
            late = [slot for slot in late if now - slot <= timedelta(seconds=LATE_SECONDS)]
        case CatchUp.ALL:
            late = late[-rule.catch_up_limit :]
    return frozenset([*late, *on_time])


def _is_late(slot: datetime, now: datetime) -> bool:
    return now - slot > timedelta(seconds=ON_TIME_SECONDS)


def _has_window_passed(rule: SlotRule, slot: datetime, now: datetime) -> bool:
    start_by = rule.start_by(slot)
    return start_by is not None and start_by < now


def _run(rule: SlotRule, slot: datetime, now: datetime) -> SlotDecision:
    run_at = rule.run_at(slot)
    if run_at > now:
        text = f"its delay of {format_duration(rule.delay_seconds)} ends at {_say(run_at)}"
        return _decide(rule, slot, RunState.WAITING, Reason.DELAY, text)
    late = f", {_span(now - run_at)} late" if _is_late(run_at, now) else ""
    return _decide(rule, slot, RunState.READY, Reason.DUE, f"due at {_say(run_at)}{late}")


def _miss(rule: SlotRule, slot: datetime, now: datetime) -> SlotDecision:
    reason, text = _explain_miss(rule, slot, now)
    return _decide(rule, slot, RunState.MISSED, reason, text)


def _sum_up(rule: SlotRule, older: _Older, now: datetime) -> SlotDecision:
    # Its newest slot speaks for them: whatever keeps that one from running keeps the older ones too.
    reason, text = _explain_miss(rule, older.last, now)
    if older.count > 1:
        text = f"{older.count} slots from {_say(older.first)} to {_say(older.last)}, of the last one: {text}"
    return SlotDecision(
        slot=older.first,
        state=RunState.MISSED,
        reason=reason,
        text=text,
        run_at=rule.run_at(older.first),
        start_by=rule.start_by(older.first),
        slot_count=older.count,
        slot_last=older.last if older.count > 1 else None,
    )


def _explain_miss(rule: SlotRule, slot: datetime, now: datetime) -> tuple[Reason, str]:
    window, start_by = rule.window_seconds(slot), rule.start_by(slot)
    if window is not None and start_by is not None and start_by < now:
        span, after, ago = format_duration(window), _say(rule.run_at(slot)), _span(now - start_by)
        return Reason.WINDOW_PASSED, f"its start window of {span} after {after} passed {ago} ago"
    late = f"nobody looked for {_span(now - slot)} after {_say(slot)}"
    match rule.catch_up:
        case CatchUp.LATEST:
            return Reason.CATCH_UP_LATEST, f"{late}; a newer slot is due, and catch-up is latest"
        case CatchUp.NONE:
            return Reason.CATCH_UP_NONE, f"{late}; catch-up is none"
        case CatchUp.ALL:
            return Reason.CATCH_UP_LIMIT, f"{late}; the newest {rule.catch_up_limit} late slots are caught up"


def _decide(
    rule: SlotRule, slot: datetime, state: RunState, reason: Reason, text: str, *, queued: bool = False
) -> SlotDecision:
    return SlotDecision(slot, state, reason, text, rule.run_at(slot), rule.start_by(slot), queued)


def _say(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ") + "Z"


def _span(length: timedelta) -> str:
    seconds = length.total_seconds()
    return format_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
