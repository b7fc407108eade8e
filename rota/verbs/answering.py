"""Answering commands that were asked for with SQL, each in the transaction that does what it asks for.

Called by every node when there are some. What cannot be understood is refused with the reason and stops nobody else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast

from rota.client import Rota
from rota.errors import Conflict, Invalid, RotaError, describe_error
from rota.model.actor import Actor, Door
from rota.model.states import CommandState
from rota.store.commands import answer_pending
from rota.store.database import Database
from rota.verbs.table import NOT_BY_SQL, find_verb

log = logging.getLogger("rota.verbs")

BATCH_MAX = 20  # in one transaction
ANSWER_LENGTH_MAX = 4_000_000  # characters; what servers take in one statement unless told otherwise


def answer_commands(database: Database, *, node: str, zone: str = "UTC") -> int:
    """Carry out the oldest commands that nobody has answered, in the order of their numbers; return how many.

    Raises:
        DatabaseUnavailable: nobody answers; what was not answered is still there, and nothing of it was done.
    """

    def carry_out(bound: Database, row: Any) -> tuple[CommandState, str]:
        try:
            outcome = run_command(bound, row.verb, row.target, row.params, actor=row.requested_by, zone=zone)
            return CommandState.DONE, outcome
        except RotaError as error:
            facts = describe_error(error)
            if len(said := _write(facts)) > ANSWER_LENGTH_MAX:  # it quotes all that it was given
                said = _write({"code": facts["code"], "message": facts["message"]})
            return CommandState.REFUSED, said

    return answer_pending(database, carry_out, node=node, limit=BATCH_MAX, forgets=NOT_BY_SQL)


def run_command(database: Database, word: str, target: str | None, params: str | None, *, actor: str, zone: str) -> str:
    """Do what one command asks for, and return what the command line would show, as JSON.

    Raises:
        Invalid: there is no such verb, or its target or parameters cannot be understood.
        Conflict: that is more than a row takes; nothing was done.
        RotaError: it was refused.
    """
    verb = find_verb(word)
    if (why_not := NOT_BY_SQL.get(word)) is not None:
        raise Invalid("verb", word, f"it is not for SQL: {why_not}; use the command line or HTTP")
    rota = Rota.over(database, actor=Actor(actor, door=Door.SQL), default_zone=zone)

    def act(_: object) -> str:
        outcome = _write(verb.run(rota, target, read_parameters(params)))
        if len(outcome) > ANSWER_LENGTH_MAX:
            rule = f"its outcome has {len(outcome):,} characters, more than {ANSWER_LENGTH_MAX:,}"
            raise Conflict(f"{word} was not done: {rule}; ask for less, or read the tables")
        return outcome

    return database.write(act, repeatable=False)


def _write(view: Any) -> str:
    text = json.dumps(view, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace").decode()  # half of a surrogate pair, as JSON writes it


def read_parameters(text: str | None) -> Mapping[str, Any]:
    """Read the parameters of a command.

    Raises:
        Invalid: they are no JSON object.
    """
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid("params", text, f"it is a JSON object: {error}") from None
    if not isinstance(given, dict):
        raise Invalid("params", text, "it is a JSON object, of the flags of the command line with underscores")
    return cast("dict[str, Any]", given)
