"""``rota why``: from recorded facts, why something is as it is."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.screen import View, clean, short_time


@click.group()
def why() -> None:
    """Why it has not started, was skipped, missed, retried, lost."""


@why.command()
@click.argument("run_id", metavar="ID")
@through_door
def run(door: Door, *, run_id: str) -> None:
    """Why a run is in the state it is in."""
    _tell(door, door.rota.why.run(run_id))


@why.command()
@click.argument("name")
@through_door
def job(door: Door, *, name: str) -> None:
    """Why a job does or does not run."""
    _tell(door, door.rota.why.job(name))


@why.command()
@click.argument("job_name", metavar="JOB")
@click.argument("period_name", metavar="PERIOD")
@through_door
def period(door: Door, *, job_name: str, period_name: str) -> None:
    """What a period waits for, down to the first cause."""
    _tell(door, door.rota.why.period(job_name, period_name))


@why.command()
@click.argument("key")
@click.argument("slot", required=False)
@through_door
def schedule(door: Door, *, key: str, slot: str | None) -> None:
    """Why a schedule fires or does not; or what became of one slot.

    SLOT is a time; without an offset it is in the schedule's zone. A date alone asks for that day.
    """
    _tell(door, door.rota.why.schedule(key, slot))


def _tell(door: Door, answer: View) -> None:
    if door.screen.as_json:
        door.screen.show_one(answer)
        return
    click.echo(clean(f"{answer['subject']}: {answer['state']}"))
    for sentence in answer["because"]:
        click.echo(clean(f"  - {sentence}"))
    if answer.get("events"):
        click.echo("\nwhat happened:")
    for event in answer.get("events") or ():
        who = event.get("actor") or event.get("node")
        click.echo(clean(f"  {short_time(event['at'])}  {event['text']}" + (f"  [{who}]" if who else "")))
