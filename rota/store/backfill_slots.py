"""What a backfill finds in the ledger about the slots of one schedule, and what it decides about each.

Invariant: looking changes nothing, and what is decided about a slot depends on the ledger alone; so a step, and a
person who asks what would be done, get the same answers. Called by ``backfill_steps`` and ``backfills``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from rota.errors import Conflict
from rota.model.backfill import Decided, Fate, SlotRange, Wish, decide_slot
from rota.model.instants import say_slot
from rota.model.slot_rule import CatchUpOrder, SlotRule
from rota.model.states import JobState, RunState
from rota.store.dependants import is_slot
from rota.store.fanout import ANY, is_for_all
from rota.store.firing import READ_FOR_SLOTS
from rota.store.tables import dependency, run, schedule
from rota.store.types import AnyRow, encode_rows, given_rows
from rota.store.upstreams import is_done

ROWS_READ_MAX = 5000

_FACTS = (
    run.c.id,
    run.c.job_id,
    run.c.job,
    run.c.schedule_id,
    run.c.slot_at,
    run.c.slot_last_at,
    run.c.slot_count,
    run.c.target_node,
    run.c.group_id,
    run.c.state,
    run.c.reason,
    run.c.reason_text,
    run.c.attempt,
    run.c.fence,
    run.c.claim_id,
    run.c.finished_at,
    run.c.awaiting_job_id,
    run.c.backfill_id,
)
_of_schedule = run.c.schedule_id == bindparam("schedule_id")
_low = bindparam("low", type_=run.c.slot_at.type)
_high = bindparam("high", type_=run.c.slot_at.type)
# What was decided about the slots from one to another. Served by rota_run_slot.
READ_SLOTS = (
    select(*_FACTS)
    .where(_of_schedule, run.c.slot_at >= _low, run.c.slot_at <= _high)
    .order_by(run.c.slot_at, run.c.target_node)
    .limit(ROWS_READ_MAX)
)
READ_SLOTS_NEWEST_FIRST = READ_SLOTS.order_by(None).order_by(run.c.slot_at.desc(), run.c.target_node)
# What was decided about the one before them: it may stand for some of them too. Two probes of the same index.
_earlier = run.alias("earlier")
READ_COVERING = select(*_FACTS).where(
    _of_schedule,
    run.c.slot_at
    == select(_earlier.c.slot_at)
    .where(_earlier.c.schedule_id == bindparam("schedule_id"), _earlier.c.slot_at < _low)
    .order_by(_earlier.c.slot_at.desc())
    .limit(1)
    .scalar_subquery(),
    run.c.slot_last_at >= _low,
)
READ_SCHEDULES_FOR_SLOTS = READ_FOR_SLOTS.where(schedule.c.id.in_(bindparam("schedule_ids", expanding=True)))
# Which of these jobs run after which others of them. Served by rota_dependency_upstream.
READ_PAIRS_AMONG = select(dependency.c.job_id, dependency.c.upstream_id).where(
    dependency.c.upstream_id.in_(bindparam("job_ids", expanding=True))
)
_asked = given_rows("asked", schedule_id="id", moment="instant")
_slot = run.alias("slot")
# For moments of schedules: who has had the run of the latest slot at or before them done. Served by rota_run_slot.
READ_TAKERS = (
    select(_asked.c.moment, run.c.backfill_id)
    .select_from(_asked)
    .join(
        run,
        (run.c.schedule_id == _asked.c.schedule_id)
        & (
            run.c.slot_at
            == select(_slot.c.slot_at)
            .where(_slot.c.schedule_id == _asked.c.schedule_id, _slot.c.slot_at <= _asked.c.moment, is_slot(_slot))
            .order_by(_slot.c.slot_at.desc())
            .limit(1)
            .scalar_subquery()
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Course:
    """One schedule in a backfill: what decides about its slots."""

    row: AnyRow  # of the schedule and its job
    rule: SlotRule
    slots: SlotRange  # those that are left
    wish: Wish
    since: datetime  # when it was asked for
    backfill_id: int | None  # None: it is only asked what would be done
    built_on: bool
    # Whether what a slot builds on was taken; and the schedules of which it must have been, where that is asked.
    is_reached: Callable[[datetime], bool]
    upstream_ids: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be done about a slot, and the row that it has, or shares."""

    slot: datetime
    fate: Fate
    row: AnyRow | None


def always(_: datetime) -> bool:
    """There is nothing that a slot must wait for."""
    return True


def judge_slots(connection: Connection, course: Course, limit: int) -> list[Judged]:
    """Return what is to be done about the first ``limit`` slots that are left; fewer where one is not reached yet."""
    order = course.wish.order
    slots: list[datetime] = []
    for slot in course.slots.in_order(order, limit):
        if not course.is_reached(slot):
            break
        slots.append(slot)
    if not slots:
        return []
    low, high = min(slots), max(slots)
    which = {"schedule_id": course.row.id, "low": low, "high": high}
    is_oldest_first = order is CatchUpOrder.OLDEST
    rows = connection.execute(READ_SLOTS if is_oldest_first else READ_SLOTS_NEWEST_FIRST, which).all()
    if len(rows) == ROWS_READ_MAX:  # of many nodes each: only those of which all was read
        cut = rows[-1].slot_at
        slots = [slot for slot in slots if (slot < cut if is_oldest_first else slot > cut)] or slots[:1]
        low = min(slots)
    covering = connection.execute(READ_COVERING, {"schedule_id": course.row.id, "low": low}).all()
    by_slot: dict[datetime, list[AnyRow]] = {}
    for row in rows:
        by_slot.setdefault(row.slot_at, []).append(row)
    spans = [row for row in (*covering, *rows) if row.slot_last_at is not None and row.slot_count > 1]
    in_scope = _find_in_scope(connection, course, slots)
    return [_judge(course, slot, by_slot.get(slot) or _covering(spans, slot), slot in in_scope) for slot in slots]


def _covering(spans: Sequence[AnyRow], slot: datetime) -> list[AnyRow]:
    return [row for row in spans if row.slot_at < slot <= row.slot_last_at]


def _find_in_scope(connection: Connection, course: Course, slots: Sequence[datetime]) -> Collection[datetime]:
    """Return those of the slots that are built on what this backfill has taken; all, where that is not asked."""
    if not (course.built_on and course.wish.failed_only):
        return slots
    if course.backfill_id is None or not course.upstream_ids:
        return ()
    asked = encode_rows({"schedule_id": one, "moment": slot} for one in sorted(course.upstream_ids) for slot in slots)
    found = connection.execute(READ_TAKERS, {"asked": asked})
    return {row.moment for row in found if row.backfill_id == course.backfill_id}


def _judge(course: Course, slot: datetime, rows: Sequence[AnyRow], in_scope: bool) -> Judged:
    decided = [
        Decided(
            state=RunState(row.state),
            reason=row.reason,
            is_done=is_done(row),
            is_ours=course.backfill_id is not None and row.backfill_id == course.backfill_id,
            is_of_node=row.target_node != ANY or row.group_id is not None,
            is_awaiting=row.awaiting_job_id is not None,
            was_tried=row.attempt > 0,
            finished_at=row.finished_at,
        )
        for row in rows
    ]
    closed = course.rule.closed(slot) is not None
    fate = decide_slot(decided, course.wish, course.since, closed=closed, built_on=course.built_on, in_scope=in_scope)
    return Judged(slot, fate, rows[0] if rows else None)


def awaits(row: AnyRow) -> bool:
    """Tell whether the runs of a schedule wait for others to be done."""
    return row.after is not None or bool(row.in_order)


def slots_of(row: AnyRow, rule: SlotRule, low: datetime, high: datetime | None) -> SlotRange:
    """Return the slots of a schedule that have come: what its cursor has not passed comes by itself."""
    came = row.next_slot_at if row.next_slot_at is not None else row.now
    return SlotRange(rule.timing, low, came if high is None else min(high, came), row.first_run_at)


def why_not(row: AnyRow) -> str | None:
    """Say why nothing is run for the slots of a schedule now, and what to do; None: there is no reason.

    Raises:
        Invalid: the job's row has no known word there.
    """
    key = row.name
    if row.problem is not None:
        return f"schedule {key} is set aside ({row.problem}): correct it with `rota schedule edit {key}`"
    if row.state != JobState.ACTIVE.value:
        return f"schedule {key} is paused: resume it with `rota schedule resume {key}`"
    return None


def why_never(row: AnyRow) -> str | None:
    """Say why a schedule can have no part in a backfill; None: it can.

    Raises:
        Invalid: the job's row has no known word there.
    """
    if row.job_name is None:
        return f"schedule {row.name} has no job any more"
    if is_for_all(row.runs_on):
        return (
            f"job {row.job_name} runs on all nodes of its pool, and for which of them slots of the past were nobody "
            f"knows: ask for runs on those there are now with `rota job run {row.job_name}`"
        )
    return None


def check_may_run(row: AnyRow, wish: Wish) -> None:
    """Refuse a schedule whose slots of the past cannot be run.

    Raises:
        Conflict: it is paused or set aside, its job runs on all nodes, or the order does not fit.
        Invalid: a value of its row breaks its rule.
    """
    if (reason := why_never(row) or why_not(row)) is not None:
        raise Conflict(reason)
    if row.in_order and wish.order is CatchUpOrder.NEWEST:
        raise Conflict(
            f"schedule {row.name} runs its slots in order, each when the one before it has succeeded: leave out "
            "--order newest"
        )


def say_part(row: AnyRow) -> str:
    """Name the run that stands in the way of a slot."""
    return f"run {row.id} of slot {say_slot(row.slot_at)} is {row.state}"
