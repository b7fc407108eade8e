"""``rota board``: jobs, and nodes, by time, a sign for each stretch."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from rota.cli.door import Door, Words, through_door
from rota.cli.screen import STYLES, Columns, View, clean, short_time
from rota.model.board import NODE_ZOOMS, ROWS_DEFAULT, ZOOMS, worst_of

SIGNS = {
    "succeeded": "▪", "failed": "F", "lost": "L", "missed": "M", "skipped": "s", "cancelled": "c", "running": "▶",
    "ready": "r", "waiting": "w", "released": "p",
}  # fmt: skip
COMING, NOTHING, NOW = "·", " ", "|"
NAME_WIDTH_MAX = 30
HOUR_COLUMNS: Columns = {
    "hour (UTC)": lambda view: short_time(view["hour"])[:16],
    "ended": lambda view: ", ".join(f"{number} {state}" for state, number in view["ended"].items()),
    "started late by": lambda view: "" if view["delay_seconds"] is None else f"{view['delay_seconds']:.1f} s",
}


@click.group()
def board() -> None:
    """Jobs, and nodes, by time."""


_start = click.option("--start", metavar="TIME", help="Begin there; without it most of what is shown is past.")
_after = click.option("--after", metavar="NAME", default="", help="Begin behind this name: the next page.")
_limit = click.option("--limit", metavar="N", type=int, default=ROWS_DEFAULT, show_default=True, help="At most 200.")


@board.command("jobs")
@click.option("--zoom", type=Words(*ZOOMS), default="day", show_default=True, help="How much time.")
@_start
@click.option("--search", metavar="TEXT", default="", help="Jobs whose names contain this.")
@click.option("--troubled", is_flag=True, help="Only jobs of which something failed, was lost or was missed.")
@_after
@_limit
@through_door
def board_jobs(
    door: Door, *, zoom: str, start: str | None, search: str, troubled: bool, after: str, limit: int
) -> None:
    """Show what each job had, has and will have, by the slots that it is for. Times are in UTC."""
    view = door.rota.board.jobs(zoom, start=start, search=search, troubled=troubled, after=after, limit=limit)
    _show(door, view, "no such job")


@board.command("nodes")
@click.option("--zoom", type=Words(*NODE_ZOOMS), default="day", show_default=True, help="How much time.")
@_start
@_after
@_limit
@through_door
def board_nodes(door: Door, *, zoom: str, start: str | None, after: str, limit: int) -> None:
    """Show how the attempts on each node ended, by when they did. Times are in UTC."""
    _show(door, door.rota.board.nodes(zoom, start=start, after=after, limit=limit), "no nodes")


@board.command("hours")
@click.option("--hours", metavar="N", type=int, default=24, show_default=True, help="The last so many, at most 744.")
@through_door
def board_hours(door: Door, *, hours: int) -> None:
    """Show how runs of all jobs ended in each of the last hours, and how late they started. Times are in UTC."""
    view = door.rota.board.hours(hours)
    if door.screen.as_json:
        door.screen.show_one(view)
    else:
        door.screen.show_list(view["hours"], HOUR_COLUMNS, nothing="no hours")


def _show(door: Door, view: View, nothing: str) -> None:
    if door.screen.as_json:
        door.screen.show_one(view)
        return
    if not view["rows"]:
        click.echo(nothing)
        return
    names = [clean(row["name"])[:NAME_WIDTH_MAX] for row in view["rows"]]
    width = max(len(name) for name in [*names, "all"])
    # As many cells in one sign as it takes for the terminal.
    room = max(10, shutil.get_terminal_size((120, 24)).columns - width - 1)
    share = -(-view["cell_count"] // room)
    click.echo(f"{short_time(view['start'])[:16]} to {short_time(view['end'])[:16]} UTC, a sign is {_say(view, share)}")
    for name, row in zip(["all", *names], [view["all"], *view["rows"]], strict=True):
        click.echo(f"{name:<{width}} {_draw(row, view['cell_count'], share)}")
    click.echo(", ".join(f"{sign} {state}" for state, sign in SIGNS.items()) + f", {COMING} to come")
    if view["next"] is not None:
        click.echo(f"more: --after {clean(view['next'])}")
    if view["is_cut"]:
        click.echo("there is more to come, or waiting, than is shown")


def _say(view: View, share: int) -> str:
    minutes = view["cell_seconds"] * share // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:g} h"


def _draw(row: View, cell_count: int, share: int) -> str:
    drawn = [NOTHING] * -(-cell_count // share)
    held: dict[int, list[Any]] = {}
    for cell in row["cells"]:
        held.setdefault(cell["cell"] // share, []).append(cell)
    for number, cells in held.items():
        worst = worst_of({state for cell in cells for state in cell["counts"]})
        sign = COMING if worst is None else SIGNS.get(worst, "?")
        if worst is not None and sys.stdout.isatty():
            sign = click.style(sign, fg=_COLOURS.get(worst))
        drawn[number] = sign
    return "".join(drawn)


_COLOURS = {state: style.removeprefix("bold ") for state, style in STYLES.items() if style != "dim"}
