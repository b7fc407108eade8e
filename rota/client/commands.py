"""What was asked for with SQL, as applications see it: ``rota.commands``. Only looking: rows are made by whoever asks.

Checks are ``rota.model``'s; rows are ``rota.store.commands``'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.errors import Invalid
from rota.model.instants import check_zone, parse_instant
from rota.model.pages import Page
from rota.model.states import CommandState
from rota.model.values import check_id, check_whole, check_word
from rota.store import commands

if TYPE_CHECKING:
    from rota.client.rota import Rota

VERB_LENGTH_MAX = 200  # as many characters as the column takes


class Commands:
    """All commands that were asked for with SQL: ``rota.commands``."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def list(
        self,
        limit: int = 50,
        *,
        state: str | None = None,
        verb: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        before: int | None = None,
    ) -> Page[dict[str, Any]]:
        """Return up to ``limit`` commands, at most 1000, the newest first.

        Those that are pending, done or refused by ``state``, of one ``verb`` as it was written, asked for since a
        moment and before ``until``. Each has ``id``, ``verb``, ``target``, ``state``, ``requested_by``,
        ``created_at``, ``answered_at``, ``answered_by`` and ``error``, which is None where it is long: ``show`` has all
        of it. ``next`` of what is returned is the ``before`` of the next page. By filters no more than 50,000 ids
        are looked at: a page may hold less than ``limit`` then, or nothing, and have a ``next``.

        Raises:
            Invalid: a value breaks its rule.
        """
        zone = check_zone("tz", self._rota.default_zone)
        return commands.list_commands(
            self._rota.database,
            limit=check_whole("limit", limit, 1, commands.LIST_MAX),
            before=None if before is None else check_id("command", before),
            state=None if state is None else check_word("state", state, CommandState),
            verb=None if verb is None else _check_verb(verb),
            since=None if since is None else parse_instant("since", since, zone),
            until=None if until is None else parse_instant("until", until, zone),
        )

    def show(self, command_id: int | str) -> dict[str, Any]:
        """Return one command: what the list has, with its ``params``, and its ``outcome`` or ``error``.

        Documents that are no JSON are the text that stands there.

        Raises:
            NotFound: there is no such command; it goes a month after its answer.
            Invalid: no command can have this number.
        """
        return commands.read_command(self._rota.database, check_id("command", command_id))


def _check_verb(value: object) -> str:
    # Not whether there is such a verb: what was written wrongly, and refused, is looked for too.
    if not isinstance(value, str) or not 0 < len(value) <= VERB_LENGTH_MAX or "\0" in value:
        raise Invalid("verb", value, f"it is text of at most {VERB_LENGTH_MAX} characters, such as job.run")
    return value
