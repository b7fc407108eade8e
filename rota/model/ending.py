"""What follows from the end of an attempt, or of its lease: pure decisions.

Two budgets: ``retries`` counts attempts that ended badly, ``lost_max`` those whose lease ended. A release spends
neither, and a cancellation that was asked for is never retried. Beside the budgets, ``retry_on`` and ``no_retry_on``
choose which bad ends are retried at all, and no attempt begins after the deadline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from rota.model.bad_ends import name_signal, say_words, words_of
from rota.model.durations import format_duration
from rota.model.reasons import Reason
from rota.model.run import End
from rota.model.states import AttemptState, Because, Delivery, RunState

RETRY_DELAY_SECONDS = 10.0
RETRY_DELAY_SECONDS_MAX = 3600.0
LOST_MAX = 5
LOST_DELAY_SECONDS = 5.0
RELEASES_AT_ONCE = 3
RELEASE_DELAY_SECONDS_MAX = 60.0
FOR_EVER = -1
RETRY_ASKED = "Retry"  # the error type of an attempt that ended by ``raise Retry``
RELEASE_ASKED = "Release"  # of one that ended by ``raise Release``
LEASE_OVER_ERROR = "LeaseOver"  # what a guardian says that did not start a job, since its lease was ending
NO_GUARDIAN_ERROR = "GuardianNotStarted"  # what a worker says that got no guardian for it: no process, no descriptor
EXECUTOR_LOST_ERROR = "ExecutorLost"  # what a keeper says of a run that was cut off in its executor process
# What a guardian says of a job that a limit has ended; and what a callable raises that got no memory.
CPU_LIMIT_ERROR = "CpuLimit"
OUT_OF_MEMORY_ERRORS = frozenset({"OutOfMemory", "MemoryError"})
_OF_LIMITS = frozenset({"exited", "signalled", "exception"})


class Backoff(StrEnum):
    """How the delay before a retry grows."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"
    JITTER = "jitter"  # full jitter: anything from nothing to what exponential would be


@dataclass(frozen=True, slots=True)
class RetryRule:
    """The budgets of a job's runs, and how long they wait before another attempt."""

    retries: int = 0  # -1: for ever
    lost_max: int = LOST_MAX
    retry_delay_seconds: float = RETRY_DELAY_SECONDS
    backoff: Backoff = Backoff.FIXED
    retry_delay_max_seconds: float = RETRY_DELAY_SECONDS_MAX
    retry_on: tuple[str, ...] = ()  # words of ``bad_ends``; none: every bad end
    no_retry_on: tuple[str, ...] = ()  # goes before retry_on
    no_op_exit_code: int | None = None
    cancel_exit_code: int | None = None
    deadline_seconds: float | None = None  # over all attempts, from the first start
    problem: str | None = None  # why it cannot be told which ends are retried: none is, then

    def has_retry(self, retries_used: int) -> bool:
        """Tell whether another attempt is left after ``retries_used`` retries."""
        return self.retries == FOR_EVER or retries_used < self.retries

    def delay_seconds(self, retries_used: int, chance: float = 1.0) -> float:
        """Return how long to wait before the next retry, after ``retries_used`` of them.

        ``chance``, from 0 to 1, is drawn by the caller; it decides how much of the delay is waited with full jitter.
        """
        if self.backoff is Backoff.FIXED:
            return self.retry_delay_seconds
        # The exponent is bounded too: 2 ** 2000 is no float.
        longest = min(self.retry_delay_max_seconds, self.retry_delay_seconds * 2.0 ** min(retries_used, 60))
        return round(chance * longest, 3) if self.backoff is Backoff.JITTER else longest

    def why_not_chosen(self, end: End) -> str | None:
        """Say why an attempt that ended so is not tried again, whatever is left; None: it may be.

        An end by which the job itself asked for a retry is always chosen.
        """
        if end.error_type == RETRY_ASKED:
            return None
        if self.problem is not None:
            return self.problem
        words = words_of(end)
        if unwanted := sorted(words.intersection(self.no_retry_on)):
            return f"no_retry_on names {say_words(unwanted)}"
        if self.retry_on and not words.intersection(self.retry_on):
            return f"retry_on names only {say_words(self.retry_on)}"
        return None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a decision about a running, or a lost, run depends on."""

    state: RunState
    attempt: int
    node: str
    delivery: Delivery
    marked: bool
    retries_used: int
    losses: int
    cancel_asked: bool
    cancel_asked_by: str | None
    deadline_left_seconds: float | None = None  # None: there is no deadline; below zero: it has passed


@dataclass(frozen=True, slots=True)
class Ending:
    """The decision: where the run goes, why, and which budget it spends."""

    target: RunState
    because: Because
    reason: Reason
    text: str
    attempt_state: AttemptState
    wait_seconds: float | None = None
    retries_added: int = 0
    losses_added: int = 0
    result: str | None = None


def lost_delay_seconds(losses: int) -> float:
    """Return how long a run waits after its ``losses``-th lost attempt: first not at all, then longer each time."""
    return 0.0 if losses <= 1 else min(RETRY_DELAY_SECONDS_MAX, LOST_DELAY_SECONDS * 2.0 ** min(losses - 2, 60))


def release_delay_seconds(facts: RunFacts) -> float:
    """Return how long a run waits that its job gave back: the first times not at all, then longer each time.

    A job that gives every attempt back would otherwise be started many times a second, for ever.
    """
    releases = facts.attempt - facts.retries_used - facts.losses  # with this one, and those before a rerun
    return 0.0 if releases <= RELEASES_AT_ONCE else min(RELEASE_DELAY_SECONDS_MAX, 2.0 ** min(releases - 4, 60))


def chance_of(job: str, run_id: int, attempt: int) -> float:
    """Draw a number from 0 up to 1 for the delay after an attempt, which is the same each time it is asked for.

    So an end that is delivered twice, or decided again since a row was stale, waits as long as it was told to.
    """
    digest = hashlib.sha256(f"{job}\n{run_id}\n{attempt}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def decide_end(end: End, facts: RunFacts, rule: RetryRule, chance: float = 1.0) -> Ending:
    """Decide what follows from ``end``, told under the run's current claim; ``chance`` is for ``delay_seconds``.

    For a run that is held ``lost``, the same claim brings the truth late: it becomes succeeded or failed, and is not
    retried, since a person may have seen it lost.
    """
    # A worker that leaves cuts off what runs in its executors: given back, unless it must not be started twice.
    is_lost = end.kind == "lease_over" or facts.delivery is Delivery.AT_MOST_ONCE
    if end.error_type == EXECUTOR_LOST_ERROR and is_lost and facts.state is RunState.RUNNING:
        return decide_rescue(facts, rule, f"attempt {facts.attempt} on {facts.node}: {end.error_message}")
    if end.kind == "lease_over" and facts.state is RunState.RUNNING:
        how = f"the lease of attempt {facts.attempt} on {facts.node} was not renewed in time, so its job was stopped"
        return decide_rescue(facts, rule, how)
    if end.kind == "undone" and facts.state is RunState.RUNNING:
        how = (
            f"the transaction of attempt {facts.attempt} on {facts.node} was undone: {end.error_message or 'no reason'}"
        )
        return decide_rescue(replace(facts, marked=False), rule, how)
    if end.kind == "not_started" and end.error_type == LEASE_OVER_ERROR and facts.state is RunState.RUNNING:
        # Its guardian looked at the clock once more. The attempt is lost, but it has certainly done nothing.
        how = f"attempt {facts.attempt} came too late on {facts.node}: {end.error_message or 'its lease was ending'}"
        return decide_rescue(replace(facts, marked=False), rule, how)
    if end.kind == "not_started" and end.error_type == NO_GUARDIAN_ERROR and facts.state is RunState.RUNNING:
        # What its machine lacks is no fault of the job's: it costs none of its retries, and counts for no breaker.
        how = f"attempt {facts.attempt} got no guardian on {facts.node}: {end.error_message or 'it was not started'}"
        return decide_rescue(replace(facts, marked=False), rule, how)
    late = facts.state is RunState.LOST
    if end.kind == "succeeded" or (end.kind == "exited" and end.exit_code == 0):
        return Ending(
            RunState.SUCCEEDED,
            Because.LATE_TRUTH if late else Because.ENDED_WELL,
            Reason.LATE_TRUTH if late else Reason.ENDED_WELL,
            f"attempt {facts.attempt} ended well on {facts.node}" + (", told after it was held lost" if late else ""),
            AttemptState.SUCCEEDED,
            result=end.result,
        )
    reason, what = _say(end)
    if late:
        return Ending(
            RunState.FAILED,
            Because.LATE_TRUTH,
            Reason.LATE_TRUTH,
            f"attempt {facts.attempt} on {facts.node} {what}, told after it was held lost",
            AttemptState.FAILED,
        )
    if end.kind == "no_op":
        return Ending(
            RunState.SKIPPED, Because.ENDED_AS_NO_OP, Reason.NO_OP, end.error_message or what, AttemptState.SKIPPED
        )
    if end.kind == "exited" and not end.error_type and end.exit_code is not None:
        if end.exit_code == rule.no_op_exit_code:
            return Ending(
                RunState.SKIPPED,
                Because.ENDED_AS_NO_OP,
                Reason.NO_OP,
                f"attempt {facts.attempt} on {facts.node} {what}, by which its job says that there was nothing to do "
                "(no_op_exit_code)",
                AttemptState.SKIPPED,
            )
        if end.exit_code == rule.cancel_exit_code:
            return Ending(
                RunState.CANCELLED,
                Because.CANCEL_ASKED,
                Reason.CANCEL,
                f"attempt {facts.attempt} on {facts.node} {what}, by which its job asks to cancel the run "
                "(cancel_exit_code)",
                AttemptState.CANCELLED,
            )
    if facts.cancel_asked and end.kind in {"cancelled", "signalled", "released"}:
        return Ending(
            RunState.CANCELLED,
            Because.CANCEL_ASKED,
            Reason.CANCEL,
            f"cancelled by {facts.cancel_asked_by or 'somebody'}; attempt {facts.attempt} on {facts.node} was stopped",
            AttemptState.CANCELLED,
        )
    if end.kind in {"released", "cancelled"}:
        has_run = end.exit_code is not None or end.signal is not None
        if has_run and end.error_type != RELEASE_ASKED and facts.marked and facts.delivery is Delivery.AT_MOST_ONCE:
            return decide_rescue(facts, rule, f"{facts.node} stopped attempt {facts.attempt} to give it back")
        wait = release_delay_seconds(facts) if end.error_type == RELEASE_ASKED else 0.0
        text = f"{facts.node} gave attempt {facts.attempt} back" + (
            f": {end.error_message}" if end.error_message else ""
        )
        return Ending(
            RunState.WAITING if wait else RunState.READY,
            Because.GIVEN_BACK,
            Reason.RELEASED,
            f"{text}; next attempt in {wait:g} s" if wait else text,
            AttemptState.RELEASED,
            wait_seconds=wait or None,
        )
    failed = Ending(
        RunState.FAILED,
        Because.NO_RETRY_LEFT,
        reason,
        f"attempt {facts.attempt} on {facts.node} {what}",
        AttemptState.FAILED,
    )
    if end.kind == "deadline" or facts.cancel_asked:
        return failed
    if not rule.has_retry(facts.retries_used):
        if not rule.retries and end.error_type == RETRY_ASKED:
            return replace(failed, text=f"{failed.text}; not retried: it has no retries: give it some with --retries")
        used = "its one retry is used" if rule.retries == 1 else f"its {rule.retries} retries are used"
        return replace(failed, text=f"{failed.text}; {used}") if rule.retries else failed
    if (why_not := rule.why_not_chosen(end)) is not None:
        return replace(failed, text=f"{failed.text}; not retried: {why_not}")
    after = end.retry_after_seconds
    wait = rule.delay_seconds(facts.retries_used, chance) if after is None else after
    if (too_late := _say_too_late(facts, rule, wait)) is not None:
        return replace(failed, reason=Reason.DEADLINE, text=f"{failed.text}; not retried: {too_late}")
    left = str(facts.retries_used + 1) + ("" if rule.retries == FOR_EVER else f" of {rule.retries}")
    return Ending(
        RunState.WAITING,
        Because.RETRY_LEFT,
        Reason.RETRY,
        f"{failed.text}; retry {left} in {wait:g} s",
        AttemptState.FAILED,
        wait_seconds=wait,
        retries_added=1,
    )


def tells_truth(end: End, facts: RunFacts, rule: RetryRule) -> bool:
    """Tell whether ``end`` says more about a run that is held ``lost`` than that: it may be the one that said so."""
    assert facts.state is RunState.LOST
    first = decide_end(end, replace(facts, state=RunState.RUNNING, marked=True), rule)
    return first.target is not RunState.LOST


def _say_too_late(facts: RunFacts, rule: RetryRule, wait_seconds: float) -> str | None:
    """Say that an attempt after ``wait_seconds`` would begin past the deadline; None when it would not."""
    left = facts.deadline_left_seconds
    if left is None or wait_seconds < left:
        return None
    span = format_duration(max(0.0, rule.deadline_seconds or 0.0))
    if left <= 0:
        return f"its deadline, {span} after its first start, has passed"
    return f"in {wait_seconds:g} s it would begin after its deadline, {span} after its first start"


def say_silent(facts: RunFacts, over_seconds: float) -> str:
    """Say that a node did not renew, for a run whose lease has been over for ``over_seconds``."""
    return f"{facts.node} fell silent with attempt {facts.attempt}: its lease ended {_span(over_seconds)} ago"


def say_guardian_died(facts: RunFacts) -> str:
    """Say that the guardian died under a living worker."""
    return f"the guardian of attempt {facts.attempt} on {facts.node} died, and its job with it"


def decide_rescue(facts: RunFacts, rule: RetryRule, how: str) -> Ending:
    """Decide what follows when a running run lost its attempt; ``how`` that came about begins the sentence."""
    assert facts.state is RunState.RUNNING
    losses = facts.losses + 1
    if facts.cancel_asked:
        return Ending(
            RunState.CANCELLED,
            Because.CANCEL_ASKED,
            Reason.CANCEL,
            f"cancelled by {facts.cancel_asked_by or 'somebody'}; {how}",
            AttemptState.LOST,
            losses_added=1,
        )
    if facts.marked and facts.delivery is Delivery.AT_MOST_ONCE:
        return Ending(
            RunState.LOST,
            Because.LEASE_OVER,
            Reason.LOST,
            f"{how}; it had started, and delivery at_most_once forbids another start: "
            "find out what it did, then rerun it or mark it succeeded",
            AttemptState.LOST,
            losses_added=1,
        )
    if losses > rule.lost_max:
        return Ending(
            RunState.FAILED,
            Because.LEASE_OVER,
            Reason.LOST_MAX,
            f"{how}; {losses} attempts were lost with their node, more than lost_max {rule.lost_max} allows",
            AttemptState.LOST,
            losses_added=1,
        )
    wait = lost_delay_seconds(losses)
    if (too_late := _say_too_late(facts, rule, wait)) is not None:
        return Ending(
            RunState.FAILED,
            Because.LEASE_OVER,
            Reason.DEADLINE,
            f"{how}; not started again: {too_late}",
            AttemptState.LOST,
            losses_added=1,
        )
    if wait:
        return Ending(
            RunState.WAITING,
            Because.LEASE_OVER,
            Reason.LOST_BACKOFF,
            f"{how}; lost {losses} times, next attempt in {wait:g} s",
            AttemptState.LOST,
            wait_seconds=wait,
            losses_added=1,
        )
    return Ending(
        RunState.READY,
        Because.LEASE_OVER,
        Reason.LEASE_OVER,
        f"{how}; any node may start it again",
        AttemptState.LOST,
        losses_added=1,
    )


def _say(end: End) -> tuple[Reason, str]:
    message = f": {end.error_message}" if end.error_message else ""
    if end.kind in _OF_LIMITS and end.error_type == CPU_LIMIT_ERROR:
        return Reason.CPU_LIMIT, f"used up its CPU time{message}"
    if end.kind in _OF_LIMITS and end.error_type in OUT_OF_MEMORY_ERRORS:
        return Reason.OUT_OF_MEMORY, f"ran out of memory{message}"
    if end.error_type == RETRY_ASKED and end.kind in {"exited", "exception"}:
        said = "" if end.error_message == "the job asked for a retry" else message  # Retry's own words
        return Reason.EXCEPTION, f"asked for a retry{said}"
    match end.kind:
        case "exited":
            if end.error_type:
                return Reason.EXCEPTION, f"raised {end.error_type}{message}"
            return Reason.EXIT_CODE, f"exited with {end.exit_code}{message}"
        case "signalled":
            return Reason.SIGNAL, f"was ended by signal {name_signal(end.signal)}{message}"
        case "not_started":
            return Reason.START_ERROR, f"could not be started{message}"
        case "timeout":
            return Reason.TIMEOUT, f"ran into its time limit{message}"
        case "deadline":
            return Reason.DEADLINE, f"ran into the deadline of its run{message}"
        case "exception":
            return Reason.EXCEPTION, f"raised {end.error_type or 'an error'}{message}"
        case "bad_result":
            return Reason.BAD_RESULT, f"left a result that cannot be kept{message}"
        case "no_result":
            return Reason.NO_RESULT, "ended without saying what it returned"
        case "no_op":
            return Reason.NO_OP, "found nothing to do"
        case _:
            return Reason.SIGNAL, f"was stopped ({end.kind})"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
