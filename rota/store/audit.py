"""The audit: who did what, and through which door.

Invariant: an act of a person and its row come into force in one transaction, so that there is neither without the
other. Who acts is an ``Actor``; what a node does by itself is done in a plain text's name and leaves no row. No text
holds a value that somebody gave: arguments, variables, statements. Written by the functions of the store that act;
read by the doors; tidied by ``retention``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, desc, func, insert, select

from rota import crash
from rota.model.actor import Actor
from rota.model.pages import Page
from rota.store.database import Database
from rota.store.shown import shown
from rota.store.tables import audit
from rota.store.types import Id, Instant, Number, db_now, db_now_plus, encode_rows, given_rows

LIST_MAX = 1000
REMOVED_MAX = 500
# Rows get number and moment at about the same time, and the clock may have been put back by less than this.
DISORDER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did to what."""

    kind: str
    subject: str
    did: str
    text: str


_acts = given_rows(
    "acts", actor="name", door="word", address="token", via="name", kind="word", subject="name", did="word", text="text"
)
_GIVEN = {name: _acts.c[name] for name in ("actor", "door", "address", "via", "kind", "subject", "did", "text")}
NOTE_ACTS = insert(audit).from_select(["at", *_GIVEN], select(db_now(), *_GIVEN.values()))

_CONDITIONS = {
    "actor": audit.c.actor == bindparam("actor"),
    "door": audit.c.door == bindparam("door"),
    "kind": audit.c.kind == bindparam("kind"),
    "subject": audit.c.subject == bindparam("subject"),
    "did": audit.c.did == bindparam("did"),
    "since": audit.c.at >= bindparam("since", type_=Instant()),
    "until": audit.c.at < bindparam("until", type_=Instant()),
    "last": audit.c.id < bindparam("last", type_=Id),
    "first": audit.c.id > bindparam("first", type_=Id),
    "before": audit.c.id < bindparam("before", type_=Id),
}
# Not by the index of kinds: SQLite, without statistics, would rather read all of a kind than the few of one thing.
_KIND_OF_SUBJECT = func.coalesce(audit.c.kind, "") == bindparam("kind")
_lists: dict[tuple[str, ...], Select[Any]] = {}
# The last row of well before a time: what is newer has a higher number. Served by rota_audit_at.
FIND_BEFORE = (
    select(audit.c.id).where(audit.c.at < bindparam("at", type_=Instant())).order_by(desc(audit.c.at)).limit(1)
)
# The first row of well after a time: what is older has a lower number. Served by rota_audit_at.
FIND_AFTER = select(audit.c.id).where(audit.c.at > bindparam("at", type_=Instant())).order_by(audit.c.at).limit(1)
# Served by the primary key.
FIND_OLD = (
    select(audit.c.id, (audit.c.at < db_now_plus(bindparam("minus_seconds", type_=Number))).label("is_old"))
    .order_by(audit.c.id)
    .limit(REMOVED_MAX)
)
REMOVE_AUDIT = delete(audit).where(audit.c.id.in_(bindparam("ids", expanding=True)))


def note_act(connection: Connection, actor: str | None, kind: str, subject: object, did: str, text: str) -> None:
    """Write that ``actor`` did something, into the caller's transaction; nothing where no person acts."""
    note_acts(connection, actor, [Act(kind, str(subject), did, text)])


def note_acts(connection: Connection, actor: str | None, acts: Iterable[Act]) -> None:
    """Write all that ``actor`` did, in one statement, into the caller's transaction; nothing where no person acts."""
    if not isinstance(actor, Actor):
        return
    by = {"actor": str(actor), "door": actor.door.value, "address": actor.address, "via": actor.via}
    rows = [by | {"kind": act.kind, "subject": act.subject[:200], "did": act.did, "text": act.text} for act in acts]
    if rows:
        connection.execute(NOTE_ACTS, {"acts": encode_rows(rows)})
        crash.at("act.noted")


def list_statement(names: Sequence[str]) -> Select[Any]:
    """Build, once per combination of conditions, the list of acts: newest first, paged by id.

    Served by rota_audit_actor, rota_audit_door, rota_audit_kind and rota_audit_subject, or by the primary key: where
    somebody has done a good part of all, the database may rather read from the newest on until there are enough.
    """
    key = tuple(sorted(names))
    if key not in _lists:
        by_name = _CONDITIONS | ({"kind": _KIND_OF_SUBJECT} if "subject" in key else {})
        conditions = (by_name[name] for name in key)
        _lists[key] = select(*shown(audit.c)).where(*conditions).order_by(desc(audit.c.id)).limit(bindparam("limit"))
    return _lists[key]


def list_audit(
    database: Database,
    *,
    actor: str | None = None,
    door: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    did: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Page[dict[str, Any]]:
    """Return what was done, the newest first: at most ``limit``, up to 1000, of what has a number below ``before``.

    ``next`` of it is the ``before`` of the next page. By ``did`` all of its kind may be read.
    """
    asked = {
        "actor": actor, "door": door, "kind": kind, "subject": subject, "did": did, "since": since, "until": until,
        "before": before,
    }  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    most = min(limit, LIST_MAX)

    def read(connection: Connection) -> Page[dict[str, Any]]:
        if since is not None:
            well_before = {"at": since - DISORDER}
            given["first"] = connection.execute(FIND_BEFORE, well_before).scalar() or 0
        if until is not None and (last := connection.execute(FIND_AFTER, {"at": until + DISORDER}).scalar()):
            given["last"] = last
        rows = connection.execute(list_statement(tuple(given)), given | {"limit": most + 1}).all()
        views = [{column.key: getattr(row, column.key) for column in audit.c} for row in rows[:most]]
        return Page(views, views[-1]["id"] if len(rows) > most else None)

    return database.read(read)


def remove_audit(database: Database, keep_seconds: float) -> int:
    """Remove up to 500 of the oldest rows, of those that are older than this; return how many went.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """
    given = {"minus_seconds": -keep_seconds}
    rows = database.read(lambda connection: connection.execute(FIND_OLD, given).all())
    ids = [row.id for row in rows if row.is_old]
    if ids:
        database.write(lambda connection: connection.execute(REMOVE_AUDIT, {"ids": ids}), repeatable=True)
    return len(ids)
