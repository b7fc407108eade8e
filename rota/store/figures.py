"""Figures for monitoring: few and cheap, each bounded by an index or by a number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from rota.model.states import NodeState, RunState
from rota.store.database import Database
from rota.store.status import COUNT_READY, COUNT_RECENT, COUNT_RUNNING, COUNT_WAITING
from rota.store.tables import finding, node, run
from rota.store.types import db_now

READ_LAST_RUN = select(func.max(run.c.id))
# Served by rota_run_claim.
READ_OLDEST_READY = select(func.min(run.c.run_at).label("at"), db_now().label("now")).where(
    run.c.state == RunState.READY.value
)
_state = case(
    (node.c.state == NodeState.GONE.value, NodeState.GONE.value),
    (node.c.lease_ends_at > db_now(), node.c.state),
    else_="silent",
)
COUNT_NODES = select(
    _state.label("state"), func.count().label("number"), func.sum(node.c.slots).label("slots")
).group_by(_state)
# When any node last did a good round. There are as many rows as nodes.
READ_LAST_ROUND = select(func.max(node.c.seen_at).label("at"), db_now().label("now"))
COUNT_FINDINGS = select(finding.c.severity, func.count().label("number")).group_by(finding.c.severity)


@dataclass(frozen=True, slots=True)
class Figures:
    """What monitoring asks."""

    runs: dict[str, int]  # unfinished ones, by state
    recent: dict[str, int]  # the latest 10,000, by state
    last_run: int
    oldest_ready_seconds: float
    nodes: dict[str, int]  # by state; silent is one whose lease is over
    slots: int  # of nodes that are there
    findings: dict[str, int]  # by severity
    last_round_seconds: float | None  # None: no node was ever here


def read_figures(database: Database) -> Figures:
    """Read them.

    Raises:
        DatabaseUnavailable: nobody answers.
    """

    def read(connection: Connection) -> Figures:
        oldest = connection.execute(READ_OLDEST_READY).one()
        nodes = connection.execute(COUNT_NODES).all()
        return Figures(
            runs={
                RunState.WAITING.value: connection.execute(COUNT_WAITING).scalar_one(),
                RunState.READY.value: connection.execute(COUNT_READY).scalar_one(),
                RunState.RUNNING.value: connection.execute(COUNT_RUNNING).scalar_one(),
            },
            recent={row.state: row.number for row in connection.execute(COUNT_RECENT)},
            last_run=connection.execute(READ_LAST_RUN).scalar() or 0,
            oldest_ready_seconds=_age(oldest) or 0.0,
            nodes={row.state: row.number for row in nodes},
            slots=sum(int(row.slots) for row in nodes if row.state not in {"silent", NodeState.GONE.value}),
            findings={row.severity: row.number for row in connection.execute(COUNT_FINDINGS)},
            last_round_seconds=_age(connection.execute(READ_LAST_ROUND).one()),
        )

    return database.read(read)


def read_last_round(database: Database) -> float | None:
    """Return how many seconds ago a node last did a good round; None: none was ever here.

    Raises:
        DatabaseUnavailable: nobody answers.
    """
    return database.read(lambda connection: _age(connection.execute(READ_LAST_ROUND).one()))


def _age(row: Any) -> float | None:
    return None if row.at is None else max(0.0, (row.now - row.at).total_seconds())
