"""``rota forecast``: what will run when, and how full the pools will be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import click

from rota.cli.door import Door, through_door
from rota.cli.screen import Columns, View, clean, make_table, print_table, short_time

BLOCKS = " ▁▂▃▄▅▆▇█"
BAR_WIDTH = 20
HOURLY_DAYS_MAX = 2  # more than these, and there is a line for each day
TOLD_MAX = 10
HOUR = timedelta(hours=1)

POOL_COLUMNS: Columns = {
    "pool": "pool",
    "slots": "slots",
    "runs": "runs",
    "fullest hour": lambda view: _percent(view["occupancy_max"]),
    "at once": "peak",
    "longest wait": lambda view: _say_seconds(view["wait_seconds_max"]),
}
DAY_COLUMNS: Columns = {
    "day (UTC)": "day",
    "slots": "slots",
    "runs": "runs",
    "slots by hour, 0 to 23": "hours",
    "fullest": lambda view: _percent(view["occupancy"]),
}
HOUR_COLUMNS: Columns = {
    "hour (UTC)": lambda view: short_time(view["hour"])[:16],
    "slots": "slots",
    "runs": "runs",
    "fullest pool": lambda view: _draw_bar(_fullest(view)["occupancy"]),
    " ": lambda view: _percent(_fullest(view)["occupancy"]),
    "pool": lambda view: _fullest(view)["pool"],
}


@click.command()
@click.option("--days", metavar="N", type=int, default=1, show_default=True, help="How far to look, at most 366.")
@click.option("--job", metavar="J", help="The schedules of this job only.")
@click.option("--schedules", metavar="N", type=int, help="Only the next so many to be due. [100000]")
@through_door
def forecast(door: Door, *, days: int, job: str | None, schedules: int | None) -> None:
    """Show what will run when, and how full the pools will be.

    How long a run takes is the median of the job's latest good attempts. What runs or waits now is not part of it.
    """
    view = door.rota.forecast(days, job, schedules)
    if door.screen.as_json:
        door.screen.show_one(view)
    else:
        show_forecast(view, by_day=days > HOURLY_DAYS_MAX)


def show_forecast(view: View, *, by_day: bool) -> None:
    """Lay the forecast out in 80 columns, what needs somebody last."""
    span = f"{short_time(view['from'])[:16]} to {short_time(view['until'])[:16]} UTC"
    click.echo(f"{span}: {sum(hour['slots'] for hour in view['hours'])} slots of {view['schedules']} schedules")
    if view["pools"]:
        print_table(make_table(view["pools"], POOL_COLUMNS))
        click.echo()
    if not any(hour["slots"] or hour["pools"] for hour in view["hours"]):
        click.echo("nothing is due")
    elif by_day:
        print_table(make_table(_group_by_day(view["hours"]), DAY_COLUMNS))
    else:
        print_table(make_table(view["hours"], HOUR_COLUMNS))
    for sentence in list_findings(view):
        click.echo(clean(sentence))


def list_findings(view: View) -> list[str]:
    """Say in a sentence each what somebody may want to change."""
    found = _cut(_tell_collisions(view), "times are too full")
    found += [f"no node serves pool {pool['pool']}" for pool in view["pools"] if not pool["slots"]]
    found += _cut(
        [
            f"schedule {of['schedule']}: a run is expected to take {_say_seconds(of['expected_seconds'])}, and the "
            f"next slot comes after {_say_seconds(of['period_seconds'])}: {of['kept_off']} of {of['slots']} are held "
            f"up, overlap is {of['overlap']}"
            for of in view["overlaps"]
        ],
        "schedules are too quick for their jobs",
    )
    found += _cut(
        [f"schedule {of['schedule']}, slot {short_time(of['slot'])}: {'; '.join(of['notes'])}" for of in view["notes"]],
        "slots have a note",
    )
    if view["unknown_jobs"]:
        names = ", ".join(view["unknown_jobs"][:5]) + (" and others" if len(view["unknown_jobs"]) > 5 else "")
        found.append(f"no good attempt tells how long it takes, so it counts as nothing: {names}")
    if view["left_out"]:
        found.append(f"left out, since they cannot be understood: {', '.join(view['left_out'][:5])}")
    if not view["is_complete"]:
        found.append(f"too much is due to look further than {short_time(view['until'])} UTC")
    return found


def _tell_collisions(view: View) -> list[str]:
    """Tell of hours that are too full, in a sentence for those that follow each other."""
    manned = {pool["pool"]: pool["slots"] for pool in view["pools"] if pool["slots"]}
    hours: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    for of in view["collisions"]:
        name, begin = of["pool"], datetime.fromisoformat(of["hour"])
        if name not in manned:
            continue
        before = latest.get(name)
        if before is not None and before["until"] == begin:
            before["until"] = begin + HOUR
            before["peak"] = max(before["peak"], of["peak"])
            before["wait"] = max(before["wait"], of["wait_seconds"])
        else:
            wait = of["wait_seconds"]
            latest[name] = {"pool": name, "from": begin, "until": begin + HOUR, "peak": of["peak"], "wait": wait}
            hours.append(latest[name])
    return [
        f"pool {of['pool']}, {of['from']:%Y-%m-%d %H:%M} to {of['until']:%Y-%m-%d %H:%M}: up to {of['peak']} runs at "
        f"once for {manned[of['pool']]} slots" + (f", waiting up to {_say_seconds(of['wait'])}" if of["wait"] else "")
        for of in hours
    ]


def _cut(sentences: list[str], more: str) -> list[str]:
    left = len(sentences) - TOLD_MAX
    return [*sentences[:TOLD_MAX], f"{left} more {more}: see --json"] if left > 0 else sentences


def _group_by_day(hours: Sequence[View]) -> list[dict[str, Any]]:
    most = max((hour["slots"] for hour in hours), default=0)
    days: list[dict[str, Any]] = []
    for day, found in groupby(hours, key=lambda hour: str(hour["hour"])[:10]):
        of_day = list(found)
        drawn = {int(hour["hour"][11:13]): _draw_block(hour["slots"], most) for hour in of_day}
        shares = [share for hour in of_day if (share := _fullest(hour)["occupancy"]) is not None]
        days.append(
            {
                "day": day,
                "slots": sum(hour["slots"] for hour in of_day),
                "runs": sum(hour["runs"] for hour in of_day),
                "hours": "".join(drawn.get(number, "·") for number in range(24)),
                "occupancy": max(shares, default=None),
            }
        )
    return days


def _fullest(hour: View) -> View:
    nothing = {"pool": None, "occupancy": None}
    return max(hour["pools"], key=lambda of: of["occupancy"] or 0.0, default=nothing)


def _draw_block(number: int, most: int) -> str:
    return BLOCKS[-(-number * (len(BLOCKS) - 1) // most)] if number else "·"


def _draw_bar(share: float | None) -> str:
    eighths = round(min(1.0, share or 0.0) * BAR_WIDTH * 8)
    part = "▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""
    return ("█" * (eighths // 8) + part).ljust(BAR_WIDTH, "·")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"


def _say_seconds(seconds: float) -> str:
    from rota.model.durations import format_duration

    return format_duration(round(seconds, 1) if seconds < 60 else round(seconds))
