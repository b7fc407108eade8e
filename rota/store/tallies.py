"""Tallies: what has ended, told in the transaction that ends it, for the roll-ups.

Invariant: for each job and state, what the tallies and the roll-ups say together is how many slots its finished runs
stand for, and those that retention has removed. Called wherever a run becomes finished or is so no longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, case, func, insert, literal, null, select

from rota.store.tables import attempt, run, tally
from rota.store.types import Number, encode_rows, given_rows, seconds_between, seconds_since_1970

QUARTER_SECONDS = 900

_FIELDS = "job_id node quarter quarter_last state ended_count busy_seconds delay_seconds delay_count".split()
_nothing = literal(0.0, Number)


def quarter_of(moment: Any) -> ColumnElement[int]:
    """Return the quarter of an hour since 1970 in which a moment lies, as a whole number."""
    return seconds_since_1970(moment) // QUARTER_SECONDS


_moment = func.coalesce(run.c.moment_at, run.c.slot_at, run.c.period_start_at, run.c.enqueued_at)
RUN_QUARTER = quarter_of(_moment)
RUN_QUARTER_LAST = case((run.c.slot_count > 1, quarter_of(run.c.slot_last_at)), else_=null())
# Where it had one attempt, run_at is still when it might start.
_has_delay = (run.c.attempt == 1) & run.c.started_at.is_not(None)
_delay = case((_has_delay, seconds_between(run.c.run_at, run.c.started_at)), else_=_nothing)


def tally_runs(*where: ColumnElement[bool]) -> Insert:
    """Make the statement that tells of the finished runs that ``where`` finds how they ended."""
    told = (run.c.job_id, literal(""), RUN_QUARTER, RUN_QUARTER_LAST, run.c.state)
    counted = select(*told, func.sum(run.c.slot_count), _nothing, _nothing, literal(0)).where(
        run.c.finished_at.is_not(None), *where
    )
    return insert(tally).from_select(
        _FIELDS, counted.group_by(run.c.job_id, RUN_QUARTER, RUN_QUARTER_LAST, run.c.state)
    )


_changes = given_rows("changes", run_id="id", state="word", sign="id")
_is_new = _changes.c.sign > 0
# Of these runs, what they have become, and what they are no longer. Served by the primary key.
TALLY_CHANGES = insert(tally).from_select(
    _FIELDS,
    select(
        run.c.job_id,
        literal(""),
        RUN_QUARTER,
        RUN_QUARTER_LAST,
        _changes.c.state,
        func.sum(_changes.c.sign * run.c.slot_count),
        _nothing,
        func.sum(case((_is_new, _delay), else_=_nothing)),
        func.sum(case((_is_new & _has_delay, 1), else_=0)),
    )
    .where(run.c.id == _changes.c.run_id)
    .group_by(run.c.job_id, RUN_QUARTER, RUN_QUARTER_LAST, _changes.c.state),
)

_claims = given_rows("claims", claim_id="token", sign="id")
_ended_quarter = quarter_of(attempt.c.finished_at)
# Of these attempts, how they have ended, or what they are no longer. Served by the unique claim.
TALLY_ATTEMPTS = insert(tally).from_select(
    _FIELDS,
    select(
        literal(0),
        attempt.c.node,
        _ended_quarter,
        null(),
        attempt.c.state,
        func.sum(_claims.c.sign),
        func.sum(case((_claims.c.sign > 0, func.coalesce(attempt.c.seconds, 0.0)), else_=_nothing)),
        _nothing,
        literal(0),
    )
    .where(attempt.c.claim_id == _claims.c.claim_id, attempt.c.finished_at.is_not(None))
    .group_by(attempt.c.node, _ended_quarter, attempt.c.state),
)


def tally_changes(connection: Connection, changes: Sequence[tuple[int, str, int]]) -> None:
    """Tell of runs which finished state they have come to (1), or have left (-1)."""
    if changes:
        rows = [{"run_id": run_id, "state": state, "sign": sign} for run_id, state, sign in changes]
        connection.execute(TALLY_CHANGES, {"changes": encode_rows(rows)})


def tally_attempts(connection: Connection, claim_ids: Iterable[str | None], sign: int) -> None:
    """Tell of the closed attempts with these claims how they stand (1), or what they are about to leave (-1)."""
    if rows := [{"claim_id": claim_id, "sign": sign} for claim_id in claim_ids if claim_id is not None]:
        connection.execute(TALLY_ATTEMPTS, {"claims": encode_rows(rows)})
