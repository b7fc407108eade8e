"""Which nodes of its pool a run goes to: what its job excludes, prefers, and where it failed last."""

from __future__ import annotations

import pytest

from rota.model.states import Delivery, RunState
from rota.store.advancing import advance_runs
from rota.store.endings import rescue_runs
from rota.store.history import why_job, why_run
from rota.store.interventions import rerun_run
from rota.store.outlook import look
from tests.clock import Clock
from tests.store.ledger import Ledger, identity_of, statements_of
from tests.store.living import start_node

pytestmark = pytest.mark.cases_take_turns


def taken_by(ledger: Ledger, node: str, **labels: str) -> list[int]:
    return [claim.run_id for claim in ledger.claim(node, labels=labels)]


def sees_ready(ledger: Ledger, node: str, **labels: str) -> bool:
    return look(ledger.database, identity_of(node), ["default"], labels=labels).has_ready


def is_held_back(ledger: Ledger, node: str, **labels: str) -> bool:
    return look(ledger.database, identity_of(node), ["default"], labels=labels).has_held_back


@pytest.mark.parametrize("excluded", ["a", "disk=slow", "zone=eu/west-1"])
def test_a_node_that_a_job_excludes_by_name_or_label_never_takes_its_runs(
    ledger: Ledger, clock: Clock, excluded: str
) -> None:
    ledger.add_job(exclude=f'["nobody", "{excluded}"]')
    run_id = ledger.enqueue()
    clock.advance(days=1)
    labels = {"disk": "slow", "zone": "eu/west-1"}

    assert taken_by(ledger, "a", **labels) == []
    assert not sees_ready(ledger, "a", **labels)
    assert not is_held_back(ledger, "a", **labels)
    assert sees_ready(ledger, "b", zone="eu/west-2")
    assert taken_by(ledger, "b", zone="eu/west-2") == [run_id]


@pytest.mark.parametrize("named", ["ab", "A", "a=a", "%", "_", "a b=1"])
def test_only_the_whole_name_counts(ledger: Ledger, named: str) -> None:
    ledger.add_job(exclude=f'["{named}"]')
    run_id = ledger.enqueue()

    assert taken_by(ledger, "a", b="1") == [run_id]


@pytest.mark.parametrize("preferred", ["a", "gpu=yes"])
def test_nodes_that_are_not_preferred_take_a_run_only_after_it_was_ready_for_ten_seconds(
    ledger: Ledger, clock: Clock, preferred: str
) -> None:
    ledger.add_job(prefer=f'["x", "{preferred}"]')
    first, second = ledger.enqueue(), ledger.enqueue()

    assert taken_by(ledger, "b") == []
    assert not sees_ready(ledger, "b")
    assert is_held_back(ledger, "b")
    assert sees_ready(ledger, "a", gpu="yes")
    assert not is_held_back(ledger, "a", gpu="yes")
    assert [claim.run_id for claim in ledger.claim("a", 1, labels={"gpu": "yes"})] == [first]
    clock.advance(seconds=9.9)
    assert taken_by(ledger, "b") == []
    clock.advance(seconds=0.1)
    assert sees_ready(ledger, "b")
    assert not is_held_back(ledger, "b")
    assert taken_by(ledger, "b") == [second]


def test_what_a_preference_waits_for_counts_from_when_the_run_became_ready(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(prefer='["a"]')
    later = ledger.enqueue(in_seconds=60.0)
    clock.advance(seconds=60)
    advance_runs(ledger.database)
    clock.advance(seconds=5)

    assert taken_by(ledger, "b") == []
    (claim,) = ledger.claim("a")
    clock.advance(seconds=100)
    rescue_runs(ledger.database, rescuer="b")  # its lease is over, and it is ready again
    assert ledger.run(later).state == RunState.READY
    assert taken_by(ledger, "b") == []
    clock.advance(seconds=10)
    assert taken_by(ledger, "b") == [claim.run_id]


def test_a_preference_of_nobody_prefers_everybody(ledger: Ledger) -> None:
    ledger.add_job(prefer="[]")
    run_id = ledger.enqueue()

    assert taken_by(ledger, "b") == [run_id]


def test_a_run_that_is_for_one_node_is_not_held_back_from_it(ledger: Ledger) -> None:
    ledger.add_job(prefer='["a"]', retry_node="other")
    run_id = ledger.enqueue()
    ledger.set_run(run_id, target_node="b", avoid_node="b")

    assert taken_by(ledger, "a") == []
    assert taken_by(ledger, "b") == [run_id]


def test_after_a_bad_end_another_node_comes_first_for_thirty_seconds(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one("a", retry_node="other", retries=2, retry_delay_seconds=1.0)
    ledger.end(claim, "exited", exit_code=1)
    noted = ledger.run(claim.run_id).avoid_node
    clock.advance(seconds=1)
    advance_runs(ledger.database)

    assert noted == "a"
    assert taken_by(ledger, "a") == []
    assert not sees_ready(ledger, "a")
    assert is_held_back(ledger, "a")
    clock.advance(seconds=29)
    assert taken_by(ledger, "a") == []
    again = ledger.claim_one("b")
    assert (again.run_id, again.attempt) == (claim.run_id, 2)
    assert ledger.run(claim.run_id).avoid_node is None
    ledger.end(again, "exited", exit_code=1)
    clock.advance(seconds=1)
    advance_runs(ledger.database)
    assert ledger.run(claim.run_id).avoid_node == "b"
    assert ledger.claim_one("a").attempt == 3


def test_where_there_is_no_other_node_the_same_one_takes_it_after_thirty_seconds(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one("a", retry_node="other", retries=1, retry_delay_seconds=0.0)
    ledger.end(claim, "exited", exit_code=1)
    advance_runs(ledger.database)
    clock.advance(seconds=30)

    assert taken_by(ledger, "a") == [claim.run_id]


def test_a_lost_attempt_is_a_bad_end_too(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one("a", retry_node="other")
    clock.advance(seconds=61)
    rescue_runs(ledger.database, rescuer="b")

    assert ledger.run(claim.run_id).avoid_node == "a"
    assert taken_by(ledger, "a") == []
    assert taken_by(ledger, "b") == [claim.run_id]


@pytest.mark.parametrize("kind", ["exited", "released"])
def test_nothing_is_avoided_where_the_job_does_not_say_so_or_the_run_was_given_back(ledger: Ledger, kind: str) -> None:
    retry_node = "other" if kind == "released" else "any"
    claim = ledger.start_one("a", retry_node=retry_node, retries=1, retry_delay_seconds=0.0)
    ledger.end(claim, kind, exit_code=None if kind == "released" else 1)
    advance_runs(ledger.database)

    assert ledger.run(claim.run_id).avoid_node is None
    assert taken_by(ledger, "a") == [claim.run_id]


def test_nothing_is_avoided_once_a_run_has_ended_or_is_rerun(ledger: Ledger) -> None:
    claim = ledger.start_one("a", retry_node="other", retries=0)
    ledger.end(claim, "exited", exit_code=1)
    failed = ledger.run(claim.run_id)
    rerun_run(ledger.database, claim.run_id, actor="ann")

    assert (failed.state, failed.avoid_node) == (RunState.FAILED, None)
    assert taken_by(ledger, "a") == [claim.run_id]


def test_a_lost_run_that_is_not_started_again_avoids_nothing(ledger: Ledger, clock: Clock) -> None:
    claim = ledger.start_one("a", retry_node="other", delivery=Delivery.AT_MOST_ONCE.value)
    clock.advance(seconds=61)
    rescue_runs(ledger.database, rescuer="b")

    assert (ledger.run(claim.run_id).state, ledger.run(claim.run_id).avoid_node) == (RunState.LOST, None)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"exclude": "a"}, "exclude"),
        ({"exclude": '{"a": 1}'}, "exclude"),
        ({"exclude": '["gpu="]'}, "exclude"),
        ({"prefer": '["b", 7, "a"]'}, "prefer"),
        ({"retry_node": "elsewhere"}, "retry_node"),
    ],
)
def test_what_a_hand_wrote_there_fails_its_run_with_the_reason_and_no_other(
    ledger: Ledger, columns: dict[str, str], said: str
) -> None:
    ledger.add_job("broken", **columns)
    ledger.add_job("sound")
    broken, sound = ledger.enqueue("broken"), ledger.enqueue("sound")

    problems = {claim.run_id: claim.problem for claim in ledger.claim("a")}

    assert said in (problems[broken] or "")
    assert "rota job edit" in (problems[broken] or "")
    assert problems[sound] is None


def test_all_of_it_takes_no_statement_of_its_own(ledger: Ledger) -> None:
    ledger.add_job(prefer='["a"]', exclude='["c"]', retry_node="other")
    ledger.enqueue()

    with statements_of(ledger.database) as sent:
        look(ledger.database, identity_of("b"), ["default"], labels={"gpu": "yes"})
        taken_by(ledger, "b", gpu="yes")

    assert len(sent) == 2


# What is said of it


def test_why_a_run_has_not_started_names_the_nodes_that_its_job_excludes(ledger: Ledger) -> None:
    for name in ("a", "b"):
        start_node(ledger, name)
    ledger.execute("update rota_node set labels = '{\"disk\": \"slow\"}' where name = 'b'")
    ledger.add_job(exclude='["disk=slow"]')
    run_id = ledger.enqueue()

    one = why_run(ledger.database, run_id)["because"]
    ledger.set_job(exclude='["a", "disk=slow"]')
    every = why_run(ledger.database, run_id)["because"]

    assert "its job excludes b (disk=slow)" in one
    assert "it is offered to a (4 of 4 slots free)" in one
    assert every[0] == "its job excludes every node alive in pool default: a, b (disk=slow)"
    assert every[0] in why_job(ledger.database, "job")["because"]
    assert not any("offered" in said for said in every)


def test_why_a_run_has_not_started_tells_how_long_preferred_nodes_come_first(ledger: Ledger, clock: Clock) -> None:
    for name in ("a", "b"):
        start_node(ledger, name)
    ledger.add_job(prefer='["a", "gpu=yes"]')
    run_id = ledger.enqueue()
    clock.advance(seconds=3)

    early = why_run(ledger.database, run_id)["because"]
    clock.advance(seconds=7)
    late = why_run(ledger.database, run_id)["because"]

    assert early[0] == "its job prefers a, gpu=yes: a comes first for another 7s, then any node"
    assert "it is offered to a (4 of 4 slots free)" in early
    assert not any("prefers" in said for said in late)
    assert any("offered to" in said and "b (4 of 4" in said for said in late)


def test_why_a_run_has_not_started_tells_which_node_it_avoids(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    claim = ledger.start_one("a", retry_node="other", retries=1, retry_delay_seconds=0.0)
    ledger.end(claim, "exited", exit_code=1)
    advance_runs(ledger.database)
    clock.advance(seconds=12)

    because = why_run(ledger.database, claim.run_id)["because"]

    assert because[0] == "it avoids node a for another 18s: its last attempt ended badly there"
