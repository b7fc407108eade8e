"""``rota pool``: named sets of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rota.cli.door import IF_EXISTS, Door, through_door
from rota.cli.paging import page_flags, tell_next
from rota.cli.screen import Columns, short_time
from rota.cli.status import tell_labels
from rota.errors import Invalid

COLUMNS: Columns = {
    "name": "name",
    "state": "state",
    "nodes": lambda view: ", ".join(view["nodes"]),
    "slots": lambda view: str(view["slots"]),
    "ready": lambda view: str(view["ready"]),
    "rule": lambda view: tell_rule(view),
    "paused": lambda view: f"{short_time(view['paused_at'])}, by {view['paused_by']}" if view["paused_at"] else "",
}


def tell_rule(view: Any) -> str:
    """Write which nodes serve a pool besides those that say so themselves, as it is typed."""
    parts = [
        *(str(name) for name in view["members"] or ()),
        *(str(pattern) for pattern in view["patterns"] or ()),
        *([tell_labels(view["labels"])] if view["labels"] else []),
    ]
    return "; ".join(parts)


def rule_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which nodes serve a pool, the same for ``create`` and ``edit``."""
    for flag in reversed(
        (
            click.option("--member", "members", metavar="NODE", multiple=True, help="This node; repeatable."),
            click.option(
                "--nodes", metavar="PATTERN", multiple=True, help="Nodes whose names match: 'web*'; repeatable."
            ),
            click.option(
                "--label", "labels", metavar="K=V", multiple=True, help="Nodes that have all of these; repeatable."
            ),
        )
    ):
        function = flag(function)
    return function


def read_rule(**flags: tuple[str, ...]) -> dict[str, Any]:
    """Keep the flags that were given; ``none`` takes a part away."""
    return {name: None if words == ("none",) else list(words) for name, words in flags.items() if words}


@click.group()
def pool() -> None:
    """Named sets of nodes, so that a job can say where it runs."""


@pool.command("list")
@page_flags
@through_door
def list_(door: Door, **filters: Any) -> None:
    """List pools, the nodes that claim for them, and how many runs are ready."""
    views = door.rota.pools.list(**filters)
    nothing = "no such pools" if any(filters.values()) else "no node has worked for a pool yet; start `rota worker`"
    door.screen.show_list(views, COLUMNS, nothing=nothing)
    tell_next(views, as_json=door.screen.as_json)


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


@pool.command()
@click.argument("name")
@rule_flags
@click.option("--if-exists", type=IF_EXISTS, default="error", help="What to do when there is one. [error]")
@through_door
def create(door: Door, *, name: str, if_exists: str, **flags: Any) -> None:
    """Create a pool. Nodes serve it that any flag names, and those that name it themselves with --pool."""
    view = door.rota.pools.create(name, if_exists=if_exists, **read_rule(**flags))
    door.screen.tell(f"pool {name}: {_count(view)}", view)


@pool.command()
@click.argument("name")
@rule_flags
@through_door
def edit(door: Door, *, name: str, **flags: Any) -> None:
    """Change which nodes serve it; `none` takes a part away. Nodes follow within seconds."""
    changes = read_rule(**flags)
    if not changes:
        raise Invalid("pool", name, "say what to change; see `rota pool edit --help`")
    view = door.rota.pools.edit(name, **changes)
    door.screen.tell(f"pool {name}: {_count(view)}", view)


@pool.command()
@click.argument("name")
@click.argument("node")
@through_door
def add(door: Door, *, name: str, node: str) -> None:
    """Make a node a member, whether it is known already or not."""
    view = door.rota.pools.add(name, node)
    door.screen.tell(f"node {node} is a member of pool {name}", view)


@pool.command()
@click.argument("name")
@click.argument("node")
@through_door
def remove(door: Door, *, name: str, node: str) -> None:
    """Take a node out of the members."""
    view = door.rota.pools.remove(name, node)
    still = [one["by"] for one in view["served_by"] if one["name"] == node and one["by"] != "itself"]
    also = f"; it serves it still, by {still[0]}" if still else ""
    door.screen.tell(f"node {node} is no member of pool {name} any more{also}", view)


@pool.command()
@click.argument("name")
@through_door
def show(door: Door, *, name: str) -> None:
    """Show a pool, and all nodes that serve it, with what each is named by."""
    door.screen.show_one(door.rota.pools.show(name))


@pool.command()
@click.argument("name")
@through_door
def delete(door: Door, *, name: str) -> None:
    """Delete a pool that no job, no unfinished run and no living node names."""
    door.rota.pools.delete(name)
    door.screen.tell(f"pool {name} is deleted", {"name": name, "deleted": True})


def _count(view: Any) -> str:
    alive = [one["name"] for one in view["served_by"] if one["state"] != "gone"]
    if not alive:
        return "no node that is alive serves it yet"
    serve = "1 node serves" if len(alive) == 1 else f"{len(alive)} nodes serve"
    return f"{serve} it: {', '.join(alive[:5])}" + (" and others" if len(alive) > 5 else "")
