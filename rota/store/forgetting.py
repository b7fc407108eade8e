"""Forgetting nodes that are gone for good, and what was for them alone.

Invariant: no node that is alive is forgotten, and no run waits for ever for one that is not known. Runs that are for a
forgotten node alone end ``missed`` with its row; those made or rerun at the same moment are for ``miss_unreachable``.
Keys that its finished runs hold go on holding, since the moment at which it is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select

from rota.errors import Conflict, NotFound
from rota.model.instants import say_moment
from rota.model.reasons import Reason
from rota.model.states import Because, NodeState, RunState
from rota.store.database import Database
from rota.store.endings import wake_queued
from rota.store.events import tell_change
from rota.store.keys import hold_for_all_nodes
from rota.store.missed import tell_missed
from rota.store.moves import Move, Stale, apply_moves, write_fresh
from rota.store.nodes import RUNS_OF
from rota.store.tables import node, run
from rota.store.types import db_now
from rota.store.wakeup import announce

BATCH_MAX = 500
NAMED_MAX = 3

_is_held = node.c.lease_ends_at > db_now()
LOCK_NODE = (
    select(node.c.name, node.c.holder, node.c.state, node.c.lease_ends_at, _is_held.label("is_held"))
    .where(node.c.name == bindparam("name"))
    .with_for_update()
)
# Unless it came back meanwhile.
FORGET_NODE = delete(node).where(
    node.c.name == bindparam("name"),
    node.c.holder == bindparam("holder"),
    or_(node.c.state == NodeState.GONE.value, node.c.lease_ends_at.is_(None), ~_is_held),
)

_FACTS = [
    *(run.c.id, run.c.fence, run.c.claim_id, run.c.state, run.c.target_node, run.c.schedule_id),
    *(run.c.job_id, run.c.run_key, run.c.active_key),
]
_unstarted = run.c.state.in_([RunState.WAITING.value, RunState.READY.value])
# What waits has a moment at which it is looked at, and so has what is ready and has a window. Served by rota_run_claim
# and rota_run_due.
_ready = run.c.state == RunState.READY.value
_has_moment = run.c.due_at.is_not(None)
FIND_TARGETED = [
    select(*_FACTS)
    .where(run.c.target_node == bindparam("name"), _unstarted, condition)
    .limit(BATCH_MAX)
    .with_for_update()
    for condition in (_ready, _has_moment)
]

# Finished runs for a node that hold a key of their own for it. Rarely asked, by a person: no index serves it.
FIND_KEYED = (
    select(run.c.id, run.c.job_id, run.c.run_key, run.c.active_key)
    .where(
        run.c.id > bindparam("after"),
        run.c.target_node == bindparam("name"),
        run.c.active_key != run.c.run_key,
        run.c.finished_at.is_not(None),
    )
    .order_by(run.c.id)
    .limit(BATCH_MAX)
)


def forget_node(database: Database, name: str, *, actor: str) -> int:
    """Forget a node that is gone; return how many runs that were for it alone are missed by it.

    Raises:
        NotFound: no node has that name.
        Conflict: it is alive, or runs of it go on without it.
    """

    def forget(connection: Connection) -> int:
        row = connection.execute(LOCK_NODE, {"name": name}).one_or_none()
        if row is None:
            raise NotFound("node", name)
        if row.state != NodeState.GONE.value and row.is_held:
            until = say_moment(row.lease_ends_at)
            raise Conflict(f"node {name!r} is alive, its lease ends {until}: stop its worker first")
        runs = [found.id for found in connection.execute(RUNS_OF, {"names": [name]})]
        if runs:
            each = ", ".join(map(str, runs[:NAMED_MAX])) + (" and others" if len(runs) > NAMED_MAX else "")
            raise Conflict(f"runs of node {name!r} go on without it (run {each}): wait for their end, or cancel them")
        if connection.execute(FORGET_NODE, {"name": name, "holder": row.holder}).rowcount != 1:
            raise Stale(f"node {name} came back meanwhile")
        tell_change(connection, "node", "forgotten", f"node {name} was forgotten", actor=actor, node=name)
        _keep_keys(connection, name)  # of what has ended since
        return _miss_targeted(connection, name, actor)

    _keep_most_keys(database, name)
    missed = write_fresh(database, forget)
    return missed + (_miss_rest(database, name, actor) if missed >= BATCH_MAX else 0)


def _keep_most_keys(database: Database, name: str) -> None:
    """Do what there is to do for keys in small transactions, while the node is known; the last one does the rest."""
    after: int | None = 0
    while after is not None:
        after = database.write(partial(_keep_some_keys, name=name, after=after), repeatable=True)


def _keep_keys(connection: Connection, name: str) -> None:
    after: int | None = 0
    while after is not None:
        after = _keep_some_keys(connection, name, after)


def _keep_some_keys(connection: Connection, name: str, after: int) -> int | None:
    rows = connection.execute(FIND_KEYED, {"name": name, "after": after}).all()
    hold_for_all_nodes(connection, rows)
    return rows[-1].id if len(rows) == BATCH_MAX else None


def _miss_rest(database: Database, name: str, actor: str) -> int:
    def miss(connection: Connection) -> int:
        # Whoever takes the name registers it first, so from then on its runs are its own.
        if connection.execute(LOCK_NODE, {"name": name}).first() is not None:
            return 0
        return _miss_targeted(connection, name, actor)

    missed = 0
    while batch := write_fresh(database, miss):
        missed += batch
    return missed


def _miss_targeted(connection: Connection, name: str, actor: str) -> int:
    rows = {row.id: row for find in FIND_TARGETED for row in connection.execute(find, {"name": name})}
    found: Sequence[Any] = [rows[run_id] for run_id in sorted(rows)]
    moves = [
        Move(
            run_id=row.id,
            fence=row.fence,
            claim_id=row.claim_id,
            source=RunState(row.state),
            target=RunState.MISSED,
            because=Because.NODE_FORGOTTEN,
            reason=Reason.NODE_FORGOTTEN,
            text=f"node {name} was forgotten",
            actor=actor,
        )
        for row in found
    ]
    apply_moves(connection, moves)
    tell_missed(connection, moves)
    hold_for_all_nodes(connection, found)
    if wake_queued(connection, found):
        announce(connection)
    return len(found)
