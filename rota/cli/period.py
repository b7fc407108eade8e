"""``rota period``: the intervals of a job's timeline."""

from __future__ import annotations

from typing import Any

import click

from rota.cli.door import Door, Words, given, through_door
from rota.cli.paging import tell_next
from rota.cli.screen import Columns, View, clean
from rota.model.period_step import DONE_PERIODS, PeriodState

COLUMNS: Columns = {
    "period": "period",
    "state": "state",
    "run": lambda view: "" if view["run"] is None else str(view["run"]),
    "reason": "reason_text",
}
TOUCHED_COLUMNS: Columns = {
    "job": "job",
    "count": lambda view: str(view["count"]),
    "periods": lambda view: ", ".join(view["periods"]) + (", …" if view["count"] > len(view["periods"]) else ""),
}


@click.group()
def period() -> None:
    """The intervals of a job's timeline: what was done for each, and what each waits for."""


@period.command("list")
@click.argument("job")
@click.option("--state", metavar="S", type=Words(*PeriodState), multiple=True, help="Only these; repeatable.")
@click.option("--from", "first", metavar="PERIOD", help="From this one, day, month or year on.")
@click.option("--to", "last", metavar="PERIOD", help="Up to this one, or the end of this day, month, year.")
@click.option("--limit", metavar="N", help="The latest N of them. [50]")
@click.option("--before", metavar="PERIOD", help="The next page: those before this one.")
@through_door
def list_(door: Door, *, job: str, state: tuple[str, ...], **flags: Any) -> None:
    """List the periods of a job, oldest first."""
    views = door.rota.periods.list(job, state=state, **given(**flags))
    nothing = f"no such periods of job {job}; they are listed from when a worker has first looked at them"
    door.screen.show_list(views, COLUMNS, nothing=nothing)
    tell_next(views, "before", as_json=door.screen.as_json)


@period.command()
@click.argument("job")
@click.argument("period_name", metavar="PERIOD")
@click.option("--timeout", metavar="D", help="Wait no longer than this.")
@through_door
def wait(door: Door, *, job: str, period_name: str, timeout: str | None) -> int:
    """Wait until a period is finished; exit 0 only if it was done, not skipped."""
    view = door.rota.periods.wait(job, period_name, timeout)
    door.screen.tell(f"{job} {view['period']} {view['state']}: {view['reason_text']}", view)
    return 0 if view["state"] in DONE_PERIODS else 1


@period.command()
@click.argument("job")
@through_door
def tree(door: Door, *, job: str) -> None:
    """Show a job and what it rolls up: how many periods stand how, and what the oldest open one waits for."""
    found = door.rota.periods.tree(job)
    if door.screen.as_json:
        door.screen.show_one(found)
        return
    for depth, branch in _in_tree_order(found):
        click.echo(clean("  " * depth + _say_branch(branch)))
        if (oldest := branch["oldest_unfinished"]) is not None:
            click.echo(clean("  " * depth + f"  {oldest['period']} {oldest['state']}: {oldest['reason_text']}"))
    if found["because"]:
        click.echo("why:")
    for sentence in found["because"]:
        click.echo(clean(f"  - {sentence}"))


def _in_tree_order(tree: View) -> list[tuple[int, View]]:
    """Return the branches of ``read_tree`` with their depths, each before what it rolls up."""
    found: list[tuple[int, View]] = []
    nexts: list[tuple[int, View]] = [(0, tree)]
    while nexts:
        depth, branch = nexts.pop(0)
        found.append((depth, branch))
        nexts = [(depth + 1, child) for child in branch["children"]] + nexts
    return found


def _say_branch(branch: View) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in branch["counts"].items()) or "no period yet"
    after = f", after {', '.join(branch['after'])}" if branch["after"] else ""
    return f"{branch['job']} ({branch['period']}{after}): {counts}"


@period.command()
@click.argument("job")
@click.argument("period_name", metavar="PERIOD")
@click.option("--to", metavar="PERIOD", help="All from PERIOD to this one, or to the end of this day, month, year.")
@click.option("--failed-only", is_flag=True, help="Only what failed, was given up, or skipped for something else.")
@click.option("--dry-run", is_flag=True, help="Only list what it would touch.")
@through_door
def reprocess(door: Door, *, job: str, period_name: str, to: str | None, failed_only: bool, dry_run: bool) -> None:
    """Do a period again, and all that is built on it, in order."""
    touched = door.rota.periods.reprocess(job, period_name, to, failed_only=failed_only, dry_run=dry_run)
    tell_touched(door, touched, "done again", dry_run=dry_run)


@period.command()
@click.argument("job")
@click.argument("period_name", metavar="PERIOD")
@click.option("--to", metavar="PERIOD", help="All from PERIOD to this one, or to the end of this day, month, year.")
@click.option("--dry-run", is_flag=True, help="Only list what it would touch.")
@through_door
def skip(door: Door, *, job: str, period_name: str, to: str | None, dry_run: bool) -> None:
    """Do without a period, what lies within it, and what runs after these within their time."""
    touched = door.rota.periods.skip(job, period_name, to, dry_run=dry_run)
    tell_touched(door, touched, "skipped", dry_run=dry_run)


def tell_touched(door: Door, touched: View, became: str, *, dry_run: bool) -> None:
    """Say which periods of which jobs something was done to, or would be."""
    if door.screen.as_json:
        door.screen.show_one(touched)
        return
    count = touched["count"]
    if count and not dry_run:
        click.echo(f"1 period is {became}:" if count == 1 else f"{count} periods are {became}:")
    door.screen.show_list(touched["jobs"], TOUCHED_COLUMNS, nothing="nothing: all of it is as it would be")
    for note in touched.get("notes", ()):
        click.echo(clean(f"note: {note}"), err=True)
