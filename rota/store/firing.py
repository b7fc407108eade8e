"""Firing: deciding the slots that are due, and moving the cursors of their schedules.

Invariant: a schedule's cursor moves only forward and only by compare-and-set, in the transaction that inserts the rows
of the slots it passes; so each due slot leaves one row, whichever nodes fire. What to do with a slot is decided by pure
code (``rota.model.policy``), and a schedule that cannot be understood is set aside with its reason and stops nobody
else. Long, since what is read of a slot, decided and written is one transaction.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, String, and_, bindparam, case, func, insert, literal, select, update

from rota import crash
from rota.errors import DatabaseRefused, Invalid, RotaError
from rota.model.calendars import Calendar
from rota.model.concurrency import key_of
from rota.model.ending import FOR_EVER
from rota.model.job import check_start_within
from rota.model.placement import RunsOn
from rota.model.policy import ON_TIME_SECONDS, SlotDecision, Unfinished, decide_slots
from rota.model.reasons import Reason
from rota.model.schedule import ScheduleSpec, read_names
from rota.model.slot_rule import SlotRule
from rota.model.states import FINISHED, Because, JobState, RunState
from rota.store.calendars import load_calendars
from rota.store.creation import insert_slots
from rota.store.database import Database
from rota.store.events import tell_runs
from rota.store.fanout import (
    ANY,
    ROWS_MAX,
    Decided,
    Registered,
    decide_targets,
    is_for_all,
    is_in_the_way,
    say_names,
    slot_group,
)
from rota.store.missed import tell_missed_slots
from rota.store.moves import Move, Stale, apply_moves, until_fresh
from rota.store.outlook import IS_ACTIVE
from rota.store.tables import event, job, run, schedule
from rota.store.types import AS_OF, AnyRow, db_now, db_now_plus, encode_rows, given_rows

log = logging.getLogger("rota.store")

FIRE_BATCH_MAX = 100
SKIPS_WARNED_FROM = 3

# Schedules with all that deciding about their slots takes.
READ_FOR_SLOTS = select(
    schedule,
    job.c.name.label("job_name"),
    job.c.state.label("job_state"),
    job.c.pool,
    job.c.priority,
    job.c.delivery,
    job.c.lease_seconds,
    job.c.concurrency_key,
    job.c.start_within_seconds.label("job_start_within_seconds"),
    job.c.runs_on,
    job.c.exclude,
    job.c.after,
    job.c.retries.label("job_retries"),
    job.c.alert.is_not(None).label("is_told"),
    AS_OF.label("now"),
).outerjoin(job, job.c.id == schedule.c.job_id)  # without its job one is set aside; left out, it would be due for ever
# Those whose cursor has come. Read without a lock: the compare-and-set decides.
FIND_DUE = (
    READ_FOR_SLOTS.where(IS_ACTIVE, schedule.c.next_slot_at <= AS_OF)
    .order_by(schedule.c.next_slot_at)
    .limit(bindparam("limit"))
)
# The same while the clock is not trusted: what is due since a moment ago, and nothing that is late.
FIND_DUE_ON_TIME = FIND_DUE.where(schedule.c.next_slot_at >= db_now_plus(literal(-ON_TIME_SECONDS)))
_OPEN = (
    func.count().label("runs"),
    func.sum(case((run.c.queued, 1), else_=0)).label("queued"),
    func.count(run.c.backfill_id).label("backfilled"),
)
# How many unfinished runs these schedules have, and how many of them queue. Served by rota_run_open_schedule.
FIND_OPEN = (
    select(run.c.open_schedule_id, *_OPEN)
    .where(run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)))
    .group_by(run.c.open_schedule_id)
)
# The same for each target, of schedules whose jobs run on all nodes: what is found is sorted for that.
FIND_OPEN_OF_NODES = (
    select(run.c.open_schedule_id, run.c.target_node, *_OPEN, func.max(run.c.slot_at).label("latest_slot"))
    .where(run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)))
    .group_by(run.c.open_schedule_id, run.c.target_node)
)
# What a new slot of these schedules replaces: nothing that a backfill has done. Served by rota_run_open_schedule.
FIND_REPLACED = (
    select(
        run.c.id,
        run.c.open_schedule_id,
        run.c.target_node,
        run.c.schedule,
        run.c.state,
        run.c.fence,
        run.c.claim_id,
    )
    .where(
        run.c.open_schedule_id.in_(bindparam("schedule_ids", expanding=True)),
        run.c.backfill_id.is_(None),
    )
    .order_by(run.c.id)
    .with_for_update()
)
ASK_REPLACED = (
    update(run)
    .where(
        run.c.id.in_(bindparam("ids", expanding=True)),
        run.c.state == RunState.RUNNING.value,
        run.c.cancel_asked_at.is_(None),
    )
    .values(cancel_asked_at=db_now(), cancel_asked_by=func.coalesce(literal("schedule ") + run.c.schedule, ""))
)
TELL_REPLACED = tell_runs(
    run.c.id.in_(bindparam("ids", expanding=True)),
    from_state=run.c.state,
    reason=literal(Reason.CANCEL.value),
    text=literal("a newer slot of its schedule replaces it; its node is to stop it"),
    attempt=run.c.attempt,
    node=run.c.node,
)

_cursors = given_rows(
    "cursors",
    schedule_id="id",
    cursor_version="id",
    next_slot_at="instant",
    last_slot_at="instant",
    skips_in_row="id",
    problem="text",
)
# As IS_ACTIVE, hidden from the index on the state: by that, SQLite would read every active schedule.
_IS_STILL_ACTIVE = and_(func.coalesce(schedule.c.state, "") == JobState.ACTIVE.value, schedule.c.problem.is_(None))
# Move the cursors, if nobody has meanwhile. The first statement of a firing. Served by the primary key.
MOVE_CURSORS = (
    update(schedule)
    .where(
        schedule.c.id == _cursors.c.schedule_id,
        schedule.c.cursor_version == _cursors.c.cursor_version,
        _IS_STILL_ACTIVE,
    )
    .values(
        next_slot_at=_cursors.c.next_slot_at,
        last_slot_at=func.coalesce(_cursors.c.last_slot_at, schedule.c.last_slot_at),
        cursor_version=schedule.c.cursor_version + 1,
        skips_in_row=func.coalesce(_cursors.c.skips_in_row, schedule.c.skips_in_row),
        problem=_cursors.c.problem,
    )
)
_TOLD = ["at", "schedule", "kind", "to_state", "text", "node"]
TELL_PROBLEMS = insert(event).from_select(
    _TOLD,
    select(
        db_now(),
        schedule.c.name,
        literal("schedule"),
        literal("set aside"),
        schedule.c.problem,
        bindparam("told_by", type_=String),
    ).where(schedule.c.id == _cursors.c.schedule_id, _cursors.c.problem.is_not(None)),
)

_skipping = given_rows("skipping", schedule_id="id", text="text")
TELL_SKIPPING = insert(event).from_select(
    _TOLD,
    select(
        db_now(),
        schedule.c.name,
        literal("schedule"),
        literal("skipping"),
        _skipping.c.text,
        bindparam("told_by", type_=String),
    ).where(schedule.c.id == _skipping.c.schedule_id),
)


@dataclass(frozen=True, slots=True)
class Fired:
    """What one round of firing did."""

    schedules: int = 0
    runs: int = 0  # rows of the ledger, of whatever state
    set_aside: int = 0
    ready: int = 0

    def __add__(self, other: Fired) -> Fired:
        return Fired(
            self.schedules + other.schedules,
            self.runs + other.runs,
            self.set_aside + other.set_aside,
            self.ready + other.ready,
        )


def fire_schedules(
    database: Database,
    *,
    fired_by: str,
    limit: int = FIRE_BATCH_MAX,
    is_held: bool = False,
    as_of: datetime | None = None,
) -> Fired:
    """Decide the slots that are due, of up to ``limit`` schedules, and move their cursors past them.

    ``is_held`` leaves alone what is late, while the clock is not trusted; ``as_of`` is as for ``rescue_runs``. Any
    number of nodes may do it at once: the compare-and-set lets one of them decide each schedule. What it read of
    unfinished runs may have ended when it writes, and none can have been added but by a person, so that a slot is
    skipped at most as it was a moment before.

    Raises:
        DatabaseRefused: it does not take what was decided about one of them; the others have been fired all the same.
        DatabaseUnavailable: nothing was fired; calling again is safe.
    """

    find = FIND_DUE_ON_TIME if is_held else FIND_DUE
    parameters = {"limit": limit, "as_of": as_of}
    try:
        return _fire(database, find, parameters, fired_by)
    except DatabaseRefused:
        due = database.read(lambda connection: connection.execute(find, parameters).all())
        if len(due) == 1:
            raise
    # One of them holds what the database does not take, or it takes nothing of any: each goes by itself.
    fired, refusals = Fired(), list[DatabaseRefused]()
    for row in due:
        try:
            fired += _fire(database, find.where(schedule.c.id == row.id), parameters, fired_by)
        except DatabaseRefused as error:
            refusals.append(DatabaseRefused(f"schedule {row.name} cannot be fired: {error}"))
    if refusals:
        raise refusals[0]
    return fired


@dataclass(slots=True)
class _Plan:
    """What was decided about the slots that are due, and is to be written."""

    cursors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    slots: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    replacing: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])  # targets by schedule
    skipping: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    told: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # slots of jobs of which somebody is told


def _fire(database: Database, find: Select[Any], parameters: Mapping[str, Any], fired_by: str) -> Fired:
    def fire() -> Fired:
        # Decided before the transaction, which is short then: SQLite's other writers wait for it.
        plan = database.read(lambda connection: _plan(connection, find, parameters))
        if not plan.cursors:
            return Fired()
        crash.at("fire.decided")
        fired = database.write(lambda connection: _write(connection, plan, fired_by), repeatable=True)
        crash.at("fire.committed")
        return fired

    return until_fresh(fire)


def _plan(connection: Connection, find: Select[Any], parameters: Mapping[str, Any]) -> _Plan:
    plan = _Plan()
    rows = connection.execute(find, parameters).all()
    if not rows:
        return plan
    opened = read_open(connection, rows)
    known = load_calendars(connection, names_of_calendars(rows))
    registered = Registered(connection)
    for row in rows:
        cursor, decided = _decide(row, opened.get(row.id, {}), known, registered)
        plan.cursors.append(cursor)
        if decided is None:
            continue
        slots = [slot_row(row, decision, target) for target, decision in decided.slots]
        plan.slots.extend(slots)
        plan.told.extend(slots if row.is_told else ())
        if decided.replacing:
            plan.replacing[row.id] = decided.replacing
        if (text := _warn_of_skips(row, decided)) is not None:
            plan.skipping.append({"schedule_id": row.id, "text": text})
        if len(plan.slots) >= ROWS_MAX:  # the schedules after it are due at the next look
            break
    return plan


def read_open(connection: Connection, rows: Sequence[AnyRow]) -> dict[int, dict[str, Unfinished]]:
    """Return what these schedules have unfinished: for each target, where that makes a difference.

    Nothing of what waits for others first: what stands in the way of such a slot is known when these are done.
    """
    opened: dict[int, dict[str, Unfinished]] = {}
    rows = [row for row in rows if not _awaits(row)]
    of_nodes = [row.id for row in rows if row.runs_on == RunsOn.ALL.value]
    others = [row.id for row in rows if row.runs_on != RunsOn.ALL.value]
    if others:
        for row in connection.execute(FIND_OPEN, {"schedule_ids": others}):
            opened[row.open_schedule_id] = {
                ANY: Unfinished(row.runs - row.backfilled, int(row.queued), backfilled=row.backfilled)
            }
    if of_nodes:
        for row in connection.execute(FIND_OPEN_OF_NODES, {"schedule_ids": of_nodes}):
            unfinished = Unfinished(
                row.runs - row.backfilled, int(row.queued), row.latest_slot, backfilled=row.backfilled
            )
            opened.setdefault(row.open_schedule_id, {})[row.target_node] = unfinished
    return opened


def _write(connection: Connection, plan: _Plan, fired_by: str) -> Fired:
    given = encode_rows(plan.cursors)
    if connection.execute(MOVE_CURSORS, {"cursors": given}).rowcount != len(plan.cursors):
        raise Stale("another node fired some of these schedules")
    crash.at("fire.moved")
    if plan.replacing:
        cancel_replaced(connection, plan.replacing)
    insert_slots(connection, plan.slots)
    tell_missed_slots(connection, plan.told)
    if plan.skipping:
        connection.execute(TELL_SKIPPING, {"skipping": encode_rows(plan.skipping), "told_by": fired_by})
    set_aside = sum(1 for cursor in plan.cursors if cursor.get("problem"))
    if set_aside:
        connection.execute(TELL_PROBLEMS, {"cursors": given, "told_by": fired_by})
    ready = sum(1 for slot in plan.slots if slot["state"] == RunState.READY.value)
    crash.at("fire.written")
    return Fired(len(plan.cursors), len(plan.slots), set_aside, ready)


def _decide(
    row: AnyRow, opened: Mapping[str, Unfinished], known: Mapping[str, Calendar], registered: Registered
) -> tuple[dict[str, Any], Decided | None]:
    cursor: dict[str, Any] = {"schedule_id": row.id, "cursor_version": row.cursor_version}
    try:
        key_of(row.concurrency_key, row.args)  # what cannot be one is found before anything is written
        targets = registered.targets(row.runs_on, row.pool, row.exclude)
        rule, job_paused = rule_of(row, known), row.job_state == JobState.PAUSED.value
        decided = decide_targets(
            targets,
            opened,
            row.skips_in_row,
            lambda unfinished: decide_slots(
                rule, row.next_slot_at, row.now, unfinished=unfinished, job_paused=job_paused
            ),
            last_slot=row.last_slot_at,
        )
    except (RotaError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        # A row that was written by hand, or by a newer program: it waits for a person, and the others go on.
        log.error("schedule %s is set aside: %s", row.name, error)
        return cursor | {"next_slot_at": row.next_slot_at, "problem": f"cannot be fired: {error}"}, None
    cursor |= {
        "next_slot_at": decided.next_slot,
        "last_slot_at": decided.last_slot,
        "skips_in_row": decided.skips_in_row,
    }
    return cursor, decided


def names_of_calendars(rows: Iterable[AnyRow]) -> list[str]:
    """Return the calendars that these schedules name; what cannot be read names none, and is refused by ``rule_of``."""
    names: set[str] = set()
    for row in rows:
        if row.calendars is not None:
            with contextlib.suppress(Invalid):
                names.update(read_names("calendars", row.calendars))
    return sorted(names)


def rule_of(row: AnyRow, known: Mapping[str, Calendar]) -> SlotRule:
    """Read a schedule's row with the same checks as at the doors: anybody may have changed it in SQL since.

    Raises:
        Invalid: a value breaks its rule.
    """
    definition = {item.name: getattr(row, item.name) for item in fields(ScheduleSpec) if item.name != "job"}
    spec = ScheduleSpec.from_definition(definition | {"job": row.job_name})
    if row.anchor_at is None and spec.timing(row.next_slot_at).needs_anchor:
        raise Invalid("anchor_at", None, f"a schedule of kind {spec.kind} needs an anchor")
    rule = spec.rule(row.next_slot_at, known, check_start_within(row.job_start_within_seconds))
    return replace(rule, awaits=True) if row.after is not None else rule


def _warn_of_skips(row: AnyRow, decided: Decided) -> str | None:
    """Return a warning when so many slots in a row were skipped that somebody should know: 3, 30, 300 and so on."""
    skips = decided.skips_in_row
    if skips <= row.skips_in_row:
        return None
    mark = SKIPS_WARNED_FROM
    while mark * 10 <= skips:
        mark *= 10
    if not row.skips_in_row < mark <= skips:
        return None
    where = f" on {say_names(decided.skipping)}" if decided.skipping else ""
    text = (
        f"{skips} slots in a row were skipped{where}, since an earlier run has not finished: it takes longer than its "
        "rhythm"
    )
    log.warning("schedule %s: %s", row.name, text)
    return text


def cancel_replaced(connection: Connection, replacing: Mapping[int, Sequence[str]]) -> None:
    """Withdraw what waits for these targets of schedules, and ask for the end of what runs."""
    found = connection.execute(FIND_REPLACED, {"schedule_ids": sorted(replacing)}).all()
    targets = {schedule_id: frozenset(names) for schedule_id, names in replacing.items()}
    rows = [row for row in found if is_in_the_way(row.target_node, targets[row.open_schedule_id])]
    running = [row.id for row in rows if row.state == RunState.RUNNING.value]
    if running:
        connection.execute(ASK_REPLACED, {"ids": running})
        connection.execute(TELL_REPLACED, {"ids": running})
    apply_moves(
        connection,
        [
            Move(
                run_id=row.id,
                fence=row.fence,
                claim_id=row.claim_id,
                source=RunState(row.state),
                target=RunState.CANCELLED,
                because=Because.CANCEL_ASKED,
                reason=Reason.CANCEL,
                text="a newer slot of its schedule replaces it",
                actor=f"schedule {row.schedule}"[:200],
            )
            for row in rows
            if row.state != RunState.RUNNING.value
        ],
    )


def _awaits(row: AnyRow) -> bool:
    return row.after is not None or bool(row.in_order)


def slot_row(row: AnyRow, decision: SlotDecision, target: str = ANY) -> dict[str, Any]:
    """Return the row of the ledger for what was decided about a slot of the schedule in ``row``, for one target."""
    awaits = _awaits(row) and decision.makes_run
    state, reason, text = decision.state, decision.reason, decision.text
    if awaits:
        before = "the slot before it" if row.after is None else "what it builds on"
        state, reason, text = RunState.WAITING, Reason.UPSTREAM, f"{text}; {before} is to be done first"
    return {
        "awaits": awaits,
        "target_node": target,
        "group_id": slot_group(row.id, decision.slot) if is_for_all(row.runs_on) else None,
        "job_id": row.job_id,
        "job": row.job_name,
        "schedule_id": row.id,
        "schedule": row.name,
        "slot_at": decision.slot,
        "slot_count": decision.slot_count,
        "slot_last_at": decision.slot_last,
        "state": state.value,
        "reason": reason.value,
        "reason_text": text,
        "args": row.args,
        "pool": row.pool,
        "priority": row.priority,
        "delivery": row.delivery,
        "requested_by": f"schedule:{row.name}"[:200],
        "run_at": decision.run_at,
        "start_by": decision.start_by,
        # What awaits others queues when these are done; a program of schema 5 wakes what queues.
        "queued": decision.queued and not awaits,
        # Slots in order are done until they succeed, unless the job says how often to try.
        "retries": FOR_EVER if row.in_order and row.job_retries == 0 else None,
        "lease_seconds": row.lease_seconds,
        "concurrency_key": key_of(row.concurrency_key, row.args),
        "finished": decision.state in FINISHED,
    }
