"""The verbs are the commands of the command line: none is missing, and none has another meaning of a word."""

from __future__ import annotations

import inspect

import click
import pytest

from rota.client.options import JOB_OPTIONS, SCHEDULE_OPTIONS
from rota.verbs.table import NOT_HERE, VERBS
from tests.cli.test_words import commands

# Of the screen, the terminal, or the database that is meant: no other door has them.
OF_THE_SCREEN = {"as_json", "db", "config_file", "help", "nagios", "follow", "wait", "times", "search", "raw"}
# Where a door that is given values has one word for what the command line needs two for.
SPELT = {
    ("job.run", "delay"): "in",
    ("user.add", "password_file"): "password",
    ("user.passwd", "password_file"): "password",
    ("user.sessions", "name"): "user",
    ("audit", "through"): "door",
    ("schedule.next", "count"): "n",
    ("schedule.next", "after"): "from",
    ("run.list", "first"): "from",
    ("run.list", "end"): "to",
    ("period.list", "first"): "from",
    ("period.list", "last"): "to",
    ("backfill.start", "start_at"): "from",
    ("backfill.start", "end_at"): "to",
    **{(verb, "member"): "members" for verb in ("pool.create", "pool.edit")},
    **{(verb, "label"): "labels" for verb in ("pool.create", "pool.edit")},
}
DEFINITIONS = {
    "job.add": {*JOB_OPTIONS},
    "job.edit": {*JOB_OPTIONS},
    "schedule.add": {*SCHEDULE_OPTIONS},
    "schedule.edit": {*SCHEDULE_OPTIONS},
}

COMMANDS = {words.replace(" ", "."): command for words, command in commands().items()}


def test_each_command_is_a_verb_or_is_not_for_a_reason() -> None:
    assert set(VERBS) | set(NOT_HERE) == set(COMMANDS)
    assert not set(VERBS) & set(NOT_HERE)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_about_what_its_command_is_about(name: str) -> None:
    arguments = [one for one in COMMANDS[name].params if isinstance(one, click.Argument)]
    asked = [one for one in arguments if one.nargs == 1]

    verb = VERBS[name]

    assert (verb.target is not None) == bool(asked)
    # What follows the target is asked for by its name.
    for one in asked[1:]:
        word = {"period_name": "period"}.get(str(one.name), str(one.name))
        assert word in verb.parameters
        is_wanted = inspect.signature(verb.act).parameters[word].default is inspect.Parameter.empty
        assert is_wanted == one.required


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_takes_what_the_flags_of_its_command_are_named(name: str) -> None:
    verb = VERBS[name]
    flags = {str(one.name) for one in COMMANDS[name].params if isinstance(one, click.Option)}
    flags -= OF_THE_SCREEN - verb.parameters
    words = {SPELT.get((name, flag), flag) for flag in flags}

    if verb.takes_others:
        known = DEFINITIONS.get(name)
        if known is not None:
            assert words - verb.parameters - known - {"variable"} == set()
    else:
        assert words == set(verb.parameters) - {"period", "node", "slot"}
