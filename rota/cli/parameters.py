"""What the parameters of verbs are, as JSON schemas: read from the flags of the commands, which say it for all."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import click

from rota.cli.door import Words
from rota.client.options import JOB_OPTIONS, SCHEDULE_OPTIONS
from rota.verbs.verb import Verb

_OF_THE_SCREEN = frozenset({"as_json", "db", "config_file", "help"})
_NONE: frozenset[str] = frozenset()
_DEFINITIONS = {"job": frozenset(JOB_OPTIONS), "schedule": frozenset(SCHEDULE_OPTIONS)}
_DURATION: dict[str, Any] = {"type": ["string", "number"], "examples": ["90s", "1h30m"]}
# By how a flag's value is written.
_SCHEMAS: dict[str, dict[str, Any]] = {
    "N": {"type": ["integer", "string"]},
    "N|forever": {"type": ["integer", "string"]},
    "D": _DURATION,
    "JSON": {"type": "object"},
    "K=V": {"type": "object"},
    "[END=]D": {"type": ["string", "object", "number"]},
    "SIZE": {"type": ["string", "integer"]},
    "OCTAL": {"type": ["string", "integer"]},
}


def describe(verb: Verb) -> dict[str, dict[str, Any]]:
    """Return the schema of each parameter of a verb that a flag of its command tells of."""
    command = _find_command(verb.name)
    thing = verb.name.partition(".")[0]
    known = verb.parameters | (_DEFINITIONS.get(thing, _NONE) if verb.takes_others else _NONE)
    found: dict[str, dict[str, Any]] = {}
    for one in command.params if command is not None else ():
        if isinstance(one, click.Option) and one.name not in _OF_THE_SCREEN:
            word = _word_of(one, known, is_open=verb.takes_others and thing not in _DEFINITIONS)
            if word is not None:
                found[word] = _schema_of(one) | {"description": one.help or ""}
        elif isinstance(one, click.Argument) and (word := str(one.name).removesuffix("_name")) in known:
            found[word] = {"type": "string", "description": f"The {word}, which on the command line has no flag."}
    if "password" in known:  # never a flag: all users of a machine see those
        found["password"] = {"type": "string", "description": "12 to 1000 characters."}
    return found


def say_what_it_does(verb: Verb) -> str:
    """Return the first paragraph of the help of a verb's command."""
    command = _find_command(verb.name)
    return " ".join((command.help or "").partition("\n\n")[0].split()) if command is not None else ""


@functools.cache
def _find_command(name: str) -> click.Command | None:
    from rota.cli.main import COMMANDS

    group, _, word = name.partition(".")
    if group not in COMMANDS:
        return None
    module, _, attribute = COMMANDS[group][0].partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command.commands.get(word) if isinstance(command, click.Group) else command


def _word_of(one: click.Option, known: frozenset[str], *, is_open: bool) -> str | None:
    words = [flag.lstrip("-").replace("-", "_") for flag in one.opts]
    words += [f"{word}s" for word in words] + [str(one.name)]
    for word in words:
        if word in known:
            return word
    if not is_open:
        return None
    return str(one.name) if not one.multiple or str(one.name).endswith("s") else f"{one.name}s"


def _schema_of(one: click.Option) -> dict[str, Any]:
    if one.is_flag:
        return {"type": "boolean"}
    if isinstance(one.type, Words):
        single: dict[str, Any] = {"type": "string", "enum": list(one.type.words)}
    else:
        single = dict(_SCHEMAS.get(str(one.metavar), {"type": "string"}))
    if one.multiple and single.get("type") == "string":
        return {"anyOf": [single, {"type": "array", "items": single}]}
    return single
