"""``rota pool``: named sets of nodes."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.screen import Columns, short_time

COLUMNS: Columns = {
    "name": "name",
    "state": "state",
    "nodes": lambda view: ", ".join(view["nodes"]),
    "slots": lambda view: str(view["slots"]),
    "ready": lambda view: str(view["ready"]),
    "paused": lambda view: f"{short_time(view['paused_at'])}, by {view['paused_by']}" if view["paused_at"] else "",
}


@click.group()
def pool() -> None:
    """Named sets of nodes, so that a job can say where it runs."""


@pool.command("list")
@through_door
def list_(door: Door) -> None:
    """List all pools, the nodes that claim for them, and how many runs are ready."""
    door.screen.show_list(
        door.rota.pools.list(), COLUMNS, nothing="no node has worked for a pool yet; start one with `rota worker`"
    )


@pool.command()
@click.argument("name")
@through_door
def pause(door: Door, *, name: str) -> None:
    """Start no more runs of it, on any node; those that run go on, and schedules fire."""
    door.screen.tell(f"pool {name} is paused", door.rota.pools.pause(name))


@pool.command()
@click.argument("name")
@through_door
def resume(door: Door, *, name: str) -> None:
    """Let its runs start again."""
    door.screen.tell(f"pool {name} is active", door.rota.pools.resume(name))
