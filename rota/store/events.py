"""The history: what was done to jobs, schedules and nodes, and by whom; and reading it back.

Invariant: a change that a person asked for leaves an event in its own transaction. The events of runs are written where
their state changes, by statements that ``tell_runs`` makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Row,
    Select,
    bindparam,
    desc,
    insert,
    literal,
    select,
)

from rota.model.actor import Actor
from rota.store.audit import note_act
from rota.store.shown import shown
from rota.store.tables import event, run
from rota.store.types import db_now, encode_rows, given_rows

EVENTS_MAX = 200

TELL_CHANGE = insert(event).values(at=db_now())


def tell_runs(*where: ColumnElement[bool], **different: ColumnElement[Any]) -> Insert:
    """Make the statement that tells where the runs that ``where`` finds are now.

    It reads the runs themselves, so that the event cannot say anything else than the row. ``different`` gives columns
    that the row does not have, or has otherwise.
    """
    told: dict[str, ColumnElement[Any]] = {
        "at": db_now(),
        "run_id": run.c.id,
        "schedule": run.c.schedule,
        "job": run.c.job,
        "kind": literal("run"),
        "to_state": run.c.state,
        "reason": run.c.reason,
        "text": run.c.reason_text,
    }
    told |= different
    return insert(event).from_select(list(told), select(*told.values()).where(*where))


_EVENT = shown(event.c)
# The history of these runs, oldest first. Served by rota_event_run.
READ_RUN_EVENTS = (
    select(*_EVENT).where(event.c.run_id.in_(bindparam("run_ids", expanding=True))).order_by(event.c.run_id, event.c.id)
)


def _latest_of(subject: Any) -> Select[Any]:
    return (
        select(*_EVENT)
        .where(subject == bindparam("name"), event.c.kind == bindparam("kind"), event.c.run_id.is_(None))
        .order_by(desc(event.c.id))
        .limit(bindparam("limit"))
    )


# What was done to one job, schedule or node lately, newest first.
READ_JOB_EVENTS = _latest_of(event.c.job)
READ_SCHEDULE_EVENTS = _latest_of(event.c.schedule)
READ_NODE_EVENTS = _latest_of(event.c.node)
_READ_EVENTS = {
    "job": READ_JOB_EVENTS,
    "period": READ_JOB_EVENTS,
    "schedule": READ_SCHEDULE_EVENTS,
    "node": READ_NODE_EVENTS,
}


_periods = given_rows("periods", job="name", from_state="word", to_state="word", text="text", actor="name")
TELL_PERIODS = insert(event).from_select(
    ["at", "kind", "job", "from_state", "to_state", "text", "actor"],
    select(
        db_now(),
        literal("period"),
        _periods.c.job,
        _periods.c.from_state,
        _periods.c.to_state,
        _periods.c.text,
        _periods.c.actor,
    ),
)


def tell_periods(connection: Connection, told: Sequence[Mapping[str, Any]]) -> None:
    """Write events about periods: rows of ``job``, ``from_state``, ``to_state``, ``text`` and perhaps ``actor``."""
    if told:
        connection.execute(TELL_PERIODS, {"periods": encode_rows(told)})


def tell_change(
    connection: Connection,
    kind: str,
    became: str,
    text: str,
    *,
    actor: str | None = None,
    job: str | None = None,
    schedule: str | None = None,
    node: str | None = None,
    subject: object = None,
    audited: str | None = None,
) -> None:
    """Write one event about a job, a schedule or a node into the caller's transaction, and the audit of who did it.

    ``subject`` names what it is about where that is none of these. ``audited`` is what the audit says of it where the
    text quotes values.
    """
    connection.execute(
        TELL_CHANGE,
        {
            "kind": kind,
            "to_state": became,
            "text": text,
            "actor": actor[:200] if actor else None,
            "job": job,
            "schedule": schedule,
            "node": node,
        },
    )
    about = {"job": job, "schedule": schedule, "node": node}.get(kind, subject)
    assert about is not None or not isinstance(actor, Actor), f"an act on a {kind} has a subject"
    note_act(connection, actor, kind, about, became, text if audited is None else audited)


def read_events(connection: Connection, kind: str, name: str, *, limit: int = EVENTS_MAX) -> list[dict[str, Any]]:
    """Return what was done to the job, schedule or node ``name``, oldest first; the latest ``limit`` of it."""
    rows = connection.execute(_READ_EVENTS[kind], {"kind": kind, "name": name, "limit": limit}).all()
    return [show_event(row) for row in reversed(rows)]


def show_event(row: Row[Any]) -> dict[str, Any]:
    """Show an event with the words of the doors; what does not concern it is left out."""
    facts = {
        "at": row.at,
        "kind": row.kind,
        "from": row.from_state,
        "to": row.to_state,
        "reason": row.reason,
        "text": row.text,
        "attempt": row.attempt,
        "node": row.node,
        "actor": row.actor,
    }
    return {name: value for name, value in facts.items() if value is not None}
