"""What becomes of the slots that are due: which get a run, and why the others do not.

``decide_slots`` answers for one schedule, from values alone. Invariant: every slot from the first undecided one up to
now is in exactly one decision, which says why; beyond 100 late slots one decision stands for many that touch. Called by
the scheduler, which writes one row for each decision, and when a schedule is resumed or edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rota.model.durations import format_duration
from rota.model.instants import say_moment, say_slot
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUp, CatchUpOrder, Overlap, SlotRule
from rota.model.states import RunState

# A slot seen this soon is on time, whatever catch-up says: the scheduler's own poll and a dead leader cost that much.
ON_TIME_SECONDS = 2.0
# Catch-up `none` still runs a slot that a slow minute held up: a restart of the workers is no outage.
LATE_SECONDS = 60.0
# More late slots than this get one row together, save those that run.
LATE_SLOTS_MAX = 100
# How many slots are looked at for the newest ones that no calendar closes.
SEARCH_MAX = 10_000

# Of slots that run in order, so many get their rows at one look; the next look goes on behind them.
IN_ORDER_MAX = 1000

_MICROSECOND = timedelta(microseconds=1)


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
    replaces: bool = False  # what of its schedule is unfinished is to be cancelled

    @property
    def makes_run(self) -> bool:
        """Whether something is to be executed, now or later."""
        return self.state in {RunState.WAITING, RunState.READY}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What of a schedule has not ended when its next slot comes."""

    runs: int = 0
    queued: int = 0  # of these, how many wait for one before them
    latest_slot: datetime | None = field(default=None, compare=False)  # of these; None: not known
    backfilled: int = 0  # runs of a backfill beside them: a slot waits for these, and is never given up for them


@dataclass(frozen=True, slots=True)
class Firing:
    """All decisions of one look at a schedule, oldest first, and where its cursor goes."""

    decisions: tuple[SlotDecision, ...]
    next_slot: datetime | None
    skips_in_row: int = 0  # slots that an unfinished run kept from running, since one ran


@dataclass(frozen=True, slots=True)
class _Span:
    """Slots that touch and are decided together; mostly one."""

    first: datetime
    last: datetime
    count: int


def decide_slots(
    rule: SlotRule,
    first: datetime,
    now: datetime,
    *,
    unfinished: Unfinished = Unfinished(),
    job_paused: bool = False,
    skips_in_row: int = 0,
) -> Firing:
    """Decide all slots from ``first``, the oldest undecided one, up to ``now``.

    While late slots are caught up, the next ones queue behind them, or catching up would cost what it wins.
    """
    assert first <= now, "a slot is decided once it is due"
    if rule.in_order:
        return _decide_in_order(rule, first, now)
    spans, chosen = _plan(rule, first, now)
    newest_first = rule.catch_up_order is CatchUpOrder.NEWEST
    queue = _Queue(rule, now, chosen, unfinished)
    decisions: list[SlotDecision] = []
    for span in reversed(spans) if newest_first else spans:
        if span.count > 1:
            decisions.append(_sum_up(rule, span, now))
        elif (why := rule.closed(span.first)) is not None:
            decisions.append(_decide(rule, span.first, RunState.SKIPPED, Reason.CALENDAR, why))
        elif span.first not in chosen:
            decisions.append(_miss(rule, span.first, now))
        elif job_paused:
            text = "the job was paused when the slot came"
            decisions.append(_decide(rule, span.first, RunState.SKIPPED, Reason.JOB_PAUSED, text))
        else:
            decisions.append(queue.decide(span.first))
    decisions.sort(key=lambda decision: decision.slot)
    return Firing(tuple(decisions), rule.timing.next(spans[-1].last), count_skips(decisions, skips_in_row))


def _decide_in_order(rule: SlotRule, first: datetime, now: datetime) -> Firing:
    """Let each slot run, the oldest ones first: none is given up, also while the job is paused.

    Which of them may start is not decided here: each waits for the one before it.
    """
    decisions: list[SlotDecision] = []
    slot: datetime | None = first
    while slot is not None and slot <= now and len(decisions) < IN_ORDER_MAX:
        why = rule.closed(slot)
        closed = None if why is None else _decide(rule, slot, RunState.SKIPPED, Reason.CALENDAR, why)
        decisions.append(closed or _run(rule, slot, now))
        slot = rule.timing.next(slot)
    return Firing(tuple(decisions), slot)


def count_skips(decisions: Sequence[SlotDecision], skips_in_row: int) -> int:
    """Count on how many slots in a row an unfinished run has kept from running, after ``skips_in_row`` of them."""
    for decision in decisions:
        if decision.makes_run:
            skips_in_row = 0
        elif decision.reason is Reason.OVERLAP:
            skips_in_row += 1
    return skips_in_row


def miss_for_nobody(firing: Firing, text: str) -> Firing:
    """Return ``firing`` for slots that are for all nodes where there is none: whatever would have run is missed."""
    kept_by_runs = {Reason.OVERLAP, Reason.REPLACED}

    def miss(decision: SlotDecision) -> SlotDecision:
        if not decision.makes_run and decision.reason not in kept_by_runs:
            return decision
        missed = {"state": RunState.MISSED, "reason": Reason.NO_NODE, "text": text}
        return replace(decision, **missed, queued=False, replaces=False)

    return Firing(tuple(map(miss, firing.decisions)), firing.next_slot)


def decide_resumed(
    rule: SlotRule, first: datetime, now: datetime, why: str, *, unfinished: Unfinished, latest: bool
) -> Firing:
    """Decide the slots that went by while the schedule was paused: none runs, or with ``latest`` the newest one whose
    start window is still open."""
    assert first <= now, "a slot is decided once it is due"
    chosen = _newest_open(rule, first, now, now, 1) if latest else []
    queue = _Queue(rule, now, frozenset(chosen), unfinished)
    decisions: list[SlotDecision] = []
    for span in _spans(rule, first, now, chosen):
        if span.first in chosen:
            decisions.append(queue.decide(span.first))
        else:
            decisions.append(_stand_for(rule, span, RunState.SKIPPED, Reason.SCHEDULE_PAUSED, why))
    return Firing(tuple(decisions), rule.timing.next(decisions[-1].slot_last or decisions[-1].slot))


class _Queue:
    """Decides, one after the other, the slots that nothing but an earlier run can keep from running."""

    def __init__(self, rule: SlotRule, now: datetime, chosen: frozenset[datetime], unfinished: Unfinished) -> None:
        self._rule = rule
        self._now = now
        self._newest = max(chosen, default=None)
        self._queued = unfinished.queued
        self._earlier = "an earlier run of this schedule has not finished" if unfinished.runs else None
        self._is_behind_backfill = unfinished.backfilled > 0 and rule.overlap is not Overlap.ALLOW

    def decide(self, slot: datetime) -> SlotDecision:
        """Decide about one slot, behind those decided before it."""
        rule, earlier = self._rule, self._earlier
        if rule.overlap is Overlap.REPLACE and slot != self._newest:
            assert self._newest is not None
            text = f"the newer slot {say_slot(self._newest)} is due too, and overlap is replace"
            return _decide(rule, slot, RunState.SKIPPED, Reason.REPLACED, text)
        if earlier is None and self._is_behind_backfill:
            self._earlier = f"the run of the slot {say_slot(slot)} comes first"
            return self._wait(slot, "a run of a backfill of this schedule has not finished")
        if earlier is None or rule.overlap is Overlap.ALLOW:
            self._earlier = earlier or f"the run of the slot {say_slot(slot)} comes first"
            return _run(rule, slot, self._now)
        if rule.overlap is Overlap.REPLACE:
            text = f"it replaces a run that is stopped first: {earlier}"
            return _decide(rule, slot, RunState.WAITING, Reason.QUEUED, text, queued=True, replaces=True)
        if rule.overlap is Overlap.QUEUE:
            if self._queued >= rule.catch_up_limit:
                text = f"{self._queued} runs of this schedule queue already, which is its catch-up limit"
                return _decide(rule, slot, RunState.SKIPPED, Reason.OVERLAP, text)
            return self._wait(slot, f"overlap is queue: {earlier}")
        if rule.catch_up is CatchUp.ALL and (self._queued or _is_late(slot, self._now)):
            return self._wait(slot, f"caught up one at a time: {earlier}")
        return _decide(rule, slot, RunState.SKIPPED, Reason.OVERLAP, f"{earlier}, and overlap is skip")

    def _wait(self, slot: datetime, text: str) -> SlotDecision:
        self._queued += 1
        return _decide(self._rule, slot, RunState.WAITING, Reason.QUEUED, text, queued=True)


def _plan(rule: SlotRule, first: datetime, now: datetime) -> tuple[list[_Span], frozenset[datetime]]:
    """Part what is due into spans, oldest first, and choose the slots that run unless a pause or a run before them
    stands in the way."""
    total = _count(rule, first, now)
    on_time = _count_younger(rule, first, now, ON_TIME_SECONDS)
    if total - on_time <= LATE_SLOTS_MAX:
        slots = _newest(rule, first, now, total)
        return [_Span(slot, slot, 1) for slot in slots], _choose(rule, slots, now)
    match rule.catch_up:
        case CatchUp.LATEST:
            late = 1
        case CatchUp.NONE:
            late = _count_younger(rule, first, now, LATE_SECONDS) - on_time
        case CatchUp.ALL:
            late = rule.catch_up_limit
    kept = _newest(rule, first, now, on_time) if on_time else []
    edge = now - timedelta(seconds=ON_TIME_SECONDS) - _MICROSECOND
    kept = [*_newest_open(rule, first, edge, now, late), *kept] if late else kept
    chosen = _choose(rule, kept, now)
    on_time_from = now - timedelta(seconds=ON_TIME_SECONDS)
    kept = [slot for slot in kept if slot in chosen or slot >= on_time_from]
    return _spans(rule, first, now, kept), chosen


def _choose(rule: SlotRule, slots: Sequence[datetime], now: datetime) -> frozenset[datetime]:
    may_start = [slot for slot in slots if not _has_window_passed(rule, slot, now) and rule.closed(slot) is None]
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


def _newest_open(rule: SlotRule, first: datetime, until: datetime, now: datetime, limit: int) -> list[datetime]:
    """Return the newest slots up to ``until`` that are open and may still start, at most ``limit``, oldest first."""
    found: list[datetime] = []
    visited = 0
    chunk_size = max(limit, LATE_SLOTS_MAX) if rule.calendars else limit
    while until >= first and len(found) < limit and visited < SEARCH_MAX:
        chunk = _newest(rule, first, until, chunk_size)
        visited += len(chunk)
        found[:0] = [slot for slot in chunk if not _has_window_passed(rule, slot, now) and rule.closed(slot) is None]
        if _has_window_passed(rule, chunk[0], now):
            break  # and so have the windows of those before it
        until = chunk[0] - _MICROSECOND
    return found[-limit:]


def _spans(rule: SlotRule, first: datetime, now: datetime, kept: Sequence[datetime]) -> list[_Span]:
    """Part the slots from ``first`` up to ``now`` into those ``kept``, each by itself, and what lies between them."""
    spans: list[_Span] = []
    low: datetime | None = first
    for slot in kept:
        if low is not None and slot > low:
            spans.append(_span(rule, low, slot - _MICROSECOND))
        spans.append(_Span(slot, slot, 1))
        low = rule.timing.next(slot)
    if low is not None and low <= now:
        spans.append(_span(rule, low, now))
    return spans


def _span(rule: SlotRule, first: datetime, until: datetime) -> _Span:
    count = _count(rule, first, until)
    return _Span(first, first if count == 1 else _newest(rule, first, until, 1)[-1], count)


def _count(rule: SlotRule, first: datetime, until: datetime) -> int:
    # ``first`` is due because the cursor says so, also if the timing would no longer name it.
    return 0 if until < first else 1 + rule.timing.count(first, until)


def _count_younger(rule: SlotRule, first: datetime, now: datetime, seconds: float) -> int:
    edge = now - timedelta(seconds=seconds)
    return _count(rule, first, now) - _count(rule, first, edge - _MICROSECOND)


def _newest(rule: SlotRule, first: datetime, until: datetime, limit: int) -> list[datetime]:
    found = rule.timing.last(first, until, limit)
    return found if len(found) == limit else [first, *found]


def _is_late(slot: datetime, now: datetime) -> bool:
    return now - slot > timedelta(seconds=ON_TIME_SECONDS)


def _has_window_passed(rule: SlotRule, slot: datetime, now: datetime) -> bool:
    start_by = rule.start_by(slot)
    return start_by is not None and start_by < now and not rule.awaits


def _run(rule: SlotRule, slot: datetime, now: datetime) -> SlotDecision:
    run_at = rule.run_at(slot)
    moved = _tell_move(rule, slot)
    if run_at > now:
        put_off = f"its delay of {format_duration(rule.delay_seconds)}" if rule.delay_seconds else "it"
        if rule.jitter_seconds:
            put_off += f", with {format_duration((run_at - slot).total_seconds() - rule.delay_seconds)} of jitter,"
        return _decide(rule, slot, RunState.WAITING, Reason.DELAY, f"{put_off} ends at {say_moment(run_at)}{moved}")
    late = f", {_span_of(now - run_at)} late" if _is_late(run_at, now) else ""
    return _decide(rule, slot, RunState.READY, Reason.DUE, f"due at {say_moment(run_at)}{late}{moved}")


def _tell_move(rule: SlotRule, slot: datetime) -> str:
    moved = [origin for origin in rule.timing.origin(slot) if origin != slot]
    return f", moved from {', '.join(map(say_slot, moved))} by a calendar" if moved else ""


def _miss(rule: SlotRule, slot: datetime, now: datetime) -> SlotDecision:
    reason, text = _explain_miss(rule, slot, now)
    return _decide(rule, slot, RunState.MISSED, reason, text)


def _sum_up(rule: SlotRule, span: _Span, now: datetime) -> SlotDecision:
    # Its newest slot speaks for them: whatever keeps that one from running keeps the older ones too.
    if (closed := rule.closed(span.last)) is not None:
        return _stand_for(rule, span, RunState.SKIPPED, Reason.CALENDAR, closed)
    return _stand_for(rule, span, RunState.MISSED, *_explain_miss(rule, span.last, now))


def _stand_for(rule: SlotRule, span: _Span, state: RunState, reason: Reason, text: str) -> SlotDecision:
    if span.count > 1:
        text = f"{span.count} slots from {say_slot(span.first)} to {say_slot(span.last)}, of the last one: {text}"
    return SlotDecision(
        slot=span.first,
        state=state,
        reason=reason,
        text=text,
        run_at=rule.run_at(span.first),
        start_by=rule.start_by(span.first),
        slot_count=span.count,
        slot_last=span.last if span.count > 1 else None,
    )


def _explain_miss(rule: SlotRule, slot: datetime, now: datetime) -> tuple[Reason, str]:
    window, start_by = rule.window_seconds(slot), rule.start_by(slot)
    if window is not None and start_by is not None and start_by < now:
        span, after, ago = format_duration(window), say_moment(rule.run_at(slot)), _span_of(now - start_by)
        return Reason.WINDOW_PASSED, f"its start window of {span} after {after} passed {ago} ago"
    late = f"nobody looked for {_span_of(now - slot)} after {say_slot(slot)}"
    match rule.catch_up:
        case CatchUp.LATEST:
            return Reason.CATCH_UP_LATEST, f"{late}; a newer slot is due, and catch-up is latest"
        case CatchUp.NONE:
            return Reason.CATCH_UP_NONE, f"{late}; catch-up is none"
        case CatchUp.ALL:
            return Reason.CATCH_UP_LIMIT, f"{late}; the newest {rule.catch_up_limit} late slots are caught up"


def _decide(
    rule: SlotRule,
    slot: datetime,
    state: RunState,
    reason: Reason,
    text: str,
    *,
    queued: bool = False,
    replaces: bool = False,
) -> SlotDecision:
    return SlotDecision(slot, state, reason, text, rule.run_at(slot), rule.start_by(slot), queued, replaces=replaces)


def _span_of(length: timedelta) -> str:
    seconds = length.total_seconds()
    return format_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
