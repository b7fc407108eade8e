"""Looking at periods is served by indexes, however long the ledger is, and asks no more the longer it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from rota.store import period_ledger, period_standing, periods
from rota.store.periods import look_at_periods
from rota.store.tables import period
from tests.clock import BEGINNING
from tests.store.ledger import Ledger, statements_of
from tests.store.test_explain import explain
from tests.store.timelines import Timelines

JOBS, HOURS = 10, 2_000
UNDONE = 200  # of each job, the newest ones
SPAN = {"of_job": 1, "low": BEGINNING - timedelta(hours=HOURS - 30), "high": BEGINNING - timedelta(hours=HOURS - 54)}
LATE_SPAN = {"of_job": 1, "low": BEGINNING - timedelta(hours=30), "high": BEGINNING - timedelta(hours=6)}
STATEMENTS_MAX = 40

# statement: its parameters, and the indexes that are named above it in the store
HOT: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "FIND_DUE": (periods.FIND_DUE, {"limit": 200}, {"rota_period_due"}),
    "FIND_OLDEST": (period_ledger.FIND_OLDEST, {"of_job": 1, "limit": 3}, {"rota_period_unfinished"}),
    "READ_WITHIN": (period_standing.READ_WITHIN, SPAN, {"rota_period_unfinished", "rota_period_start"}),
    "READ_WITHIN of late ones": (
        period_standing.READ_WITHIN,
        LATE_SPAN,
        {"rota_period_unfinished", "rota_period_start"},
    ),
    "FIND_OVERLAPPING": (period_ledger.FIND_OVERLAPPING, SPAN, {"rota_period_start"}),
    "READ_ENDED": (period_standing.READ_ENDED, {"of_job": 1, "at": BEGINNING}, {"rota_period_start"}),
}


def _rows() -> Iterator[dict[str, Any]]:
    for number in range(HOURS):
        start = BEGINNING - timedelta(hours=HOURS - number)
        for job_id in range(1, JOBS + 1):
            is_done = number < HOURS - UNDONE
            yield {
                "job_id": job_id, "name": f"{start:%Y-%m-%dT%H}", "start_at": start,
                "end_at": start + timedelta(hours=1), "state": "processed" if is_done else "open", "reason": "done",
                "reason_text": "", "due_at": start if number == HOURS - UNDONE else None, "round": 1, "is_void": False,
                "updated_at": start, "finished_at": start if is_done else None,
            }  # fmt: skip


@pytest.fixture
def long_timelines(ledger: Ledger) -> Timelines:
    timelines = Timelines(ledger)
    for number in range(JOBS):
        timelines.add(f"job{number}", period_start="2026-11-02T12")

    def fill(connection: Connection) -> None:
        connection.execute(insert(period), list(_rows()))

    ledger.database.write(fill, repeatable=False)
    analyze = {"sqlite": "analyze", "postgresql": "analyze", "mysql": "analyze table rota_period"}
    ledger.execute(analyze[ledger.database.dialect.name])
    return timelines


def test_no_look_scans_the_ledger(long_timelines: Timelines) -> None:
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters, expected) in HOT.items():
        used, plan = explain(long_timelines.ledger, statement, parameters)
        if any("sqlite_autoindex_rota_period" in line and "job_id=? AND start_at" in line for line in plan):
            used.add("rota_period_start")
        bad = {one for one in used if one.startswith("SCANS rota_period")} | used & {"SORTS"}
        if expected - used or bad:
            wrong[name] = [f"uses {sorted(used)}, expected {sorted(expected)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


def test_a_look_asks_the_same_however_long_the_ledger_is(long_timelines: Timelines) -> None:
    long_timelines.look()
    (claim, *_) = long_timelines.claim()
    long_timelines.ledger.end(claim)

    with statements_of(long_timelines.ledger.database) as sent:
        looked = look_at_periods(long_timelines.ledger.database)

    assert (looked.finished, looked.ready) == (1, 1)
    assert len(sent) <= STATEMENTS_MAX, sent
