"""Telling the runs that wait for an upstream that it has ended, or begins anew.

An end is only a hint: it brings forward when a waiting run's upstreams are looked at again. What the look finds decides
(``upstreams``), and a look that nobody brought forward comes by itself. Called in the transaction that moves a run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.store.tables import BY_ID_ALONE, dependency, run
from rota.store.types import FIRST, Instant, db_now, encode_rows, given_rows
from rota.store.wakeup import announce

_LAST = literal(datetime(9999, 12, 30, tzinfo=UTC), Instant())

_awaiting = run.alias("awaiting")
_newer = run.alias("newer")
# A slot that was skipped by a rule is none: its job had nothing to do then.
NO_SLOT = tuple(
    reason.value
    for reason in (Reason.CALENDAR, Reason.SCHEDULE_PAUSED, Reason.JOB_PAUSED, Reason.OVERLAP, Reason.REPLACED)
)


def is_slot(of: FromClause) -> ColumnElement[bool]:
    """Whether what was decided about a slot is anything to wait for."""
    return or_(of.c.state != RunState.SKIPPED.value, of.c.reason.not_in(NO_SLOT))


# The next slot of the schedule of what has ended: for that one and later ones, the end makes no difference.
NEXT_SLOT = (
    select(_newer.c.slot_at)
    .where(_newer.c.schedule_id == run.c.schedule_id, _newer.c.slot_at > run.c.slot_at, is_slot(_newer))
    .order_by(_newer.c.slot_at)
    .limit(1)
    .correlate(run)
    .scalar_subquery()
)


def is_latest_for(slot_at: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether the slot of ``run`` is the latest one of its schedule at or before ``slot_at``."""
    return and_(slot_at >= run.c.slot_at, or_(NEXT_SLOT.is_(None), slot_at < NEXT_SLOT))


# For these ends: the jobs that run after theirs, with the slots that the end decides; or the next slot of its own
# schedule, where slots run in order. Served by the primary key, rota_dependency_upstream, and rota_run_slot.
READ_DECIDED = (
    select(
        dependency.c.job_id,
        run.c.slot_at.label("low"),
        NEXT_SLOT.label("high"),
        null().label("run_id"),
    )
    .select_from(run)
    .join(dependency, dependency.c.upstream_id == run.c.job_id)
    .where(run.c.id.in_(bindparam("ended", expanding=True)))
    .union_all(
        select(null(), null(), null(), _awaiting.c.id)
        .select_from(run)
        .join(_awaiting, and_(_awaiting.c.schedule_id == run.c.schedule_id, _awaiting.c.slot_at == NEXT_SLOT))
        .where(run.c.id.in_(bindparam("ended", expanding=True)), _awaiting.c.awaiting_job_id.is_not(None))
    )
)
_decided = given_rows("decided", job_id="id", low="instant", high="instant")
_of_decided = _awaiting.c.awaiting_job_id == _decided.c.job_id
# What waits for these slots, and what was asked for, which waits for whatever is the latest. Served by
# rota_run_awaiting.
FIND_DEPENDANTS = (
    select(_awaiting.c.id)
    .select_from(_decided)
    .join(
        _awaiting,
        and_(
            _of_decided,
            _awaiting.c.slot_at >= func.coalesce(_decided.c.low, FIRST),
            _awaiting.c.slot_at < func.coalesce(_decided.c.high, _LAST),
        ),
    )
    .union_all(
        select(_awaiting.c.id).select_from(_decided).join(_awaiting, and_(_of_decided, _awaiting.c.slot_at.is_(None)))
    )
)
_brought = given_rows("brought", run_id="id")
# Those that nobody keeps locked: it is a hint, for which no end is to wait. Served by the primary key, as the next one.
LOCK_FREE = (
    select(run.c.id)
    .join(_brought, _brought.c.run_id == run.c.id)
    .where(run.c.upstreams_due_at.is_not(None))
    .order_by(run.c.id)
    .with_for_update(skip_locked=True, of=run)
    .with_hint(run, BY_ID_ALONE, "mysql")
    .with_hint(run, BY_ID_ALONE, "mariadb")
)
BRING_FORWARD = (
    update(run)
    .where(run.c.id == _brought.c.run_id, run.c.upstreams_due_at.is_not(None))
    # Not before its own time, at which it is looked at anyway.
    .values(upstreams_due_at=case((run.c.run_at > db_now(), run.c.run_at), else_=db_now()))
)


def touch_dependants(connection: Connection, begun: Sequence[int]) -> None:
    """Have what waits for these runs, which begin anew, looked at again, behind whoever is looking at it now.

    A look that goes by how they ended before is over when this returns, and what it has let go is to be seen.
    """
    if ids := _find_dependants(connection, begun):
        connection.execute(BRING_FORWARD, {"brought": _encode(ids)})


def wake_dependants(connection: Connection, ended: Sequence[int]) -> int:
    """Let the scheduler look at once at the runs that may wait for these; return how many they are.

    What somebody keeps locked is passed over: it is looked at by itself.
    """
    return _bring_forward(connection, _find_dependants(connection, ended))


def _bring_forward(connection: Connection, ids: Sequence[int]) -> int:
    if not ids:
        return 0
    free = connection.execute(LOCK_FREE, {"brought": _encode(ids)}).scalars().all()
    if free:
        connection.execute(BRING_FORWARD, {"brought": _encode(free)})
        announce(connection)
    return len(free)


def wake_slots_after(connection: Connection, periods: Collection[tuple[int, datetime]]) -> None:
    """Let the scheduler look at the runs of these jobs that may wait for a period which ended then."""
    if periods:
        given = encode_rows({"job_id": job_id, "low": end} for job_id, end in sorted(periods))
        _bring_forward(connection, sorted(set(connection.execute(FIND_DEPENDANTS, {"decided": given}).scalars())))


def _find_dependants(connection: Connection, moved: Sequence[int]) -> list[int]:
    if not moved:
        return []
    found = connection.execute(READ_DECIDED, {"ended": list(moved)}).all()
    ids = {row.run_id for row in found if row.run_id is not None}
    decided = {(row.job_id, row.low, row.high) for row in found if row.job_id is not None}
    if decided:
        given = encode_rows({"job_id": job_id, "low": low, "high": high} for job_id, low, high in decided)
        ids.update(connection.execute(FIND_DEPENDANTS, {"decided": given}).scalars())
    return sorted(ids)


def _encode(ids: Sequence[int]) -> str:
    return encode_rows({"run_id": run_id} for run_id in ids)
