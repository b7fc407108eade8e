"""Endings: what an attempt's end, or the end of its lease, does to its run.

Invariant: an end counts only under the claim it belongs to; one that no longer matches changes nothing and is kept with
its attempt as an orphan. The decisions are pure (``rota.model.ending``); here the rows are locked, the decision is
applied by compare-and-set, and result, attempt, retry and output commit together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from rota.errors import Invalid
from rota.model.bad_ends import check_words
from rota.model.ending import (
    Backoff,
    Ending,
    RetryRule,
    RunFacts,
    chance_of,
    decide_end,
    decide_rescue,
    say_guardian_died,
    say_silent,
)
from rota.model.run import End
from rota.model.states import AttemptState, Delivery, RunState
from rota.store.breakers import count_ends, lock_breakers
from rota.store.database import Database
from rota.store.leases import deadline_left
from rota.store.moves import Move, apply_moves, complete_attempts, write_fresh
from rota.store.reports import FORGET_OUTPUT, row_of_piece
from rota.store.tables import attempt, job, output, run
from rota.store.types import AnyRow, db_now, encode_rows, given_rows, in_portions
from rota.store.wakeup import announce

_FACTS = (
    run.c.id,
    run.c.job_id,
    run.c.job,
    run.c.schedule_id,
    run.c.state,
    run.c.fence,
    run.c.claim_id,
    run.c.attempt,
    run.c.node,
    run.c.delivery,
    run.c.retries_used,
    run.c.losses,
    run.c.retries,
    run.c.retry_delay_seconds,
    run.c.deadline_from_at,
    run.c.marked_at,
    run.c.lease_ends_at,
    run.c.cancel_asked_at,
    run.c.cancel_asked_by,
    db_now().label("now"),
)
# The runs that ends belong to. Served by the unique claim.
FIND_ENDING = (
    select(*_FACTS)
    .where(run.c.claim_id.in_(bindparam("claim_ids", expanding=True)))
    .order_by(run.c.id)
    .with_for_update()
)
# Runs whose lease is over by the database's clock. Served by rota_run_lease.
FIND_EXPIRED = (
    select(*_FACTS)
    .where(run.c.lease_ends_at < db_now())
    .order_by(run.c.lease_ends_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_RULES = (
    job.c.id,
    job.c.retries,
    job.c.lost_max,
    job.c.retry_delay_seconds,
    job.c.backoff,
    job.c.retry_delay_max_seconds,
    job.c.retry_on,
    job.c.no_retry_on,
    job.c.no_op_exit_code,
    job.c.cancel_exit_code,
    job.c.deadline_seconds,
    job.c.breaker_failures,
)
READ_RULES = select(*_RULES).where(job.c.id.in_(bindparam("job_ids", expanding=True)))
# The same before the runs are locked, since breakers are locked first. Served by the unique claim.
READ_RULES_OF_CLAIMS = (
    select(*_RULES)
    .join(run, run.c.job_id == job.c.id)
    .where(run.c.claim_id.in_(bindparam("claim_ids", expanding=True)))
)

READ_ATTEMPTS = select(attempt.c.id, attempt.c.claim_id, attempt.c.state, attempt.c.orphan_at, attempt.c.seconds).where(
    attempt.c.claim_id.in_(bindparam("claim_ids", expanding=True))
)

_orphans = given_rows("orphans", claim_id="token", orphan="text")
# An end that came too late: kept, counted for nothing. The first one stays.
KEEP_ORPHANS = (
    update(attempt)
    .where(attempt.c.claim_id == _orphans.c.claim_id, attempt.c.orphan_at.is_(None))
    .values(orphan_at=db_now(), orphan=_orphans.c.orphan)
)
# The next one in the queue of a schedule may go as soon as the one before it has ended.
WAKE_QUEUED = (
    update(run)
    .where(
        run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)),
        run.c.state == RunState.WAITING.value,
        run.c.queued,
    )
    .values(due_at=run.c.run_at)
)

RULES_DEFAULT = RetryRule()
LIVE_AFTER_SECONDS = 0.9  # a guardian tells nothing before a second, by its own clock


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a batch of ends."""

    applied: frozenset[str]  # claims whose end counted, now or at an earlier delivery of the same end
    orphaned: frozenset[str]  # claims whose end came too late, or that nobody knows
    waiting_seconds_min: float | None  # until the first retry among them; None: no retry


def end_runs(database: Database, ends: Sequence[End]) -> Delivered:
    """Record how attempts ended: run, attempt, output, retry and events of each in one transaction.

    All of them share a transaction, unless they are so large together that a server would not take the statements.
    Delivering an end again changes nothing, so the whole is tried again after a lost COMMIT.

    Raises:
        DatabaseUnavailable: keep the ends and deliver them later.
    """
    portions = [_deliver(database, portion) for portion in in_portions(ends, _size_of)]
    waits = [part.waiting_seconds_min for part in portions if part.waiting_seconds_min is not None]
    return Delivered(
        frozenset(claim_id for part in portions for claim_id in part.applied),
        frozenset(claim_id for part in portions for claim_id in part.orphaned),
        min(waits, default=None),
    )


def _size_of(end: End) -> int:
    texts = (end.result, end.error_message, end.traceback)
    written = (end.stdout, end.stderr)
    return sum(len(text or "") for text in texts) + sum(len(one.head) + len(one.tail) for one in written)


def _deliver(database: Database, ends: Sequence[End]) -> Delivered:
    return write_fresh(database, lambda connection: _deliver_within(connection, ends)[0])


def end_within(connection: Connection, end: End) -> bool:
    """Record that an attempt ended well inside a transaction of its job's own; tell whether its claim was current.

    If it was not, nothing was recorded, and the transaction is not to be committed.

    Raises:
        Stale: the transaction cannot be committed.
    """
    return end.claim_id in _deliver_within(connection, [end], only_current=True)[1]


def _deliver_within(
    connection: Connection, ends: Sequence[End], *, only_current: bool = False
) -> tuple[Delivered, frozenset[str]]:
    """Record ends, and tell besides which of them have ended a run just now."""
    by_claim = {end.claim_id: end for end in ends}
    claim_ids = sorted(by_claim)
    known = {row.id: row for row in connection.execute(READ_RULES_OF_CLAIMS, {"claim_ids": claim_ids})}
    breakers = lock_breakers(connection, (row.id for row in known.values() if row.breaker_failures is not None))
    rows = connection.execute(FIND_ENDING, {"claim_ids": claim_ids}).all()
    attempts = {row.claim_id: row for row in connection.execute(READ_ATTEMPTS, {"claim_ids": claim_ids})}
    ended: list[tuple[int, int, AttemptState, str]] = []
    moves: list[Move] = []
    applied: set[str] = set()
    for row in rows:
        end = by_claim[row.claim_id]
        state = RunState(row.state)
        kept = attempts.get(row.claim_id)  # None: deleted by hand
        if state is RunState.RUNNING or (
            state is RunState.LOST and kept is not None and kept.state == AttemptState.LOST
        ):
            rule = _rule_for(row, known)
            ending = decide_end(end, _facts_of(row, rule), rule, chance_of(row.job, row.id, row.attempt))
            moves.append(_move(row, ending, end))
            if state is RunState.RUNNING:
                ended.append((row.job_id, row.id, ending.attempt_state, ending.text))
            applied.add(row.claim_id)
    if only_current and not ended:
        return Delivered(frozenset(), frozenset(claim_ids), None), frozenset()
    orphaned = {
        claim_id
        for claim_id in claim_ids
        if claim_id not in applied and (claim_id not in attempts or attempts[claim_id].state == AttemptState.LOST)
    }
    moved = frozenset(applied)
    applied |= set(claim_ids) - orphaned  # the rest was delivered before
    apply_moves(connection, moves)
    completed = [
        by_claim[claim_id]
        for claim_id, kept in attempts.items()
        if claim_id not in moved and _is_ended_by_job(kept, by_claim[claim_id])
    ]
    complete_attempts(connection, completed)
    told = [move.end for move in moves if move.end is not None] + completed
    keep_output(connection, {attempts[end.claim_id].id: end for end in told if end.claim_id in attempts})
    if orphaned:
        rows_of_orphans = encode_rows({"claim_id": c, "orphan": _as_json(by_claim[c])} for c in sorted(orphaned))
        connection.execute(KEEP_ORPHANS, {"orphans": rows_of_orphans})
    has_closed = count_ends(connection, breakers, ended)
    _wake_others(connection, moves, wake_queued(connection, rows), has_closed=has_closed)
    waits = [move.wait_seconds for move in moves if move.wait_seconds is not None]
    return Delivered(frozenset(applied), frozenset(orphaned), min(waits, default=None)), moved


def _is_ended_by_job(kept: AnyRow, end: End) -> bool:
    """Whether a transactional job has ended this attempt, and only how its process did is to be added."""
    return kept.state == AttemptState.SUCCEEDED.value and kept.seconds is None and end.seconds is not None


def rescue_runs(database: Database, *, rescuer: str, limit: int = 100) -> int:
    """Take runs away from nodes whose lease is over by the database's clock; return how many.

    Safe on any number of nodes at once: each run is taken away once, under the claim that it was found with.
    """

    def rescue(connection: Connection) -> int:
        rows = connection.execute(FIND_EXPIRED, {"limit": limit}).all()
        known = _read_rules(connection, rows)
        moves: list[Move] = []
        for row in rows:
            # None: what was written there by hand is no moment
            over_seconds = (row.now - row.lease_ends_at).total_seconds() if row.lease_ends_at is not None else 0.0
            rule = _rule_for(row, known)
            facts = _facts_of(row, rule)
            ending = decide_rescue(facts, rule, say_silent(facts, over_seconds))
            moves.append(_move(row, ending, None, actor=rescuer))
        apply_moves(connection, moves)
        _wake_others(connection, moves, wake_queued(connection, rows))
        return len(moves)

    return write_fresh(database, rescue)


def surrender_runs(database: Database, claim_ids: Sequence[str], *, actor: str) -> int:
    """Let go of claims whose guardian died under a living worker, as if their lease were over now; return how many."""

    def surrender(connection: Connection) -> int:
        rows = [
            row
            for row in connection.execute(FIND_ENDING, {"claim_ids": list(claim_ids)})
            if row.state == RunState.RUNNING.value
        ]
        known = _read_rules(connection, rows)
        moves: list[Move] = []
        for row in rows:
            rule = _rule_for(row, known)
            facts = _facts_of(row, rule)
            ending = decide_rescue(facts, rule, say_guardian_died(facts))
            moves.append(_move(row, ending, None, actor=actor))
        apply_moves(connection, moves)
        _wake_others(connection, moves, wake_queued(connection, rows))
        return len(moves)

    return write_fresh(database, surrender) if claim_ids else 0


def _facts_of(row: AnyRow, rule: RetryRule) -> RunFacts:
    return RunFacts(
        state=RunState(row.state),
        attempt=row.attempt,
        node=row.node or "",
        delivery=Delivery(row.delivery),
        marked=row.marked_at is not None,
        retries_used=row.retries_used,
        losses=row.losses,
        cancel_asked_by=row.cancel_asked_by,
        cancel_asked=row.cancel_asked_at is not None,
        deadline_left_seconds=deadline_left(row, rule.deadline_seconds),
    )


def _read_rules(connection: Connection, rows: Sequence[AnyRow]) -> Mapping[int, AnyRow]:
    job_ids = sorted({row.job_id for row in rows if row.job_id is not None})
    return {row.id: row for row in connection.execute(READ_RULES, {"job_ids": job_ids})} if job_ids else {}


def _rule_for(row: AnyRow, known: Mapping[int, AnyRow]) -> RetryRule:
    """Return the rule of a run: its job's, but for what was asked for with the run itself."""
    of_job = known.get(row.job_id)
    rule = RULES_DEFAULT if of_job is None else _rule_of(of_job)
    if row.retries is not None:
        rule = dataclasses.replace(rule, retries=row.retries)
    if row.retry_delay_seconds is not None:
        rule = dataclasses.replace(rule, retry_delay_seconds=row.retry_delay_seconds)
    return rule


def _rule_of(row: AnyRow) -> RetryRule:
    try:
        backoff = Backoff(row.backoff)
    except ValueError:  # written by hand: an end must be kept whatever stands there
        backoff = Backoff.FIXED
    retry_on, problem = _read_words("retry_on", row.retry_on)
    no_retry_on, other_problem = _read_words("no_retry_on", row.no_retry_on)
    return RetryRule(
        retries=row.retries,
        lost_max=row.lost_max,
        retry_delay_seconds=row.retry_delay_seconds,
        backoff=backoff,
        retry_delay_max_seconds=row.retry_delay_max_seconds,
        retry_on=retry_on,
        no_retry_on=no_retry_on,
        no_op_exit_code=row.no_op_exit_code,
        cancel_exit_code=row.cancel_exit_code,
        deadline_seconds=row.deadline_seconds,
        problem=problem or other_problem,
    )


def _read_words(field: str, text: str | None) -> tuple[tuple[str, ...], str | None]:
    if text is None:
        return (), None
    try:
        return check_words(field, json.loads(text)), None
    except (ValueError, RecursionError, Invalid):
        return (), f"{field} of its job, {text[:100]!r}, is no list of words: correct it with `rota job edit`"


def _move(row: AnyRow, ending: Ending, end: End | None, actor: str | None = None) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState(row.state),
        target=ending.target,
        because=ending.because,
        reason=ending.reason,
        text=ending.text,
        wait_seconds=ending.wait_seconds,
        retries_added=ending.retries_added,
        losses_added=ending.losses_added,
        result=ending.result,
        attempt_state=ending.attempt_state,
        end=end,
        actor=actor,
    )


def keep_output(connection: Connection, ends: Mapping[int, End]) -> None:
    """Keep what the attempts wrote. One statement for all of them; what was kept before is replaced."""
    pieces = [
        row_of_piece(attempt_id, piece)
        for attempt_id, end in ends.items()
        for stream, written in (("stdout", end.stdout), ("stderr", end.stderr))
        for piece in written.pieces(stream)
    ]
    watched = sorted(attempt_id for attempt_id, end in ends.items() if (end.seconds or 0.0) >= LIVE_AFTER_SECONDS)
    if watched:
        connection.execute(FORGET_OUTPUT, {"attempt_ids": watched})
    if pieces:
        connection.execute(insert(output).values(pieces))


def wake_queued(connection: Connection, rows: Sequence[AnyRow]) -> int:
    """Let the scheduler look at once at the runs that queue behind these; return how many they are."""
    schedule_ids = sorted({row.schedule_id for row in rows if row.schedule_id is not None})
    return connection.execute(WAKE_QUEUED, {"schedule_ids": schedule_ids}).rowcount if schedule_ids else 0


def _wake_others(connection: Connection, moves: Sequence[Move], queued_count: int, *, has_closed: bool = False) -> None:
    # The node that tells an end may have no room for what may go on by it, or may be about to leave.
    if has_closed or queued_count or any(move.target in {RunState.READY, RunState.WAITING} for move in moves):
        announce(connection)


def _as_json(end: End) -> str:
    facts = dataclasses.asdict(end)
    # Bytes cannot be JSON, and the end of an orphan is read by people: how much it wrote is enough.
    facts["stdout"] = end.stdout.bytes_total
    facts["stderr"] = end.stderr.bytes_total
    return json.dumps({name: value for name, value in facts.items() if value is not None})
