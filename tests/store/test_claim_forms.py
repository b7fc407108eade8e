"""The claim in each of its forms: the same promises on every database that can do it, and on some that only say so.

A form is what a database is believed to be capable of. The beliefs are wrong on purpose here: locking clauses that are
dropped without a word, a COMMIT that is refused, a COMMIT whose answer is lost.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import event

from rota.model.run import Claim, NewRun
from rota.store.database import Database
from rota.store.dialects import ClaimForm
from rota.store.interventions import cancel_run
from rota.store.leases import claim_runs, mark_started
from rota.store.suspension import drain_node, pause_pool
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.living import start_node
from tests.store.trouble import forget_row_locks, trouble_commits

THREADS = 8
RUNS = 96
TRIES_MAX = 200  # until somebody is unlucky so often in a row, something else is wrong

HOSTILE: dict[str, Callable[[Database], None]] = {
    "kind": lambda _database: None,
    "drops locks": forget_row_locks,
    "refuses at COMMIT": lambda database: trouble_commits(database, "refused", "done", "refused", "refused"),
    "loses the answer": lambda database: trouble_commits(database, "after", "before", "done"),
}


class Nodes:
    """Nodes that claim in one form, each over connections of its own that are hostile in one way."""

    def __init__(self, ledger: Ledger, form: ClaimForm, hostile: str) -> None:
        self.ledger = ledger
        self.form = form
        self.hostile = hostile
        self._databases: dict[str, Database] = {}

    def database(self, name: str) -> Database:
        if name not in self._databases:
            made = self.ledger.connect()
            made.dialect = dataclasses.replace(made.dialect, claim_form=self.form)
            HOSTILE[self.hostile](made)
            self._databases[name] = made
        return self._databases[name]

    def claim(self, name: str = "a", limit: int = 10, *, pools: Sequence[str] = ("default",)) -> list[Claim]:
        """Claim as a worker does, which asks again after a COMMIT that has not come about."""
        for _ in range(3):
            if claims := claim_runs(self.database(name), identity_of(name), pools, limit, LEASE_SECONDS):
                return claims
        return []

    def claimed(self, name: str = "a", limit: int = 10, **options: Any) -> list[int]:
        return [claim.run_id for claim in self.claim(name, limit, **options)]


def forms() -> list[Any]:
    return [pytest.param(form, id=form.value) for form in ClaimForm]


@pytest.fixture(params=forms())
def form(request: pytest.FixtureRequest, database_kind: str) -> ClaimForm:
    if request.param is ClaimForm.AT_ONCE and database_kind != "postgresql":
        pytest.skip("an UPDATE there does not return rows, or takes no array")
    return request.param


@pytest.fixture(params=list(HOSTILE))
def nodes(request: pytest.FixtureRequest, ledger: Ledger, form: ClaimForm) -> Nodes:
    return Nodes(ledger, form, request.param)


def test_each_form_sends_the_statements_that_it_is_named_after(ledger: Ledger, form: ClaimForm) -> None:
    ledger.add_job()
    ledger.enqueue()
    nodes = Nodes(ledger, form, "kind")

    with statements_of(nodes.database("a")) as sent:
        assert len(nodes.claim(limit=1)) == 1

    first, second = (statement.split()[0] for statement in sent[:2])
    assert (first, second) == (("WITH", "INSERT") if form is ClaimForm.AT_ONCE else ("SELECT", "UPDATE"))
    can_lock = ledger.database.dialect.name != "sqlite"
    assert ("SKIP LOCKED" in sent[0]) == (can_lock and form is not ClaimForm.COMPARE_ALONE)
    assert any("RETURNING" in statement for statement in sent) == (form is ClaimForm.AT_ONCE)


def test_a_claim_looks_once_for_runs_although_it_finds_less_than_it_wants(ledger: Ledger, form: ClaimForm) -> None:
    ledger.add_job()
    ledger.add_job("limited", max_running=5)
    free, limited = ledger.enqueue(), ledger.enqueue("limited")
    nodes = Nodes(ledger, form, "kind")

    with statements_of(nodes.database("a")) as sent:
        claimed = nodes.claimed()

    assert claimed == [free, limited]
    assert sum("rota_run.target_node IN" in statement for statement in sent) == 1


def test_runs_come_by_priority_then_age_and_no_more_than_asked_for(nodes: Nodes) -> None:
    ledger = nodes.ledger
    ledger.add_job()
    low, late, early = ledger.enqueue(priority=-1), ledger.enqueue(priority=5), ledger.enqueue(priority=5)
    ledger.set_run(late, run_at=ledger.clock.after(-10))
    ledger.set_run(early, run_at=ledger.clock.after(-20))

    assert [nodes.claimed(limit=2), nodes.claimed(limit=2), nodes.claimed(limit=2)] == [[early, late], [low], []]


def test_a_node_takes_what_is_meant_for_it_from_its_pools(nodes: Nodes) -> None:
    ledger = nodes.ledger
    for pool in ("near", "far"):
        ledger.add_job(pool, pool=pool)
    near, other, far = ledger.enqueue("near"), ledger.enqueue("near"), ledger.enqueue("far")
    ledger.set_run(other, target_node="b")

    assert nodes.claimed("a", pools=["near", "empty"]) == [near]
    assert nodes.claimed("a", pools=["near"]) == []
    assert nodes.claimed("b", pools=["near", "far"]) == [other, far]


def test_the_limit_holds_over_all_pools_together(nodes: Nodes) -> None:
    ledger = nodes.ledger
    for pool in ("one", "two"):
        ledger.add_job(pool, pool=pool)
        ledger.enqueue_many([NewRun(pool)] * 2)

    assert [claim.pool for claim in nodes.claim(pools=["one", "two"], limit=3)] == ["one", "one", "two"]


def test_what_may_not_start_is_left_alone(nodes: Nodes) -> None:
    ledger = nodes.ledger
    for name in ("good", "late", "paused", "cancelled"):
        ledger.add_job(name)
    start_node(ledger, "a")
    good, late = ledger.enqueue("good"), ledger.enqueue("late", start_within_seconds=30)
    paused, cancelled = ledger.enqueue("paused"), ledger.enqueue("cancelled")
    ledger.set_job("paused", state="paused")
    cancel_run(ledger.database, cancelled, actor="ann")
    ledger.clock.advance(seconds=31)

    assert nodes.claimed() == [good]
    states = {run_id: ledger.run(run_id).state for run_id in (late, paused, cancelled)}
    assert states == {late: "ready", paused: "ready", cancelled: "cancelled"}


@pytest.mark.parametrize("suspend", [pause_pool, drain_node])
def test_a_paused_pool_and_a_drained_node_give_and_take_nothing(nodes: Nodes, suspend: Callable[..., Any]) -> None:
    ledger = nodes.ledger
    ledger.add_job()
    start_node(ledger, "a")
    ledger.enqueue()

    suspend(ledger.database, "default" if suspend is pause_pool else "a", actor="ann")

    assert nodes.claimed("a") == []


def test_a_claim_is_the_run_its_attempt_and_its_event_and_no_trouble_doubles_them(nodes: Nodes) -> None:
    ledger = nodes.ledger
    ledger.add_job()
    ledger.add_job("careful", delivery="at_most_once")
    run_ids = [*ledger.enqueue_many([NewRun("job")] * 3), ledger.enqueue("careful")]

    claims = nodes.claim()

    assert [claim.run_id for claim in claims] == run_ids
    for claim in claims:
        row, (attempt,) = ledger.run(claim.run_id), ledger.attempts(claim.run_id)
        assert (row.state, row.node, row.attempt, row.fence) == ("running", "a", 1, 1)
        assert row.claim_id == attempt.claim_id == claim.claim_id
        assert claim.marked == (row.marked_at is not None) == (claim.job != "careful")
        assert [to for _, to, _ in ledger.history(claim.run_id)] == ["ready", "running"]
    careful = claims[-1]
    assert mark_started(nodes.database("a"), [careful.claim_id]) == {careful.claim_id}


@pytest.mark.parametrize("what", ["claims it", "cancels it"])
def test_a_run_that_another_one_takes_between_the_look_and_the_claim_is_not_claimed(
    ledger: Ledger, form: ClaimForm, what: str
) -> None:
    if ledger.database.dialect.one_writer:
        pytest.skip("nobody comes in between there")
    ledger.add_job()
    (run_id,) = ledger.enqueue_many([NewRun("job")])
    nodes = Nodes(ledger, form, "drops locks")
    slow, other = nodes.database("a"), nodes.database("b")
    taken: list[Any] = []

    def come_between(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "UPDATE rota_run" in statement and not taken:
            taken.append(None)
            if what == "claims it":
                taken.extend(claim_runs(other, identity_of("b"), ["default"], 1, LEASE_SECONDS))
            else:
                cancel_run(other, run_id, actor="ann")

    event.listen(slow.engine, "before_cursor_execute", come_between)
    claims = claim_runs(slow, identity_of("a"), ["default"], 1, LEASE_SECONDS)

    assert taken
    assert claims == []
    row = ledger.run(run_id)
    assert (row.state, row.node, row.fence) == (("running", "b", 1) if what == "claims it" else ("cancelled", None, 0))
    assert len(ledger.attempts(run_id)) == len(taken) - 1


def race(nodes: Nodes, names: Sequence[str], work: Callable[[str], None]) -> None:
    """Let threads, each a node with connections of its own, do ``work`` at the same time."""
    together = threading.Barrier(len(names))
    failures: list[BaseException] = []

    def take_part(name: str) -> None:
        try:
            nodes.database(name)
            together.wait(30)
            work(name)
        except BaseException as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=take_part, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def test_nodes_that_race_get_each_run_once_and_none_is_lost(nodes: Nodes) -> None:
    ledger = nodes.ledger
    ledger.add_job()
    run_ids = ledger.enqueue_many([NewRun("job")] * RUNS)
    taken: list[tuple[str, int]] = []

    def work(name: str) -> None:
        for _ in range(TRIES_MAX):
            taken.extend((name, run_id) for run_id in nodes.claimed(name, limit=5))
            if "ready" not in {row.state for row in ledger.rows("select distinct state from rota_run")}:
                return
        raise AssertionError(f"{name} asked {TRIES_MAX} times, and there are still some left")

    race(nodes, [f"node-{number}" for number in range(THREADS)], work)

    assert Counter(run_id for _, run_id in taken) == Counter(run_ids)
    for name, run_id in taken:
        row = ledger.run(run_id)
        assert (row.node, row.state, row.attempt, row.fence) == (name, "running", 1, 1)
        assert [attempt.node for attempt in ledger.attempts(run_id)] == [name]
