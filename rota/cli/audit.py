"""``rota audit``: who did what, through which door."""

from __future__ import annotations

import click

from rota.cli.door import Door, Words, read_time, through_door
from rota.cli.screen import Columns, short_time

COLUMNS: Columns = {
    "id": lambda view: str(view["id"]),
    "at": lambda view: short_time(view["at"]),
    "actor": lambda view: f"{view['actor']} (token {view['via']})" if view["via"] else view["actor"],
    "door": "door",
    "address": "address",
    "did": "did",
    "subject": lambda view: f"{view['kind']} {view['subject']}",
    "text": "text",
}


@click.command()
@click.option("--actor", metavar="NAME", help="Done by this one.")
@click.option("--door", "through", type=Words("cli", "python", "http", "page", "sql"), help="Done through this door.")
@click.option("--kind", metavar="WORD", help="Done to one of these: job, schedule, run, user, token and so on.")
@click.option("--subject", metavar="NAME", help="Done to this one; with --kind.")
@click.option("--did", metavar="WORD", help="What was done, such as cancelled or added; with --kind.")
@click.option("--since", metavar="TIME", help="Done since this time.")
@click.option("--until", metavar="TIME", help="Done before this time.")
@click.option("--limit", metavar="N", type=int, default=50, show_default=True, help="At most so many.")
@click.option("--before", metavar="ID", type=int, help="The next page: older than this one.")
@through_door
def audit(
    door: Door,
    *,
    actor: str | None,
    through: str | None,
    kind: str | None,
    subject: str | None,
    did: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    before: int | None,
) -> None:
    """Who did what, through which door, the newest first.

    Each act of a person leaves a row in the transaction that does it, through whichever door. What a program asks to
    run through Python leaves none: the run itself says who asked for it.
    """
    views = door.rota.audit(
        actor=actor,
        door=through,
        kind=kind,
        subject=subject,
        did=did,
        since=read_time("since", since, door.config.zone),
        until=read_time("until", until, door.config.zone),
        before=before,
        limit=limit,
    )
    door.screen.show_list(views, COLUMNS, nothing="nobody has done anything of the kind")
