"""Endings: what an attempt's end, or the end of its lease, does to its run.

Invariant: an end counts only under the claim it belongs to; one that no longer matches changes nothing and is kept with
its attempt as an orphan. The decisions are pure (``rota.model.ending``); here the rows are locked, the decision is
applied by compare-and-set, and result, attempt, retry and output commit together. Long, since what an end reads,
decides and writes is one transaction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update

from rota import crash
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
    tells_truth,
)
from rota.model.placement import RetryNode
from rota.model.reasons import Reason
from rota.model.run import End
from rota.model.states import FINISHED, AttemptState, Delivery, RunState
from rota.store.alerts import RULE_COLUMNS, tell_ends
from rota.store.backfill_hints import wake_backfills
from rota.store.breakers import count_ends, lock_breakers
from rota.store.database import Database
from rota.store.fanout import ANY
from rota.store.leases import deadline_left, find_locked
from rota.store.moves import Move, apply_moves, complete_attempts, write_fresh
from rota.store.reports import FORGET_OUTPUT, row_of_piece
from rota.store.tables import BY_CLAIM_ALONE, attempt, job, output, run
from rota.store.types import AS_OF, AnyRow, db_now, encode_rows, given_rows, in_portions
from rota.store.wakeup import announce

_FACTS = (
    run.c.id,
    run.c.job_id,
    run.c.job,
    run.c.schedule_id,
    run.c.schedule,
    run.c.slot_at,
    run.c.target_node,
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
    run.c.backfill_id,
    run.c.marked_at,
    run.c.lease_ends_at,
    run.c.cancel_asked_at,
    run.c.cancel_asked_by,
    run.c.cancel_asked_at.is_not(None).label("cancel_asked"),  # as the move compares it, whatever stands there
    db_now().label("now"),
)
# The runs that ends belong to. Served by the unique claim.
_ending = (
    select(*_FACTS)
    .where(run.c.claim_id.in_(bindparam("claim_ids", expanding=True)))
    .order_by(run.c.id)
    .with_hint(run, BY_CLAIM_ALONE, "mysql")
    .with_hint(run, BY_CLAIM_ALONE, "mariadb")
)
FIND_ENDING = _ending.with_for_update()
# Those that nobody keeps locked: one that is would keep all that a node has to write waiting.
FIND_ENDING_FREE = _ending.with_for_update(skip_locked=True)
# Runs whose lease is over by the database's clock. Served by rota_run_lease.
FIND_EXPIRED = (
    select(*_FACTS)
    .where(run.c.lease_ends_at < AS_OF)
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
    job.c.retry_node,
    *RULE_COLUMNS,
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
        run.c.awaiting_job_id.is_(None),  # else its turn comes behind its upstreams
    )
    .values(due_at=run.c.run_at)
)

# The same of those whose upstreams are done.
WAKE_BEHIND = (
    update(run)
    .where(
        run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)),
        run.c.awaiting_job_id.is_not(None),
        run.c.reason == Reason.QUEUED.value,
    )
    .values(upstreams_due_at=db_now())
)

# The same where what ended was for certain nodes: a thousand others are left alone.
WAKE_QUEUED_OF_NODES = WAKE_QUEUED.where(run.c.target_node.in_(bindparam("targets", expanding=True)))

RULES_DEFAULT = RetryRule()
LIVE_AFTER_SECONDS = 0.9  # a guardian tells nothing before a second, by its own clock


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a batch of ends."""

    applied: frozenset[str]  # claims whose end counted, now or at an earlier delivery of the same end
    orphaned: frozenset[str]  # claims whose end came too late, or that nobody knows
    locked: frozenset[str]  # claims whose run somebody keeps locked: their ends are to be delivered again
    waiting_seconds_min: float | None  # until the first retry among them; None: no retry
    has_freed: bool = False  # permits, which ready runs may wait for


def end_runs(database: Database, ends: Sequence[End], *, waits: bool = True) -> Delivered:
    """Record how attempts ended: run, attempt, output, retry and events of each in one transaction.

    A run that somebody keeps locked is waited for, or passed over and named, with nothing recorded of it.

    All of them share a transaction, unless they are so large together that a server would not take the statements.
    Delivering an end again changes nothing, so the whole is tried again after a lost COMMIT.

    Raises:
        DatabaseUnavailable: keep the ends and deliver them later.
    """
    portions = [_deliver(database, portion, waits=waits) for portion in in_portions(ends, _size_of)]
    retries = [part.waiting_seconds_min for part in portions if part.waiting_seconds_min is not None]
    return Delivered(
        frozenset(claim_id for part in portions for claim_id in part.applied),
        frozenset(claim_id for part in portions for claim_id in part.orphaned),
        frozenset(claim_id for part in portions for claim_id in part.locked),
        min(retries, default=None),
        any(part.has_freed for part in portions),
    )


def _size_of(end: End) -> int:
    texts = (end.result, end.error_message, end.traceback)
    written = (end.stdout, end.stderr)
    return sum(len(text or "") for text in texts) + sum(len(one.head) + len(one.tail) for one in written)


def _deliver(database: Database, ends: Sequence[End], *, waits: bool) -> Delivered:
    def deliver(connection: Connection) -> Delivered:
        delivered, _ = _deliver_within(connection, ends, waits=waits)
        crash.at("end.written")
        return delivered

    delivered = write_fresh(database, deliver)
    crash.at("end.committed")
    return delivered


def end_within(connection: Connection, end: End) -> bool:
    """Record that an attempt ended well inside a transaction of its job's own; tell whether its claim was current.

    If it was not, nothing was recorded, and the transaction is not to be committed.

    Raises:
        Stale: the transaction cannot be committed.
    """
    return end.claim_id in _deliver_within(connection, [end], only_current=True)[1]


def _deliver_within(
    connection: Connection, ends: Sequence[End], *, only_current: bool = False, waits: bool = True
) -> tuple[Delivered, frozenset[str]]:
    """Record ends, and tell besides which of them have ended a run just now."""
    by_claim = {end.claim_id: end for end in ends}
    claim_ids: Sequence[str] = sorted(by_claim)
    known = {row.id: row for row in connection.execute(READ_RULES_OF_CLAIMS, {"claim_ids": claim_ids})}
    breakers = lock_breakers(connection, (row.id for row in known.values() if row.breaker_failures is not None))
    rows = connection.execute(FIND_ENDING if waits else FIND_ENDING_FREE, {"claim_ids": claim_ids}).all()
    locked = frozenset[str]() if waits else find_locked(connection, claim_ids, {row.claim_id for row in rows})
    claim_ids = [claim_id for claim_id in claim_ids if claim_id not in locked]
    attempts = {row.claim_id: row for row in connection.execute(READ_ATTEMPTS, {"claim_ids": claim_ids})}
    ended: list[tuple[int, int, AttemptState, str]] = []
    moves: list[Move] = []
    applied: set[str] = set()
    for row in rows:
        end = by_claim[row.claim_id]
        state = RunState(row.state)
        kept = attempts.get(row.claim_id)  # None: deleted by hand
        rule = _rule_for(row, known)
        facts = _facts_of(row, rule)
        is_lost = state is RunState.LOST and kept is not None and kept.state == AttemptState.LOST
        if state is RunState.RUNNING or (is_lost and tells_truth(end, facts, rule)):
            ending = decide_end(end, facts, rule, chance_of(row.job, row.id, row.attempt))
            moves.append(_move(row, ending, end, known))
            if state is RunState.RUNNING:
                ended.append((row.job_id, row.id, ending.attempt_state, ending.text))
            applied.add(row.claim_id)
    if only_current and not ended:
        return Delivered(frozenset(), frozenset(claim_ids), frozenset(), None), frozenset()
    orphaned = {
        claim_id
        for claim_id in claim_ids
        if claim_id not in applied and (claim_id not in attempts or attempts[claim_id].state == AttemptState.LOST)
    }
    moved = frozenset(applied)
    applied |= set(claim_ids) - orphaned  # the rest was delivered before
    freed = apply_moves(connection, moves)
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
    tell_ends(connection, moves, rows, known)
    wake_backfills(connection, (row.backfill_id for row in rows))
    _wake_others(connection, moves, wake_queued(connection, rows), has_closed=has_closed)
    retries = [move.wait_seconds for move in moves if move.wait_seconds is not None]
    return Delivered(frozenset(applied), frozenset(orphaned), locked, min(retries, default=None), freed > 0), moved


def _is_ended_by_job(kept: AnyRow, end: End) -> bool:
    """Whether a transactional job has ended this attempt, and only how its process did is to be added."""
    return kept.state == AttemptState.SUCCEEDED.value and kept.seconds is None and end.seconds is not None


def rescue_runs(database: Database, *, rescuer: str, limit: int = 100, as_of: datetime | None = None) -> int:
    """Take runs away from nodes whose lease was over by ``as_of``, by the database's clock; return how many.

    ``as_of`` is a moment at which that clock is known not to have stepped, None for now: it may step at any moment
    after a look at it, also between that look and this.

    Safe on any number of nodes at once: each run is taken away once, under the claim and the lease that it was found
    with, so that one which is renewed meanwhile stays where it is.
    """

    def rescue(connection: Connection) -> int:
        rows = connection.execute(FIND_EXPIRED, {"limit": limit, "as_of": as_of}).all()
        known = _read_rules(connection, rows)
        moves: list[Move] = []
        for row in rows:
            # None: what was written there by hand is no moment
            over_seconds = (row.now - row.lease_ends_at).total_seconds() if row.lease_ends_at is not None else 0.0
            rule = _rule_for(row, known)
            facts = _facts_of(row, rule)
            ending = decide_rescue(facts, rule, say_silent(facts, over_seconds))
            move = _move(row, ending, None, known, actor=rescuer)
            moves.append(dataclasses.replace(move, lease_seen_at=row.lease_ends_at))
        apply_moves(connection, moves)
        tell_ends(connection, moves, rows, known)
        _wake_others(connection, moves, wake_queued(connection, rows))
        crash.at("rescue.written")
        return len(moves)

    rescued = write_fresh(database, rescue)
    crash.at("rescue.committed")
    return rescued


def surrender_runs(database: Database, claim_ids: Sequence[str], *, actor: str) -> frozenset[str]:
    """Let go of claims whose guardian died under a living worker, as if their lease were over now.

    Return those whose run somebody keeps locked, with which nothing was done: ask again.
    """

    def surrender(connection: Connection) -> frozenset[str]:
        found = connection.execute(FIND_ENDING_FREE, {"claim_ids": list(claim_ids)}).all()
        locked = find_locked(connection, claim_ids, {row.claim_id for row in found})
        rows = [row for row in found if row.state == RunState.RUNNING.value]
        known = _read_rules(connection, rows)
        moves: list[Move] = []
        for row in rows:
            rule = _rule_for(row, known)
            facts = _facts_of(row, rule)
            ending = decide_rescue(facts, rule, say_guardian_died(facts))
            moves.append(_move(row, ending, None, known, actor=actor))
        apply_moves(connection, moves)
        tell_ends(connection, moves, rows, known)
        _wake_others(connection, moves, wake_queued(connection, rows))
        crash.at("surrender.written")
        return locked

    if not claim_ids:
        return frozenset()
    locked = write_fresh(database, surrender)
    crash.at("surrender.committed")
    return locked


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


def _move(row: AnyRow, ending: Ending, end: End | None, known: Mapping[int, AnyRow], actor: str | None = None) -> Move:
    of_job = known.get(row.job_id)
    ended_badly = bool(ending.retries_added or ending.losses_added) and ending.target not in FINISHED
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
        avoids_node=ended_badly and of_job is not None and of_job.retry_node == RetryNode.OTHER.value,
        cancel_seen=bool(row.cancel_asked),
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
    of_schedules = [row for row in rows if row.schedule_id is not None]
    if not of_schedules:
        return 0
    which = {"schedule_ids": sorted({row.schedule_id for row in of_schedules})}
    woken = connection.execute(WAKE_BEHIND, which).rowcount
    targets = {row.target_node for row in of_schedules}
    if ANY in targets:
        return woken + connection.execute(WAKE_QUEUED, which).rowcount
    return woken + connection.execute(WAKE_QUEUED_OF_NODES, which | {"targets": sorted({*targets, ANY})}).rowcount


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
