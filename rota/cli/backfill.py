"""``rota backfill``: the slots of the past, on request."""

from __future__ import annotations

from typing import Any

import click

from rota.cli.door import Door, Words, given, through_door
from rota.cli.paging import tell_next
from rota.cli.period import tell_touched
from rota.cli.screen import Columns, View, clean, short_time
from rota.client.backfills import TakenBack
from rota.model.backfill import BackfillState
from rota.model.slot_rule import CatchUpOrder

COLUMNS: Columns = {
    "id": "id",
    "of": "name",
    "state": "state",
    "from": lambda view: short_time(view["from"]),
    "to": lambda view: short_time(view["to"]),
    "slots": "slots",
    "done": "done",
    "succeeded": "succeeded",
    "failed": "failed",
    "active": "active",
    "left": "left",
    "by": "requested_by",
}
PART_COLUMNS: Columns = {
    "schedule": "schedule",
    "job": "job",
    "slots": "slots",
    "done": "done",
    "succeeded": "succeeded",
    "failed": "failed",
    "active": "active",
    "passed over": "passed_over",
    "left": "left",
    "next": lambda view: short_time(view["next_slot"]),
    "": "problem",
}
PLANNED_COLUMNS: Columns = {
    "schedule": "schedule",
    "job": "job",
    "slots": "slots",
    "first": lambda view: short_time(view["first"]),
    "last": lambda view: short_time(view["last"]),
    "new": "new",
    "again": "again",
    "passed over": "passed_over",
    "closed": "closed",
    "": lambda view: _say_limits(view),
}


def _say_limits(view: View) -> str:
    if view["looked_at"] == view["slots"]:
        return ""
    return f"of the first {view['looked_at']}" if view["looked_at"] else "those that are built on what has failed"


class _Starting(click.Group):
    """A group whose first word is one of its commands, or else what is to be run: ``start`` is understood then."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["start", *args])


@click.group(cls=_Starting)
def backfill() -> None:
    """Run the slots of the past, on request.

    `rota backfill NAME --from TIME --to TIME` starts one: `start` may be left out.
    """


@backfill.command()
@click.argument("name", metavar="JOB|KEY")
@click.option("--from", "start_at", metavar="TIME", help="Slots at or after this time.")
@click.option("--to", "end_at", metavar="TIME", help="And before this one.")
@click.option("--order", type=Words(*CatchUpOrder), help="Which of them first. [oldest]")
@click.option("--max-active", metavar="N", help="At most so many unfinished runs at once, of each schedule. [1]")
@click.option("--downstream", is_flag=True, help="And what is built on these slots, in order; with --again.")
@click.option("--again", is_flag=True, help="Also slots that have succeeded.")
@click.option("--failed-only", is_flag=True, help="Only slots that failed, were lost or missed, or wanted an upstream.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Also more than 1,000,000 slots.")
@through_door
def start(
    door: Door, *, name: str, start_at: str | None, end_at: str | None, dry_run: bool, yes: bool, **flags: Any
) -> None:
    """Run the slots of a time that have not succeeded.

    Of all schedules of a job, or of one by its key; a name that is both means the schedule. A slot that has a run gets
    its next attempt, one that has none gets one. Local times are in the zone of the schedules. What succeeded, runs or
    waits is left alone.

    Of a job with periods, those that begin in this time are taken back, with all that is built on them.
    """
    if start_at is None or end_at is None:
        raise click.UsageError(
            f"say which slots of {name} with --from TIME and --to TIME, or choose list, show, pause, resume, cancel"
        )
    options = given(**flags)
    if dry_run:
        view = door.rota.backfills.preview(name, start_at, end_at, **options)
        if door.screen.as_json:
            door.screen.show_one(view)
        elif "schedules" in view:
            door.screen.show_list(view["schedules"], PLANNED_COLUMNS, nothing="")
        else:
            tell_touched(door, view, "done again", dry_run=True)
        return
    handle = door.rota.backfills.start(name, start_at, end_at, yes=yes, **options)
    view = handle.show()
    if isinstance(handle, TakenBack):
        tell_touched(door, view, "done again", dry_run=False)
        return
    slots = f"{view['slots']:,} slots of {', '.join(part['schedule'] for part in view['schedules'])}"
    door.screen.tell(f"backfill {handle.id}: {slots}; `rota backfill show {handle.id}`", view)


@backfill.command("list")
@click.option("--name", metavar="JOB|KEY", help="Only those of this job or schedule.")
@click.option("--state", type=Words(*BackfillState), help="Only these.")
@click.option("--limit", metavar="N", type=int, default=50, show_default=True, help="At most so many.")
@click.option("--before", metavar="ID", type=int, help="The next page: older than this one.")
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List backfills, newest first."""
    views = door.rota.backfills.list(**filters)
    door.screen.show_list(views, COLUMNS, nothing="no backfills")
    tell_next(views, "before", as_json=door.screen.as_json)


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@through_door
def show(door: Door, *, backfill_id: str) -> None:
    """Show a backfill: how many of its slots are done, and where it is."""
    view = door.rota.backfills[backfill_id].show()
    if door.screen.as_json:
        door.screen.show_one(view)
        return
    door.screen.show_one(view, leave_out=("schedules",))
    click.echo()
    door.screen.show_list(view["schedules"], PART_COLUMNS, nothing="")


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@through_door
def pause(door: Door, *, backfill_id: str) -> None:
    """Make no more runs until it is resumed; those that it has made go on."""
    door.screen.tell(f"backfill {backfill_id} is paused", door.rota.backfills[backfill_id].pause())


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@through_door
def resume(door: Door, *, backfill_id: str) -> None:
    """Go on from where it was paused."""
    door.screen.tell(f"backfill {backfill_id} is active", door.rota.backfills[backfill_id].resume())


@backfill.command()
@click.argument("backfill_id", metavar="ID")
@through_door
def cancel(door: Door, *, backfill_id: str) -> None:
    """Withdraw its runs that have not started, have those that run stopped, and make no more."""
    view = door.rota.backfills[backfill_id].cancel()
    going = f"; {view['active']} of its runs are being stopped" if view["active"] else ""
    door.screen.tell(clean(f"backfill {backfill_id} is cancelled{going}"), view)
