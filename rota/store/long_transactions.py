"""Transactions of somebody else that have been open for long: what is changed since they began cannot be cleaned away.

Invariant: asked only where somebody looks, in one statement, and never an error: an account that may not see them sees
none. What they ask for is not read, since it may hold secrets. Called by ``status``.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from rota.errors import DatabaseRefused
from rota.model.findings import Finding, FindingCode, Severity
from rota.model.instants import say_moment
from rota.store.database import Database, now_of
from rota.store.shown import say_span

log = logging.getLogger("rota")

LONG_SECONDS = 600.0
NAMED_MAX = 5


def find_long_transactions(database: Database) -> Finding | None:
    """Tell of those that have been open for ten minutes; None where there are none, or none may be seen.

    Raises:
        DatabaseUnavailable: nobody answers.
    """
    find, end = database.dialect.find_transactions, database.dialect.end_session
    if find is None:
        return None

    def read(connection: Connection) -> tuple[datetime, list[tuple[int, float]]]:
        rows = connection.execute(text(find), {"seconds": LONG_SECONDS, "limit": NAMED_MAX + 1}).all()
        return now_of(connection), [(int(row.session), float(row.seconds)) for row in rows]

    try:
        now, found = database.read(read)
    except DatabaseRefused as error:  # as without the right PROCESS in MySQL and MariaDB
        log.debug("transactions of others are not looked for: %s", error)
        return None
    if not found:
        return None
    oldest = now - timedelta(seconds=found[0][1])
    each = [
        f"session {session} since {say_moment(now - timedelta(seconds=seconds))}, for "
        f"{say_span(timedelta(seconds=round(seconds)))} (`{end.format(session)}` ends it)"
        for session, seconds in found[:NAMED_MAX]
    ]
    others = "; and others" if len(found) > NAMED_MAX else ""
    sentence = (
        f"transactions have been open for long: {'; '.join(each)}{others}. Until they end the database keeps all rows "
        "that were changed since, so that its tables grow and what reads them slows down: commit or end them"
    )
    return Finding(Severity.WARNING, FindingCode.TRANSACTION_LONG, "database", sentence, oldest)
