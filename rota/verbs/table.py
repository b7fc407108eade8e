"""All verbs, by their words."""

from __future__ import annotations

from difflib import get_close_matches

from rota.errors import Invalid
from rota.verbs import definitions, operations, trust
from rota.verbs.verb import VERBS, Verb

__all__ = ["NOT_BY_SQL", "NOT_HERE", "VERBS", "definitions", "find_verb", "operations", "trust"]

# Commands that are no verbs: what they are about is this machine, a terminal, or a wait.
NOT_HERE = {
    "up": "a process on this machine",
    "worker": "a process on this machine",
    "tick": "a process on this machine",
    "web": "a process on this machine",
    "run.wait": "read the run instead, until its finished_at is there",
    "period.wait": "read the period instead, until its finished_at is there",
    "import.crontab": "a file on this machine",
    "db.upgrade": "the schema, before there are commands",
    "db.check": "the schema, before there are commands",
    "db.sql": "the schema, before there are commands",
    "db.grants": "a script for whoever may grant",
    "alert.test": "the settings of this machine, and what it can reach",
    "config.show": "the settings of this machine",
    **dict.fromkeys(
        (
            "current.progress", "current.checkpoint", "current.result", "current.retry", "current.release",
            "current.skip", "current.cancelled", "current.show",
        ),
        "a word of a running job to its guardian",
    ),
}  # fmt: skip

# Verbs that are not for SQL: what they are given, or what they answer, would stand in rota_command, and in the logs of
# the database server; or stands there already, and each answer would hold those before it.
NOT_BY_SQL = {
    "user.add": "it is given a password, and what stands in a row is no secret",
    "user.passwd": "it is given a password, and what stands in a row is no secret",
    "token.add": "it answers with the token, and what stands in a row is no secret",
    "command.list": "whoever asks with SQL reads rota_command itself",
    "command.show": "whoever asks with SQL reads rota_command itself",
}


def find_verb(word: str) -> Verb:
    """Return the verb of a name.

    Raises:
        Invalid: there is none.
    """
    if (found := VERBS.get(word)) is not None:
        return found
    if word in NOT_HERE:
        raise Invalid("verb", word, f"it is a command of the command line only: {NOT_HERE[word]}")
    near = get_close_matches(word, VERBS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ", such as job.run or run.cancel"
    raise Invalid("verb", word, f"a verb is a command of the command line with a dot between its words{hint}")
