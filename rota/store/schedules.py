"""Schedules: adding, changing, pausing and deleting them, and showing them.

Invariant: the cursor moves forward only, and by compare-and-set. Resuming and editing never replay the past: slots that
went by meanwhile leave one row in the ledger that counts them and says why nobody ran them. Values are checked by
``rota.model`` before they get here. Called by the doors; firing is in ``slots``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from rota.errors import AlreadyExists, NotFound, RotaError
from rota.model.reasons import Reason
from rota.model.schedule import ScheduleSpec
from rota.model.states import JobState, RunState
from rota.model.timing import Timing, TimingKind
from rota.store.creation import insert_slots
from rota.store.database import Database, now_of
from rota.store.events import tell_change
from rota.store.jobs import Declared, IfExists, adding, differences, encode_definition
from rota.store.moves import Stale, write_fresh
from rota.store.shown import show_document, shown
from rota.store.tables import job, schedule
from rota.store.types import db_now
from rota.store.wakeup import announce

PAGE_MAX = 500
_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(ScheduleSpec))

INSERT_SCHEDULE = insert(schedule).values(
    state=JobState.ACTIVE.value, cursor_version=1, revision=1, created_at=db_now(), updated_at=db_now()
)
# Change a schedule, if neither a person nor a firing node has meanwhile. Served by the unique name.
CHANGE_SCHEDULE = (
    update(schedule)
    .where(
        schedule.c.name == bindparam("of_name"),
        schedule.c.revision == bindparam("of_revision"),
        schedule.c.cursor_version == bindparam("of_cursor"),
    )
    .values(revision=schedule.c.revision + 1, cursor_version=schedule.c.cursor_version + 1, updated_at=db_now())
)
NOTE_DECLARED = (
    update(schedule)
    .where(schedule.c.name == bindparam("of_name"))
    .values(declared=bindparam("definition"), declared_by=bindparam("module"))
)
DELETE_SCHEDULE = delete(schedule).where(
    schedule.c.id == bindparam("schedule_id"), schedule.c.cursor_version == bindparam("of_cursor")
)

_JOB = (
    job.c.name.label("job_name"),
    job.c.state.label("job_state"),
    job.c.pool,
    job.c.priority,
    job.c.delivery,
    job.c.lease_seconds,
)
_SHOWN = select(*shown(schedule.c), *_JOB).join(job, job.c.id == schedule.c.job_id)
READ_SHOWN = _SHOWN.where(schedule.c.name == bindparam("name"))
LIST_SCHEDULES = _SHOWN.where(schedule.c.name > bindparam("after")).order_by(schedule.c.name).limit(bindparam("limit"))
READ_SCHEDULE = (
    select(schedule, *_JOB, db_now().label("now"))
    .join(job, job.c.id == schedule.c.job_id)
    .where(schedule.c.name == bindparam("name"))
)
READ_JOB_ID = select(job.c.id).where(job.c.name == bindparam("name"))


def add_schedule(
    database: Database, spec: ScheduleSpec, *, actor: str, if_exists: IfExists = "error", declared_by: str | None = None
) -> dict[str, Any]:
    """Add a schedule, whose first slot is the first one after the database's now, and return how it is shown.

    Raises:
        AlreadyExists: the key is taken, and ``if_exists`` does not say what to do.
        NotFound: there is no such job.
        Invalid: it would never be due again.
    """

    def add(connection: Connection) -> dict[str, Any]:
        now = now_of(connection)
        values = _columns_of(connection, spec, now) | {"next_slot_at": spec.first_slot(now)}
        if declared_by is not None:
            values |= {"declared": encode_definition(spec.definition()), "declared_by": declared_by}
        connection.execute(INSERT_SCHEDULE, values)
        text = f"schedule {spec.name} was added for job {spec.job}"
        tell_change(connection, "schedule", "added", text, actor=actor, schedule=spec.name, job=spec.job)
        announce(connection)
        return _show_one(connection, spec.name)

    try:
        return adding(database, "schedule", spec.name, add)
    except AlreadyExists:
        if if_exists == "skip":
            return read_schedule(database, spec.name)
        if if_exists == "update":
            return replace_schedule(database, spec, actor=actor)
        raise


def edit_schedule(
    database: Database, name: str, change: Callable[[ScheduleSpec], ScheduleSpec], *, actor: str
) -> dict[str, Any]:
    """Replace a schedule's definition by what ``change`` makes of it, and return how it is shown.

    A new timing starts after the database's now. Slots that were due and that nobody had decided yet leave one row.

    Raises:
        NotFound: there is no such schedule, or no such job.
        Invalid: ``change`` refuses, or what stands in the row cannot be understood; nothing was changed.
    """

    def edit(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        old = spec_of(row)
        _replace(connection, row, old, change(old), actor)
        return _show_one(connection, name)

    return write_fresh(database, edit)


def replace_schedule(database: Database, spec: ScheduleSpec, *, actor: str) -> dict[str, Any]:
    """Put ``spec`` in the place of the schedule of its name, also when what stands there cannot be understood."""

    def replace(connection: Connection) -> dict[str, Any]:
        row = _read(connection, spec.name)
        try:
            old = spec_of(row)
        except RotaError:
            old = None
        _replace(connection, row, old, spec, actor)
        return _show_one(connection, spec.name)

    return write_fresh(database, replace)


def declare_schedule(database: Database, spec: ScheduleSpec, *, module: str, actor: str) -> tuple[Declared, str]:
    """Bring what code declares into force, unless somebody has edited it elsewhere since; see ``jobs.declare_job``."""
    wanted = encode_definition(spec.definition())

    def declare(connection: Connection) -> tuple[Declared, str]:
        row = _read(connection, spec.name)
        try:
            old = spec_of(row)
        except RotaError as error:
            return "edited elsewhere", f"what stands there cannot be understood: {error}"
        # Without an anchor of its own, code accepts the one that the database has chosen.
        held = (old if spec.anchor_at is not None else dataclasses.replace(old, anchor_at=None)).definition()
        if row.declared != wanted or row.declared_by != module:
            connection.execute(NOTE_DECLARED, {"of_name": spec.name, "definition": wanted, "module": module})
        if encode_definition(held) == wanted:
            return "unchanged", ""
        difference = differences(held, spec.definition())
        if row.declared != encode_definition(held):
            return "edited elsewhere", difference
        _replace(connection, row, old, spec, actor)
        return "changed", difference

    if database.read(lambda connection: connection.execute(READ_SHOWN, {"name": spec.name}).one_or_none()) is None:
        try:
            add_schedule(database, spec, actor=actor, declared_by=module)
        except AlreadyExists:
            pass  # another worker of the same code was faster
        else:
            return "added", ""
    return write_fresh(database, declare)


def pause_schedule(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Decide no more slots of the schedule until it is resumed; its runs go on."""

    def pause(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        if row.state != JobState.PAUSED.value:
            _change(connection, row, {"state": JobState.PAUSED.value, "paused_at": row.now})
            _tell(connection, row, "paused", actor)
        return _show_one(connection, name)

    return write_fresh(database, pause)


def resume_schedule(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Go on with the first slot after the database's now; one row tells of those that went by meanwhile."""

    def resume(connection: Connection) -> dict[str, Any]:
        row = _read(connection, name)
        if row.state == JobState.PAUSED.value:
            values: dict[str, Any] = {"state": JobState.ACTIVE.value, "paused_at": None}
            try:
                timing = spec_of(row).timing(row.created_at)
            except RotaError:
                timing = None  # firing will set it aside, and say why
            passed = _passed_over(row, timing, actor)
            if passed and timing is not None:
                last = passed.get("slot_last_at") or passed["slot_at"]
                values |= {"next_slot_at": timing.next(max(row.now, last)), "last_slot_at": last}
            _change(connection, row, values)
            insert_slots(connection, [passed] if passed else [])
            _tell(connection, row, "resumed", actor, f"; {passed['reason_text']}" if passed else "")
            announce(connection)
        return _show_one(connection, name)

    return write_fresh(database, resume)


def delete_schedule(database: Database, name: str, *, actor: str) -> None:
    """Delete a schedule. Its runs stay: those that wait or run go on, unless they are cancelled.

    Raises:
        NotFound: there is no such schedule.
    """

    def remove(connection: Connection) -> None:
        row = _read(connection, name)
        try:
            timing = spec_of(row).timing(row.created_at)
        except RotaError:
            timing = None
        passed = _passed_over(row, timing, actor)
        which = {"schedule_id": row.id, "of_cursor": row.cursor_version}
        if connection.execute(DELETE_SCHEDULE, which).rowcount != 1:
            raise Stale(f"schedule {name} was changed meanwhile")
        insert_slots(connection, [passed] if passed else [])
        _tell(connection, row, "deleted", actor)

    write_fresh(database, remove)


def read_schedule(database: Database, name: str) -> dict[str, Any]:
    """Return how a schedule is shown.

    Raises:
        NotFound: there is no such schedule.
    """
    return database.read(lambda connection: _show_one(connection, name))


def read_timing(database: Database, name: str) -> tuple[Timing, datetime]:
    """Return when a schedule is due, and the database's now.

    Raises:
        NotFound: there is no such schedule.
        Invalid: what stands in the row cannot be understood.
    """

    def read(connection: Connection) -> tuple[Timing, datetime]:
        row = _read(connection, name)
        return spec_of(row).timing(row.created_at), row.now

    return database.read(read)


def list_schedules(database: Database, *, after: str = "", limit: int = PAGE_MAX) -> list[dict[str, Any]]:
    """Return up to ``limit`` schedules whose keys come after ``after``, in the order of their keys."""
    rows = database.read(lambda connection: connection.execute(LIST_SCHEDULES, {"after": after, "limit": limit}).all())
    return [show_schedule(row) for row in rows]


def _read(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(READ_SCHEDULE, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("schedule", name)
    return row


def _show_one(connection: Connection, name: str) -> dict[str, Any]:
    row = connection.execute(READ_SHOWN, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("schedule", name)
    return show_schedule(row)


def _change(connection: Connection, row: Row[Any], values: Mapping[str, Any]) -> None:
    which = {"of_name": row.name, "of_revision": row.revision, "of_cursor": row.cursor_version}
    if connection.execute(CHANGE_SCHEDULE, which | dict(values)).rowcount != 1:
        raise Stale(f"schedule {row.name} was changed, or fired, meanwhile")


def _tell(connection: Connection, row: Row[Any], became: str, actor: str, more: str = "") -> None:
    text = f"schedule {row.name} was {became}{more}"
    tell_change(connection, "schedule", became, text, actor=actor, schedule=row.name, job=row.job_name)


def _replace(connection: Connection, row: Row[Any], old: ScheduleSpec | None, new: ScheduleSpec, actor: str) -> None:
    if old is not None and new.anchor_at is None and _same_timing(old, new):
        # The same interval goes on with the grid it has; another one starts its own now.
        new = dataclasses.replace(new, anchor_at=old.anchor_at)
    if new == old and row.problem is None:
        return
    values = _columns_of(connection, new, row.now) | {"problem": None}
    passed = None
    if old is None or row.problem is not None or not _same_timing(old, new) or old.anchor_at != new.anchor_at:
        passed = _passed_over(row, old.timing(row.created_at) if old is not None else None, actor)
        last = (passed.get("slot_last_at") or passed["slot_at"]) if passed else row.last_slot_at
        after = row.now if last is None else max(row.now, last)
        values |= {"next_slot_at": new.first_slot(after), "last_slot_at": last}
    _change(connection, row, values)
    insert_slots(connection, [passed] if passed else [])
    how = differences(old.definition(), new.definition()) if old is not None else "all of it was replaced"
    _tell(connection, row, "edited", actor, f": {how}")
    announce(connection)


def _same_timing(old: ScheduleSpec, new: ScheduleSpec) -> bool:
    return (old.kind, old.expression, old.zone) == (new.kind, new.expression, new.zone)


def _passed_over(row: Row[Any], timing: Timing | None, actor: str) -> dict[str, Any] | None:
    """Return one row of the ledger for the slots that are due and that nobody has decided, or None."""
    first: datetime | None = row.next_slot_at
    if first is None or first > row.now:
        return None
    before = first - timedelta(microseconds=1)
    count = max(1, timing.count(before, row.now)) if timing is not None else 1
    last = timing.last(before, row.now, 1)[-1] if timing is not None and count > 1 else None
    if row.state == JobState.PAUSED.value:
        since = f" since {row.paused_at:%Y-%m-%d %H:%M:%S} UTC" if row.paused_at is not None else ""
        reason, why = Reason.SCHEDULE_PAUSED, f"the schedule was paused{since}"
    else:
        reason, why = Reason.OPERATOR, f"{actor} changed the schedule before anybody had decided about it"
    return {
        "job_id": row.job_id,
        "job": row.job_name,
        "schedule_id": row.id,
        "schedule": row.name,
        "slot_at": first,
        "slot_count": count,
        "slot_last_at": last,
        "state": RunState.SKIPPED.value,
        "reason": reason.value,
        "reason_text": why if last is None else f"{why}; {count} slots went by, up to {last:%Y-%m-%d %H:%M:%S} UTC",
        "args": row.args,
        "pool": row.pool,
        "priority": row.priority,
        "delivery": row.delivery,
        "requested_by": f"schedule:{row.name}"[:200],
        "run_at": first + timedelta(seconds=row.delay_seconds),
        "queued": False,
        "lease_seconds": row.lease_seconds,
        "finished": True,
    }


def _columns_of(connection: Connection, spec: ScheduleSpec, now: datetime) -> dict[str, Any]:
    job_id = connection.execute(READ_JOB_ID, {"name": spec.job}).scalar()
    if job_id is None:
        raise NotFound("job", spec.job)
    values = spec.definition() | {
        "job_id": job_id,
        "args": spec.args,
        "anchor_at": (spec.anchor_at or now) if spec.kind is TimingKind.EVERY else None,
    }
    del values["job"]
    return values


def spec_of(row: Row[Any]) -> ScheduleSpec:
    """Read a schedule's row back, checked as at the doors.

    Raises:
        Invalid: somebody wrote into the row what no door would have accepted.
    """
    values: dict[str, Any] = {name: getattr(row, name) for name in _SPEC_FIELDS if name != "job"}
    return ScheduleSpec.from_definition(values | {"job": row.job_name})


def show_schedule(row: Row[Any]) -> dict[str, Any]:
    """Show a schedule with the words of the doors; spans of time in seconds. No row is refused for what it holds."""
    return {
        "key": row.name,
        "job": row.job_name,
        "state": row.state,
        "cron": row.expression if row.kind == TimingKind.CRON.value else None,
        "every": show_document(row.expression) if row.kind == TimingKind.EVERY.value else None,
        "at": row.expression if row.kind == TimingKind.AT.value else None,
        "tz": row.zone,
        "anchor": row.anchor_at,
        "delay": row.delay_seconds,
        "start_within": row.start_within_seconds,
        "catch_up": row.catch_up,
        "catch_up_limit": row.catch_up_limit,
        "overlap": row.overlap,
        "args": show_document(row.args),
        "next_slot": row.next_slot_at,
        "last_slot": row.last_slot_at,
        "problem": row.problem,
        "paused_at": row.paused_at,
        "revision": row.revision,
        "declared_by": row.declared_by,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
