"""``rota command``: what was asked for with SQL, and how it was answered."""

from __future__ import annotations

from typing import Any

import click

from rota.cli.door import Door, Words, read_time, through_door
from rota.cli.paging import tell_next
from rota.cli.screen import Columns, View, short_time
from rota.model.states import CommandState

COLUMNS: Columns = {
    "id": lambda view: str(view["id"]),
    "asked": lambda view: short_time(view["created_at"]),
    "by": "requested_by",
    "verb": "verb",
    "target": "target",
    "state": "state",
    "answered": lambda view: short_time(view["answered_at"]),
    "on": "answered_by",
    "": lambda view: _say_error(view),
}


def _say_error(view: View) -> str:
    if view["state"] != CommandState.REFUSED:
        return ""
    match view["error"]:
        case {"message": str(message)}:
            return message
        case _:
            return f"see `rota command show {view['id']}`"


@click.group()
def command() -> None:
    """What was asked for with SQL, by rows in rota_command, and how it was answered.

    To ask for something, write a row; here one only looks.
    """


@command.command("list")
@click.option("--state", type=Words(*CommandState), help="Only these.")
@click.option("--verb", metavar="VERB", help="Only those with this verb, such as job.run, as it was written.")
@click.option("--since", metavar="TIME", help="Asked for since this time.")
@click.option("--until", metavar="TIME", help="Asked for before this time.")
@click.option("--limit", metavar="N", type=int, default=50, show_default=True, help="At most so many.")
@click.option("--before", metavar="ID", type=int, help="The next page: older than this one.")
@through_door
def list_(door: Door, *, since: str | None, until: str | None, **filters: Any) -> None:
    """List what was asked for with SQL, newest first, with the reasons of what was refused.

    By filters, but for those that are pending, one page looks at 50,000 ids at most, and says where to go on.
    """
    views = door.rota.commands.list(
        since=read_time("since", since, door.config.zone), until=read_time("until", until, door.config.zone), **filters
    )
    door.screen.show_list(views, COLUMNS, nothing="nothing of the kind was asked for with SQL")
    tell_next(views, "before", as_json=door.screen.as_json)


@command.command()
@click.argument("command_id", metavar="ID")
@through_door
def show(door: Door, *, command_id: str) -> None:
    """Show what was asked for by one row, with its parameters, and what it was answered."""
    door.screen.show_one(door.rota.commands.show(command_id))
