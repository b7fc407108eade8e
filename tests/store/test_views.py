"""The views for people: each shows what there is, by the database's own clock, over a connection that knows no Rota."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import NullPool, bindparam, case, create_engine, text, update

from rota.model.run import NewRun
from rota.store import views
from rota.store.runs import read_runs
from rota.store.status import read_status
from rota.store.tables import event, run, schedule
from rota.store.types import Instant
from rota.store.views import VIEWS, View
from tests.store.ledger import Ledger
from tests.store.living import start_node
from tests.store.test_explain import explain, long_ledger

__all__ = ["long_ledger"]


@pytest.fixture
def now(ledger: Ledger) -> datetime:
    """The moment at which the test begins: views ask the database for its own clock."""
    ledger.clock.now = datetime.now(UTC)
    return ledger.clock.now


def look_at(ledger: Ledger, view: View, where: str = "1 = 1") -> list[dict[str, Any]]:
    """All that stands in a view, as any program reads it."""
    engine = create_engine(ledger.database.url, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.execute(text(f"select * from {view.name} where {where}"))
        return [dict(row._mapping) for row in rows]


def of(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[name] for name in names) for row in rows)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_has_the_columns_that_are_documented(ledger: Ledger, view: View) -> None:
    found = ledger.database.read(lambda c: list(c.execute(text(f"select * from {view.name}")).keys()))

    assert found == list(view.columns)


def test_the_last_result_of_each_job_is_that_of_its_last_run_that_has_ended(ledger: Ledger, now: datetime) -> None:
    for name in ("good", "bad", "new", "idle"):
        ledger.add_job(name)
    ended: dict[str, int] = {}
    for name, kind in (("good", "failed"), ("good", "succeeded"), ("bad", "failed")):
        ended[name] = ledger.enqueue(name)
        ledger.end(ledger.started(ledger.claim_one()), kind, result='{"rows":1}' if kind == "succeeded" else None)
    ledger.enqueue("good")
    ledger.enqueue("new")
    ledger.set_job("bad", state="paused")

    found = look_at(ledger, views.LAST_RESULTS)

    assert of(found, "job", "job_state") == [
        ("bad", "paused"),
        ("good", "active"),
        ("idle", "active"),
        ("new", "active"),
    ]
    by_job = {row["job"]: row for row in found}
    assert [by_job[name]["run_id"] for name in ("good", "bad", "new", "idle")] == [
        ended["good"],
        ended["bad"],
        None,
        None,
    ]
    assert (by_job["good"]["state"], by_job["good"]["result"], by_job["good"]["node"]) == (
        "succeeded",
        '{"rows":1}',
        "a",
    )
    assert (by_job["bad"]["state"], by_job["bad"]["attempt"], by_job["bad"]["result"]) == ("failed", 1, None)


def test_what_is_late_is_what_status_says_and_what_nobody_moves_on(ledger: Ledger, now: datetime) -> None:
    ledger.add_job("job", pool="reports")
    early, soon = now - timedelta(minutes=5), now + timedelta(hours=1)
    ledger.add_schedule("due", "job", next_slot_at=early)
    ledger.add_schedule("ahead", "job", next_slot_at=soon)
    ledger.add_schedule("paused", "job", next_slot_at=early, state="paused")
    ledger.add_schedule("broken", "job", next_slot_at=early, problem="no such zone")
    ready, waiting, queued, not_yet, fresh, running = ledger.enqueue_many([NewRun("job")] * 6)
    ledger.set_run(ready, run_at=early)
    ledger.set_run(waiting, state="waiting", run_at=early, due_at=early)
    ledger.set_run(queued, state="waiting", run_at=early, due_at=early, queued=True)
    ledger.set_run(not_yet, state="waiting", run_at=soon, due_at=soon)
    ledger.set_run(running, state="running", run_at=early, lease_ends_at=soon)

    found = look_at(ledger, views.LATE)

    assert of(found, "kind", "job", "schedule", "state", "pool") == sorted(
        [
            ("run", "job", None, "ready", "reports"),
            ("run", "job", None, "waiting", "reports"),
            ("slot", "job", "due", "due", "reports"),
        ],
        key=str,
    )
    assert {row["run_id"] for row in found} == {ready, waiting, None}
    assert {row["late_seconds"] // 60 for row in found} == {5}
    status = read_status(ledger.database)
    assert [one["id"] for one in status["late"]] == [ready]
    assert [one["key"] for one in status["overdue"]] == ["due"]
    assert fresh not in {row["run_id"] for row in found}
    ledger.execute("delete from rota_run")


def test_what_runs_now_is_shown_with_its_node_and_for_how_long(ledger: Ledger, now: datetime) -> None:
    claim = ledger.start_one("b")
    ledger.set_run(claim.run_id, marked_at=now - timedelta(hours=2), progress=0.5, progress_message="half")
    ledger.add_job("other")
    ledger.enqueue("other")

    (row,) = look_at(ledger, views.RUNNING)

    assert (row["run_id"], row["job"], row["node"], row["attempt"]) == (claim.run_id, "job", "b", 1)
    assert (row["running_seconds"] // 3600, row["progress"], row["progress_message"]) == (2, 0.5, "half")
    ledger.end(claim)
    assert look_at(ledger, views.RUNNING) == []


@pytest.mark.writes_runs_by_hand
def test_a_group_is_as_complete_as_its_runs(ledger: Ledger, now: datetime) -> None:
    for name in ("a", "b", "c", "d"):
        start_node(ledger, name)
    ledger.add_job("everywhere", runs_on="all")
    first = ledger.enqueue("everywhere")
    for name, kind in (("a", "succeeded"), ("b", "failed")):
        ledger.end(ledger.started(ledger.claim_one(name)), kind)
    ledger.execute("update rota_run set state = 'skipped', finished_at = enqueued_at where target_node = 'c'")
    ledger.execute(
        "update rota_event set to_state = 'skipped' where run_id = (select id from rota_run where target_node = 'c')"
    )
    second = ledger.enqueue("everywhere")
    ledger.add_job("alone")
    ledger.enqueue("alone")

    found = look_at(ledger, views.GROUPS)

    counts = ("run_id", "nodes", "succeeded", "failed", "missing", "unfinished")
    assert of(found, *counts) == [(first, 4, 1, 1, 1, 1), (second, 4, 0, 0, 0, 4)]
    shown = read_runs(ledger.database, [first])[0]
    assert look_at(ledger, views.GROUPS, f"group_id = '{shown['group']}'")[0]["run_id"] == first


@pytest.mark.writes_runs_by_hand
def test_the_runs_of_nobody_are_a_group_of_no_node(ledger: Ledger, now: datetime) -> None:
    ledger.add_job("everywhere", runs_on="all")
    row = {
        "id": 1,
        "job_id": 1,
        "job": "everywhere",
        "group_id": "g",
        "slot_count": 1,
        "target_node": "",
        "state": "missed",
    }
    row |= {"reason": "no_node", "reason_text": "", "args": "{}", "pool": "default", "priority": 0, "queued": False}
    row |= {"delivery": "at_least_once", "requested_by": "", "enqueued_at": now, "run_at": now, "finished_at": now}
    row |= dict.fromkeys(("attempt", "retries_used", "losses", "fence"), 0)
    ledger.execute(run.insert().values(row))
    ledger.execute(event.insert().values(at=now, run_id=1, kind="run", to_state="missed"))

    (found,) = look_at(ledger, views.GROUPS)

    assert [found[name] for name in ("nodes", "succeeded", "failed", "missing", "unfinished")] == [0, 0, 0, 0, 0]


# What people ask, and the indexes that serve it.
ASKED: dict[str, tuple[str, set[str]]] = {
    "all last results": ("select * from rota_last_results", {"rota_run_job"}),
    "one last result": ("select * from rota_last_results where job = 'job'", {"rota_run_job"}),
    "bad last results": ("select * from rota_last_results where state in ('failed', 'lost')", {"rota_run_job"}),
    "what is late": ("select * from rota_late", {"rota_schedule_due", "rota_run_claim", "rota_run_due"}),
    "what runs": ("select * from rota_running", {"rota_run_lease"}),
    "what runs of one job": ("select * from rota_running where job = 'other'", {"rota_run_lease"}),
    "one group": ("select * from rota_groups where group_id = 'g1'", {"rota_run_group"}),
    "the latest groups of a job": (
        "select * from rota_groups where job_id = 2 order by run_id desc limit 5",
        {"rota_run_group"},
    ),
    "the group of a slot": (
        "select * from rota_groups where schedule_id = 7 and slot_at = '2026-11-02 12:00:00.000000'",
        {"rota_run_group"},
    ),
}


@pytest.mark.breaks_invariants
def test_no_question_scans_the_ledger(long_ledger: Ledger) -> None:
    # Few slots are late, by whatever clock.
    moments = {"low": datetime(2020, 1, 1, tzinfo=UTC), "high": datetime(2900, 1, 1, tzinfo=UTC)}
    late = case((schedule.c.id <= 5, bindparam("low", type_=Instant())), else_=bindparam("high", type_=Instant()))
    long_ledger.execute(update(schedule).values(next_slot_at=late), **moments)
    if long_ledger.database.dialect.name == "mysql":
        long_ledger.execute("alter table rota_schedule force")  # else what is no more is counted until it is purged
    long_ledger.execute("analyze table rota_schedule" if long_ledger.database.dialect.name == "mysql" else "analyze")
    wrong: dict[str, list[str]] = {}

    for name, (asked, expected) in ASKED.items():
        found, plan = explain(long_ledger, text(asked), {})
        used = {part for one in found for part in one.split("|")}
        scans = {one for one in used if one.startswith(("SCANS rota_run", "SCANS rota_schedule"))}
        scans |= {f"SCANS {one}" for one in ("last", "ended", "member") if f"SCANS {one}" in used}
        if expected - used or scans:
            wrong[name] = [f"uses {sorted(used)}, expected {sorted(expected)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)
