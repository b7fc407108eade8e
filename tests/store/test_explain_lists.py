"""Lists are read by an index in their order: no page sorts, and none looks at more than its limit or its window."""

from __future__ import annotations

from typing import Any

import pytest

from rota.store.backfills import LIST_BACKFILLS
from rota.store.event_feed import READ_NEWER, READ_RECENT, READ_SPANS, READ_TOP, SPANS_MAX
from rota.store.figures import COUNT_FINDINGS, READ_LAST_RUN, READ_OLDEST_READY
from rota.store.runs import READ_BOUNDS, READ_JOB_ID, _list_statement
from rota.store.schedules import LIST_SCHEDULES
from tests.store.ledger import Ledger
from tests.store.test_explain import FINISHED, READY, SCANS, explain, long_ledger

__all__ = ["long_ledger"]

pytestmark = pytest.mark.breaks_invariants

WINDOW = {"from_id": FINISHED - 2000, "before": FINISHED, "limit": 51}
SPANS = {f"{end}_{n}": n for n in range(SPANS_MAX) for end in ("first", "last")}

PAGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "schedules": (LIST_SCHEDULES.statement(), {"limit": 51}),
    "schedules after": (LIST_SCHEDULES.statement("after"), {"after": "s5", "limit": 51}),
    "schedules found": (LIST_SCHEDULES.statement("after", "search"), {"after": "s", "search": "%1%", "limit": 51}),
    "backfills": (LIST_BACKFILLS.statement("before"), {"before": 1000, "limit": 51}),
    "runs": (_list_statement({"limit"}), {"limit": 51}),
    "runs before": (_list_statement({"before"}), {"before": FINISHED, "limit": 51}),
    "runs of a job": (_list_statement({"job_id", "before"}), {"job_id": 1, "before": FINISHED, "limit": 51}),
    "runs in a window": (_list_statement({"states", "from_id", "before"}), {"states": ["succeeded"], **WINDOW}),
    "runs of a schedule in a window": (
        _list_statement({"schedule", "from_id", "before"}),
        {"schedule": "s1", **WINDOW},
    ),
    "the ends of the ledger": (READ_BOUNDS, {}),
    "a job's id": (READ_JOB_ID, {"name": "job"}),
    "the newest event": (READ_TOP, {}),
    "newer events": (READ_NEWER, {"after": 2500, "limit": 1000}),
    "late events": (READ_SPANS, {**SPANS, "lowest": 0, "highest": 19, "limit": 1000}),
    "events read again": (READ_RECENT, {"after": 2000, "top": 2900, "seconds": 60.0, "limit": 1000}),
    "the newest run": (READ_LAST_RUN, {}),
    "the oldest ready run": (READ_OLDEST_READY, {}),
    "findings": (COUNT_FINDINGS, {}),
}
# SQLite calls reading along the primary key a scan; the limit ends it. What is sorted is no more than a page.
GOOD = {("runs", "SCANS rota_run"), ("late events", "SORTS"), ("findings", "SORTS")}


def test_no_page_scans_or_sorts(long_ledger: Ledger) -> None:
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters) in PAGED.items():
        used, plan = explain(long_ledger, statement, parameters)
        bad = {one for one in used if one == "SORTS" or one.startswith((*SCANS, "SCANS rota_event"))}
        if {one for one in bad if (name, one) not in GOOD}:
            wrong[name] = [f"uses {sorted(used)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


def test_those_that_run_are_found_by_their_lease(long_ledger: Ledger) -> None:
    statement = _list_statement({"is_running", "before"})

    used, plan = explain(long_ledger, statement, {"before": FINISHED + READY + 10_000, "limit": 51})

    assert "rota_run_lease" in used, plan
