"""What to do with a period next: wait, work on it, or let it be finished.

Pure rules over what the ledger says; nothing is remembered between two looks. Called with the facts of one period.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rota.model.durations import format_duration
from rota.model.period import Period
from rota.model.states import UNFINISHED, RunState
from rota.model.timeline import Blocking, PeriodMode, Timeline

FAILED_LOOK = timedelta(hours=1)  # what has failed for good is looked at so often, in case nobody tells of its rerun


class PeriodState(StrEnum):
    """Where a period stands."""

    OPEN = "open"  # nothing has been done for it
    IN_PROGRESS = "in_progress"  # it is worked on, and more is to come
    FINAL_RUN = "final_run"  # its last run is made
    PROCESSED = "processed"
    NOOP = "noop"  # there was nothing to do
    SKIPPED = "skipped"  # a person or a rule decided to do without it


UNFINISHED_PERIODS = (PeriodState.OPEN, PeriodState.IN_PROGRESS, PeriodState.FINAL_RUN)
DONE_PERIODS = frozenset({PeriodState.PROCESSED, PeriodState.NOOP})


class PeriodReason(StrEnum):
    """Why a period is in its state."""

    AHEAD = "ahead"  # it has not closed, or not settled
    OLDER = "older"  # older ones come first
    LIMIT = "limit"  # as many are worked on as may be at once
    CHILDREN = "children"  # some within it are not finished
    UPSTREAM = "upstream"  # what it runs after is not
    RUN = "run"  # its run goes on
    PAUSED = "paused"  # its job is
    FAILED = "failed"  # its run failed for good: a person decides
    INVALID = "invalid"  # the rules of its job cannot be read: a person mends them
    DONE = "done"
    NO_OP = "no_op"
    SKIP = "skip"  # a person decided
    CANCEL = "cancel"  # its run was cancelled
    CHILDREN_SKIPPED = "children_skipped"
    UPSTREAM_SKIPPED = "upstream_skipped"
    GIVEN_UP = "given_up"
    REPROCESS = "reprocess"


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a period."""

    run_id: int
    state: RunState
    text: str  # why it is in that state
    is_void: bool  # it was made before the period was taken back, and counts no more
    started_at: datetime  # when it was made
    covers_until: datetime  # the end of what it was to do


@dataclass(frozen=True, slots=True)
class Around:
    """How what lies within a period, and what it runs after, stand."""

    open_children: str | None = None  # what is not finished within, in words; None: nothing
    all_children_skipped: bool = False  # there are some
    open_upstreams: str | None = None
    skipped_upstreams: str | None = None  # those that it is skipped with


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now; at ``until`` again, or when something is told. None: only then."""

    state: PeriodState
    reason: PeriodReason
    text: str
    until: datetime | None = None
    covered_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """Make a run for what lies from ``start`` up to ``end``."""

    state: PeriodState
    text: str
    start: datetime
    end: datetime
    covered_until: datetime | None = None  # by the runs before


@dataclass(frozen=True, slots=True)
class Finish:
    """It is finished."""

    state: PeriodState
    reason: PeriodReason
    text: str
    covered_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class PeriodFacts:
    """One unfinished period, as the ledger has it."""

    period: Period
    state: PeriodState
    now: datetime
    covered_until: datetime | None
    last_run: LastRun | None
    is_first: bool  # among the oldest that may be worked on at once
    around: Around


def decide_period(facts: PeriodFacts, timeline: Timeline) -> Wait | Work | Finish:
    """Say what is to be done with an unfinished period."""
    last = facts.last_run
    state = facts.state
    covered = facts.covered_until
    if last is not None and last.state in UNFINISHED:
        if last.is_void:
            text = f"run {last.run_id}, which was made before, has not ended: {last.state}"
            return Wait(state, PeriodReason.REPROCESS, text)
        return Wait(state, PeriodReason.RUN, f"run {last.run_id} is {last.state}: {last.text}", covered_until=covered)
    if last is not None and not last.is_void:
        ended = _take_end(facts, timeline, last)
        if ended is not None:
            return ended
        covered = max(last.covers_until, covered or last.covers_until)
    return _decide_next(facts, timeline, covered)


def _take_end(facts: PeriodFacts, timeline: Timeline, last: LastRun) -> Wait | Finish | None:
    """Say what the end of the newest run makes of its period; None: it goes on."""
    said = f"run {last.run_id} has {_SAID.get(last.state, str(last.state))}: {last.text}"
    match last.state:
        case RunState.SUCCEEDED | RunState.SKIPPED:
            is_last = facts.state is PeriodState.FINAL_RUN or timeline.mode is PeriodMode.DISCRETE
            if not is_last or last.covers_until < facts.period.end:  # a part of it, by the mode it had then
                return None
            if (blocked := _blocked_by(facts.around)) is not None:
                return Wait(facts.state, blocked[0], f"its run is done, and it waits for {blocked[1]}")
            if last.state is RunState.SKIPPED and (facts.covered_until or facts.period.start) == facts.period.start:
                return Finish(PeriodState.NOOP, PeriodReason.NO_OP, said)
            return Finish(PeriodState.PROCESSED, PeriodReason.DONE, said)
        case RunState.CANCELLED:
            return Finish(PeriodState.SKIPPED, PeriodReason.CANCEL, said)
        case _:
            if timeline.give_up_failures is not None:
                return Finish(PeriodState.SKIPPED, PeriodReason.GIVEN_UP, f"given up: {said}")
            text = f"{said}; rerun the run, or reprocess or skip the period, to go on"
            return Wait(facts.state, PeriodReason.FAILED, text, facts.now + FAILED_LOOK)


def _decide_next(facts: PeriodFacts, timeline: Timeline, covered: datetime | None) -> Wait | Work | Finish:
    period, around, now = facts.period, facts.around, facts.now
    closes_at = period.end + timedelta(seconds=timeline.settle_seconds)
    if around.all_children_skipped:
        return Finish(PeriodState.SKIPPED, PeriodReason.CHILDREN_SKIPPED, "all within it were skipped")
    if around.skipped_upstreams is not None:
        return Finish(
            PeriodState.SKIPPED, PeriodReason.UPSTREAM_SKIPPED, f"with its upstream {around.skipped_upstreams}"
        )
    age = timeline.give_up_age_seconds
    if age is not None and now > period.end + timedelta(seconds=age):
        text = f"given up: its end is {_span((now - period.end).total_seconds())} ago, more than {_span(age)}"
        return Finish(PeriodState.SKIPPED, PeriodReason.GIVEN_UP, text)
    if not facts.is_first:
        return Wait(facts.state, PeriodReason.OLDER, "older periods of its job come first", covered_until=covered)
    has_closed = now >= closes_at
    if not has_closed and timeline.mode is PeriodMode.DISCRETE:
        return Wait(facts.state, PeriodReason.AHEAD, f"it closes at {closes_at:%Y-%m-%d %H:%M:%S} UTC", closes_at)
    blocked = _blocked_by(around)
    holds = blocked
    if timeline.blocking is Blocking.NORMAL and (timeline.mode is PeriodMode.DISCRETE or not has_closed):
        holds = None  # it may be worked on; what finishes it is another question
    if timeline.blocking is Blocking.DEPENDENCIES and (timeline.mode is PeriodMode.DISCRETE or not has_closed):
        holds = None if around.open_upstreams is None else (PeriodReason.UPSTREAM, around.open_upstreams)
    if holds is not None:
        until = closes_at if not has_closed else None
        return Wait(facts.state, holds[0], f"it waits for {holds[1]}", until, covered)
    begins = period.start if timeline.mode is not PeriodMode.CONTINUOUS or covered is None else covered
    if has_closed:
        text = "it has closed" + (" and all that it builds on is finished" if blocked is None else "")
        state = PeriodState.IN_PROGRESS if timeline.mode is PeriodMode.DISCRETE else PeriodState.FINAL_RUN
        return Work(state, text, begins, period.end, covered)
    # Up to its end all is done: until it has settled there is nothing new to be worked on.
    again_at = closes_at if begins >= period.end else _again_at(facts, timeline)
    if now < again_at or now <= begins:
        again_at = min(max(again_at, begins + timedelta(seconds=1)), closes_at)
        text = f"it is open, and is worked on again at {again_at:%Y-%m-%d %H:%M:%S} UTC"
        return Wait(facts.state, PeriodReason.AHEAD, text, again_at, covered)
    return Work(PeriodState.IN_PROGRESS, "it is open", begins, min(now, period.end), covered)


def _again_at(facts: PeriodFacts, timeline: Timeline) -> datetime:
    last = facts.last_run
    if last is None or last.is_void:
        return facts.period.start
    return last.started_at + timedelta(seconds=timeline.refresh_seconds)


def _blocked_by(around: Around) -> tuple[PeriodReason, str] | None:
    if around.open_children is not None:
        return PeriodReason.CHILDREN, around.open_children
    if around.open_upstreams is not None:
        return PeriodReason.UPSTREAM, around.open_upstreams
    return None


def _span(seconds: float) -> str:
    return format_duration(round(seconds))


_SAID = {
    RunState.SUCCEEDED: "succeeded",
    RunState.SKIPPED: "found nothing to do",
    RunState.CANCELLED: "been cancelled",
    RunState.FAILED: "failed",
    RunState.LOST: "been lost",
    RunState.MISSED: "been missed",
}
