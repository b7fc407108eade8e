"""Schedules: adding, changing, pausing and deleting them, and showing them.

Invariant: the cursor moves forward only, and by compare-and-set. Resuming and editing never replay the past: slots that
went by meanwhile leave one row in the ledger that counts them and says why nobody ran them. Values are checked by
``rota.model`` before they get here. Called by the doors; firing is in ``firing``. Over-long, since
all that may happen to a schedule, from its addition to its deletion, moves the same cursor.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from rota.errors import AlreadyExists, Invalid, NotFound, RotaError
from rota.model.placement import RunsOn
from rota.model.policy import Firing, Unfinished, decide_resumed
from rota.model.reasons import Reason
from rota.model.schedule import ScheduleSpec
from rota.model.slot_rule import OnClosed, SlotRule
from rota.model.states import JobState, RunState
from rota.model.timing import Timing
from rota.store.audit import Act, note_acts
from rota.store.calendars import load_calendars
from rota.store.creation import insert_slots
from rota.store.database import Database, now_of
from rota.store.events import TELL_CHANGE, tell_change
from rota.store.fanout import Registered, decide_targets, slot_group
from rota.store.firing import cancel_replaced, names_of_calendars, read_open, rule_of, slot_row
from rota.store.groups import read_completeness, show_completeness
from rota.store.jobs import Declared, IfExists, adding, changed_names, differences, encode_definition
from rota.store.listing import PAGE_ROWS, Listing, has_part
from rota.store.moves import Stale, write_fresh
from rota.store.schedule_rows import columns_of, show_schedule, spec_of
from rota.store.shown import shown
from rota.store.tables import job, schedule
from rota.store.types import db_now
from rota.store.wakeup import announce

PAGE_MAX = 500
ADDED_PER_TRANSACTION = 1000
# What makes another timing of it, with slots of its own. The anchor is looked at apart.
_TIMING_FIELDS = ("kind", "expression", "zone", "gap", "fold", "start_at", "end_at", "first_run_at", "on_closed")

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
    job.c.concurrency_key,
    job.c.runs_on,
    job.c.exclude,
    job.c.after,
    job.c.retries.label("job_retries"),
)
_SHOWN = select(*shown(schedule.c), *_JOB).join(job, job.c.id == schedule.c.job_id)
READ_SHOWN = _SHOWN.where(schedule.c.name == bindparam("name"))
LIST_SCHEDULES = Listing(
    _SHOWN,
    schedule.c.name,
    {
        "search": has_part(schedule.c.name),
        "state": schedule.c.state == bindparam("state"),
        "job": job.c.name == bindparam("job"),
        "ghosts": schedule.c.ghost_since.is_not(None),
    },
)
# Its last slot, whose group may be there.
LAST_GROUP = select(schedule.c.id, schedule.c.last_slot_at).where(schedule.c.name == bindparam("name"))
READ_SCHEDULE = (
    select(
        schedule,
        *_JOB,
        job.c.env.label("job_env"),
        job.c.secrets.label("job_secrets"),
        job.c.start_within_seconds.label("job_start_within_seconds"),
        db_now().label("now"),
    )
    .join(job, job.c.id == schedule.c.job_id)
    .where(schedule.c.name == bindparam("name"))
)
READ_JOB_IDS = select(job.c.id, job.c.name, job.c.timeline).where(job.c.name.in_(bindparam("names", expanding=True)))
FIND_NAMES = select(schedule.c.name).where(schedule.c.name.in_(bindparam("names", expanding=True)))


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
        known = load_calendars(connection, spec.calendars)
        spec.rule(now, known)  # refuses calendars that are not there, before anything is stored
        values = columns_of(_job_ids(connection, [spec]), spec, now) | {"next_slot_at": spec.first_slot(now, known)}
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


def add_schedules(
    database: Database, specs: Sequence[ScheduleSpec], *, actor: str, if_exists: IfExists = "error"
) -> int:
    """Add many schedules, up to 1000 of them in one transaction, and return how many were added.

    When it raises midway through more than 1000, the transactions before have happened: send all of them again with
    ``if_exists="skip"``.

    Raises:
        AlreadyExists: a key is taken, or given twice; nothing of its thousand was stored.
        NotFound: there is no such job; nothing of its thousand was stored.
        Invalid: one would never be due again; nothing of its thousand was stored.
    """
    if if_exists == "update":
        for spec in specs:
            add_schedule(database, spec, actor=actor, if_exists=if_exists)
        return len(specs)
    added = 0
    for start in range(0, len(specs), ADDED_PER_TRANSACTION):
        chunk = list(specs[start : start + ADDED_PER_TRANSACTION])
        first = f"{chunk[0].name}, or one of the {len(chunk) - 1} after it"
        added += adding(database, "schedule", first, partial(_add_many, chunk, actor, if_exists))
    return added


def _add_many(specs: list[ScheduleSpec], actor: str, if_exists: IfExists, connection: Connection) -> int:
    names = [spec.name for spec in specs]
    taken = set(connection.execute(FIND_NAMES, {"names": names}).scalars())
    if if_exists == "error":
        twice = next((name for name, number in Counter(names).items() if number > 1), None)
        if taken or twice is not None:
            raise AlreadyExists("schedule", min(taken) if taken else str(twice))
    # Of a key that is given twice the first one counts.
    wanted = list({spec.name: spec for spec in reversed(specs) if spec.name not in taken}.values())[::-1]
    if not wanted:
        return 0
    now = now_of(connection)
    known = load_calendars(connection, {name for spec in wanted for name in spec.calendars})
    job_ids = _job_ids(connection, wanted)
    rows: list[dict[str, Any]] = []
    for spec in wanted:
        spec.rule(now, known)
        rows.append(columns_of(job_ids, spec, now) | {"next_slot_at": spec.first_slot(now, known)})
    connection.execute(INSERT_SCHEDULE, rows)
    connection.execute(
        TELL_CHANGE,
        [
            {
                "kind": "schedule",
                "to_state": "added",
                "text": f"schedule {spec.name} was added for job {spec.job}",
                "actor": actor[:200],
                "job": spec.job,
                "schedule": spec.name,
            }
            for spec in wanted
        ],
    )
    note_acts(
        connection,
        actor,
        [Act("schedule", spec.name, "added", f"schedule {spec.name} was added for job {spec.job}") for spec in wanted],
    )
    announce(connection)
    return len(wanted)


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
        row = read_for_change(connection, name)
        old = spec_of(row)
        _replace(connection, row, old, change(old), actor)
        return _show_one(connection, name)

    return write_fresh(database, edit)


def replace_schedule(database: Database, spec: ScheduleSpec, *, actor: str) -> dict[str, Any]:
    """Put ``spec`` in the place of the schedule of its name, also when what stands there cannot be understood."""

    def replace(connection: Connection) -> dict[str, Any]:
        row = read_for_change(connection, spec.name)
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
        row = read_for_change(connection, spec.name)
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
        if _as_written_now(row.declared) != encode_definition(held):
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


def _as_written_now(declared: str | None) -> str | None:
    """Return what code declared as this version writes it: a field that it does not know yet has its default."""
    if declared is None:
        return None
    try:
        return encode_definition(ScheduleSpec.from_definition(json.loads(declared)).definition())
    except (RotaError, ValueError, AttributeError, RecursionError):
        return declared


def pause_schedule(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Decide no more slots of the schedule until it is resumed; its runs go on."""

    def pause(connection: Connection) -> dict[str, Any]:
        row = read_for_change(connection, name)
        if row.state != JobState.PAUSED.value:
            _change(connection, row, {"state": JobState.PAUSED.value, "paused_at": row.now})
            _tell(connection, row, "paused", actor)
        return _show_one(connection, name)

    return write_fresh(database, pause)


def resume_schedule(database: Database, name: str, *, actor: str, latest: bool = False) -> dict[str, Any]:
    """Go on with the first slot after the database's now; one row tells of those that went by meanwhile.

    With ``latest`` the newest of these whose start window is still open runs all the same.
    """

    def resume(connection: Connection) -> dict[str, Any]:
        row = read_for_change(connection, name)
        if row.state == JobState.PAUSED.value:
            values: dict[str, Any] = {"state": JobState.ACTIVE.value, "paused_at": None}
            passed: list[dict[str, Any]] = []
            if row.next_slot_at is not None and row.next_slot_at <= row.now:
                try:
                    known = load_calendars(connection, names_of_calendars([row]))
                    decided = decide_targets(
                        Registered(connection).targets(row.runs_on, row.pool, row.exclude),
                        read_open(connection, [row]).get(row.id, {}),
                        row.skips_in_row,
                        partial(_decide_resumed, row, rule_of(row, known), latest),
                    )
                except (RotaError, ValueError, ArithmeticError, LookupError):
                    pass  # firing will set it aside, and say why
                else:
                    if decided.replacing:
                        cancel_replaced(connection, {row.id: decided.replacing})
                    passed = [slot_row(row, decision, target) for target, decision in decided.slots]
                    values |= {"next_slot_at": decided.next_slot, "last_slot_at": decided.last_slot}
            _change(connection, row, values)
            insert_slots(connection, passed)
            _tell(connection, row, "resumed", actor, f"; {passed[-1]['reason_text']}" if passed else "")
            announce(connection)
        return _show_one(connection, name)

    return write_fresh(database, resume)


def _decide_resumed(row: Row[Any], rule: SlotRule, latest: bool, unfinished: Unfinished) -> Firing:
    return decide_resumed(rule, row.next_slot_at, row.now, _say_paused(row), unfinished=unfinished, latest=latest)


def move_on_by_calendar(connection: Connection, names: Iterable[str]) -> None:
    """Compute the next slot anew of those of the schedules ``names`` whose slots a calendar moves and that are idle."""
    for name in names:
        row = read_for_change(connection, name)
        if row.on_closed == OnClosed.SKIP.value or row.next_slot_at is None or row.next_slot_at <= row.now:
            continue
        try:
            timing = spec_of(row).timing(row.created_at, load_calendars(connection, names_of_calendars([row])))
            after = row.now if row.last_slot_at is None else max(row.now, row.last_slot_at)
            _change(connection, row, {"next_slot_at": timing.next(after)})
        except RotaError:
            continue  # firing will set it aside, and say why


def delete_schedule(database: Database, name: str, *, actor: str) -> None:
    """Delete a schedule. Its runs stay: those that wait or run go on, unless they are cancelled.

    Raises:
        NotFound: there is no such schedule.
    """

    def remove(connection: Connection) -> None:
        row = read_for_change(connection, name)
        passed = _passed_over(row, _timing_of(connection, row), actor)
        which = {"schedule_id": row.id, "of_cursor": row.cursor_version}
        if connection.execute(DELETE_SCHEDULE, which).rowcount != 1:
            raise Stale(f"schedule {name} was changed meanwhile")
        insert_slots(connection, [passed] if passed else [])
        _tell(connection, row, "deleted", actor)

    write_fresh(database, remove)


def read_schedule(database: Database, name: str) -> dict[str, Any]:
    """Return how a schedule is shown; of one whose job runs on all nodes, how complete its last slot is.

    Raises:
        NotFound: there is no such schedule.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = connection.execute(LAST_GROUP, {"name": name}).one_or_none()
        group = slot_group(row.id, row.last_slot_at) if row is not None and row.last_slot_at is not None else None
        found = read_completeness(connection, [group] if group is not None else [])
        last = {"group": group, **(show_completeness(found[group]) or {})} if group in found else None
        return _show_one(connection, name) | {"last_group": last}

    return database.read(read)


def _timing_of(connection: Connection, row: Row[Any]) -> Timing | None:
    try:
        return spec_of(row).timing(row.created_at, load_calendars(connection, names_of_calendars([row])))
    except RotaError:
        return None


def list_schedules(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` schedules in the order of their keys: ``after`` one, and those that pass the filters."""
    return [show_schedule(row) for row in database.read(lambda c: LIST_SCHEDULES.read(c, limit=limit, **filters))]


def read_for_change(connection: Connection, name: str) -> Row[Any]:
    """Return the row of a schedule, with what of its job decides about slots, and the database's now.

    Raises:
        NotFound: there is no such schedule.
    """
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


def _tell(
    connection: Connection, row: Row[Any], became: str, actor: str, more: str = "", audited: str | None = None
) -> None:
    said = f"schedule {row.name} was {became}"
    audited = None if audited is None else f"{said}{audited}"
    text = f"{said}{more}"
    tell_change(connection, "schedule", became, text, actor=actor, schedule=row.name, job=row.job_name, audited=audited)


def _replace(connection: Connection, row: Row[Any], old: ScheduleSpec | None, new: ScheduleSpec, actor: str) -> None:
    if old is not None and new.anchor_at is None and same_timing(old, new):
        # The same interval goes on with the grid it has; another one starts its own now.
        new = dataclasses.replace(new, anchor_at=old.anchor_at)
    if new == old and row.problem is None:
        return
    known = load_calendars(connection, new.calendars)
    new.rule(row.now, known)  # refuses calendars that are not there, before anything is stored
    values = columns_of(_job_ids(connection, [new]), new, row.now) | {"problem": None}
    passed = None
    if old is None or row.problem is not None or not same_timing(old, new) or old.anchor_at != new.anchor_at:
        passed = _passed_over(row, _timing_of(connection, row) if old is not None else None, actor)
        last = (passed.get("slot_last_at") or passed["slot_at"]) if passed else row.last_slot_at
        after = row.now if last is None else max(row.now, last)
        values |= {"next_slot_at": new.first_slot(after, known), "last_slot_at": last}
    _change(connection, row, values)
    insert_slots(connection, [passed] if passed else [])
    was, is_now = old.definition() if old is not None else None, new.definition()
    _tell(connection, row, "edited", actor, f": {differences(was, is_now)}", f": {changed_names(was, is_now)}")
    announce(connection)


def same_timing(old: ScheduleSpec, new: ScheduleSpec) -> bool:
    """Tell whether the slots of both are the same ones, but for an anchor."""
    moves = new.on_closed is not OnClosed.SKIP
    names = (*_TIMING_FIELDS, "calendars") if moves else _TIMING_FIELDS
    return all(getattr(old, name) == getattr(new, name) for name in names)


def _passed_over(row: Row[Any], timing: Timing | None, actor: str) -> dict[str, Any] | None:
    """Return one row of the ledger for the slots that are due and that nobody has decided, or None."""
    first: datetime | None = row.next_slot_at
    if first is None or first > row.now:
        return None
    before = first - timedelta(microseconds=1)
    count = max(1, timing.count(before, row.now)) if timing is not None else 1
    last = timing.last(before, row.now, 1)[-1] if timing is not None and count > 1 else None
    if row.state == JobState.PAUSED.value:
        reason, why = Reason.SCHEDULE_PAUSED, _say_paused(row)
    else:
        reason, why = Reason.OPERATOR, f"{actor} changed the schedule before anybody had decided about it"
    return {
        "job_id": row.job_id,
        "job": row.job_name,
        "schedule_id": row.id,
        "schedule": row.name,
        "group_id": slot_group(row.id, first) if row.runs_on == RunsOn.ALL.value else None,
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


def _say_paused(row: Row[Any]) -> str:
    since = f" since {row.paused_at:%Y-%m-%d %H:%M:%S} UTC" if row.paused_at is not None else ""
    return f"the schedule was paused{since}"


def _job_ids(connection: Connection, specs: Iterable[ScheduleSpec]) -> dict[str, int]:
    found = connection.execute(READ_JOB_IDS, {"names": sorted({spec.job for spec in specs})}).all()
    for row in found:
        if row.timeline is not None:
            raise Invalid("job", row.name, "it has periods, for which its runs are made: it takes no schedule")
    return {row.name: row.id for row in found}
