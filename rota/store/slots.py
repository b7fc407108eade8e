"""Slots: firing the schedules that are due, and moving runs on whose time has come.

Invariant: a schedule's cursor moves only forward and only by compare-and-set, in the transaction that inserts the
rows of the slots it passes; so each due slot leaves one row, whichever nodes fire. What to do with a slot is decided
by pure code (``rota.model.policy``), and a schedule that cannot be understood is set aside with its reason and stops
nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from rota.errors import Invalid, RotaError
from rota.model.job import check_start_within
from rota.model.policy import Firing, SlotDecision, SlotRule, decide_slots
from rota.model.reasons import Reason
from rota.model.run import NodeIdentity
from rota.model.schedule import ScheduleSpec
from rota.model.states import FINISHED, Because, JobState, RunState
from rota.model.timing import TimingKind
from rota.store.creation import insert_slots
from rota.store.database import Database
from rota.store.moves import Move, Stale, apply_moves, write_fresh
from rota.store.tables import event, job, run, schedule
from rota.store.types import AnyRow, db_now, db_now_plus, encode_rows, given_rows

log = logging.getLogger("rota.store")

FIRE_BATCH_MAX = 100
ADVANCE_BATCH_MAX = 500
QUEUE_RECHECK_SECONDS = 5.0

_MOVED_ON = {RunState.WAITING.value, RunState.READY.value}

_is_due_schedule = and_(schedule.c.state == JobState.ACTIVE.value, schedule.c.problem.is_(None))
_may_start_in_time = or_(run.c.start_by.is_(None), run.c.started_at.is_not(None), run.c.start_by >= db_now())

_next_slot_at = (
    select(schedule.c.next_slot_at)
    .where(_is_due_schedule, schedule.c.next_slot_at.is_not(None))
    .order_by(schedule.c.next_slot_at)
    .limit(1)
    .scalar_subquery()
)
_next_due_at = select(func.min(run.c.due_at)).where(run.c.due_at.is_not(None)).scalar_subquery()
_next_lease_end_at = select(func.min(run.c.lease_ends_at)).where(run.c.lease_ends_at.is_not(None)).scalar_subquery()


def _has_ready(pool: str) -> ColumnElement[bool]:
    return (
        select(run.c.id)
        .where(
            run.c.state == RunState.READY.value,
            run.c.pool == bindparam(pool),
            run.c.target_node.in_(["", bindparam("node")]),
            _may_start_in_time,
            run.c.job_id.not_in(select(job.c.id).where(job.c.state == JobState.PAUSED.value)),
        )
        .order_by(run.c.urgency, run.c.run_at, run.c.id)
        .limit(1)
        .scalar_subquery()
        .is_not(None)
    )


# All that a waiting node has to know, in one statement, built once for each number of pools. Each part is one look into
# an index: rota_schedule_due, rota_run_due, rota_run_lease, and rota_run_claim for each pool. The spelling is for the
# planners: SQLite serves the least of a column from a partial index only if the query repeats its condition; MariaDB
# would read every schedule for the least one without a problem; and PostgreSQL, asked whether a ready run exists rather
# than for the first, would read the whole ledger up to it.
@cache
def look_statement(pool_count: int) -> Executable:
    """Return the look of a node of ``pool_count`` pools; its parameters are pool_0, pool_1 and so on, node, holder."""
    return select(
        db_now().label("now"),
        _next_slot_at.label("next_slot_at"),
        _next_due_at.label("next_due_at"),
        _next_lease_end_at.label("next_lease_end_at"),
        (_next_slot_at <= db_now()).label("slot_has_come"),
        (_next_due_at <= db_now()).label("due_has_come"),
        (_next_lease_end_at < db_now()).label("lease_has_ended"),
        or_(*(_has_ready(f"pool_{number}") for number in range(pool_count))).label("has_ready"),
        exists()
        .where(
            run.c.lease_ends_at.is_not(None),
            run.c.holder == bindparam("holder"),
            run.c.cancel_asked_at.is_not(None),
        )
        .label("has_cancelled"),
    )


# Schedules whose cursor has come, with all that deciding takes. Read without a lock: the compare-and-set decides.
FIND_DUE = (
    select(
        schedule,
        job.c.name.label("job_name"),
        job.c.state.label("job_state"),
        job.c.pool,
        job.c.priority,
        job.c.delivery,
        job.c.lease_seconds,
        job.c.start_within_seconds.label("job_start_within_seconds"),
        db_now().label("now"),
    )
    # Without its job a schedule is set aside; left out here, it would be due for ever.
    .outerjoin(job, job.c.id == schedule.c.job_id)
    .where(_is_due_schedule, schedule.c.next_slot_at <= db_now())
    .order_by(schedule.c.next_slot_at)
    .limit(bindparam("limit"))
)
# Which of these schedules have an unfinished run, and which one that queues. Served by rota_run_open_schedule.
FIND_OPEN = (
    select(run.c.open_schedule_id, func.max(case((run.c.queued, 1), else_=0)).label("queued"))
    .where(run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)))
    .group_by(run.c.open_schedule_id)
)

_cursors = given_rows(
    "cursors", schedule_id="id", cursor_version="id", next_slot_at="instant", last_slot_at="instant", problem="text"
)
# Move the cursors, if nobody has meanwhile. The first statement of a firing.
MOVE_CURSORS = (
    update(schedule)
    .where(
        schedule.c.id == _cursors.c.schedule_id,
        schedule.c.cursor_version == _cursors.c.cursor_version,
        _is_due_schedule,
    )
    .values(
        next_slot_at=_cursors.c.next_slot_at,
        last_slot_at=func.coalesce(_cursors.c.last_slot_at, schedule.c.last_slot_at),
        cursor_version=schedule.c.cursor_version + 1,
        problem=_cursors.c.problem,
    )
)
TELL_PROBLEMS = insert(event).from_select(
    ["at", "schedule", "kind", "to_state", "text", "node"],
    select(
        db_now(),
        schedule.c.name,
        literal("schedule"),
        literal("set aside"),
        schedule.c.problem,
        bindparam("told_by", type_=String),
    ).where(schedule.c.id == _cursors.c.schedule_id, _cursors.c.problem.is_not(None)),
)

# Runs that the scheduler has to look at: waiting ones that may start, ready ones whose window has closed. Served by
# rota_run_due.
FIND_WAITED = (
    select(
        run.c.id,
        run.c.fence,
        run.c.claim_id,
        run.c.state,
        run.c.run_at,
        run.c.start_by,
        run.c.started_at,
        run.c.queued,
        run.c.open_schedule_id,
        run.c.slot_at,
        run.c.target_node,
        run.c.attempt,
        db_now().label("now"),
    )
    .where(run.c.due_at <= db_now())
    .order_by(run.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_earlier = run.alias("earlier")
# Of these queued runs, those that still have an unfinished run of an earlier slot before them, and the oldest such.
FIND_BLOCKED = (
    select(run.c.id, func.min(_earlier.c.id).label("earlier_id"))
    .join(
        _earlier,
        and_(
            _earlier.c.open_schedule_id == run.c.open_schedule_id,
            _earlier.c.target_node == run.c.target_node,
            _earlier.c.slot_at < run.c.slot_at,
        ),
    )
    .where(run.c.id.in_(bindparam("ids", expanding=True)))
    .group_by(run.c.id)
)
# Still blocked: look again a little later, should nobody wake it before.
POSTPONE = (
    update(run)
    .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.state == RunState.WAITING.value)
    .values(
        due_at=db_now_plus(literal(QUEUE_RECHECK_SECONDS)),
        reason=Reason.QUEUED.value,
        reason_text=case(
            (run.c.reason == Reason.QUEUED.value, run.c.reason_text), else_="an earlier slot is unfinished"
        ),
    )
)
# Neither to be moved nor blocked: somebody changed the row by hand. Look at it when its window closes, or never.
LOOK_AWAY = (
    update(run)
    .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.due_at <= db_now())
    .values(
        due_at=case(
            (and_(run.c.state == RunState.READY.value, run.c.started_at.is_(None)), run.c.start_by), else_=null()
        )
    )
)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies ahead, by the database's clock."""

    now: datetime
    next_slot_at: datetime | None
    next_due_at: datetime | None
    next_lease_end_at: datetime | None
    slot_has_come: bool
    due_has_come: bool
    lease_has_ended: bool
    has_ready: bool
    has_cancelled: bool

    def seconds_until(self, moment: datetime | None) -> float | None:
        """Return how far ahead ``moment`` lies; zero or less when it has come."""
        return None if moment is None else (moment - self.now).total_seconds()


def look(database: Database, identity: NodeIdentity, pools: Sequence[str]) -> Outlook:
    """Ask, in one statement, what there is to do and when the next thing will be."""
    statement = look_statement(len(pools))
    parameters = {"node": identity.name, "holder": identity.holder}
    parameters |= {f"pool_{number}": pool for number, pool in enumerate(pools)}
    row = database.read(lambda connection: connection.execute(statement, parameters).one())
    return Outlook(
        row.now,
        row.next_slot_at,
        row.next_due_at,
        row.next_lease_end_at,
        bool(row.slot_has_come),
        bool(row.due_has_come),
        bool(row.lease_has_ended),
        bool(row.has_ready),
        bool(row.has_cancelled),
    )


@dataclass(frozen=True, slots=True)
class Fired:
    """What one round of firing did."""

    schedules: int = 0
    runs: int = 0  # rows of the ledger, of whatever state
    set_aside: int = 0
    ready: int = 0


def fire_schedules(database: Database, *, fired_by: str, limit: int = FIRE_BATCH_MAX) -> Fired:
    """Decide the slots that are due, of up to ``limit`` schedules, and move their cursors past them.

    Any number of nodes may do it at once: the compare-and-set lets one of them decide each schedule. Deciding takes
    milliseconds also after an outage of a month, so that the transaction holds its locks for a short time only.
    """

    def fire(connection: Connection) -> Fired:
        rows = connection.execute(FIND_DUE, {"limit": limit}).all()
        if not rows:
            return Fired()
        found = connection.execute(FIND_OPEN, {"schedule_ids": [row.id for row in rows]})
        opened = {row.open_schedule_id: bool(row.queued) for row in found}
        cursors: list[dict[str, Any]] = []
        slots: list[dict[str, Any]] = []
        for row in rows:
            cursor, made = _decide(row, unfinished=row.id in opened, backlog=opened.get(row.id, False))
            cursors.append(cursor)
            slots.extend(made)
        given = encode_rows(cursors)
        if connection.execute(MOVE_CURSORS, {"cursors": given}).rowcount != len(cursors):
            raise Stale("another node fired some of these schedules")
        insert_slots(connection, slots)
        set_aside = sum(1 for cursor in cursors if cursor.get("problem"))
        if set_aside:
            connection.execute(TELL_PROBLEMS, {"cursors": given, "told_by": fired_by})
        ready = sum(1 for slot in slots if slot["state"] == RunState.READY.value)
        return Fired(len(rows), len(slots), set_aside, ready)

    return write_fresh(database, fire)


def _decide(row: AnyRow, *, unfinished: bool, backlog: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    cursor: dict[str, Any] = {"schedule_id": row.id, "cursor_version": row.cursor_version}
    try:
        rule = _read_rule(row)
        paused = row.job_state == JobState.PAUSED.value
        firing: Firing = decide_slots(
            rule, row.next_slot_at, row.now, unfinished=unfinished, job_paused=paused, backlog=backlog
        )
    except (RotaError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        # A row that was written by hand, or by a newer program: it waits for a person, and the others go on.
        log.error("schedule %s is set aside: %s", row.name, error)
        return cursor | {"next_slot_at": row.next_slot_at, "problem": f"cannot be fired: {error}"}, []
    decided = firing.decisions[-1]
    cursor |= {"next_slot_at": firing.next_slot, "last_slot_at": decided.slot_last or decided.slot}
    return cursor, [_slot_row(row, decision) for decision in firing.decisions]


def _read_rule(row: AnyRow) -> SlotRule:
    """Read a schedule's row with the same checks as at the doors: anybody may have changed it in SQL since.

    Raises:
        Invalid: a value breaks its rule.
    """
    if row.kind == TimingKind.EVERY and row.anchor_at is None:
        raise Invalid("anchor_at", None, "a schedule of kind every needs an anchor")
    definition = {item.name: getattr(row, item.name) for item in fields(ScheduleSpec) if item.name != "job"}
    spec = ScheduleSpec.from_definition(definition | {"job": row.job_name})
    return spec.rule(row.next_slot_at, check_start_within(row.job_start_within_seconds))


def _slot_row(row: AnyRow, decision: SlotDecision) -> dict[str, Any]:
    return {
        "job_id": row.job_id,
        "job": row.job_name,
        "schedule_id": row.id,
        "schedule": row.name,
        "slot_at": decision.slot,
        "slot_count": decision.slot_count,
        "slot_last_at": decision.slot_last,
        "state": decision.state.value,
        "reason": decision.reason.value,
        "reason_text": decision.text,
        "args": row.args,
        "pool": row.pool,
        "priority": row.priority,
        "delivery": row.delivery,
        "requested_by": f"schedule:{row.name}"[:200],
        "run_at": decision.run_at,
        "start_by": decision.start_by,
        "queued": decision.queued,
        "lease_seconds": row.lease_seconds,
        "finished": decision.state in FINISHED,
    }


@dataclass(frozen=True, slots=True)
class Advanced:
    """What one round of advancing did."""

    ready: int = 0
    missed: int = 0
    postponed: int = 0


def advance_runs(database: Database, *, limit: int = ADVANCE_BATCH_MAX) -> Advanced:
    """Move on the runs whose time has come: waiting to ready, and to missed what could not start in its window."""

    def advance(connection: Connection) -> Advanced:
        rows = connection.execute(FIND_WAITED, {"limit": limit}).all()
        queued = [row.id for row in rows if row.queued and row.state == RunState.WAITING.value]
        blocked: dict[int, int] = {}
        if queued:
            blocked = {row.id: row.earlier_id for row in connection.execute(FIND_BLOCKED, {"ids": queued})}
        moves: list[Move] = []
        strays: list[int] = []
        for row in rows:
            if row.state in _MOVED_ON and _window_is_over(row):
                moves.append(_miss(row))
            elif row.state == RunState.WAITING.value:
                if row.id not in blocked:
                    moves.append(_ready(row))
            else:
                strays.append(row.id)
        apply_moves(connection, moves)
        if blocked:
            connection.execute(POSTPONE, {"ids": sorted(blocked)})
        if strays:
            connection.execute(LOOK_AWAY, {"ids": sorted(strays)})
        missed = sum(1 for move in moves if move.target is RunState.MISSED)
        return Advanced(len(moves) - missed, missed, len(blocked))

    return write_fresh(database, advance)


def _window_is_over(row: AnyRow) -> bool:
    # The window binds until the first start: retries and rescues ignore it.
    return row.start_by is not None and row.started_at is None and row.start_by < row.now


def _miss(row: AnyRow) -> Move:
    late = (row.now - row.start_by).total_seconds()
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState(row.state),
        target=RunState.MISSED,
        because=Because.WINDOW_PASSED,
        reason=Reason.WINDOW_PASSED,
        text=f"could not start by {row.start_by:%Y-%m-%d %H:%M:%S} UTC, {late:.1f} s ago: "
        + ("it was still waiting" if row.state == RunState.WAITING.value else "no node had a free slot for it"),
    )


def _ready(row: AnyRow) -> Move:
    return Move(
        run_id=row.id,
        fence=row.fence,
        claim_id=row.claim_id,
        source=RunState.WAITING,
        target=RunState.READY,
        because=Because.MAY_START,
        reason=Reason.DUE,
        text="its time has come" if row.attempt == 0 else f"attempt {row.attempt + 1} may start",
    )
