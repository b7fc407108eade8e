"""Commands that are asked for with SQL: which there are, and what became of them.

Invariant: what a command does and its answer come into force in one transaction, so that each is carried out once
however often a node dies meanwhile. They are answered one after the other, in the order of their numbers, by whichever
node has the turn.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container
from typing import Any

from sqlalchemy import Boolean, Connection, bindparam, case, null, select, update
from sqlalchemy.exc import DBAPIError

from rota import crash
from rota.model.states import CommandState
from rota.store.bound import BoundDatabase
from rota.store.database import Database
from rota.store.dialects import Trouble
from rota.store.moves import write_fresh
from rota.store.tables import command
from rota.store.turns import COMMANDS, take_turn
from rota.store.types import AnyRow, db_now

log = logging.getLogger("rota.store")

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

    return write_fresh(database, answer)


def _unforeseen(error: Exception) -> dict[str, str]:
    # Not what it says: that may hold what nobody is to see.
    return {"code": "internal", "message": f"{type(error).__name__}: see the log of the node that answered"}
