"""``rota calendar``: when schedules rest."""

from __future__ import annotations

from typing import Any

import click

from rota.cli.door import IF_EXISTS, Door, given, through_door
from rota.cli.paging import page_flags, tell_next
from rota.cli.screen import Columns, View


def _say_holidays(view: View) -> str:
    country = view.get("country")
    if not country:
        return ""
    return f"{country}{'/' + view['subdivision'] if view.get('subdivision') else ''} to {view.get('holidays_until')}"


COLUMNS: Columns = {
    "name": "name",
    "weekdays": lambda view: ", ".join(view.get("weekdays") or ()),
    "dates": lambda view: str(len(view.get("dates") or ())),
    "holidays": _say_holidays,
    "windows": lambda view: str(len(view.get("windows") or ())),
}


@click.group()
def calendar() -> None:
    """When schedules rest: weekdays, dates, holidays, windows."""


@calendar.command()
@click.argument("name")
@click.option("--weekday", "weekdays", metavar="DAY", multiple=True, help="Closed each week: sat,sun. Repeatable.")
@click.option("--date", "dates", metavar="DATE", multiple=True, help="Closed: 2026-12-24, or FROM..TO. Repeatable.")
@click.option("--open", "open_dates", metavar="DATE", multiple=True, help="Open all the same. Repeatable.")
@click.option("--window", "windows", metavar="FROM..TO", multiple=True, help="Closed between them. Repeatable.")
@click.option("--country", metavar="CODE", help="Closed on its public holidays, as NL, for ten years from now.")
@click.option("--subdivision", metavar="CODE", help="And on those of this part of it.")
@click.option("--if-exists", type=IF_EXISTS, default="error", help="What to do when the name is taken. [error]")
@through_door
def add(door: Door, *, name: str, if_exists: str, **flags: Any) -> None:
    """Add a calendar; schedules name it with --calendar."""
    lists = {
        flag: [one.strip() for value in flags.pop(flag) for one in value.split(",")] or None
        for flag in ("weekdays", "dates", "open_dates", "windows")
    }
    options = given(**lists, **flags)
    view = door.rota.calendars.add(name, if_exists=if_exists, **options)
    door.screen.tell(f"calendar {view['name']} is at revision {view['revision']}", view)


@calendar.command("list")
@page_flags
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List calendars, in the order of their names."""
    views = door.rota.calendars.list(**filters)
    nothing = "no such calendars" if any(filters.values()) else "no calendars yet; add one with `rota calendar add`"
    door.screen.show_list(views, COLUMNS, nothing=nothing)
    tell_next(views, as_json=door.screen.as_json)


@calendar.command()
@click.argument("name")
@through_door
def show(door: Door, *, name: str) -> None:
    """Show a calendar, and the schedules that name it."""
    view = door.rota.calendars.show(name)
    if not door.screen.as_json and view.get("holidays"):
        view["holidays"] = f"{len(view['holidays'])} dates; `rota calendar show {name} --json` lists them"
    door.screen.show_one(view)


@calendar.command()
@click.argument("name")
@through_door
def delete(door: Door, *, name: str) -> None:
    """Delete a calendar that no schedule names."""
    door.rota.calendars.delete(name)
    door.screen.tell(f"calendar {name} is deleted", {"name": name, "deleted": True})
