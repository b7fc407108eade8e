"""Groups, read: the runs of one slot, or of one request, on all nodes of a pool, and how complete they are.

Invariant: reading changes nothing. What a group is, and which nodes it is for, is in ``fanout``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from rota.errors import NotFound
from rota.model.completeness import Completeness, judge
from rota.model.states import FINISHED
from rota.store.database import Database
from rota.store.fanout import TARGETS_MAX
from rota.store.shown import show_document, shown
from rota.store.tables import run

_MEMBER = [
    run.c.id,
    run.c.group_id,
    run.c.job,
    run.c.schedule,
    run.c.slot_at,
    run.c.target_node,
    run.c.state,
    run.c.reason,
    run.c.reason_text,
    run.c.attempt,
    run.c.started_at,
    run.c.finished_at,
    run.c.result,
]
# All runs of a group. Served by rota_run_group, and so is the next one.
READ_GROUP = (
    select(*shown(_MEMBER))
    .where(run.c.group_id == bindparam("group_id"))
    .order_by(run.c.target_node)
    .limit(TARGETS_MAX)
)
READ_STATES = select(run.c.group_id, run.c.target_node, run.c.state).where(
    run.c.group_id.in_(bindparam("group_ids", expanding=True))
)

_FINISHED = {state.value for state in FINISHED}


def read_completeness(connection: Connection, group_ids: Iterable[str]) -> dict[str, Completeness]:
    """Return how complete these groups are; one that is not there is left out."""
    wanted = sorted(set(group_ids))
    if not wanted:
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for row in connection.execute(READ_STATES, {"group_ids": wanted}):
        found.setdefault(row.group_id, []).append((row.target_node, row.state))
    return {group_id: judge(sorted(states)) for group_id, states in found.items()}


def show_completeness(found: Completeness | None) -> dict[str, Any] | None:
    """Show how complete a group is with the words of the doors."""
    return None if found is None else dataclasses.asdict(found)


def read_group(database: Database, group_id: str) -> dict[str, Any]:
    """Return how a group is shown: how complete it is, and the run of each node.

    Raises:
        NotFound: there is no such group.
    """
    return database.read(lambda connection: read_group_within(connection, group_id))


def read_group_within(connection: Connection, group_id: str) -> dict[str, Any]:
    """Do what ``read_group`` does, within a transaction."""
    rows = connection.execute(READ_GROUP, {"group_id": group_id}).all()
    if not rows:
        raise NotFound("group", group_id, "`rota run show` tells the group of a run")
    return _show_group(rows)


def _show_group(rows: Sequence[Row[Any]]) -> dict[str, Any]:
    first = rows[0]
    found = judge([(row.target_node, row.state) for row in rows])
    return {
        "group": first.group_id,
        "job": first.job,
        "schedule": first.schedule,
        "slot": first.slot_at,
        **dataclasses.asdict(found),
        "is_finished": all(row.state in _FINISHED for row in rows),
        "runs": [
            {
                "id": row.id,
                "node": row.target_node,
                "state": row.state,
                "reason": {"code": row.reason, "text": row.reason_text},
                "attempt": row.attempt,
                "started_at": row.started_at,
                "finished_at": row.finished_at,
                "result": show_document(row.result),
            }
            for row in rows
        ],
    }
