"""Suspension: pools that are paused, and nodes that were asked to drain.

Invariant: what is suspended is not claimed, by a condition of the claim itself, so that it holds for every node from
the commit on; what runs goes on under its lease. Asked by claims and by the look; changed through the doors. A drain
belongs to the node's name, not to the process that goes by it: a restart does not end it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    null,
    select,
    text,
    update,
)

from rota.errors import NotFound
from rota.model.instants import format_instant, say_moment
from rota.model.states import JobState, NodeState, RunState
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.listing import PAGE_ROWS, Listing, has_part
from rota.store.nodes import read_node
from rota.store.pools import read_servers, serving
from rota.store.shown import show_document, shown
from rota.store.tables import OLDEST_FIRST, event, job, node, pool, run, schedule
from rota.store.types import AnyRow, db_now
from rota.store.wakeup import announce

PAGE_MAX = 1000

POOL_HINT = "a pool is known once a node works for it, or `rota pool create` made it: `rota pool list` shows them"
_is_paused = pool.c.state == JobState.PAUSED.value


def is_pool_paused(name: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the pool of that name is paused, for another statement. One look by the unique name."""
    return exists().where(pool.c.name == name, _is_paused)


def is_node_drained(name: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the node of that name was asked to drain, for another statement. One look by the unique name."""
    return exists().where(node.c.name == name, node.c.drain_asked_at.is_not(None))


_of_pool = pool.c.name == bindparam("of_pool")
PAUSE_POOL = (
    update(pool)
    .where(_of_pool, ~_is_paused)
    .values(state=JobState.PAUSED.value, paused_at=db_now(), paused_by=bindparam("actor"))
)
RESUME_POOL = (
    update(pool).where(_of_pool, _is_paused).values(state=JobState.ACTIVE.value, paused_at=null(), paused_by=null())
)
READ_POOL = select(*shown(pool.c)).where(_of_pool)
LIST_POOLS = Listing(select(*shown(pool.c)), pool.c.name, {"search": has_part(pool.c.name)})
READ_PAUSED_POOLS = (
    select(pool.c.name, pool.c.paused_at, pool.c.paused_by).where(_is_paused).order_by(pool.c.name).limit(PAGE_MAX)
)
PART_MAX = 20  # of each kind that a status names


def _paused(kind: str, table: Any, *named: ColumnElement[bool]) -> Select[Any, Any, Any]:
    """The jobs or schedules that are paused, and the moment and actor of the event by which they became so."""
    found = (
        select(table.c.name, *([table.c.paused_at] if "paused_at" in table.c else []))
        .where(table.c.state == JobState.PAUSED.value, *named)
        .order_by(table.c.name)
        .limit(PART_MAX)
        .subquery("found")
    )
    change = event.alias("change")
    # Served by rota_event_kind, whose condition is repeated as it stands: few rows, of what people did.
    last_change = (
        select(func.max(change.c.id))
        .where(
            change.c.kind == text(f"'{kind}'"),
            change.c.kind != text("'run'"),
            change.c[kind] == found.c.name,
            change.c.to_state.in_(["added", "paused", "resumed", "deleted"]),
        )
        .correlate(found)
        .scalar_subquery()
    )
    paused = and_(event.c.id == last_change, event.c.to_state == "paused")
    return (
        select(found.c.name, found.c.get("paused_at", event.c.at).label("paused_at"), event.c.actor.label("paused_by"))
        .select_from(found.outerjoin(event, paused))
        .order_by(found.c.name)
    )


_SUSPENDED = {"job": job, "schedule": schedule}
FIND_PAUSED = {kind: _paused(kind, table) for kind, table in _SUSPENDED.items()}
READ_PAUSED = {kind: _paused(kind, table, table.c.name == bindparam("name")) for kind, table in _SUSPENDED.items()}
# Served by rota_run_lease.
FIND_FROZEN = (
    select(run.c.id, run.c.job, run.c.freeze_asked_at, run.c.freeze_asked_by)
    .where(run.c.lease_ends_at.is_not(None), run.c.freeze_asked_at.is_not(None))
    .order_by(OLDEST_FIRST)
    .limit(PART_MAX)
)
# Served by rota_run_claim.
COUNT_READY = select(func.count()).where(run.c.state == RunState.READY.value, run.c.pool == bindparam("of_pool"))

_of_node = node.c.name == bindparam("of_node")
# One that is gone stays so: it drains when it is back. Whatever else it says of itself, see `nodes`.
DRAIN_NODE = (
    update(node)
    .where(_of_node, node.c.drain_asked_at.is_(None))
    .values(
        state=case((node.c.state == NodeState.ALIVE.value, NodeState.DRAINING.value), else_=node.c.state),
        drain_asked_at=db_now(),
        drain_asked_by=bindparam("actor"),
    )
)
# A worker that was told to leave, too, says again that it drains when it next looks.
RESUME_NODE = (
    update(node)
    .where(_of_node, node.c.drain_asked_at.is_not(None))
    .values(
        state=case((node.c.state == NodeState.DRAINING.value, NodeState.ALIVE.value), else_=node.c.state),
        drain_asked_at=null(),
        drain_asked_by=null(),
    )
)


def pause_pool(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Start no more runs of the pool; those that run go on, and schedules fire.

    Raises:
        NotFound: no node has worked for such a pool yet.
    """
    return _set_pool(database, name, PAUSE_POOL, "paused", actor)


def resume_pool(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Let the pool's runs start again.

    Raises:
        NotFound: no node has worked for such a pool yet.
    """
    return _set_pool(database, name, RESUME_POOL, "resumed", actor)


def _set_pool(database: Database, name: str, statement: Any, became: str, actor: str) -> dict[str, Any]:
    def change(connection: Connection) -> dict[str, Any]:
        given = {"of_pool": name, "actor": actor[:200]} if statement is PAUSE_POOL else {"of_pool": name}
        if connection.execute(statement, given).rowcount == 1:
            tell_change(connection, "pool", became, f"pool {name} was {became}", actor=actor, subject=name)
            announce(connection)
        row = connection.execute(READ_POOL, {"of_pool": name}).one_or_none()
        if row is None:
            raise NotFound("pool", name, POOL_HINT)
        return show_pools(connection, [row])[0]

    return database.write(change, repeatable=True)


def list_pools(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` pools in the order of their names: ``after`` a name, and those that pass the filters."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        return show_pools(connection, LIST_POOLS.read(connection, limit=limit, **filters))

    return database.read(read)


def show_pools(connection: Connection, rows: Any) -> list[dict[str, Any]]:
    """Show pools with the words of the doors: the nodes that claim for each, and how many runs are ready."""
    servers = read_servers(connection)
    views: list[dict[str, Any]] = []
    for row in rows:
        alive = [server for server in serving(servers, row.name) if server.is_alive]
        views.append(
            {
                "name": row.name,
                "state": row.state,
                "paused_at": row.paused_at,
                "paused_by": row.paused_by,
                "nodes": sorted(server.name for server in alive),
                "slots": sum(server.slots for server in alive),
                "ready": connection.execute(COUNT_READY, {"of_pool": row.name}).scalar_one(),
                "members": show_document(row.members) or [],
                "patterns": show_document(row.patterns) or [],
                "labels": show_document(row.labels) or {},
                "created_at": row.created_at,
            }
        )
    return views


def read_paused_pools(connection: Connection) -> dict[str, AnyRow]:
    """Return the pools that are paused: since when, and by whom."""
    return {row.name: row for row in connection.execute(READ_PAUSED_POOLS)}


def say_paused(row: AnyRow) -> str:
    """Say that a pool of ``read_paused_pools`` is paused, and how that ends."""
    since = say_since(row.paused_at, row.paused_by)
    return f"pool {row.name} is paused{since}: `rota pool resume {row.name}`"


def say_since(moment: datetime | None, actor: str | None) -> str:
    """Say since when something is suspended, and by whom, as far as that is known."""
    since = f" since {say_moment(moment)}" if moment is not None else ""
    return f"{since}, by {actor}" if actor else since


def say_pause_of(connection: Connection, kind: str, name: str) -> str:
    """Say since when a job or schedule is paused, and by whom, as its events tell; nothing where they do not."""
    row = connection.execute(READ_PAUSED[kind], {"name": name}).one_or_none()
    return "" if row is None else say_since(row.paused_at, row.paused_by)


def read_suspended(connection: Connection) -> list[dict[str, Any]]:
    """Return the pools, jobs and schedules that are paused and the runs that are frozen, the first ones of each kind:
    since when, by whom, and a sentence that says how it ends."""
    paused = [("pool", row) for row in list(read_paused_pools(connection).values())[:PART_MAX]]
    paused += [(kind, row) for kind, find in FIND_PAUSED.items() for row in connection.execute(find)]
    return [_show_suspended(kind, row.name, row.paused_at, row.paused_by) for kind, row in paused] + [
        _show_suspended("run", row.id, row.freeze_asked_at, row.freeze_asked_by)
        for row in connection.execute(FIND_FROZEN)
    ]


def _show_suspended(kind: str, name: Any, moment: datetime | None, actor: str | None) -> dict[str, Any]:
    state, word = ("frozen", "thaw") if kind == "run" else ("paused", "resume")
    return {
        "kind": kind,
        "name": name,
        "since": None if moment is None else format_instant(moment),
        "by": actor,
        "text": f"{kind} {name} is {state}{say_since(moment, actor)}: `rota {kind} {word} {name}`",
    }


def drain_node(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Let the node of that name claim nothing more; what it runs goes on, it fires schedules, and does not leave.

    It holds for whoever goes by the name, also after a restart, until ``resume_node``.

    Raises:
        NotFound: no node has that name.
    """
    text = f"{name} is to drain: it claims nothing more, and its runs go on"
    return _set_node(database, name, DRAIN_NODE, NodeState.DRAINING.value, text, actor)


def resume_node(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Let the node of that name claim again. One that was told to leave, by a signal, leaves all the same.

    Raises:
        NotFound: no node has that name.
    """
    return _set_node(database, name, RESUME_NODE, "resumed", f"{name} may claim again", actor)


def _set_node(database: Database, name: str, statement: Any, became: str, text: str, actor: str) -> dict[str, Any]:
    def change(connection: Connection) -> None:
        given = {"of_node": name, "actor": actor[:200]} if statement is DRAIN_NODE else {"of_node": name}
        if connection.execute(statement, given).rowcount == 1:
            tell_change(connection, "node", became, text, actor=actor, node=name)
            announce(connection)

    database.write(change, repeatable=True)
    return read_node(database, name)
