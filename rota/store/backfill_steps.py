"""Stepping backfills: making the next runs of each, as many as it may have at once.

Invariant: the place of a backfill moves only by compare-and-set on its version, in the transaction that makes the runs
of the slots it passes; so whichever nodes step, and wherever one of them dies, each slot is looked at once. What has
ended is read in the ledger, never counted along. Called by the scheduler of every node. Over-long, since what is looked
at and what is written for it are one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, literal, select, update
from sqlalchemy.exc import DBAPIError

from rota import crash
from rota.errors import DatabaseUnavailable, RotaError
from rota.model.backfill import BackfillState, Fate, Wish, has_passed
from rota.model.policy import SlotDecision
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUpOrder, Overlap
from rota.model.states import RunState
from rota.store.backfill_ends import (
    CLOSE_BACKFILL,
    END_PART,
    READ_UNFINISHED,
    Counts,
    count_states,
    end_cancelled,
    tell_backfill,
    withdraw_runs,
)
from rota.store.backfill_slots import (
    READ_PAIRS_AMONG,
    READ_SCHEDULES_FOR_SLOTS,
    Course,
    Judged,
    awaits,
    judge_slots,
    slots_of,
    why_never,
    why_not,
)
from rota.store.backfill_spans import split_off
from rota.store.calendars import load_calendars
from rota.store.creation import insert_slots
from rota.store.database import Database
from rota.store.dialects import Trouble
from rota.store.downstream import redo_runs
from rota.store.firing import names_of_calendars, rule_of, slot_row
from rota.store.moves import write_fresh
from rota.store.tables import backfill, backfill_part, schedule
from rota.store.types import AnyRow, db_now, db_now_plus
from rota.store.wakeup import announce

LOOK_SECONDS = 5.0  # what nobody brings forward is looked at so often
BACKFILLS_MAX = 20  # in one round
SLOTS_LOOKED_MAX = 1000  # of one schedule in one step, of which most are left as they are

# Served by rota_backfill_due.
FIND_BACKFILLS = (
    select(backfill.c.id, backfill.c.version)
    .where(backfill.c.due_at <= db_now())
    .order_by(backfill.c.due_at)
    .limit(bindparam("limit"))
)
# The first statement of a step: whoever was quicker has moved the version. Served by the primary key.
BEGIN_STEP = (
    update(backfill)
    .where(
        backfill.c.id == bindparam("of_id"),
        backfill.c.version == bindparam("of_version"),
        backfill.c.due_at.is_not(None),
    )
    .values(version=backfill.c.version + 1, due_at=db_now_plus(literal(LOOK_SECONDS)))
)
READ_BACKFILL = select(backfill, db_now().label("now")).where(backfill.c.id == bindparam("id"))
READ_PARTS = (
    select(backfill_part).where(backfill_part.c.backfill_id == bindparam("backfill_id")).order_by(backfill_part.c.id)
)
# From here on no firing decides about these schedules by what was unfinished before. Served by the primary key.
HOLD_FIRING = (
    update(schedule)
    .where(schedule.c.id.in_(bindparam("schedule_ids", expanding=True)))
    .values(cursor_version=schedule.c.cursor_version + 1)
)
MOVE_PART = (
    update(backfill_part)
    .where(backfill_part.c.id == bindparam("of_id"))
    .values(
        {
            name: bindparam(name, type_=backfill_part.c[name].type)
            for name in ("next_slot_at", "slots_total", "slots_seen", "slots_passed", "problem")
        }
    )
)
LOOK_AGAIN_AT_ONCE = update(backfill).where(backfill.c.id == bindparam("of_id")).values(due_at=db_now())


@dataclass(frozen=True, slots=True)
class Stepped:
    """What stepping has done."""

    runs: int = 0  # that were made, or are to be done again
    ready: int = 0  # of these, how many may start at once
    is_full: bool = False  # there is more to do at once


def step_backfills(database: Database, *, limit: int = BACKFILLS_MAX) -> Stepped:
    """Make the next runs of the backfills that are due, and end those of which nothing is left.

    Any number of nodes may do it at once: the compare-and-set lets one of them take each step.

    Raises:
        DatabaseUnavailable: what was done before stays done; calling again is safe.
        ValueError: the row of one was changed by hand, and cannot be understood; the others were stepped all the same.
    """
    due = database.read(lambda connection: connection.execute(FIND_BACKFILLS, {"limit": limit}).all())
    total, trouble = Stepped(is_full=len(due) == limit), None
    for row in due:

        def step(connection: Connection, backfill_id: int = row.id, version: int = row.version) -> Stepped:
            stepped = _step(connection, backfill_id, version)
            crash.at("backfill.written")
            return stepped

        try:
            stepped = write_fresh(database, step)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - raised when the others have been stepped
            if isinstance(error, DBAPIError) and database.dialect.classify(error) is Trouble.TAKEN:
                stepped = Stepped(is_full=True)  # a slot has got its row from somebody else at this moment
            else:
                trouble = trouble or error
                continue
        crash.at("backfill.committed")
        total = Stepped(total.runs + stepped.runs, total.ready + stepped.ready, total.is_full or stepped.is_full)
    if trouble is not None:
        raise trouble
    return total


def _step(connection: Connection, backfill_id: int, version: int) -> Stepped:
    if connection.execute(BEGIN_STEP, {"of_id": backfill_id, "of_version": version}).rowcount != 1:
        return Stepped()  # another node has
    row = connection.execute(READ_BACKFILL, {"id": backfill_id}).one()
    if row.state == BackfillState.CANCELLED:
        return _step_cancelled(connection, row)
    parts = connection.execute(READ_PARTS, {"backfill_id": backfill_id}).all()
    step = _Step(connection, row, parts)
    step.take()
    step.write()
    return step.finish()


@dataclass(slots=True)
class _Taking:
    """What is to be done for one part."""

    part: AnyRow
    course: Course
    taken: list[Judged] = field(default_factory=list[Judged])
    closed: list[datetime] = field(default_factory=list[datetime])
    seen: int = 0
    passed: int = 0
    place: datetime | None = None
    problem: str | None = None
    is_cut: bool = False  # more slots can be looked at


def wish_of(row: AnyRow) -> Wish:
    """Read what was asked for back from its row."""
    return Wish(
        CatchUpOrder(row.slot_order), row.max_active, bool(row.downstream), bool(row.again), bool(row.failed_only)
    )


class _Step:
    """One step of one backfill, within a transaction that has its version."""

    def __init__(self, connection: Connection, row: AnyRow, parts: Sequence[AnyRow]) -> None:
        self._connection = connection
        self._row = row
        self._parts = parts
        self._left = [part for part in parts if part.ended_at is None]
        self._wish = wish_of(row)
        ids = sorted({part.schedule_id for part in self._left})
        found: Sequence[AnyRow] = connection.execute(READ_SCHEDULES_FOR_SLOTS, {"schedule_ids": ids}).all()
        self._schedules: dict[int, AnyRow] = {one.id: one for one in found}
        self._known = load_calendars(connection, names_of_calendars(found))
        self._unfinished = self._read_unfinished(ids)
        self._problems: dict[int, str] = {}  # by part: why it is not looked at now
        self._over: dict[int, str] = {}  # by part: why it ends before its last slot
        self._takings: list[_Taking] = []

    def _read_unfinished(self, schedule_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        if not schedule_ids:
            return {}
        which = {"schedule_ids": list(schedule_ids), "backfill_id": self._row.id}
        found = self._connection.execute(READ_UNFINISHED, which)
        return {row.open_schedule_id: (int(row.own), int(row.others)) for row in found}

    # -- deciding

    def take(self) -> None:
        """Decide what is to be done now; nothing is written but a lock."""
        courses = [(part, course) for part in self._left if (course := self._course(part)) is not None]
        wanting = [(part, course) for part, course in courses if self._free(part)]
        held = sorted({part.schedule_id for part, course in wanting if _excludes_others(course.row)})
        if held:
            self._connection.execute(HOLD_FIRING, {"schedule_ids": held})
            self._unfinished |= dict.fromkeys(held, (0, 0)) | self._read_unfinished(held)
        for part, course in wanting:
            if free := self._free(part):
                self._takings.append(self._look(part, course, free))

    def _free(self, part: AnyRow) -> int:
        """Return how many runs it may have now."""
        own, others = self._unfinished.get(part.schedule_id, (0, 0))
        if others and _excludes_others(self._schedules[part.schedule_id]):
            self._problems[part.id] = "another run of its schedule is unfinished"
            return 0
        self._problems.pop(part.id, None)
        return max(0, self._wish.max_active - own)

    def _course(self, part: AnyRow) -> Course | None:
        row = self._schedules.get(part.schedule_id)
        if row is None:
            self._over[part.id] = f"schedule {part.schedule} was deleted"
            return None
        if part.next_slot_at is None:
            return None
        try:
            if (over := why_never(row)) is not None:
                self._over[part.id] = over
                return None
            if (reason := why_not(row)) is not None:
                self._problems[part.id] = reason
                return None
            rule = rule_of(row, self._known)
            upstreams = self._upstreams(part)
            gates = [
                (rule_of(self._schedules[up.schedule_id], self._known), up.next_slot_at)
                for up in upstreams
                if up.ended_at is None and up.next_slot_at is not None and up.schedule_id in self._schedules
            ]
        except (RotaError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            self._problems[part.id] = f"schedule {part.schedule} cannot be understood: {error}"
            return None
        order = self._wish.order
        slots = slots_of(row, rule, part.from_at, part.to_at).from_place(part.next_slot_at, order)
        return Course(
            row=row,
            rule=rule,
            slots=slots,
            wish=self._wish,
            since=self._row.created_at,
            backfill_id=self._row.id,
            built_on=bool(part.built_on),
            is_reached=lambda slot: all(has_passed(one.timing, place, slot, order) for one, place in gates),
            upstream_ids=[up.schedule_id for up in upstreams],
        )

    def _upstreams(self, part: AnyRow) -> list[AnyRow]:
        """Return the parts that this one is built on."""
        if not part.built_on:
            return []
        job_ids = sorted({one.job_id for one in self._parts})
        pairs = self._connection.execute(READ_PAIRS_AMONG, {"job_ids": job_ids})
        upstream_ids = {pair.upstream_id for pair in pairs if pair.job_id == part.job_id}
        return [one for one in self._parts if one.job_id in upstream_ids]

    def _look(self, part: AnyRow, course: Course, free: int) -> _Taking:
        """Look at slots from the part's place on, until as many are taken as it may have."""
        taking = _Taking(part, course)
        order, slots = self._wish.order, course.slots
        wanted = 2 * free + 8
        while True:
            page = judge_slots(self._connection, replace(course, slots=slots), min(SLOTS_LOOKED_MAX, wanted))
            wanted *= 4  # most of them may be left as they are
            for judged in page:
                if judged.fate is Fate.HELD:
                    assert judged.row is not None
                    taking.problem = f"it goes on when run {judged.row.id}, which is built on what is replaced, ends"
                    break
                if judged.fate in {Fate.NEW, Fate.AGAIN}:
                    if len(taking.taken) == free:
                        break
                    taking.taken.append(judged)
                else:
                    taking.passed += 1
                    if judged.fate is Fate.CLOSED:
                        taking.closed.append(judged.slot)
                taking.seen += 1
                slots = slots.beyond(judged.slot, order)
            else:
                if page and taking.seen < SLOTS_LOOKED_MAX:
                    continue
                taking.is_cut = bool(page)
            break
        taking.place = next(iter(slots.in_order(order, 1)), None)
        taking.course = replace(course, slots=slots)
        return taking

    # -- writing

    def write(self) -> None:
        """Write what was decided."""
        rows: list[dict[str, Any]] = []
        for taking in self._takings:
            rows += self._write_taken(taking)
            rows += [_closed_row(taking.course, slot) for slot in taking.closed]
        insert_slots(self._connection, rows)
        if self._takings:
            self._connection.execute(
                MOVE_PART,
                [
                    {
                        "of_id": taking.part.id,
                        "next_slot_at": taking.place,
                        "slots_seen": taking.part.slots_seen + taking.seen,
                        "slots_total": taking.part.slots_seen + taking.seen + taking.course.slots.count(),
                        "slots_passed": taking.part.slots_passed + taking.passed,
                        "problem": taking.problem,
                    }
                    for taking in self._takings
                ],
            )
        looked = {taking.part.id for taking in self._takings}
        told = [part for part in self._left if part.id not in looked and part.problem != self._problems.get(part.id)]
        for part in told:
            values = {
                name: getattr(part, name) for name in ("next_slot_at", "slots_seen", "slots_total", "slots_passed")
            }
            self._connection.execute(MOVE_PART, values | {"of_id": part.id, "problem": self._problems.get(part.id)})

    def _write_taken(self, taking: _Taking) -> list[dict[str, Any]]:
        """Have what has a row done again; return the rows of the others."""
        course, text = taking.course, _say(self._row)
        again: list[AnyRow] = []
        new: list[datetime] = []
        shared: dict[int, list[Judged]] = {}
        for judged in taking.taken:
            if judged.row is None:
                new.append(judged.slot)
            elif judged.row.slot_count > 1:
                shared.setdefault(judged.row.id, []).append(judged)
            else:
                again.append(judged.row)
        for of_row in shared.values():
            row = of_row[0].row
            assert row is not None
            slots = [judged.slot for judged in of_row]
            if split_off(self._connection, course.rule, row, slots, text):
                new += slots
            else:  # none of the others is left: the row is that of the last one
                new += slots[:-1]
                again.append(row)
        redo_runs(
            self._connection,
            again,
            text,
            actor=self._row.requested_by,
            awaits=awaits(course.row),
            backfill_id=self._row.id,
        )
        return [_new_row(self._row, course, slot, text) for slot in new]

    def finish(self) -> Stepped:
        """End the parts that are through and have nothing unfinished, and the backfill with its last part."""
        moved = {taking.part.id: taking for taking in self._takings}
        runs = sum(len(taking.taken) for taking in self._takings)
        ready = sum(len(taking.taken) for taking in self._takings if not awaits(taking.course.row))
        ending: list[AnyRow] = []
        for part in self._left:
            taking = moved.get(part.id)
            place = part.next_slot_at if taking is None else taking.place
            is_busy = taking is not None and bool(taking.taken)
            is_over = part.id in self._over or (place is None and not is_busy)
            if is_over and self._unfinished.get(part.schedule_id, (0, 0))[0] == 0:
                ending.append(part)
        if ending:
            counts = count_states(self._connection, self._row.id)
            for part in ending:
                count = counts.get(part.schedule_id, Counts())
                values = {"of_id": part.id, "problem": self._over.get(part.id)}
                self._connection.execute(END_PART, values | {"succeeded": count.succeeded, "failed": count.failed})
        # What is built on a slot that was taken now is reached at the next step.
        is_full = any(taking.is_cut or (taking.seen and self._wish.downstream) for taking in self._takings)
        if len(ending) == len(self._left):
            self._connection.execute(CLOSE_BACKFILL, {"of_id": self._row.id, "state": BackfillState.ENDED.value})
            tell_backfill(self._connection, self._row, "ended", actor=None)
        elif is_full:
            self._connection.execute(LOOK_AGAIN_AT_ONCE, {"of_id": self._row.id})
        if ready:
            announce(self._connection)
        return Stepped(runs, ready, is_full)


def _excludes_others(row: AnyRow) -> bool:
    """Whether a run of its schedule is not to start beside one that is not the backfill's.

    Where runs wait for upstreams that is decided when these are done.
    """
    return row.overlap != Overlap.ALLOW.value and not awaits(row)


def _say(row: AnyRow) -> str:
    return f"backfill {row.id}, asked for by {row.requested_by}"


def _new_row(row: AnyRow, course: Course, slot: datetime, text: str) -> dict[str, Any]:
    # Not at its own moment in the line for a worker: what is due now would stand behind all that is past.
    run_at, now = course.rule.run_at(slot), course.row.now
    is_ahead = run_at > now
    decision = SlotDecision(
        slot=slot,
        state=RunState.WAITING if is_ahead else RunState.READY,
        reason=Reason.DELAY if is_ahead else Reason.ASKED,
        text=text,
        run_at=max(run_at, now),
        start_by=None,
    )
    return slot_row(course.row, decision) | {"backfill_id": row.id, "requested_by": row.requested_by}


def _closed_row(course: Course, slot: datetime) -> dict[str, Any]:
    why = course.rule.closed(slot)
    assert why is not None, "it was judged by that"
    decision = SlotDecision(slot, RunState.SKIPPED, Reason.CALENDAR, why, course.rule.run_at(slot), None)
    return slot_row(course.row, decision)


def _step_cancelled(connection: Connection, row: AnyRow) -> Stepped:
    parts = connection.execute(READ_PARTS, {"backfill_id": row.id}).all()
    if withdraw_runs(connection, row, parts):
        return Stepped()
    end_cancelled(connection, row, parts)
    return Stepped()
