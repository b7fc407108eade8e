"""Membership: making pools, saying which nodes serve them, and deleting them.

Invariant: a pool is deleted only when nothing names it. Nodes that live follow a changed rule by themselves; for those
that do not, whoever changes it corrects what their rows say, so that runs for all nodes of a pool are made for the
right ones. One that was dead then, and whose lease went on, is corrected within a minute of the lease's end. Called by
the doors, and by the one node that looks for all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, desc, func, insert, or_, select, update

from rota.errors import Conflict, Invalid, NotFound
from rota.model.placement import PoolRule, pools_served
from rota.model.states import NodeState, RunState
from rota.store.database import Database
from rota.store.events import tell_change
from rota.store.jobs import IfExists, adding
from rota.store.moves import Stale, write_fresh
from rota.store.pool_rules import labels_of, read_rules, rule_of
from rota.store.pools import names_of
from rota.store.shown import show_document
from rota.store.suspension import POOL_HINT, READ_POOL, show_pools
from rota.store.tables import job, node, pool, run
from rota.store.types import AnyRow, db_now
from rota.store.wakeup import announce

NODES_MAX = 1000
NAMED_MAX = 3

Change = Callable[[PoolRule], PoolRule]

INSERT_POOL = insert(pool).values(created_at=db_now())
# Give a pool another rule, if it still has the one that was read.
_as_read = [
    func.coalesce(column, "") == bindparam(f"of_{column.key}", type_=column.type)
    for column in (pool.c.members, pool.c.patterns, pool.c.labels)
]
CHANGE_POOL = update(pool).where(pool.c.name == bindparam("of_pool"), *_as_read)
LOCK_POOL = select(pool).where(pool.c.name == bindparam("of_pool")).with_for_update()
DELETE_POOL = delete(pool).where(pool.c.name == bindparam("of_pool"))
FIND_JOBS = select(job.c.name).where(job.c.pool == bindparam("of_pool")).order_by(job.c.name).limit(NAMED_MAX)
# Served by rota_run_claim, rota_run_due and rota_run_lease.
_unfinished = [
    run.c.state == RunState.READY.value,
    run.c.due_at.is_not(None),
    run.c.lease_ends_at.is_not(None),
]
FIND_UNFINISHED = [
    select(run.c.id).where(run.c.pool == bindparam("of_pool"), condition, run.c.finished_at.is_(None)).limit(1)
    for condition in _unfinished
]
_is_there = node.c.lease_ends_at > db_now()
# The latest ones, as in ``pools``: names of machines that are gone for good pile up.
READ_NODES = (
    select(
        node.c.name,
        node.c.holder,
        node.c.state,
        node.c.labels,
        node.c.pools,
        node.c.own_pools,
        _is_there.label("is_held"),
    )
    .order_by(desc(node.c.seen_at), node.c.name)
    .limit(NODES_MAX)
)
# Correct what a node that is not there would say of itself; one that came back meanwhile has said it.
CORRECT_POOLS = (
    update(node)
    .where(node.c.name == bindparam("of_name"), node.c.holder == bindparam("of_holder"))
    .where(node.c.pools == bindparam("of_pools"), or_(node.c.lease_ends_at.is_(None), ~_is_there))
)


def create_pool(database: Database, rule: PoolRule, *, actor: str, if_exists: IfExists = "error") -> dict[str, Any]:
    """Make a pool, served by the nodes that ``rule`` names and by those that name it themselves.

    Raises:
        AlreadyExists: there is one, and ``if_exists`` does not say what to do.
    """

    def create(connection: Connection) -> dict[str, Any]:
        connection.execute(INSERT_POOL, {"name": rule.pool} | _columns_of(rule))
        tell_change(
            connection, "pool", "added", f"pool {rule.pool} was created{_say(rule)}", actor=actor, subject=rule.pool
        )
        _correct_absent(connection, PoolRule(rule.pool), rule)
        announce(connection)
        return _show(connection, rule.pool)

    def exists(connection: Connection) -> bool:
        return connection.execute(READ_POOL, {"of_pool": rule.pool}).one_or_none() is not None

    if if_exists != "error" and database.read(exists):
        if if_exists == "skip":
            return read_pool(database, rule.pool)
        return edit_pool(database, rule.pool, lambda _: rule, actor=actor)
    return adding(database, "pool", rule.pool, create)


def edit_pool(database: Database, name: str, change: Change, *, actor: str) -> dict[str, Any]:
    """Replace the rule of a pool by what ``change`` makes of it; a rule that cannot be read counts as none.

    Raises:
        NotFound: there is no such pool.
        Invalid: ``change`` refuses; nothing was changed.
    """

    def edit(connection: Connection) -> dict[str, Any]:
        row = connection.execute(LOCK_POOL, {"of_pool": name}).one_or_none()
        if row is None:
            raise NotFound("pool", name, POOL_HINT)
        try:
            old = rule_of(row)
        except Invalid:
            old = PoolRule(name)
        new = change(old)
        columns = _columns_of(new)
        if columns != {"members": row.members, "patterns": row.patterns, "labels": row.labels}:
            known = {"of_pool": name} | {f"of_{part}": getattr(row, part) or "" for part in columns}
            if connection.execute(CHANGE_POOL, known | columns).rowcount != 1:
                raise Stale(f"pool {name} was changed meanwhile")
            tell_change(connection, "pool", "edited", f"pool {name} was edited{_say(new)}", actor=actor, subject=name)
            _correct_absent(connection, old, new)
            announce(connection)
        return _show(connection, name)

    return write_fresh(database, edit)


def add_member(database: Database, name: str, member: str, *, actor: str) -> dict[str, Any]:
    """Let a node serve the pool, known already or not.

    Raises:
        NotFound: there is no such pool.
    """

    def add(rule: PoolRule) -> PoolRule:
        return PoolRule.checked(name, [*rule.members, member], list(rule.patterns), rule.labels)

    return edit_pool(database, name, add, actor=actor)


def remove_member(database: Database, name: str, member: str, *, actor: str) -> dict[str, Any]:
    """Take a node out of the members of a pool.

    Raises:
        NotFound: there is no such pool, or it has no such member; the message says why the node serves it all the same.
    """

    def remove(rule: PoolRule) -> PoolRule:
        if member not in rule.members:
            raise NotFound("member", member, _why_no_member(database, rule, member))
        return dataclasses.replace(rule, members=tuple(one for one in rule.members if one != member))

    return edit_pool(database, name, remove, actor=actor)


def _why_no_member(database: Database, rule: PoolRule, name: str) -> str:
    rows = database.read(lambda connection: connection.execute(READ_NODES).all())
    found = next((row for row in rows if row.name == name), None)
    if found is not None and (why := rule.why_takes(name, labels_of(found.labels))) is not None:
        return f"it serves pool {rule.pool} by {why}, which `rota pool edit {rule.pool}` changes"
    if found is not None and rule.pool in names_of(found.pools):
        return f"it names pool {rule.pool} itself, with --pool {rule.pool} or in its settings"
    return f"`rota pool show {rule.pool}` has the members of pool {rule.pool}"


def delete_pool(database: Database, name: str, *, actor: str) -> None:
    """Delete a pool that nothing names any more.

    Raises:
        NotFound: there is no such pool.
        Conflict: jobs, unfinished runs or nodes that are there name it; the message says which.
    """

    def remove(connection: Connection) -> None:
        of_pool = {"of_pool": name}
        row = connection.execute(LOCK_POOL, of_pool).one_or_none()
        if row is None:
            raise NotFound("pool", name, POOL_HINT)
        jobs = connection.execute(FIND_JOBS, of_pool).scalars().all()
        if jobs:
            raise Conflict(f"pool {name!r} is that of job {', '.join(jobs)}: give it another with `rota job edit`")
        for find in FIND_UNFINISHED:
            if (run_id := connection.execute(find, of_pool).scalar()) is not None:
                raise Conflict(
                    f"pool {name!r} has unfinished runs (run {run_id} is one): wait for them, or cancel them"
                )
        try:
            rule = rule_of(row)
        except Invalid:
            rule = PoolRule(name)
        # Those that serve it by its rule stop by themselves.
        own = [
            found.name
            for found in connection.execute(READ_NODES)
            if _is_alive(found) and name in names_of(found.pools) and not rule.why_takes(*_facts_of(found))
        ]
        own.sort()
        if own:
            more = f" and {len(own) - NAMED_MAX} more" if len(own) > NAMED_MAX else ""
            raise Conflict(
                f"pool {name!r} is served by node {', '.join(own[:NAMED_MAX])}{more}, which names it with --pool or in "
                "its settings, or has not followed the last change of its rule, which takes some seconds"
            )
        connection.execute(DELETE_POOL, of_pool)
        _correct_absent(connection, rule, PoolRule(name))
        tell_change(connection, "pool", "deleted", f"pool {name} was deleted", actor=actor, subject=name)
        announce(connection)

    database.write(remove, repeatable=False)


def read_pool(database: Database, name: str) -> dict[str, Any]:
    """Return how a pool is shown, with all nodes that serve it, also those that are gone, and why they do.

    Raises:
        NotFound: there is no such pool.
    """

    def read(connection: Connection) -> dict[str, Any]:
        return _show(connection, name)

    return database.read(read)


def is_known(database: Database, name: str) -> bool:
    """Tell whether there is such a pool."""
    return database.read(lambda connection: connection.execute(READ_POOL, {"of_pool": name}).first()) is not None


def _show(connection: Connection, name: str) -> dict[str, Any]:
    row = connection.execute(READ_POOL, {"of_pool": name}).one_or_none()
    if row is None:
        raise NotFound("pool", name, POOL_HINT)
    problem = None
    try:
        rule = rule_of(row)
    except Invalid as error:
        rule, problem = PoolRule(name), str(error)
    served: list[dict[str, Any]] = []
    for found in connection.execute(READ_NODES):
        by = rule.why_takes(*_facts_of(found))
        if by is None and name in names_of(found.pools):
            by = "itself"
        if by is not None:
            state = found.state if _is_alive(found) else NodeState.GONE.value
            served.append({"name": found.name, "state": state, "by": by})
    served.sort(key=lambda one: one["name"])
    return show_pools(connection, [row])[0] | {"served_by": served, "problem": problem}


def _facts_of(row: AnyRow) -> tuple[str, Any]:
    return row.name, labels_of(row.labels)


def _own_pools_of(row: AnyRow) -> frozenset[str]:
    # A program that does not tell them apart knows no rules: all that it wrote is its own.
    return names_of(row.pools if row.own_pools is None else row.own_pools)


def _is_alive(row: AnyRow) -> bool:
    return row.state != NodeState.GONE.value and bool(row.is_held)


def _correct_absent(connection: Connection, old: PoolRule, new: PoolRule) -> None:
    """Let the rows of nodes that are not there say what the rule makes of them now; what they name themselves stays."""
    for row in connection.execute(READ_NODES).all():
        facts = _facts_of(row)
        before, after = old.why_takes(*facts) is not None, new.why_takes(*facts) is not None
        pools = show_document(row.pools)
        if before == after or _is_alive(row) or not isinstance(pools, list) or new.pool in _own_pools_of(row):
            continue
        kept: list[Any] = [one for one in pools if one != new.pool]  # pyright: ignore[reportUnknownVariableType]
        _correct(connection, row, [*kept, new.pool] if after else kept)


def correct_absent_nodes(database: Database) -> int:
    """Let the rows of nodes that are not there say what all rules make of them; return how many did not.

    Whoever changes a rule sees to it for those that are not there; one that was dead already, and whose lease went on,
    neither followed the change nor was corrected with it.
    """

    def find(connection: Connection) -> list[tuple[AnyRow, Sequence[Any]]]:
        rules = read_rules(connection)
        found: list[tuple[AnyRow, Sequence[Any]]] = []
        for row in connection.execute(READ_NODES).all():
            own = show_document(row.pools if row.own_pools is None else row.own_pools)
            if _is_alive(row) or not isinstance(own, list):
                continue
            served = pools_served(map(str, own), *_facts_of(row), rules)  # pyright: ignore[reportUnknownArgumentType]
            if frozenset(served) != names_of(row.pools):
                found.append((row, served))
        return found

    wrong = database.read(find)  # mostly none, and then nobody waits for a transaction
    if not wrong:
        return 0
    return database.write(
        lambda connection: sum(_correct(connection, row, served) for row, served in wrong), repeatable=True
    )


def _correct(connection: Connection, row: AnyRow, pools: Sequence[Any]) -> int:
    which = {"of_name": row.name, "of_holder": row.holder, "of_pools": row.pools}
    own = row.pools if row.own_pools is None else row.own_pools
    corrected = json.dumps(pools, ensure_ascii=False)
    return connection.execute(CORRECT_POOLS, which | {"pools": corrected, "own_pools": own}).rowcount


def _columns_of(rule: PoolRule) -> dict[str, str | None]:
    return {
        "members": json.dumps(rule.members, ensure_ascii=False) if rule.members else None,
        "patterns": json.dumps(rule.patterns, ensure_ascii=False) if rule.patterns else None,
        "labels": json.dumps(dict(rule.labels), ensure_ascii=False) if rule.labels else None,
    }


def _say(rule: PoolRule) -> str:
    parts = [
        f"members {', '.join(rule.members)}" if rule.members else "",
        f"nodes {', '.join(rule.patterns)}" if rule.patterns else "",
        "label " + ", ".join(f"{name}={value}" for name, value in rule.labels.items()) if rule.labels else "",
    ]
    said = "; ".join(part for part in parts if part)
    return f": {said}" if said else ": it is served by the nodes that name it"
