"""What every command that talks to the database shares: its flags, its settings, its client and its screen.

Called as a decorator. The client is opened when a command first asks for it, and closed whatever happens.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.screen import Screen, clean
from rota.errors import Invalid

if TYPE_CHECKING:
    from rota.cli.logs import Warnings
    from rota.client import Rota
    from rota.config import Config

PATIENCE_SECONDS = 10.0  # of whoever sits before it, for what others have locked; as much again for a last try


class Door:
    """One call of the command line."""

    def __init__(self, *, db: str | None, config_file: str | None, as_json: bool) -> None:
        self.screen = Screen(as_json=as_json)
        self.db_flag = db
        self._config_file = config_file
        self._config: Config | None = None
        self._rota: Rota | None = None
        self._warnings: Warnings | None = None

    def read_config(self, **flags: object) -> Config:
        """Read the settings now; a worker does so again when it is told to."""
        from rota.config import read_config

        given = {name: value for name, value in {"database": self.db_flag, **flags}.items() if value not in (None, ())}
        return read_config(Path(self._config_file) if self._config_file else None, flags=given)

    @property
    def config(self) -> Config:
        if self._config is None:
            self._config = self.read_config()
        return self._config

    def database_url(self) -> str:
        """Return the URL of the database in force."""
        from rota.client.location import database_url

        return self.config.database or database_url(os.environ)

    @property
    def rota(self) -> Rota:
        if self._rota is None:
            from rota.cli.logs import Warnings
            from rota.client import Rota

            self._rota = Rota(
                self.database_url(), default_zone=self.config.zone, door="cli", patience_seconds=PATIENCE_SECONDS
            )
            self._warnings = Warnings()
        return self._rota

    def close(self) -> None:
        if self._rota is not None:
            self._rota.close()
        if self._warnings is not None:
            self._warnings.close()


def through_door(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--db``, ``--config`` and ``--json``, and a ``Door`` as its first argument."""

    @click.option("--db", metavar="URL", allow_from_autoenv=False, help="The database. [ROTA_DB]")
    @click.option("--config", "config_file", metavar="FILE", allow_from_autoenv=False, help="Settings. [ROTA_CONFIG]")
    @click.option("--json", "as_json", is_flag=True, envvar="ROTA_JSON", help="Show JSON. [ROTA_JSON=1]")
    @click.pass_context
    @functools.wraps(function)
    def command(context: click.Context, *, db: str | None, config_file: str | None, as_json: bool, **flags: Any) -> Any:
        outer: dict[str, str | None] = context.find_root().obj or {}
        door = Door(db=db or outer.get("db"), config_file=config_file or outer.get("config"), as_json=as_json)
        warn_of_misspelt(context.find_root())
        try:
            return function(door, **flags)
        finally:
            door.close()

    return command


def warn_of_misspelt(root: click.Context) -> None:
    """Name the variables that were probably meant for settings: to use another database than one means is no trifle."""
    from rota.config import find_misspelt

    commands = root.command.list_commands(root) if isinstance(root.command, click.Group) else ()
    for name, right in find_misspelt(os.environ, commands):
        click.echo(f"warning: nothing reads the variable {clean(name)}; did you mean {right}?", err=True)


class _Word(str):
    """A word from the command line that is one of a few: ``none`` is a word like the others then."""


class Words(click.types.StringParamType):
    """One of a few words. They are shown and completed here; refusing others is left to the rules below."""

    name = "word"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _Word(super().convert(value, param, ctx))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "|".join(self.words)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


IF_EXISTS = Words("error", "update", "skip")


def read_args(text: str | None) -> Any:
    """Read ``--args``: JSON, or ``-`` for JSON on standard input, which may be longer than a command line."""
    if text is None:
        return None
    from rota.model.documents import check_arguments_text, decode_document

    return decode_document(check_arguments_text("args", sys.stdin.read() if text == "-" else text))


def read_time(field: str, text: str | None, zone: str) -> datetime | None:
    """Read a time of a flag; one without an offset is in ``zone``."""
    if text is None:
        return None
    from rota.model.instants import check_zone, parse_instant

    return parse_instant(field, text, check_zone("tz", zone))


def given(**flags: Any) -> dict[str, Any]:
    """Keep the flags that were given; ``none`` takes a value away, unless the flag is one of a few words."""

    def read(value: Any) -> Any:
        if isinstance(value, _Word):
            return str(value)
        return None if value == "none" else value

    return {name: read(value) for name, value in flags.items() if value is not None}


def read_pairs(field: str, pairs: tuple[str, ...], rule: str = "write NAME=VALUE") -> dict[str, str] | None:
    """Read repeated ``K=V``; None when there are none."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise Invalid(field, pair, rule)
        found[name] = value
    return found or None
