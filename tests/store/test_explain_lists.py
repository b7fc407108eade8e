"""Lists are read by an index in their order: no page sorts, and none looks at more than its limit or its window."""

from __future__ import annotations

from typing import Any

import pytest

from rota.store.backfills import LIST_BACKFILLS
from rota.store.commands import LIST_COMMANDS, READ_COMMAND, READ_MOMENT
from rota.store.commands import READ_BOUNDS as READ_COMMAND_BOUNDS
from rota.store.event_feed import READ_NEWER, READ_RECENT, READ_SPANS, READ_TOP, SPANS_MAX
from rota.store.figures import COUNT_FINDINGS, READ_LAST_RUN, READ_OLDEST_READY
from rota.store.nodes import RUNS_OF
from rota.store.runs import READ_BOUNDS, READ_JOB_ID, _list_statement
from rota.store.schedules import LIST_SCHEDULES
from rota.store.status import FIND_RUNNING
from rota.store.suspension import FIND_FROZEN
from rota.store.tables import command
from rota.store.upstreams import FIND_OLDEST
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


@pytest.mark.writes_runs_by_hand
def test_what_runs_and_waits_is_found_by_its_index_also_where_nothing_does(long_ledger: Ledger) -> None:
    long_ledger.execute("delete from rota_run where finished_at is null")
    kind = long_ledger.database.dialect.name
    long_ledger.execute("analyze table rota_run" if kind == "mysql" else "analyze")
    asked = {
        "what runs": (FIND_RUNNING, {}),
        "what runs on nodes": (RUNS_OF, {"names": ["a", "b"]}),
        "what is frozen": (FIND_FROZEN, {}),
        "what waits for upstreams": (FIND_OLDEST, {}),
    }

    plans = {name: explain(long_ledger, *one) for name, one in asked.items()}

    assert not {name: plan for name, (used, plan) in plans.items() if used & {"SCANS rota_run"}}


def test_commands_are_read_along_their_numbers_and_those_that_wait_by_their_index(long_ledger: Ledger) -> None:
    now = long_ledger.clock.now
    states = [*("done",) * 60, *("refused",) * 2, "done"] * 80 + ["pending"] * 20
    rows = [{"verb": "status", "state": state, "created_at": now, "requested_by": "ann"} for state in states]
    long_ledger.database.write(lambda connection: connection.execute(command.insert(), rows), repeatable=False)
    kind = long_ledger.database.dialect.name
    long_ledger.execute("analyze table rota_command" if kind == "mysql" else "analyze")
    window = {"before": 4000, "from_id": 3000, "limit": 51}
    every = {"state": "refused", "verb": "status", "since": now, "until": now}
    pages = {
        "the newest": (LIST_COMMANDS.statement(), {"limit": 51}),
        "a page": (LIST_COMMANDS.statement("before"), {"before": 4000, "limit": 51}),
        "those that wait": (LIST_COMMANDS.statement("pending"), {"limit": 51}),
        "those that wait, a page": (LIST_COMMANDS.statement("pending", "before"), {"before": 5050, "limit": 51}),
        "by a filter": (LIST_COMMANDS.statement("verb", "before", "from_id"), {"verb": "status", **window}),
        "by every filter": (LIST_COMMANDS.statement(*every, "before", "from_id"), every | window),
        "the ends": (READ_COMMAND_BOUNDS, {}),
        "when one was asked for": (READ_MOMENT, {"from_id": 3000}),
        "one": (READ_COMMAND, {"id": 3000}),
    }

    plans = {name: explain(long_ledger, *one) for name, one in pages.items()}

    # SQLite calls reading along the primary key, from its end, a scan; the limit ends it.
    good = {("the newest", "SCANS rota_command")} if kind == "sqlite" else set[tuple[str, str]]()
    wrong = {(name, one) for name, (used, _) in plans.items() for one in used & {"SORTS", "SCANS rota_command"}}
    assert not wrong - good, plans
    assert all("rota_command_pending" in plans[name][0] for name in ("those that wait", "those that wait, a page"))
