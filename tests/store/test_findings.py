"""The nodes look once a minute between them, and tell what has begun and what has ended."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from rota.store.events import show_event
from rota.store.findings import IS_LOOK_DUE, Told, watch_health
from rota.store.health import check_health
from rota.store.tables import event, finding
from tests.clock import BEGINNING, Clock
from tests.store.ledger import Ledger, statements_of
from tests.store.living import start_node


def events(ledger: Ledger) -> list[tuple[str, str, str]]:
    """What was told, as (became, code, node)."""
    rows = ledger.rows(select(event).where(event.c.kind == "health").order_by(event.c.id))
    return [(row.to_state, row.reason, row.node) for row in rows]


def open_findings(ledger: Ledger) -> list[Any]:
    return ledger.rows(select(finding).order_by(finding.c.id))


@pytest.fixture
def late(ledger: Ledger, clock: Clock) -> int:
    """A run that is late, in a cluster whose node goes on renewing."""
    ledger.add_job()
    run_id = ledger.enqueue()
    clock.advance(seconds=70)
    start_node(ledger)
    return run_id


def minute(ledger: Ledger, clock: Clock, node: str = "a", *, count: int = 1) -> list[Told | None]:
    told: list[Told | None] = []
    for _ in range(count):
        clock.advance(seconds=60)
        start_node(ledger)
        told.append(watch_health(ledger.database, node=node))
    return told


def test_a_finding_is_told_once_and_its_end_once(
    ledger: Ledger, clock: Clock, late: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rota.health")

    first = watch_health(ledger.database, node="a")
    during = minute(ledger, clock, count=3)
    ledger.end(ledger.claim_one())
    after = minute(ledger, clock, count=4)

    assert first == Told(begun=1)
    assert during == [Told(), Told(), Told()]
    assert after == [Told(), Told(ended=1), Told(), Told()]
    assert events(ledger) == [("warning", "run_late", "a"), ("ended", "run_late", "a")]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"run {late} of job" in caplog.records[0].message
    assert caplog.records[1].message.startswith("this has ended: 1 run is ready in pool default, for up to ")
    assert open_findings(ledger) == []


def test_what_becomes_critical_is_told_once_more_and_falls_back_silently(
    ledger: Ledger, clock: Clock, late: int, caplog: pytest.LogCaptureFixture
) -> None:
    watch_health(ledger.database, node="a")
    clock.advance(minutes=10)
    start_node(ledger)

    risen = watch_health(ledger.database, node="a")
    later = minute(ledger, clock, count=2)

    assert risen == Told(worse=1)
    assert later == [Told(), Told()]
    assert events(ledger) == [("warning", "run_late", "a"), ("critical", "run_late", "a")]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    (row,) = open_findings(ledger)
    assert (row.severity, row.since, row.seen_at) == ("critical", BEGINNING, clock.now)


def test_what_comes_and_goes_from_look_to_look_is_told_once(ledger: Ledger, clock: Clock, late: int) -> None:
    watch_health(ledger.database, node="a")
    for paused in ("paused", "active", "paused", "active"):
        ledger.set_job(state=paused)
        minute(ledger, clock)

    assert events(ledger) == [("warning", "run_late", "a")]


def test_only_one_node_looks_in_a_minute(ledger: Ledger, clock: Clock, late: int) -> None:
    first = watch_health(ledger.database, node="a")
    clock.advance(seconds=59)

    with statements_of(ledger.database) as sent:
        assert watch_health(ledger.database, node="b") is None
    clock.advance(seconds=1)

    assert len(sent) == 1
    assert first is not None
    assert watch_health(ledger.database, node="b") is not None


def test_whether_a_look_is_due_can_be_asked_beside_other_things(ledger: Ledger, clock: Clock) -> None:
    def is_due() -> bool:
        return bool(ledger.value(select(IS_LOOK_DUE)))

    never = is_due()
    watch_health(ledger.database, node="a")
    just_now = is_due()
    clock.advance(seconds=60)

    assert (never, just_now, is_due()) == (True, False, True)


def test_a_clock_that_was_put_back_does_not_stop_the_looks(ledger: Ledger, clock: Clock, late: int) -> None:
    clock.step(hours=5)
    watch_health(ledger.database, node="a")
    clock.step(hours=-5)

    assert ledger.value(select(IS_LOOK_DUE))
    assert watch_health(ledger.database, node="a") is not None


def test_a_node_that_is_overtaken_while_it_looks_tells_nothing(
    ledger: Ledger, clock: Clock, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ledger.connect()

    def slow(database: Any) -> Any:
        health = check_health(database)
        monkeypatch.undo()
        clock.advance(seconds=61)
        start_node(ledger)
        assert watch_health(other, node="b") == Told(begun=1)
        return health

    monkeypatch.setattr("rota.store.findings.check_health", slow)

    assert watch_health(ledger.database, node="a") is None
    assert events(ledger) == [("warning", "run_late", "b")]


def test_many_nodes_at_once_tell_it_once(ledger: Ledger, late: int) -> None:
    together, told = threading.Barrier(4), list[Told | None]()
    databases = [ledger.connect() for _ in range(4)]

    def look(number: int) -> None:
        together.wait(30)
        told.append(watch_health(databases[number], node=f"n{number}"))

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(told, key=str) == [None, None, None, Told(begun=1)]
    assert len(events(ledger)) == 1
    assert len(open_findings(ledger)) == 1


def test_a_node_that_falls_silent_is_told_by_another_with_the_schedule_it_leaves(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(pool="reports")
    ledger.add_schedule(next_slot_at=clock.after(7200))
    start_node(ledger, "b", pools=("reports",))
    start_node(ledger, "a")
    assert watch_health(ledger.database, node="a") == Told()

    minute(ledger, clock, count=2)

    assert sorted(events(ledger)) == [("warning", "node_silent", "a"), ("warning", "pool_empty", "a")]


def test_an_event_names_the_schedule_or_the_job_it_is_about(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.add_schedule("broken", next_slot_at=BEGINNING, problem="cannot be fired: x")
    for _ in range(3):
        ledger.enqueue()
        ledger.end(ledger.claim_one(), "exited", exit_code=1)

    watch_health(ledger.database, node="a")

    rows = ledger.rows(select(event).where(event.c.kind == "health").order_by(event.c.id))
    assert {(row.reason, row.schedule, row.job) for row in rows} == {
        ("schedule_set_aside", "broken", None),
        ("job_failing", None, "job"),
    }
    assert show_event(ledger.rows(select(event).where(event.c.kind == "health"))[0])["kind"] == "health"


def test_a_run_that_takes_far_longer_than_usual_is_told_with_its_job_when_it_begins_and_ends(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.add_job(lease_seconds=3600.0)
    for _ in range(5):
        ledger.enqueue()
        ledger.end(ledger.claim_one(), seconds=1.0)
    ledger.enqueue()
    claim = ledger.claim_one()
    start_node(ledger)
    assert watch_health(ledger.database, node="a") == Told()

    begun = minute(ledger, clock, count=2)
    ledger.end(claim)
    ended = minute(ledger, clock, count=2)

    assert (sum(told.begun for told in begun if told), sum(told.ended for told in ended if told)) == (1, 1)
    rows = ledger.rows(select(event).where(event.c.kind == "health").order_by(event.c.id))
    assert [(row.reason, row.job, row.to_state) for row in rows] == [
        ("run_long", "job", "warning"),
        ("run_long", "job", "ended"),
    ]


def test_whoever_asks_learns_since_when_the_nodes_have_seen_it(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job(pool="nowhere")
    ledger.enqueue()
    watch_health(ledger.database, node="a")
    minute(ledger, clock, count=2)

    (found, *_) = [one for one in check_health(ledger.database).findings if one.code == "pool_empty"]

    assert found.since == BEGINNING
    assert clock.now == BEGINNING + timedelta(minutes=2)


def test_a_schedule_that_ended_as_it_was_told_is_no_news(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.add_schedule("ended", end_at=BEGINNING)

    assert watch_health(ledger.database, node="a") == Told()
    assert events(ledger) == []


def test_a_job_that_failed_long_ago_is_still_failing_though_others_have_run_since(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.add_job("busy")
    for _ in range(3):
        ledger.enqueue()
        ledger.end(ledger.claim_one(), "exited", exit_code=1)
    watch_health(ledger.database, node="a")
    # As after ten thousand other runs: the failures are not among the recent ones any more.
    monkeypatch.setattr("rota.store.health.FIND_FAILED_JOBS", select(finding.c.id).where(finding.c.id < 0))

    assert minute(ledger, clock, count=3) == [Told(), Told(), Told()]
    assert [row.code for row in open_findings(ledger)] == ["job_failing"]
