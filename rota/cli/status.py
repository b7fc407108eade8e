"""``rota status``: one screen for whoever is awake at night."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.run import COLUMNS as RUN_COLUMNS
from rota.cli.screen import Columns, View, clean, make_table, print_table, short_time
from rota.model.findings import Severity

COLOURS = {Severity.INFO: "blue", Severity.WARNING: "yellow", Severity.CRITICAL: "red"}

NODE_COLUMNS: Columns = {
    "name": "name",
    "state": "state",
    "pools": lambda view: ", ".join(view["pools"]) if isinstance(view["pools"], list) else view["pools"],
    "environments": lambda view: (
        ", ".join(view["environments"]) if isinstance(view["environments"], list) else view["environments"]
    ),
    "running": lambda view: f"{len(view['running'])} of {view['slots']}",
    "seen": lambda view: short_time(view["seen_at"]),
    "version": "version",
}


@click.command()
@through_door
def status(door: Door) -> None:
    """Show nodes, what runs, what is late, what failed recently."""
    view = door.rota.status()
    if door.screen.as_json:
        door.screen.show_one(view)
    else:
        show_status(view)


def show_status(view: View) -> None:
    """Lay the facts out, the ones that need somebody last: they stay on the screen."""
    counts = ", ".join(f"{count} {state}" for state, count in view["counts"].items() if count)
    click.echo(f"runs lately: {counts or 'none'}")
    for title, key, columns in (
        ("Nodes", "nodes", NODE_COLUMNS),
        ("Running", "running", RUN_COLUMNS),
        ("Failed lately", "failed", RUN_COLUMNS),
        ("Late", "late", RUN_COLUMNS),
    ):
        if view[key]:
            click.echo()
            print_table(make_table(view[key], columns, title))
    for one in view["suspended"]:
        click.echo(clean(one["text"]))
    for found in view["findings"]:
        click.echo(tell_finding(found))
    if not view["nodes"] and not view["findings"]:
        click.echo("no node is there: start one with `rota worker`")


def tell_finding(found: View) -> str:
    """Say what was found, and how bad it is."""
    return f"{click.style(found['severity'], fg=COLOURS[found['severity']])}: {clean(found['text'])}"
