"""``rota status``: one screen for whoever is awake at night."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.run import COLUMNS as RUN_COLUMNS
from rota.cli.screen import Columns, View, clean, make_table, print_table
from rota.model.durations import format_duration
from rota.model.findings import Severity

COLOURS = {Severity.INFO: "blue", Severity.WARNING: "yellow", Severity.CRITICAL: "red"}

NODE_COLUMNS: Columns = {
    "name": "name",
    "state": lambda view: "gone, to drain" if view["state"] == "gone" and view["drain_asked_at"] else view["state"],
    "pools": lambda view: ", ".join(view["pools"]) if isinstance(view["pools"], list) else view["pools"],
    "environments": lambda view: (
        ", ".join(view["environments"]) if isinstance(view["environments"], list) else view["environments"]
    ),
    "labels": lambda view: tell_labels(view["labels"]),
    "clock": lambda view: tell_skew(view["skew_seconds"]),
    "running": lambda view: f"{len(view['running'])} of {view['slots']}",
    "last good round": lambda view: tell_age(view["seen_seconds"]),
    "version": "version",
}


def tell_labels(labels: object) -> str:
    """Write labels as they are typed."""
    if not isinstance(labels, dict):
        return str(labels or "")
    return ", ".join(f"{name}={value}" for name, value in labels.items())  # pyright: ignore[reportUnknownVariableType]


def tell_skew(seconds: float | None) -> str:
    """Write how far a node's clock is from the database's; nothing where it was not measured."""
    return "" if seconds is None else f"{round(seconds, 1) + 0.0:+.1f} s"  # zero has no sign of its own


def tell_age(seconds: float | None) -> str:
    """Say how long ago something was; nothing of what is no moment."""
    return "" if seconds is None else f"{format_duration(round(seconds))} ago"


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
