"""What the board asks is served by an index: none of it scans runs, attempts or what is counted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from rota.store import board, health, rollups
from rota.store.tables import job_rollup, node_rollup
from tests.store.ledger import Ledger
from tests.store.test_explain import SCANS, explain, long_ledger

__all__ = ["long_ledger"]

pytestmark = pytest.mark.breaks_invariants

JOBS, QUARTERS = 40, 300
QUARTER = timedelta(minutes=15)
SCANS_OF_COUNTS = ("SCANS rota_job_rollup", "SCANS rota_node_rollup")


@pytest.fixture
def counted_ledger(long_ledger: Ledger) -> Ledger:
    """A long ledger with much that is counted."""
    now = long_ledger.clock.now
    of_one = {"unit": "quarter", "ended_count": 1}
    moments = [now - QUARTER * number for number in range(QUARTERS)]
    of_jobs = [
        of_one | {"job_id": n, "start_at": at, "state": state, "delay_seconds": 0.0, "delay_count": 0}
        for n in range(JOBS)
        for at in moments
        for state in ("succeeded", "failed")
    ]
    of_nodes = [
        of_one | {"node": f"n{n}", "start_at": at, "state": "succeeded", "busy_seconds": 1.0}
        for n in range(JOBS)
        for at in moments
    ]

    def fill(connection: Connection) -> None:
        connection.execute(insert(job_rollup), of_jobs)
        connection.execute(insert(node_rollup), of_nodes)

    long_ledger.database.write(fill, repeatable=False)
    kind = long_ledger.database.dialect.name
    names = "rota_job_rollup, rota_node_rollup"
    long_ledger.execute({"sqlite": "analyze", "postgresql": "analyze"}.get(kind, f"analyze table {names}"))
    return long_ledger


def test_the_board_scans_nothing_that_grows(counted_ledger: Ledger) -> None:
    now = counted_ledger.clock.now
    window = {"first": now - 4 * QUARTER, "end": now, "unit": "quarter"}
    jobs = {"job_ids": [1, 2, 3]}
    cells = {"start_seconds": int(now.timestamp()) - 3600, "cell_seconds": 60}
    asked: dict[str, tuple[Any, dict[str, Any]]] = {
        "what is counted of jobs": (rollups.READ_OF_JOBS, {**window, **jobs, "of_all": False, "together": 4}),
        "what is counted of all": (rollups.READ_OF_JOBS, {**window, "job_ids": [0], "of_all": True, "together": 1}),
        "what is counted of nodes": (rollups.READ_OF_NODES, window | {"nodes": ["n1", "n2"]}),
        "the next that are troubled": (board.READ_NEXT_TROUBLED, window | {"after": "", "pattern": "%", "limit": 51}),
        "those that are troubled": (board.READ_TROUBLED, window | {"after": "", "pattern": "%", "limit": 51}),
        "runs one by one": (board.READ_CELLS, window | jobs | cells),
        "what is not finished": (board.READ_UNFINISHED, jobs),
        "what runs": (board.READ_RUNNING, {"nodes": ["n1", "n2"]}),
        "jobs that may be failing": (health.READ_ACTIVE_JOBS, jobs),
    }
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters) in asked.items():
        used, plan = explain(counted_ledger, statement, parameters)
        bad = [one for one in used if one.startswith((*SCANS, *SCANS_OF_COUNTS)) and "SORT" not in one]
        if bad:
            wrong[name] = [f"uses {sorted(used)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)
