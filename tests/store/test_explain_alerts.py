"""What alerts read is served by indexes, however many jobs have them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from rota.store import alerts
from rota.store.tables import alert, job
from tests.store.ledger import Ledger
from tests.store.test_explain import explain

pytestmark = [pytest.mark.breaks_invariants, pytest.mark.takes_turns]

JOBS = 5000

# statement: its parameters, and what it must not go through
READS: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "READ_STANDINGS": (alerts.READ_STANDINGS, {"bad_ids": [7, 8], "good_ids": [9, 10]}, {"SCANS rota_alert"}),
    "FIND_HELD": (alerts.FIND_HELD, {}, {"SCANS rota_alert", "SCANS rota_job"}),
    "READ_JOBS_TOLD": (alerts.READ_JOBS_TOLD, {"names": ["job7", "job8"]}, {"SCANS rota_job"}),
    "FIND_ALERT_JOBS": (alerts.FIND_ALERT_JOBS, {"names": ["rota:alert:ops"]}, {"SCANS rota_job"}),
}


def test_no_alert_goes_through_all_jobs(ledger: Ledger) -> None:
    first = ledger.add_job(alert='["ops"]')
    (row,) = ledger.rows(job.select())
    columns = {name: value for name, value in row._mapping.items() if name != "id"}
    now = ledger.clock.now
    jobs = [columns | {"name": f"job{number}"} for number in range(JOBS)]
    held = [
        {"job_id": first + n, "kind": kind, "told_at": now, "due_at": now + timedelta(days=1) if n % 9 == 0 else None}
        for n in range(JOBS)
        for kind in ("failure", "lost", "late")
    ]
    ledger.database.write(lambda connection: connection.execute(insert(job), jobs), repeatable=False)
    ledger.database.write(lambda connection: connection.execute(insert(alert), held), repeatable=False)
    analyze = {"sqlite": "analyze", "postgresql": "analyze", "mysql": "analyze table rota_alert, rota_job"}
    ledger.execute(analyze[ledger.database.dialect.name])
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters, never) in READS.items():
        used, plan = explain(ledger, statement, parameters)
        # SQLite may also go through an index from one end to the other.
        if used & never or any(line.startswith(("SCAN rota_alert", "SCAN rota_job")) for line in plan):
            wrong[name] = [f"uses {sorted(used)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)
