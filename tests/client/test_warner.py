"""Warnings of the Python door: of jobs whose pool no node serves, at most once a minute, at no cost to the caller."""

from __future__ import annotations

import logging

import pytest

from rota import Rota
from rota.client.warner import LOOK_SECONDS, Warner
from rota.errors import DatabaseUnavailable
from tests.clock import Clock
from tests.store.ledger import Ledger, statements_of
from tests.store.living import start_node, stop_node

UNKNOWN = "there is no pool p yet, and no node serves pool p: start one with `rota worker --pool p`"
USUAL = "no node serves pool default: start one with `rota worker --pool default`"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "rota.client")
    return caplog


@pytest.fixture
def time_passes(rota: Rota) -> list[float]:
    """What the machine's clock says to the warner: a list of one number."""
    now = [1000.0]
    rota.__dict__["warner"] = Warner(rota, clock=lambda: now[0])
    return now


def report() -> None: ...


def told(log: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of since it was asked last."""
    found = [record.getMessage() for record in log.records if record.name == "rota.client"]
    log.clear()
    return found


def test_whoever_adds_or_moves_a_job_into_a_pool_without_a_node_is_warned(
    rota: Rota, log: pytest.LogCaptureFixture
) -> None:
    rota.jobs.add("added", shell="true", pool="p")
    assert told(log) == [UNKNOWN]

    rota.jobs.add("moved", shell="true")
    rota.jobs.edit("moved", timeout="5m")
    assert told(log) == []
    rota.jobs.edit("moved", pool="q")
    assert told(log) == [UNKNOWN.replace("pool p", "pool q")]


def test_whoever_asks_for_runs_that_no_node_would_take_is_warned(
    rota: Rota, log: pytest.LogCaptureFixture, time_passes: list[float]
) -> None:
    for name, pool in (("a", "p"), ("b", "p"), ("c", "default")):
        rota.jobs.add(name, shell="true", pool=pool)
    told(log)
    time_passes[0] += LOOK_SECONDS

    rota.enqueue("a")
    rota.enqueue("c")
    assert told(log) == [UNKNOWN, USUAL]
    time_passes[0] += LOOK_SECONDS
    rota.enqueue_many([("a", {}), ("b", {}), ("c", {})])
    assert sorted(told(log)) == [USUAL, UNKNOWN]
    time_passes[0] += LOOK_SECONDS
    with rota.database.engine.begin() as tx:
        rota.using(tx).enqueue("a", key="k")
    assert told(log) == [UNKNOWN]
    time_passes[0] += LOOK_SECONDS
    assert not rota.enqueue("a", key="k").is_new
    assert told(log) == []


def test_whoever_adds_schedules_of_a_job_in_a_pool_without_a_node_is_warned(
    rota: Rota, log: pytest.LogCaptureFixture, time_passes: list[float]
) -> None:
    rota.jobs.add("job", shell="true", pool="p")
    rota.jobs.add("served", shell="true")
    told(log)
    time_passes[0] += LOOK_SECONDS

    rota.schedules.add("one", "job", every="1h")
    assert told(log) == [UNKNOWN]
    time_passes[0] += LOOK_SECONDS
    rota.schedules.add_many([{"key": f"k{number}", "job": "job", "every": "1h"} for number in range(3)])
    assert told(log) == [UNKNOWN]
    time_passes[0] += LOOK_SECONDS
    rota.schedules.add("two", "served", every="1h")
    assert told(log) == []
    rota.schedules["two"].edit(job="job")
    assert told(log) == [UNKNOWN]


def test_whoever_declares_a_job_in_a_pool_without_a_node_is_warned(
    rota: Rota, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: dict[str, object] = {}
    for module in ("rota.client.declared", "rota.client.rota"):
        monkeypatch.setattr(f"{module}.REGISTERED", registered)

    rota.job(pool="p")(report)
    assert told(log) == []
    rota.declare()
    assert told(log) == [UNKNOWN]


def test_nobody_is_warned_where_a_node_lives_or_has_just_left_and_of_one_that_is_down_in_other_words(
    rota: Rota, ledger: Ledger, clock: Clock, log: pytest.LogCaptureFixture, time_passes: list[float]
) -> None:
    start_node(ledger, "n", pools=("p",))
    rota.jobs.add("job", shell="true", pool="p")
    rota.enqueue("job")
    assert told(log) == []

    time_passes[0] += LOOK_SECONDS
    clock.advance(minutes=1)  # its lease is over
    rota.enqueue("job")
    assert told(log) == ["no node of pool p is alive: n was the last one, seen 2026-11-02T12:00:00Z"]

    start_node(ledger, "n", pools=("p",))
    stop_node(ledger, "n")
    time_passes[0] += LOOK_SECONDS
    rota.enqueue("job")
    assert told(log) == []
    clock.advance(minutes=6)
    time_passes[0] += LOOK_SECONDS
    rota.enqueue("job")
    assert told(log) == ["no node of pool p is alive: n was the last one, seen 2026-11-02T12:01:00Z"]


def test_jobs_of_the_usual_pool_may_be_added_before_the_first_node_of_all(
    rota: Rota, ledger: Ledger, log: pytest.LogCaptureFixture, time_passes: list[float]
) -> None:
    rota.jobs.add("job", shell="true")
    rota.schedules.add("key", "job", every="1h")
    assert told(log) == []

    start_node(ledger, "n", pools=("p",))
    time_passes[0] += LOOK_SECONDS
    rota.jobs.add("other", shell="true")
    assert told(log) == [USUAL]


def test_runs_are_asked_for_by_the_thousand_and_their_pool_is_looked_at_once_a_minute(
    rota: Rota, time_passes: list[float], log: pytest.LogCaptureFixture
) -> None:
    def count_statements() -> int:
        with statements_of(rota.database) as sent:
            rota.enqueue("a")
        return len(sent)

    rota.jobs.add("a", shell="true", pool="p")
    rota.jobs.add("b", shell="true", pool="p")
    time_passes[0] += LOOK_SECONDS
    first = count_statements()
    usual = count_statements()
    time_passes[0] += LOOK_SECONDS / 2
    rota.enqueue("b")
    told(log)
    time_passes[0] += LOOK_SECONDS / 2 - 1

    assert count_statements() == usual < first
    assert told(log) == []
    time_passes[0] += 1
    assert count_statements() == first
    assert told(log) == [UNKNOWN]


@pytest.mark.parametrize("error", [DatabaseUnavailable("nobody answers"), ValueError("a row that a hand wrote")])
def test_a_look_that_fails_costs_the_caller_nothing(
    rota: Rota, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> list[str]:
        raise error

    monkeypatch.setattr("rota.client.warner.say_unserved", fail)
    assert rota.jobs.add("job", shell="true", pool="p")["name"] == "job"
    monkeypatch.setattr("rota.client.warner.read_pools_of", fail)
    assert rota.enqueue("job").state == "ready"

    assert told(log) == []
