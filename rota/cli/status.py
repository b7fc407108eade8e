"""``rota status``: one screen for whoever is awake at night."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.run import COLUMNS as RUN_COLUMNS
from rota.cli.screen import Columns, View, clean, make_table, print_table, short_time
from rota.model.states import NodeState

NODE_COLUMNS: Columns = {
    "name": "name",
    "state": "state",
    "pools": lambda view: ", ".join(view["pools"]) if isinstance(view["pools"], list) else view["pools"],
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
    for sentence in list_troubles(view):
        click.echo(clean(sentence))


def list_troubles(view: View) -> list[str]:
    """Say in a sentence each what will not go on by itself."""
    found = [f"{kind} {name} is paused" for kind in ("job", "schedule") for name in view[f"paused_{kind}s"]]
    found += [
        f"schedule {of['key']} is late: its slot {short_time(of['next_slot'])} UTC has come" for of in view["overdue"]
    ]
    found += [f"schedule {of['key']} is set aside: {of['problem']}" for of in view["problems"]]
    if not any(node["state"] == NodeState.ALIVE for node in view["nodes"]):
        found.append("no node is alive: start one with `rota worker`")
    return found
