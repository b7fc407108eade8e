"""The findings that are open: one node looks for all of them once a minute, and tells what has begun and ended since.

Invariant: a finding is told when it begins, when it becomes critical, and when it ends, by one event and one line in
the log of the node that looked, however many nodes there are and however long it lasts. Looking itself is in
``health``. Called by the scheduler of every node.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, literal, or_, select, update

from rota.model.findings import Finding, FindingCode, Severity, worse
from rota.store.alerts import tell_findings
from rota.store.database import Database
from rota.store.events import TELL_CHANGE
from rota.store.health import READ_FINDINGS, check_health
from rota.store.moves import write_fresh
from rota.store.tables import finding, schema
from rota.store.types import Instant, db_now, db_now_plus

log = logging.getLogger("rota.health")

WATCH_SECONDS = 60.0
ENDED_AFTER_SECONDS = 90.0  # what comes and goes from one look to the next is told once

_OF_SCHEDULES = {
    FindingCode.SCHEDULE_SET_ASIDE.value,
    FindingCode.SCHEDULE_STOPPED.value,
    FindingCode.SCHEDULE_SKIPPING.value,
}
_OF_JOBS = {FindingCode.JOB_FAILING.value, FindingCode.RUN_LONG.value, FindingCode.BREAKER_OPEN.value}

_looked_at = select(schema.c.health_looked_at).where(schema.c.id == 1).scalar_subquery()


def _is_due(moment: ColumnElement[Any]) -> ColumnElement[bool]:
    # In the future it lies after the clock was put back.
    minute = literal(WATCH_SECONDS)
    return or_(moment.is_(None), moment <= db_now_plus(-minute), moment > db_now_plus(minute))


# Whether nobody has looked for a minute; to be a part of another statement.
IS_LOOK_DUE = _is_due(_looked_at)
# The look of this minute is mine, unless it was somebody else's.
TAKE_LOOK = update(schema).where(schema.c.id == 1, _is_due(schema.c.health_looked_at)).values(health_looked_at=db_now())
READ_LOOK = select(schema.c.health_looked_at).where(schema.c.id == 1)
# Still mine: whoever was slower than a minute has been overtaken, and writes nothing. The first statement of telling;
# its lock keeps two nodes from telling at once.
KEEP_LOOK = (
    update(schema)
    .where(schema.c.id == 1, schema.c.health_looked_at == bindparam("mine", type_=Instant()))
    .values(health_looked_at=schema.c.health_looked_at)
)
_of_finding = finding.c.id == bindparam("of_id")
ADD_FINDINGS = insert(finding).values(seen_at=db_now())
SEE_FINDING = (
    update(finding)
    .where(_of_finding)
    .values(seen_at=db_now(), severity=bindparam("new_severity"), text=bindparam("new_text"))
)
END_FINDINGS = delete(finding).where(finding.c.id.in_(bindparam("ids", expanding=True)))


@dataclass(frozen=True, slots=True)
class Told:
    """What one look of the cluster told."""

    begun: int = 0
    worse: int = 0  # became critical
    ended: int = 0


def watch_health(database: Database, *, node: str) -> Told | None:
    """Look, if no node has for a minute, and tell what has begun or ended since; None when it is not our turn.

    Each is told once, whichever nodes look: by an event of kind ``health``, and in the log of the one that looked.

    Raises:
        DatabaseUnavailable: the look of this minute may be left out.
    """

    def take(connection: Connection) -> datetime | None:
        return connection.execute(READ_LOOK).scalar() if connection.execute(TAKE_LOOK).rowcount == 1 else None

    mine = database.write(take, repeatable=True)
    if mine is None:
        return None
    found = [one for one in check_health(database).findings if one.severity is not Severity.INFO]
    lines: list[tuple[int, str]] = []

    def tell(connection: Connection) -> Told | None:
        lines.clear()
        if connection.execute(KEEP_LOOK, {"mine": mine}).rowcount != 1:
            return None
        return _note(connection, found, mine, node, lines)

    told = write_fresh(database, tell)
    for level, line in lines:
        log.log(level, "%s", line)
    return told


def _note(
    connection: Connection, found: Sequence[Finding], now: datetime, node: str, lines: list[tuple[int, str]]
) -> Told:
    """Write what was found beside what was open, an event for each that began, got worse or ended, and its log line."""
    opened = {(row.code, row.subject): row for row in connection.execute(READ_FINDINGS)}
    begun: list[Finding] = []
    seen: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    risen = 0
    for one in found:
        row = opened.pop((one.code.value, one.subject), None)
        before = None if row is None else Severity(row.severity)
        worst = one.severity if before is None else worse(before, one.severity)
        if row is None:
            begun.append(one)
        else:
            seen.append({"of_id": row.id, "new_severity": worst.value, "new_text": one.text})
            risen += worst is not before
        if worst is not before:
            events.append(_event_of(one.code.value, one.subject, worst.value, one.text, node))
            lines.append((logging.ERROR if worst is Severity.CRITICAL else logging.WARNING, one.text))
    gone = [row for row in opened.values() if (now - row.seen_at).total_seconds() >= ENDED_AFTER_SECONDS]
    for row in gone:
        sentence = f"this has ended: {row.text}"
        events.append(_event_of(row.code, row.subject, "ended", sentence, node))
        lines.append((logging.INFO, sentence))
    if begun:
        rows = [
            {
                "code": one.code.value,
                "subject": one.subject,
                "severity": one.severity.value,
                "text": one.text,
                "since": one.since or now,
            }
            for one in begun
        ]
        connection.execute(ADD_FINDINGS, rows)
    if seen:
        connection.execute(SEE_FINDING, seen)
    if gone:
        connection.execute(END_FINDINGS, {"ids": [row.id for row in gone]})
    if events:
        connection.execute(TELL_CHANGE, events)
    tell_findings(connection, found, now)
    return Told(len(begun), risen, len(gone))


def _event_of(code: str, subject: str, became: str, sentence: str, node: str) -> dict[str, Any]:
    return {
        "kind": "health",
        "to_state": became,
        "reason": code,
        "text": sentence,
        "node": node,
        "schedule": subject if code in _OF_SCHEDULES else None,
        "job": subject if code in _OF_JOBS else None,
    }
