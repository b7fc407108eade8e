"""Backfills: asking for the slots of the past, and looking at what has become of them.

Invariant: a backfill is stored whole, with the schedules it is about and the first slot of each, or not at all; what
runs for it is made by ``backfill_steps``. Called where a person asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, null, select, update

from rota import crash
from rota.errors import Conflict, NotFound
from rota.model.backfill import UNASKED_SLOTS_MAX, BackfillState, Wish
from rota.model.instants import format_instant, say_slot
from rota.store.backfill_ends import Counts, count_states, end_cancelled, tell_backfill, withdraw_runs
from rota.store.backfill_plans import find_schedules, find_timeline, plan_backfill, show_planned
from rota.store.backfill_steps import READ_PARTS
from rota.store.database import Database, now_of
from rota.store.listing import PAGE_ROWS, Listing
from rota.store.moves import write_fresh
from rota.store.tables import backfill, backfill_part
from rota.store.types import AnyRow, db_now
from rota.store.wakeup import announce

READ_BACKFILL = select(backfill).where(backfill.c.id == bindparam("id"))
LOCK_BACKFILL = READ_BACKFILL.with_for_update()
LIST_BACKFILLS = Listing(
    select(backfill),
    backfill.c.id,
    {"name": backfill.c.name == bindparam("name"), "state": backfill.c.state == bindparam("state")},
    newest_first=True,
)
LIST_PARTS = (
    select(backfill_part)
    .where(backfill_part.c.backfill_id.in_(bindparam("backfill_ids", expanding=True)))
    .order_by(backfill_part.c.id)
)
CHANGE_BACKFILL = (
    update(backfill)
    .where(backfill.c.id == bindparam("of_id"), backfill.c.version == bindparam("of_version"))
    .values(
        state=bindparam("state"),
        changed_by=bindparam("actor"),
        changed_at=db_now(),
        version=backfill.c.version + 1,
        due_at=db_now(),
    )
)
HOLD_BACKFILL = CHANGE_BACKFILL.values(due_at=null())


@dataclass(frozen=True, slots=True)
class Subject:
    """What a name means to which something of the past is to be done: schedules, or a job that has periods."""

    zone: str | None  # None: they have several
    has_periods: bool = False


def read_subject(database: Database, name: str) -> Subject:
    """Return what ``name`` means: the schedule of that name, or else the job.

    Raises:
        NotFound: there is neither such a schedule nor such a job.
        Conflict: the job has neither schedules nor periods.
    """

    def read(connection: Connection) -> Subject:
        if (timeline := find_timeline(connection, name)) is not None:
            return Subject(timeline.rule.zone.key, has_periods=True)
        zones = {row.zone for row in find_schedules(connection, name)}
        return Subject(next(iter(zones)) if len(zones) == 1 else None)

    return database.read(read)


def start_backfill(
    database: Database,
    name: str,
    start: datetime,
    end: datetime,
    wish: Wish,
    *,
    actor: str,
    confirmed: bool = False,
) -> dict[str, Any]:
    """Have the slots of a job's schedules, or of one schedule, at or after ``start`` and before ``end`` run.

    Raises:
        NotFound: there is neither such a schedule nor such a job.
        Invalid: the range is empty, or reaches beyond what has come.
        Conflict: a schedule of it is paused, set aside or for all nodes, or there are very many slots and it is not
            ``confirmed``; nothing was stored.
    """

    def begin(connection: Connection) -> int:
        parts = plan_backfill(connection, name, start, end, wish)
        total = sum(part.total for part in parts)
        if total > UNASKED_SLOTS_MAX and not confirmed:
            raise Conflict(
                f"a backfill of {name} from {say_slot(start)} to {say_slot(end)} has {total:,} slots, more than "
                f"{UNASKED_SLOTS_MAX:,}: ask for fewer with --from and --to, or for all of these with --yes"
            )
        values = {
            "name": name,
            "state": BackfillState.ACTIVE.value,
            "from_at": start,
            "to_at": end,
            "slot_order": wish.order.value,
            "max_active": wish.max_active,
            "again": wish.again,
            "failed_only": wish.failed_only,
            "downstream": wish.downstream,
            "requested_by": actor[:200],
            "created_at": now_of(connection),
            "version": 1,
        }
        inserted = connection.execute(insert(backfill).values(due_at=db_now()), values).inserted_primary_key
        assert inserted is not None, "its row has a number"
        made: int = inserted[0]
        connection.execute(insert(backfill_part), [part.values(made, wish.order) for part in parts])
        row = connection.execute(READ_BACKFILL, {"id": made}).one()
        tell_backfill(connection, row, "started", actor=actor, more=f" with {total} slots")
        announce(connection)
        return made

    # Not repeatable: with a lost answer to COMMIT nobody knows which one was made.
    return read_backfill(database, database.write(begin, repeatable=False))


def preview_backfill(database: Database, name: str, start: datetime, end: datetime, wish: Wish) -> dict[str, Any]:
    """Say what a backfill would do, and change nothing: for each schedule the slots, and how many are for what.

    Raises:
        As ``start_backfill``, but for the number of slots.
    """

    def read(connection: Connection) -> dict[str, Any]:
        now = now_of(connection)
        parts = plan_backfill(connection, name, start, end, wish)
        shown = [show_planned(connection, part, wish, now) for part in parts]
        return {"name": name, "slots": sum(part.total for part in parts), "schedules": shown}

    return database.read(read)


# -- looking


def list_backfills(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` backfills, the newest first: ``before`` one, and those that pass the filters."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = LIST_BACKFILLS.read(connection, limit=limit, **filters)
        ids = [row.id for row in rows]
        parts: dict[int, list[AnyRow]] = {}
        for part in connection.execute(LIST_PARTS, {"backfill_ids": ids}) if ids else ():
            parts.setdefault(part.backfill_id, []).append(part)
        return [_show(connection, row, parts.get(row.id, [])) for row in rows]

    return database.read(read)


def read_backfill(database: Database, backfill_id: int) -> dict[str, Any]:
    """Return how a backfill stands: its slots, how many of them are done, and the place it is at, of each schedule.

    Raises:
        NotFound: there is no such backfill.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = connection.execute(READ_BACKFILL, {"id": backfill_id}).one_or_none()
        if row is None:
            raise NotFound("backfill", backfill_id)
        return _show(connection, row, connection.execute(READ_PARTS, {"backfill_id": backfill_id}).all())

    return database.read(read)


_SUMS = ("slots", "done", "succeeded", "failed", "active", "passed_over", "left")


def _show(connection: Connection, row: AnyRow, parts: Sequence[AnyRow]) -> dict[str, Any]:
    is_open = any(part.ended_at is None for part in parts)
    counts = count_states(connection, row.id) if is_open else {}
    shown = [_show_part(part, counts.get(part.schedule_id, Counts())) for part in parts]
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "from": format_instant(row.from_at),
        "to": format_instant(row.to_at),
        "order": row.slot_order,
        "max_active": row.max_active,
        "again": bool(row.again),
        "failed_only": bool(row.failed_only),
        "downstream": bool(row.downstream),
        **{name: sum(part[name] for part in shown) for name in _SUMS},
        "requested_by": row.requested_by,
        "created_at": format_instant(row.created_at),
        "changed_by": row.changed_by,
        "changed_at": _instant(row.changed_at),
        "finished_at": _instant(row.finished_at),
        "schedules": shown,
    }


def _show_part(part: AnyRow, counts: Counts) -> dict[str, Any]:
    has_ended = part.ended_at is not None
    return {
        "schedule": part.schedule,
        "job": part.job,
        "built_on": bool(part.built_on),
        "slots": part.slots_total,
        # Those that were looked at and have ended, or are left as they are.
        "done": part.slots_seen - (0 if has_ended else counts.active),
        "succeeded": part.succeeded_count if has_ended else counts.succeeded,
        "failed": part.failed_count if has_ended else counts.failed,
        "active": 0 if has_ended else counts.active,
        "passed_over": part.slots_passed,
        "left": max(0, part.slots_total - part.slots_seen),
        "next_slot": _instant(part.next_slot_at),
        "problem": part.problem,
        "ended_at": _instant(part.ended_at),
    }


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else format_instant(moment)


# -- acting


def pause_backfill(database: Database, backfill_id: int, *, actor: str) -> dict[str, Any]:
    """Make no more runs of a backfill until it is resumed; those that it has made go on.

    Raises:
        NotFound: there is no such backfill.
        Conflict: it has ended, or was cancelled.
    """
    return _change(database, backfill_id, BackfillState.PAUSED, actor)


def resume_backfill(database: Database, backfill_id: int, *, actor: str) -> dict[str, Any]:
    """Go on with a paused backfill from where it is.

    Raises:
        NotFound: there is no such backfill.
        Conflict: it has ended, or was cancelled.
    """
    return _change(database, backfill_id, BackfillState.ACTIVE, actor)


def cancel_backfill(database: Database, backfill_id: int, *, actor: str) -> dict[str, Any]:
    """End a backfill: what it has made and has not started is withdrawn, and what runs is asked to stop.

    The first runs in the same transaction as the cancellation, the rest, should there be many, by any node after it.

    Raises:
        NotFound: there is no such backfill.
        Conflict: it has ended.
    """
    return _change(database, backfill_id, BackfillState.CANCELLED, actor)


_BECAME = {
    BackfillState.ACTIVE: "resumed",
    BackfillState.PAUSED: "paused",
    BackfillState.CANCELLED: "cancelled",
}


def _change(database: Database, backfill_id: int, state: BackfillState, actor: str) -> dict[str, Any]:
    def change(connection: Connection) -> None:
        row = connection.execute(LOCK_BACKFILL, {"id": backfill_id}).one_or_none()
        if row is None:
            raise NotFound("backfill", backfill_id)
        if row.state == state:
            return
        if row.state in {BackfillState.ENDED, BackfillState.CANCELLED}:
            became = "was cancelled" if row.state == BackfillState.CANCELLED else "has ended"
            raise Conflict(
                f"backfill {backfill_id} {became}: see `rota backfill show {backfill_id}`, and start another one for "
                "what is left"
            )
        statement = HOLD_BACKFILL if state is BackfillState.PAUSED else CHANGE_BACKFILL
        which = {"of_id": backfill_id, "of_version": row.version, "state": state.value, "actor": actor[:200]}
        assert connection.execute(statement, which).rowcount == 1, "its row is locked"
        tell_backfill(connection, row, _BECAME[state], actor=actor)
        if state is BackfillState.CANCELLED:
            parts = connection.execute(READ_PARTS, {"backfill_id": backfill_id}).all()
            row = connection.execute(READ_BACKFILL, {"id": backfill_id}).one()
            if not withdraw_runs(connection, row, parts):
                end_cancelled(connection, row, parts)
            crash.at("backfill.cancelled")
        announce(connection)

    write_fresh(database, change)
    return read_backfill(database, backfill_id)
