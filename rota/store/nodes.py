"""Nodes: which process goes by which name, and whether it is still there.

Invariant: a name belongs to one process at a time. Taking it is a compare-and-set on the process that had it, possible
only once that one said goodbye, fell silent past its lease, or is known to be dead. Called by workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, Row, bindparam, case, desc, exists, insert, null, select, update
from sqlalchemy.exc import DBAPIError

from rota.errors import Conflict, DatabaseUnavailable, NotFound
from rota.model.names import NAME_LENGTH_MAX, check_name
from rota.model.placement import NO_LABELS, pools_served
from rota.model.run import NodeIdentity
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.dialects import Trouble
from rota.store.events import read_events, tell_change
from rota.store.listing import PAGE_ROWS, Listing, has_part
from rota.store.moves import Stale
from rota.store.pool_rules import read_rules
from rota.store.shown import show_document, shown
from rota.store.tables import OLDEST_FIRST, node, pool, run
from rota.store.types import Name, Number, db_now, db_now_plus, insert_if_new
from rota.store.wakeup import announce

NODES_MAX = 1000
NAMES_PER_HOST_MAX = 200
TRIES_MAX = 20

TellPool = Callable[[str], None]  # the name of a pool that was not known before
IsDead = Callable[[str, int, int], bool]  # boot id, pid, the process's start in ticks: no such process any more

# A drain that somebody asked for belongs to the name: it outlasts the process, until somebody takes it back.
_works = case((node.c.drain_asked_at.is_(None), NodeState.ALIVE.value), else_=NodeState.DRAINING.value)
_FACTS = {
    "started_at": db_now(),
    "seen_at": db_now(),
    "lease_ends_at": db_now_plus(bindparam("lease", type_=Number)),
}
ADD_NODE = insert(node).values(state=NodeState.ALIVE.value, **_FACTS)
# Take a name over from the process that had it. Served by the unique name.
TAKE_NODE = (
    update(node)
    .where(node.c.name == bindparam("of_name"), node.c.holder == bindparam("of_holder"))
    .values(state=_works, **_FACTS)
)
# A pool is known as soon as a node works for it, and two may be the first. The count tells whether it was new.
ADD_POOL = (
    insert_if_new(pool)
    .from_select(
        ["name", "created_at"],
        select(bindparam("pool_name", type_=Name), db_now()).where(
            ~exists().where(pool.c.name == bindparam("pool_name"))
        ),
    )
    .execution_options(preserve_rowcount=True)
)
LEAVE_NODE = (
    update(node)
    .where(node.c.name == bindparam("of_name"), node.c.holder == bindparam("of_holder"))
    .values(state=NodeState.GONE.value, lease_ends_at=null(), seen_at=db_now())
)
DESCRIBE_NODE = (
    update(node)
    .where(node.c.name == bindparam("of_name"), node.c.holder == bindparam("of_holder"))
    .values(state=case((bindparam("is_leaving", type_=Boolean), NodeState.DRAINING.value), else_=_works))
)
_held = node.c.lease_ends_at > db_now()
_HOLDER = [
    node.c.name,
    node.c.holder,
    node.c.boot_id,
    node.c.host,
    node.c.pid,
    node.c.pid_started,
    node.c.drain_asked_at,
    node.c.drain_asked_by,
    node.c.lease_ends_at,
    _held.label("is_held"),
]
READ_HELD = select(*_HOLDER).where(node.c.name.in_(bindparam("names", expanding=True)))

_NODE = select(*shown(node.c), _held.label("is_held"), node.c.seen_at.label("last_seen_at"), db_now().label("now"))
LIST_NODES = Listing(_NODE, node.c.name, {"search": has_part(node.c.name)})
LATEST_NODES = _NODE.order_by(desc(node.c.seen_at), node.c.name).limit(NODES_MAX)
READ_NODE = _NODE.where(node.c.name == bindparam("name"))
# What it runs now. Served by rota_run_lease.
RUNS_OF = (
    select(run.c.id, run.c.node)
    .where(run.c.lease_ends_at.is_not(None), run.c.node.in_(bindparam("names", expanding=True)))
    .order_by(OLDEST_FIRST)
)


def register_node(
    database: Database,
    identity: NodeIdentity,
    *,
    host: str,
    pid: int,
    pid_started: int,
    pools: Sequence[str],
    slots: int,
    version: str,
    lease_seconds: float,
    environments: Sequence[str] = (),
    secrets: Sequence[str] = (),
    labels: Mapping[str, str] = NO_LABELS,
    cgroups: str | None = None,
    zone_data_version: str | None = None,
    keep_runs: str | None = None,
    wanted: str | None = None,
    is_dead: IsDead | None = None,
    on_new_pool: TellPool | None = None,
) -> str:
    """Take a name for this process and return it: ``wanted``, or the host's with the lowest number that is free.

    ``identity`` says which process asks; its name is not looked at. A name is free when nobody has it, or when the
    process that has it said goodbye, is silent past its lease by the database's clock, or is dead by ``is_dead``. That
    can tell for this boot of this machine only, and decides there, whatever the lease. Besides ``pools`` it serves
    those whose rules name it. ``on_new_pool`` is told, after the commit, of each of ``pools`` that nobody knew.

    Raises:
        Conflict: ``wanted`` is held by a living process.
        DatabaseUnavailable: nobody answers.
    """
    base = check_name("name", wanted if wanted is not None else host)
    facts = {
        "boot_id": identity.boot_id,
        "pid": pid,
        "pid_started": pid_started,
        "holder": identity.holder,
        "host": host[:NAME_LENGTH_MAX],
        "version": version,
        "slots": slots,
        "environments": json.dumps(list(environments), ensure_ascii=False),
        "secrets": json.dumps(list(secrets)),
        "labels": json.dumps(dict(labels), ensure_ascii=False),
        "own_pools": json.dumps(list(pools), ensure_ascii=False),
        "skew_seconds": None,
        "cgroups": cgroups,
        "zone_data_version": zone_data_version,
        "keep_runs": keep_runs,
        "lease": lease_seconds,
    }

    def register(connection: Connection) -> tuple[str, list[str]]:
        names = [base] if wanted is not None else _names_of(base)
        rules = read_rules(connection)
        taken = {row.name: row for row in connection.execute(READ_HELD, {"names": names})}
        for name in names:
            row = taken.get(name)
            facts["pools"] = json.dumps(pools_served(pools, name, labels, rules), ensure_ascii=False)
            if row is None:
                connection.execute(ADD_NODE, facts | {"name": name})
            elif row.holder == identity.holder or not _is_held(row, identity, is_dead):
                change = {"of_name": name, "of_holder": row.holder}
                if connection.execute(TAKE_NODE, facts | change).rowcount != 1:
                    raise Stale(f"node name {name} was taken meanwhile")
            else:
                continue
            if row is None or row.holder != identity.holder:
                text = f"process {pid} on {host} goes by the name {name} now"
                became = NodeState.ALIVE
                if row is not None and row.drain_asked_at is not None:
                    text += f", and claims nothing: {row.drain_asked_by or 'somebody'} asked it to drain"
                    became = NodeState.DRAINING
                tell_change(connection, "node", became.value, text, node=name)
            new_pools = _add_pools(connection, pools)
            announce(connection)
            return name, new_pools
        if wanted is not None:
            row = taken[base]
            of_here = row.boot_id == identity.boot_id
            who = "which is alive" if of_here else f"of host {row.host}, whose lease has not ended"
            raise Conflict(
                f"node name {base!r} is held by process {row.pid}, {who}: stop that worker, choose another "
                "name, or give none to get one that is free"
            )
        raise Conflict(f"all {NAMES_PER_HOST_MAX} node names of host {host!r} are held: choose one with --name")

    for _ in range(TRIES_MAX):
        try:
            name, new_pools = database.write(register, repeatable=True)
        except Stale:
            database.retries += 1
        except DBAPIError as error:
            if database.dialect.classify(error) is not Trouble.TAKEN:
                raise
            database.retries += 1
        else:
            _tell_each(new_pools, on_new_pool)
            return name
    raise DatabaseUnavailable(f"node names of {host} were taken {TRIES_MAX} times meanwhile: try again")


def _add_pools(connection: Connection, pools: Sequence[str]) -> list[str]:
    """Make those of ``pools`` that nobody knows, and return them."""
    return [name for name in pools if connection.execute(ADD_POOL, {"pool_name": name}).rowcount == 1]


def _tell_each(new_pools: Sequence[str], on_new_pool: TellPool | None) -> None:
    if on_new_pool is not None:
        for name in new_pools:
            on_new_pool(name)


def _names_of(host: str) -> list[str]:
    room = NAME_LENGTH_MAX - len(f":{NAMES_PER_HOST_MAX}")
    return [host] + [f"{host[:room]}:{number}" for number in range(2, NAMES_PER_HOST_MAX + 1)]


def _is_held(row: Row[Any], identity: NodeIdentity, is_dead: IsDead | None) -> bool:
    if row.lease_ends_at is None:
        return False  # it said goodbye
    if row.boot_id == identity.boot_id and is_dead is not None:
        # One that stands still past its lease may go on: under one name there would be two then.
        return not is_dead(row.boot_id, row.pid, row.pid_started)
    return bool(row.is_held)


def describe_node(
    database: Database,
    identity: NodeIdentity,
    *,
    state: NodeState,
    pools: Sequence[str],
    slots: int,
    environments: Sequence[str] = (),
    secrets: Sequence[str] = (),
    labels: Mapping[str, str] = NO_LABELS,
    keep_runs: str | None = None,
    on_new_pool: TellPool | None = None,
) -> tuple[str, ...]:
    """Tell the others what a node does from now on: whether it drains, which pools it serves, with how many slots,
    which environments and which secrets, by their names, its labels, and how long it keeps finished runs.

    Besides ``pools``, which it names itself, it serves those whose rules name it: all of them are returned. One that
    somebody asked to drain goes on draining, whatever it says. It is no error if the name belongs to another process by
    now. ``on_new_pool`` is told as by ``register_node``.
    """
    facts = {
        "is_leaving": state is NodeState.DRAINING,
        "labels": json.dumps(dict(labels), ensure_ascii=False),
        "own_pools": json.dumps(list(pools), ensure_ascii=False),
        "slots": slots,
        "environments": json.dumps(list(environments), ensure_ascii=False),
        "secrets": json.dumps(list(secrets)),
        "keep_runs": keep_runs,
    }

    def describe(connection: Connection) -> tuple[tuple[str, ...], list[str]]:
        new_pools: list[str] = []
        served = pools_served(pools, identity.name, labels, read_rules(connection))
        facts["pools"] = json.dumps(served, ensure_ascii=False)
        who = {"of_name": identity.name, "of_holder": identity.holder}
        if connection.execute(DESCRIBE_NODE, who | facts).rowcount == 1:
            new_pools = _add_pools(connection, pools)  # not those of rules: one that is deleted meanwhile stays so
            what = f"{identity.name} serves {', '.join(served)} with {slots} slots"
            if labels:
                what += f", labels {', '.join(f'{name}={value}' for name, value in labels.items())}"
            if environments:
                what += f" and has {', '.join(environments)}"
            if secrets:
                what += f" and can read {', '.join(secrets)}"
            text = f"{identity.name} drains" if state is NodeState.DRAINING else what
            tell_change(connection, "node", state.value, text, node=identity.name)
        return served, new_pools

    served, new_pools = database.write(describe, repeatable=True)
    _tell_each(new_pools, on_new_pool)
    return served


def leave_node(database: Database, identity: NodeIdentity, *, left_running: int = 0) -> bool:
    """Say goodbye: the name is free at once. Tell whether it was still this process's."""
    text = f"{identity.name} said goodbye" + (f"; {left_running} runs go on without it" if left_running else "")

    def leave(connection: Connection) -> bool:
        who = {"of_name": identity.name, "of_holder": identity.holder}
        if connection.execute(LEAVE_NODE, who).rowcount != 1:
            return False
        tell_change(connection, "node", NodeState.GONE.value, text, node=identity.name)
        return True

    return database.write(leave, repeatable=True)


def list_nodes(database: Database, *, limit: int = PAGE_ROWS, **filters: Any) -> list[dict[str, Any]]:
    """Return up to ``limit`` nodes in the order of their names: ``after`` a name, and those that pass the filters."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        return _show_nodes(connection, LIST_NODES.read(connection, limit=limit, **filters))

    return database.read(read)


def latest_nodes(database: Database) -> list[dict[str, Any]]:
    """Return the thousand nodes that were seen last, in the order of their names: those of machines that are gone for
    good pile up."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = connection.execute(LATEST_NODES).all()
        return _show_nodes(connection, sorted(rows, key=lambda row: row.name))

    return database.read(read)


def _show_nodes(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    running = _running(connection, [row.name for row in rows])
    return [_show_node(row, running.get(row.name, [])) for row in rows]


def read_node(database: Database, name: str) -> dict[str, Any]:
    """Return how a node is shown, with its history.

    Raises:
        NotFound: no node has that name.
    """

    def read(connection: Connection) -> dict[str, Any]:
        row = connection.execute(READ_NODE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("node", name)
        running = _running(connection, [name])
        return _show_node(row, running.get(name, [])) | {"events": read_events(connection, "node", name, limit=20)}

    return database.read(read)


def _running(connection: Connection, names: Sequence[str]) -> dict[str, list[int]]:
    running: dict[str, list[int]] = {}
    if names:
        for row in connection.execute(RUNS_OF, {"names": list(names)}):
            running.setdefault(row.node, []).append(row.id)
    return running


def _show_node(row: Row[Any], running: list[int]) -> dict[str, Any]:
    # A node that died cannot say so: silence past the lease speaks for it.
    silent = row.state != NodeState.GONE.value and not row.is_held
    return {
        "name": row.name,
        "state": NodeState.GONE.value if silent else row.state,
        "silent": silent,
        "host": row.host,
        "pid": row.pid,
        "boot_id": row.boot_id,
        "version": row.version,
        "zone_data_version": row.zone_data_version,
        "keep_runs": row.keep_runs,
        "pools": show_document(row.pools),
        "slots": row.slots,
        "environments": show_document(row.environments) or [],
        "secrets": show_document(row.secrets) or [],
        "labels": show_document(row.labels) or {},
        "cgroups": row.cgroups,
        "skew_seconds": row.skew_seconds,
        "running": running,
        "started_at": row.started_at,
        "seen_at": row.seen_at,
        "seen_seconds": None if row.last_seen_at is None else max(0.0, (row.now - row.last_seen_at).total_seconds()),
        "lease_ends_at": row.lease_ends_at,
        "drain_asked_at": row.drain_asked_at,
        "drain_asked_by": row.drain_asked_by,
    }
