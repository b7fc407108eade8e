"""Runs whose job names secrets: taken by nodes that have all of them, and explained before."""

from __future__ import annotations

import json

import pytest

from rota.model.states import NodeState
from rota.store.findings import watch_health
from rota.store.health import check_health
from rota.store.history import why_job, why_run
from rota.store.nodes import describe_node, read_node
from rota.store.outlook import look
from rota.store.slot_history import why_schedule
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.living import start_node, stop_node

pytestmark = pytest.mark.cases_take_turns


def taken(ledger: Ledger, *secrets: str) -> list[str]:
    """Claim for a node that can read these, and return the jobs of what it got."""
    claims = ledger.claim(secrets=sorted(secrets))
    return sorted(claim.job for claim in claims)


def can_read(ledger: Ledger, *secrets: str, name: str = "a") -> None:
    describe_node(
        ledger.database, identity_of(name), state=NodeState.ALIVE, pools=["default"], slots=4, secrets=secrets
    )


@pytest.mark.parametrize(
    ("secrets", "jobs"),
    [
        ((), ["plain"]),
        (("C",), ["plain"]),
        (("A",), ["one", "plain"]),
        (("B",), ["plain"]),
        (("A", "B"), ["one", "plain", "two"]),
        (("A", "B", "C"), ["one", "plain", "two"]),
        (("a", "b"), ["plain"]),
        (("AA", "BB", "A_"), ["plain"]),
        (tuple(f"S{number}" for number in range(50)), ["plain"]),
    ],
)
def test_a_node_takes_what_it_has_all_secrets_for(ledger: Ledger, secrets: tuple[str, ...], jobs: list[str]) -> None:
    for name, names in (("plain", None), ("one", ["A"]), ("two", ["A", "B"])):
        ledger.add_job(name, secrets=names and json.dumps(names))
        ledger.enqueue(name)

    assert taken(ledger, *secrets) == jobs


def test_environment_and_secrets_are_asked_for_together(ledger: Ledger) -> None:
    ledger.add_job(env="shop", secrets='["A"]')
    ledger.enqueue()

    assert taken(ledger, "A") == []


def test_a_claim_brings_the_names(ledger: Ledger) -> None:
    ledger.add_job(secrets='["B", "A"]')
    ledger.enqueue()

    claim = ledger.claim_one(secrets=["A", "B"])

    assert (claim.secrets, claim.problem) == (("A", "B"), None)


@pytest.mark.parametrize("text", ["", "[]", "null"])
def test_a_list_of_nothing_asks_for_nothing(ledger: Ledger, text: str) -> None:
    ledger.add_job(secrets=text)
    ledger.enqueue()

    assert taken(ledger) == ["job"]


def test_a_look_tells_of_no_run_that_the_node_cannot_take(ledger: Ledger) -> None:
    ledger.add_job(secrets='["A"]')
    ledger.enqueue()

    def has_ready(*secrets: str) -> bool:
        return look(ledger.database, identity_of("a"), ["default"], secrets=secrets).has_ready

    assert [has_ready(), has_ready("B"), has_ready("A", "B")] == [False, False, True]


def test_secrets_take_no_statement_more(ledger: Ledger) -> None:
    ledger.add_job("plain")
    ledger.add_job("named", secrets='["A"]')

    def count(job: str, *secrets: str) -> int:
        ledger.enqueue(job)
        with statements_of(ledger.database) as sent:
            assert taken(ledger, *secrets) == [job]
        return len(sent)

    assert count("plain") == count("named", "A")


def test_why_says_which_node_lacks_which(ledger: Ledger) -> None:
    ledger.add_job(secrets='["A", "B"]')
    ledger.add_schedule(job="job")
    run_id = ledger.enqueue()
    start_node(ledger, "a")
    start_node(ledger, "b")
    can_read(ledger, "A")

    def answers() -> list[str]:
        told = [why_run(ledger.database, run_id), why_job(ledger.database, "job")]
        told.append(why_schedule(ledger.database, "each"))
        return [line for answer in told for line in answer["because"] if line.startswith("no node")]

    before = answers()
    offered = [line for line in why_run(ledger.database, run_id)["because"] if "offered" in line]
    can_read(ledger, "A", "B", "C")

    assert len(before) == 3
    for line in before:
        assert "in pool default can read all secrets of its job: " in line
        assert "a has no B" in line
        assert "b has no A, B" in line
    assert offered == []
    assert answers() == []
    (line,) = [line for line in why_run(ledger.database, run_id)["because"] if "offered" in line]
    assert line.startswith("it is offered to a (")


def test_a_late_run_says_that_its_secret_is_missing(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(secrets='["A"]')
    ledger.enqueue()
    start_node(ledger, "a")
    clock.advance(seconds=LEASE_SECONDS - 1)
    clock.advance(seconds=100)
    start_node(ledger, "a")

    (late,) = [found for found in check_health(ledger.database).findings if found.code == "run_late"]

    assert "a has no A" in late.text


def test_a_node_shows_what_it_can_read_by_its_names(ledger: Ledger) -> None:
    start_node(ledger, "a")
    can_read(ledger, "A", "B")

    view = read_node(ledger.database, "a")

    assert view["secrets"] == ["A", "B"]
    assert "a serves default with 4 slots and can read A, B" in [event["text"] for event in view["events"]]


def missing(ledger: Ledger) -> dict[str, tuple[str, str]]:
    found = check_health(ledger.database).findings
    return {one.subject: (one.severity.value, one.text) for one in found if one.code.value == "secret_missing"}


def test_work_for_which_no_node_has_the_secrets_is_found(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "a", pools=("default", "other"))
    can_read(ledger, "HERE")
    for name in ("NOW", "LATER", "IDLE", "HERE", "PAUSED"):
        ledger.add_job(name, secrets=json.dumps([name]), state="paused" if name == "PAUSED" else "active")
    for name in ("LATER", "HERE", "PAUSED"):
        ledger.add_schedule(name, name, next_slot_at=clock.after(60))
    ledger.enqueue("NOW")
    ledger.enqueue("HERE")

    said = "no node alive in pool default can read all secrets of its job: a has no "
    found = missing(ledger)

    assert {subject: told[0] for subject, told in found.items()} == {"NOW": "critical", "LATER": "warning"}
    assert found["NOW"][1].startswith(f"runs are ready, and {said}NOW: ")
    assert found["LATER"][1].startswith(f"schedules of its jobs come due, and {said}LATER: ")


def test_what_several_jobs_lack_is_told_once(ledger: Ledger) -> None:
    start_node(ledger, "a")
    for name, text in (("one", '["A", "B"]'), ("two", '["B", "A"]'), ("three", "nothing"), ("four", "{}")):
        ledger.add_job(name, secrets=text)
        ledger.enqueue(name)

    told = watch_health(ledger.database, node="a")

    assert told is not None
    assert told.begun == 2
    assert sorted(missing(ledger)) == ["A, B", "secrets"]


def test_a_node_that_said_goodbye_may_come_back_before_its_secrets_are_missed(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(secrets='["A"]')
    ledger.enqueue()
    start_node(ledger, "b")
    can_read(ledger, "A", name="b")
    stop_node(ledger, "b")
    start_node(ledger, "a")
    soon = missing(ledger)
    clock.advance(minutes=6)
    start_node(ledger, "a")

    assert soon == {}
    assert missing(ledger)["A"][0] == "critical"
