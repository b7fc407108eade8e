"""``rota schedule``: when a job is due, and what happens when it is late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import click

from rota.cli.door import IF_EXISTS, Door, Words, given, read_args, read_time, through_door
from rota.cli.paging import page_flags, tell_next
from rota.cli.screen import Columns, View, clean, short_time
from rota.errors import Invalid
from rota.model.schedule import TIMINGS
from rota.model.slot_rule import CatchUp, CatchUpOrder, OnClosed, Overlap
from rota.model.states import JobState
from rota.model.timing import Fold, Gap

COLUMNS: Columns = {
    "key": "key",
    "job": "job",
    "state": lambda view: view["state"] + (" (ghost)" if view["ghost_since"] else ""),
    "when": lambda view: describe_when(view),
    "next": lambda view: short_time(view.get("next_slot")),
    "problem": "problem",
}


def describe_when(view: View) -> str:
    """Say in one line when a schedule is due."""
    parts: list[str] = []
    for name, say in _SAY_TIMING.items():
        value: Any = view.get(name)
        values = cast("list[Any]", value if isinstance(value, list) else [value] if value is not None else [])
        zone = f" ({view['tz']})" if name in {"cron", "interval", "weekly"} else ""
        parts += [say(one) + zone for one in values]
    return " or ".join(parts)


def _say_every(value: Any) -> str:
    from rota.model.durations import format_duration

    return f"every {format_duration(value) if isinstance(value, int | float) else value}"


_SAY_TIMING: dict[str, Callable[[Any], str]] = {
    "cron": str,
    "weekly": str,
    "interval": lambda value: f"every {value}",
    "every": _say_every,
    "at": lambda value: f"at {short_time(value)} UTC",
}


def _repeated(flag: str, metavar: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(flag, metavar=metavar, multiple=True, help=f"{text} Repeatable: any of them.")


def definition_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that define a schedule, the same for ``add`` and ``edit``."""
    for flag in reversed(
        (
            _repeated("--cron", "EXPR", "Five fields, six with seconds first, or @daily and friends."),
            _repeated("--every", "D", "Each time this long has passed."),
            _repeated("--at", "TIME", "Once."),
            _repeated("--interval", "TEXT", "Each few days, weeks, months or years: `3 months at 09:00`."),
            _repeated("--weekly", "TEXT", "Weekdays and times: `mon-fri 07:30,12:00; sat 09:00`."),
            click.option("--tz", metavar="ZONE", help="The zone of local times. [UTC, or the one of --config]"),
            click.option(
                "--gap", type=Words(*Gap), help="A local time that the zone skips: at its end, or not. [shift]"
            ),
            click.option("--fold", type=Words(*Fold), help="A local time that the zone has twice. [first]"),
            click.option(
                "--anchor", metavar="TIME", help="Where --every or --interval counts from. [when it is added]"
            ),
            click.option("--start", metavar="TIME", help="No slot before."),
            click.option("--end", metavar="TIME", help="No slot after."),
            click.option("--first-run", metavar="TIME", help="The first slot, wherever the others lie."),
            click.option("--calendar", "calendars", metavar="C", multiple=True, help="When it rests. Repeatable."),
            click.option("--on-closed", type=Words(*OnClosed), help="What becomes of a slot then. [skip]"),
            click.option("--delay", metavar="D", help="How long after its slot a run may first start. [0s]"),
            click.option("--jitter", metavar="D", help="Up to so much more, the same for a slot at all times. [0s]"),
            click.option("--start-within", metavar="D", help="How late it may still start. [one period, at most 24h]"),
            click.option("--catch-up", type=Words(*CatchUp), help="Which slots to run that nobody served. [latest]"),
            click.option("--catch-up-limit", metavar="N", help="At most so many of them, or in the queue. [100]"),
            click.option("--catch-up-order", type=Words(*CatchUpOrder), help="Which of them first. [oldest]"),
            click.option("--overlap", type=Words(*Overlap), help="When the run before has not ended. [skip]"),
            click.option(
                "--in-order/--not-in-order",
                default=None,
                help="With --catch-up all: each slot when the one before it has succeeded.",
            ),
            click.option("--args", metavar="JSON", help="The job's arguments; `-` reads standard input."),
        )
    ):
        function = flag(function)
    return function


def read_definition(*, args: str | None, calendars: tuple[str, ...], **flags: Any) -> dict[str, Any]:
    """Turn the flags into what the client takes; only what was given."""
    for name in TIMINGS:
        values = flags.pop(name)
        flags[name] = values[0] if len(values) == 1 else list(values) or None
    named = None if not calendars else [] if calendars == ("none",) else list(calendars)
    return given(args=read_args(args), **flags) | ({} if named is None else {"calendars": named})


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
    door.screen.tell(_describe(view), view)
    _tell_notes(door, view)


def _describe(view: View) -> str:
    following = view.get("next_slot")
    ahead = f"next {short_time(following)} UTC" if following else "no slot lies ahead"
    return f"schedule {view['key']}: {view['job']} {describe_when(view)}; {ahead}"


def _tell_notes(door: Door, view: View) -> None:
    if not door.screen.as_json:
        for note in view.get("notes") or ():
            click.echo(clean(f"  note: {note}"))


@schedule.command("list")
@click.option("--state", type=Words(*JobState), help="Only these.")
@click.option("--job", metavar="J", help="Only those of this job.")
@click.option("--ghosts", is_flag=True, help="Only what code declared once and declares no more.")
@page_flags
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List schedules, in the order of their keys."""
    views = door.rota.schedules.list(**filters)
    nothing = (
        "no ghosts"
        if filters["ghosts"]
        else "no such schedules"
        if any(filters.values())
        else "no schedules yet; add one with `rota schedule add`"
    )
    door.screen.show_list(views, COLUMNS, nothing=nothing)
    tell_next(views, as_json=door.screen.as_json)


@schedule.command()
@click.argument("key")
@through_door
def show(door: Door, *, key: str) -> None:
    """Show a schedule."""
    view = door.rota.schedules[key].show()
    if view["last_group"] and not door.screen.as_json:
        last = view["last_group"]
        view |= {"last_group": f"{last['summary']}; `rota run list --group {last['group']}`"}
    door.screen.show_one(view)


@schedule.command("next")
@click.argument("key")
@click.option("-n", "count", metavar="N", type=int, default=1, show_default=True, help="How many slots.")
@click.option("--from", "after", metavar="TIME", help="After this time. [now]")
@through_door
def next_(door: Door, *, key: str, count: int, after: str | None) -> None:
    """Show the next slots, in UTC and in the schedule's zone, and what is special about them."""
    handle = door.rota.schedules[key]
    zone = handle.show()["tz"]
    views = handle.preview(count, after=read_time("from", after, zone))
    columns: Columns = {
        "slot (UTC)": lambda view: short_time(view["slot"]),
        f"in {zone}": "local",
        "runs (UTC)": lambda view: "" if view["run_at"] == view["slot"] else short_time(view["run_at"]),
        "": lambda view: "; ".join(view["notes"]),
    }
    shown = {name: column for name, column in columns.items() if name != "runs (UTC)" or _are_put_off(views)}
    door.screen.show_list(views, shown, nothing="no slot lies ahead")


def _are_put_off(views: Sequence[View]) -> bool:
    return any(view["run_at"] != view["slot"] for view in views)


@schedule.command()
@click.argument("key")
@definition_flags
@through_door
def edit(door: Door, *, key: str, **flags: Any) -> None:
    """Change what is given; `none` takes a value away.

    When it is due is one thing: a new --cron stands for the --every that was there. The past is not replayed.
    """
    options = read_definition(**flags)
    if not options:
        raise Invalid("schedule", key, "say what to change; see `rota schedule edit --help`")
    view = door.rota.schedules[key].edit(**options)
    door.screen.tell(f"{_describe(view)}; revision {view['revision']}", view)
    _tell_notes(door, view)


@schedule.command("mark-succeeded")
@click.argument("key")
@click.argument("slot")
@through_door
def mark_succeeded(door: Door, *, key: str, slot: str) -> None:
    """Let a slot count as done without a run."""
    runs = door.rota.schedules[key].mark_succeeded(slot)
    named = ", ".join(str(run_id) for run_id in runs)
    door.screen.tell(f"the slot counts as succeeded: run {named}", {"key": key, "runs": runs})


@schedule.command()
@click.argument("key")
@through_door
def pause(door: Door, *, key: str) -> None:
    """Make no runs until it is resumed."""
    door.screen.tell(f"schedule {key} is paused", door.rota.schedules[key].pause())


@schedule.command()
@click.argument("key")
@click.option("--latest", is_flag=True, help="Also run the newest slot in between that may still start.")
@through_door
def resume(door: Door, *, key: str, latest: bool) -> None:
    """Make runs again, from the next slot; the slots in between are recorded as skipped."""
    door.screen.tell(f"schedule {key} is active", door.rota.schedules[key].resume(latest=latest))


@schedule.command()
@click.argument("key")
@through_door
def delete(door: Door, *, key: str) -> None:
    """Delete a schedule; its runs stay."""
    door.rota.schedules[key].delete()
    door.screen.tell(f"schedule {key} is deleted", {"key": key, "deleted": True})
