"""Looking for what does not go on by itself, and explaining, are served by indexes too, however long the ledger is."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from rota.store import durations, health, history, slot_history
from rota.store.findings import IS_LOOK_DUE
from rota.store.health import check_health
from rota.store.tables import event
from tests.store.ledger import Ledger, statements_of
from tests.store.test_explain import FINISHED, explain, long_ledger

__all__ = ["long_ledger"]

pytestmark = [pytest.mark.breaks_invariants, pytest.mark.takes_turns]

EVENTS = 20_000
STATEMENTS_MAX = 40

LATE = {"late_seconds": 60.0}
ABOUT = {"schedule_id": 1, "target_node": "", "run_id": 1, "id": 1, "pool": "default", "urgency": 0, "name": "s1"}

# statement: its parameters, and the index that is named above it in the store
LOOKS: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "FIND_ABSENT": (health.FIND_ABSENT, LATE, {"rota_schedule_due"}),
    "FIND_SET_ASIDE": (health.FIND_SET_ASIDE, {}, {"rota_schedule_due"}),
    "FIND_STOPPED": (health.FIND_STOPPED, {}, {"rota_schedule_due"}),
    "FIND_ENDED": (health.FIND_ENDED, {}, {"rota_schedule_due"}),
    "FIND_SKIPPING": (health.FIND_SKIPPING, {}, {"rota_schedule_skips"}),
    "FIND_STUCK": (health.FIND_STUCK, LATE, {"rota_run_due"}),
    "FIND_EXPIRED": (health.FIND_EXPIRED, LATE, {"rota_run_lease"}),
    "HAS_AHEAD": (health.HAS_AHEAD, {}, {"rota_schedule_due"}),
    "HAS_DUE": (health.HAS_DUE, {}, {"rota_run_due"}),
    "READ_READY_POOLS": (health.READ_READY_POOLS, {}, {"rota_run_claim"}),
    "HAS_READY": (health.HAS_READY, {"pool": "default"}, {"rota_run_claim"}),
    "HAS_READY_IN": (health.HAS_READY_IN, {"pool": "default", "env": "shop"}, {"rota_run_claim"}),
    "HAS_READY_WITH": (health.HAS_READY_WITH, {"pool": "default", "secrets": '["A"]'}, {"rota_run_claim"}),
    "FIND_LATE": (health.FIND_LATE, LATE | {"pool": "default"}, {"rota_run_claim"}),
    "READ_READY_SINCE": (health.READ_READY_SINCE, {"run_ids": [1, 2, 3]}, {"rota_event_run"}),
    "FIND_LONG": (health.FIND_LONG, {}, {"rota_run_lease"}),
    "READ_DURATIONS": (durations.READ_DURATIONS, {"job_id": 2}, {"rota_run_job"}),
    "FIND_STEP": (health.FIND_STEP, {}, {"rota_event_kind"}),
    "READ_LAST_RUNS": (health.READ_LAST_RUNS, {"job_id": 2}, {"rota_run_job"}),
    "FIND_FIRST": (history.FIND_FIRST["oldest"], {}, {"rota_run_open_schedule"}),
    "COUNT_BEFORE": (history.COUNT_BEFORE, {}, {"rota_run_claim"}),
    "FIND_IN_THE_WAY": (history.FIND_IN_THE_WAY, {}, {"rota_run_slot"}),
    "FIND_SLOT": (slot_history.FIND_SLOT, {}, {"rota_run_slot"}),
    "FIND_SLOTS": (slot_history.FIND_SLOTS, {}, {"rota_run_slot"}),
    "FIND_CHANGE": (slot_history.FIND_CHANGE, {}, {"rota_event_kind"}),
}
# They sort what an index has found: the runs of a few, what one schedule has unfinished, or, where PostgreSQL expects
# to find fewer than it was asked for, the ready ones of a pool.
SORT_FEW = {"READ_READY_SINCE", "READ_DURATIONS", "FIND_FIRST", "FIND_IN_THE_WAY", "FIND_LATE"}


@pytest.fixture
def told_ledger(long_ledger: Ledger) -> Ledger:
    """A long ledger with its long history."""
    now = long_ledger.clock.now
    rows = [{"at": now, "run_id": 1 + n % FINISHED, "kind": "run", "to_state": "ready"} for n in range(EVENTS)]
    told = [{"at": now, "schedule": "s1", "kind": "schedule", "to_state": "added"}]

    def fill(connection: Connection) -> None:
        connection.execute(insert(event), rows)
        connection.execute(insert(event), told)

    long_ledger.database.write(fill, repeatable=False)
    analyze = {"sqlite": "analyze", "postgresql": "analyze", "mysql": "analyze table rota_event"}
    long_ledger.execute(analyze[long_ledger.database.dialect.name])
    return long_ledger


def test_no_look_scans_the_ledger_or_the_schedules(told_ledger: Ledger) -> None:
    now = told_ledger.clock.now
    moments = {"slot_at": now, "run_at": now, "decided_at": now, "slot_from": now, "slot_to": now}
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameters, expected) in LOOKS.items():
        used, plan = explain(told_ledger, statement, ABOUT | moments | parameters)
        # SQLite gives the index of a unique constraint a name of its own.
        if any("sqlite_autoindex_rota_run" in line and "(schedule_id=? AND slot_at" in line for line in plan):
            used.add("rota_run_slot")
        scans = ("SCANS rota_run", "SCANS rota_schedule", "SCANS rota_event")
        bad = {one for one in used if one.startswith(scans) and one != "SCANS rota_schema"}
        if name not in SORT_FEW:
            bad |= used & {"SORTS"}
        optimized = sum("optimized away" in line for line in plan)
        if len(expected - used) > optimized or bad:
            wrong[name] = [f"uses {sorted(used)}, expected {sorted(expected)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


def test_a_look_takes_few_statements_however_long_the_ledger_is(told_ledger: Ledger) -> None:
    with statements_of(told_ledger.database) as sent:
        health_found = check_health(told_ledger.database)

    assert len(sent) <= STATEMENTS_MAX
    assert health_found.late == health.FOUND_MAX


def test_asking_whether_a_look_is_due_costs_one_row(told_ledger: Ledger) -> None:
    used, plan = explain(told_ledger, select(IS_LOOK_DUE), {})

    assert not {one for one in used if one.startswith("SCANS rota_run")}, plan
