"""Answering commands that were asked for with SQL, each in the transaction that does what it asks for.

Called by every node when there are some. What cannot be understood is refused with the reason and stops nobody else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast

from rota.client import Rota
from rota.errors import Invalid, RotaError, describe_error
from rota.model.states import CommandState
from rota.store.commands import answer_pending
from rota.store.database import Database
from rota.verbs.table import find_verb

log = logging.getLogger("rota.verbs")

BATCH_MAX = 20  # in one transaction


def answer_commands(database: Database, *, node: str, zone: str = "UTC") -> int:
    """Carry out the oldest commands that nobody has answered, in the order of their numbers; return how many.

    Raises:
        DatabaseUnavailable: nobody answers; what was not answered is still there, and nothing of it was done.
    """

    def carry_out(bound: Database, row: Any) -> tuple[CommandState, str]:
        try:
            view = run_command(bound, row.verb, row.target, row.params, actor=row.requested_by, zone=zone)
            return CommandState.DONE, json.dumps(view, ensure_ascii=False, default=str)
        except RotaError as error:
            return CommandState.REFUSED, json.dumps(describe_error(error), ensure_ascii=False, default=str)

    return answer_pending(database, carry_out, node=node, limit=BATCH_MAX)


def run_command(database: Database, word: str, target: str | None, params: str | None, *, actor: str, zone: str) -> Any:
    """Do what one command asks for, and return what the command line would show.

    Raises:
        Invalid: there is no such verb, or its target or parameters cannot be understood.
        RotaError: it was refused.
    """
    verb = find_verb(word)
    rota = Rota.over(database, actor=actor, default_zone=zone)
    return database.write(lambda _: verb.run(rota, target, read_parameters(params)), repeatable=False)


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
