"""Commands that are asked for with SQL: which there are, and what became of them.

Invariant: what a command does and its answer come into force in one transaction, so that each is carried out once
however often a node dies meanwhile. They are answered one after the other, in the order of their numbers, by whichever
node has the turn. Looking at them changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Boolean, Connection, bindparam, case, func, null, select, update
from sqlalchemy.exc import DBAPIError

from rota import crash
from rota.errors import NotFound
from rota.model.pages import Page
from rota.model.states import CommandState
from rota.store.bound import BoundDatabase
from rota.store.database import Database
from rota.store.dialects import Trouble
from rota.store.listing import Listing
from rota.store.moves import write_fresh
from rota.store.shown import show_document, shown
from rota.store.tables import command
from rota.store.turns import COMMANDS, take_turn
from rota.store.types import AnyRow, Id, Instant, db_now

log = logging.getLogger("rota.store")

LIST_MAX = 1000
LOOKED_AT_MAX = 50_000  # ids, for one page of what passes filters that no index serves
ERROR_LENGTH_MAX = 2000  # in a list; a refusal quotes what it was given, which may be long
# Numbers and moments are given at about the same time, and the clock may have been put back by less than this.
DISORDER = timedelta(hours=1)

_is_pending = command.c.state == CommandState.PENDING.value
# Served by rota_command_pending.
FIND_PENDING = select(command).where(_is_pending).order_by(command.c.id).limit(bindparam("limit"))
HAS_PENDING = select(command.c.id).where(_is_pending).limit(1).scalar_subquery().is_not(None)
# Served by the primary key.
ANSWER = (
    update(command)
    .where(command.c.id == bindparam("of_id"), _is_pending)
    .values(
        state=bindparam("new_state"),
        outcome=bindparam("new_outcome"),
        error=bindparam("new_error"),
        answered_at=db_now(),
        answered_by=bindparam("node"),
        params=case((bindparam("is_secret", type_=Boolean()), null()), else_=command.c.params),
    )
)

_DOCUMENTS = {"params", "outcome", "error"}
READ_COMMAND = select(*shown(command.c)).where(command.c.id == bindparam("id"))
# Served by the primary key, in its order, and those that are pending by rota_command_pending. Parameters and outcomes
# may be of megabytes each, so a page has none of them.
LIST_COMMANDS = Listing(
    select(
        *shown(column for column in command.c if column.key not in _DOCUMENTS),
        case((func.length(command.c.error) <= ERROR_LENGTH_MAX, command.c.error)).label("error"),
    ),
    command.c.id,
    {
        "pending": _is_pending,
        "state": command.c.state == bindparam("state"),
        "verb": command.c.verb == bindparam("verb"),
        "since": command.c.created_at >= bindparam("since", type_=Instant()),
        "until": command.c.created_at < bindparam("until", type_=Instant()),
        "from_id": command.c.id >= bindparam("from_id", type_=Id),
    },
    newest_first=True,
)
# Both ends, and the oldest of those from a number on. Served by the primary key.
READ_BOUNDS = select(
    select(func.min(command.c.id)).scalar_subquery().label("first"),
    select(func.max(command.c.id)).scalar_subquery().label("last"),
)
READ_MOMENT = (
    select(command.c.created_at).where(command.c.id >= bindparam("from_id", type_=Id)).order_by(command.c.id).limit(1)
)


def answer_pending(
    database: Database,
    carry_out: Callable[[Database, AnyRow], tuple[CommandState, str]],
    *,
    node: str,
    limit: int,
    forgets: Container[str] = (),
) -> int:
    """Have the oldest commands that nobody has answered carried out, in one transaction; return how many.

    ``carry_out`` does what one asks for within the transaction, by the database that it is given, and returns what
    became of it, with the outcome or the error as JSON. When it raises, nothing of the batch was done. The
    parameters of the verbs that ``forgets`` holds are taken out of their rows.

    Raises:
        DatabaseUnavailable: nobody answers.
    """

    def answer(connection: Connection) -> int:
        if not take_turn(connection, COMMANDS, wait=False):
            return 0
        rows = connection.execute(FIND_PENDING, {"limit": limit}).all()
        bound = BoundDatabase(database, connection)
        for row in rows:
            try:
                state, text = carry_out(bound, row)
            except Exception as error:
                if isinstance(error, DBAPIError) and database.dialect.classify(error) in {Trouble.AGAIN, Trouble.GONE}:
                    raise  # the transaction has ended: all of it is done again
                log.exception("command %d, %s, was refused for an error that nobody has foreseen", row.id, row.verb)
                state, text = CommandState.REFUSED, json.dumps(_unforeseen(error))
            is_done = state is CommandState.DONE
            values: dict[str, Any] = {"new_outcome": text if is_done else None, "new_error": None if is_done else text}
            values |= {"new_state": state.value, "node": node, "is_secret": row.verb in forgets}
            connection.execute(ANSWER, {"of_id": row.id} | values)
            crash.at("commands.answered")
        return len(rows)

    answered = write_fresh(database, answer)
    crash.at("commands.committed")
    return answered


def _unforeseen(error: Exception) -> dict[str, str]:
    # Not what it says: that may hold what nobody is to see.
    return {"code": "internal", "message": f"{type(error).__name__}: see the log of the node that answered"}


def list_commands(
    database: Database,
    *,
    limit: int,
    before: int | None = None,
    state: CommandState | None = None,
    verb: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Page[dict[str, Any]]:
    """Return up to ``limit`` commands, the newest first, of those with a number below ``before``.

    Without ``params`` and ``outcome``, and without an ``error`` of more than 2,000 characters. By filters, but for
    those that are pending, no more than 50,000 numbers are looked at: a page may be empty then, and have a ``next``.
    """
    is_pending = state is CommandState.PENDING
    word = None if is_pending or state is None else state.value
    filters = {"state": word, "verb": verb, "since": since, "until": until}
    given: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}

    def read(connection: Connection) -> Page[dict[str, Any]]:
        lowest, goes_on = None, False
        if given:
            bounds = connection.execute(READ_BOUNDS).one()
            if bounds.first is None:
                return Page()
            lowest = min(bounds.last + 1, before or bounds.last + 1) - LOOKED_AT_MAX
            goes_on = lowest > bounds.first and not _began_before(connection, lowest, since)
        rows = LIST_COMMANDS.read(
            connection, limit=limit + 1, before=before, pending=is_pending, from_id=lowest, **given
        )
        views = [_show(row) for row in rows[:limit]]
        return Page(views, views[-1]["id"] if len(rows) > limit else lowest if goes_on else None)

    return database.read(read)


def read_command(database: Database, command_id: int) -> dict[str, Any]:
    """Return what was asked for by one command, and how it was answered.

    Raises:
        NotFound: there is no such command; answered ones go after a month.
    """
    row = database.read(lambda connection: connection.execute(READ_COMMAND, {"id": command_id}).one_or_none())
    if row is None:
        raise NotFound("command", command_id)
    return _show(row)


def _began_before(connection: Connection, from_id: int, since: datetime | None) -> bool:
    """Tell whether all commands below a number are too old."""
    if since is None:
        return False
    moment = connection.execute(READ_MOMENT, {"from_id": from_id}).scalar()
    return moment is not None and moment < since - DISORDER


def _show(row: AnyRow) -> dict[str, Any]:
    facts = row._asdict()
    names = [column.key for column in command.c if column.key in facts]
    return {name: show_document(facts[name]) if name in _DOCUMENTS else facts[name] for name in names}
