"""``rota schedule``: when a job is due, and what happens when it is late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rota.cli.door import IF_EXISTS, Door, Words, given, read_args, read_time, through_door
from rota.cli.screen import Columns, View, short_time
from rota.errors import Invalid
from rota.model.policy import CatchUp, Overlap

COLUMNS: Columns = {
    "key": "key",
    "job": "job",
    "state": "state",
    "when": lambda view: describe_when(view),
    "next": lambda view: short_time(view.get("next_slot")),
    "problem": "problem",
}


def describe_when(view: View) -> str:
    """Say in one line when a schedule is due."""
    if view.get("cron"):
        return f"{view['cron']} ({view['tz']})"
    if view.get("every") is not None:
        from rota.model.durations import format_duration

        every = view["every"]
        return f"every {format_duration(every) if isinstance(every, int | float) else every}"
    return f"at {short_time(view.get('at'))}"


def definition_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that define a schedule, the same for ``add`` and ``edit``."""
    for flag in reversed(
        (
            click.option("--cron", metavar="EXPR", help="Five fields, six with seconds first, or @daily and friends."),
            click.option("--every", metavar="D", help="Each time this long has passed."),
            click.option("--at", metavar="TIME", help="Once."),
            click.option("--tz", metavar="ZONE", help="The zone of --cron and of times without an offset."),
            click.option("--delay", metavar="D", help="How long after its slot a run may first start. [0s]"),
            click.option("--start-within", metavar="D", help="How late it may still start. [one period, at most 24h]"),
            click.option("--catch-up", type=Words(*CatchUp), help="Which slots to run that nobody served. [latest]"),
            click.option("--catch-up-limit", metavar="N", help="At most so many of them. [100]"),
            click.option("--overlap", type=Words(*Overlap), help="When the run before has not ended. [skip]"),
            click.option("--args", metavar="JSON", help="The job's arguments; `-` reads standard input."),
        )
    ):
        function = flag(function)
    return function


def read_definition(*, args: str | None, **flags: Any) -> dict[str, Any]:
    """Turn the flags into what the client takes; only what was given."""
    return given(args=read_args(args), **flags)


@click.group()
def schedule() -> None:
    """When a job is due, and what happens when it is late."""


@schedule.command()
@click.argument("key")
@click.argument("job")
@definition_flags
@click.option("--if-exists", type=IF_EXISTS, default="error", help="What to do when the key is taken. [error]")
@through_door
def add(door: Door, *, key: str, job: str, if_exists: str, **flags: Any) -> None:
    """Add a schedule for a job; its first slot is the next one from now."""
    options = read_definition(**flags)
    view = door.rota.schedules.add(key, job, if_exists=if_exists, **options)
    when = describe_when(view)
    door.screen.tell(
        f"schedule {view['key']}: {view['job']} {when}; next {short_time(view.get('next_slot'))} UTC", view
    )


@schedule.command("list")
@through_door
def list_(door: Door) -> None:
    """List all schedules."""
    views = door.rota.schedules.list()
    door.screen.show_list(views, COLUMNS, nothing="no schedules yet; add one with `rota schedule add`")


@schedule.command()
@click.argument("key")
@through_door
def show(door: Door, *, key: str) -> None:
    """Show a schedule."""
    door.screen.show_one(door.rota.schedules[key].show())


@schedule.command("next")
@click.argument("key")
@click.option("-n", "count", metavar="N", type=int, default=1, show_default=True, help="How many slots.")
@click.option("--from", "after", metavar="TIME", help="After this time. [now]")
@through_door
def next_(door: Door, *, key: str, count: int, after: str | None) -> None:
    """Show the next slots, in UTC and in the schedule's zone."""
    from rota.model.instants import check_zone, format_instant

    handle = door.rota.schedules[key]
    zone = handle.show()["tz"]
    local = check_zone("tz", zone)
    slots = handle.next(count, after=read_time("from", after, zone))
    views = [{"slot": format_instant(slot), "local": slot.astimezone(local).isoformat(), "tz": zone} for slot in slots]
    columns: Columns = {"slot (UTC)": lambda view: short_time(view["slot"]), f"in {zone}": "local"}
    door.screen.show_list(views, columns, nothing="no slot lies ahead")


@schedule.command()
@click.argument("key")
@definition_flags
@through_door
def edit(door: Door, *, key: str, **flags: Any) -> None:
    """Change what is given; `none` takes a value away. The past is not replayed."""
    options = read_definition(**flags)
    if not options:
        raise Invalid("schedule", key, "say what to change; see `rota schedule edit --help`")
    view = door.rota.schedules[key].edit(**options)
    door.screen.tell(f"schedule {view['key']} is at revision {view['revision']}", view)


@schedule.command()
@click.argument("key")
@through_door
def pause(door: Door, *, key: str) -> None:
    """Make no runs until it is resumed."""
    door.screen.tell(f"schedule {key} is paused", door.rota.schedules[key].pause())


@schedule.command()
@click.argument("key")
@through_door
def resume(door: Door, *, key: str) -> None:
    """Make runs again, from the next slot; the slots in between are recorded as skipped."""
    door.screen.tell(f"schedule {key} is active", door.rota.schedules[key].resume())


@schedule.command()
@click.argument("key")
@through_door
def delete(door: Door, *, key: str) -> None:
    """Delete a schedule; its runs stay."""
    door.rota.schedules[key].delete()
    door.screen.tell(f"schedule {key} is deleted", {"key": key, "deleted": True})
