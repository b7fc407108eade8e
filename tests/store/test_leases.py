"""Claims, start marks and renewals: who may execute a run, and until when."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import Connection, select

from rota.errors import DatabaseUnavailable
from rota.model.environment import Environment, Environments
from rota.model.run import NewRun
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.dialects import ClaimForm
from rota.store.endings import rescue_runs
from rota.store.leases import FIND_RENEWABLE, Renewal, mark_started, renew_claims
from rota.store.nodes import list_nodes
from rota.store.tables import node, run
from rota.store.wakeup import Pulse
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.trouble import commit_breaks


def test_the_highest_priority_is_claimed_first_then_the_oldest(ledger: Ledger) -> None:
    ledger.add_job()
    low, late, early = ledger.enqueue(priority=-1), ledger.enqueue(priority=5), ledger.enqueue(priority=5)
    ledger.set_run(late, run_at=ledger.clock.after(-10))
    ledger.set_run(early, run_at=ledger.clock.after(-20))

    claimed = [ledger.claim_one().run_id for _ in range(3)]

    assert claimed == [early, late, low]


def test_a_batch_of_claims_comes_in_the_same_order(ledger: Ledger) -> None:
    ledger.add_job()
    low, high, middle = ledger.enqueue(priority=-1), ledger.enqueue(priority=5), ledger.enqueue()

    claimed = [claim.run_id for claim in ledger.claim()]

    assert claimed == [high, middle, low]


def test_no_more_is_claimed_than_was_asked_for(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 5)

    assert len(ledger.claim(limit=3)) == 3
    assert len(ledger.claim(limit=3)) == 2
    assert ledger.claim(limit=3) == []


def test_a_node_claims_from_its_pools_only(ledger: Ledger) -> None:
    ledger.add_job("here", pool="near")
    ledger.add_job("there", pool="far")
    here, there = ledger.enqueue("here"), ledger.enqueue("there")

    assert [claim.run_id for claim in ledger.claim(pools=["near", "other"])] == [here]
    assert [claim.run_id for claim in ledger.claim(pools=["far"])] == [there]


def test_the_limit_holds_over_all_pools_together(ledger: Ledger) -> None:
    for pool in ("one", "two"):
        ledger.add_job(pool, pool=pool)
        ledger.enqueue_many([NewRun(pool)] * 2)

    assert [claim.pool for claim in ledger.claim(pools=["one", "two"], limit=3)] == ["one", "one", "two"]


def test_runs_of_a_paused_job_are_left_alone_until_it_is_resumed(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.set_job(state="paused")

    assert ledger.claim() == []

    ledger.set_job(state="active")
    assert [claim.run_id for claim in ledger.claim()] == [run_id]


def test_a_run_whose_window_has_closed_is_not_claimed(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(start_within_seconds=30)
    ledger.clock.advance(seconds=31)

    assert ledger.claim() == []
    assert ledger.run(run_id).state == "ready"


def test_a_run_is_claimed_up_to_the_end_of_its_window(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(start_within_seconds=30)
    ledger.clock.advance(seconds=30)

    assert [claim.run_id for claim in ledger.claim()] == [run_id]


def test_the_window_binds_the_first_start_only(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue(start_within_seconds=30)
    ledger.end(ledger.claim_one(), "released")
    ledger.clock.advance(seconds=31)

    assert len(ledger.claim()) == 1


def test_a_run_for_another_node_is_left_to_it(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.set_run(run_id, target_node="b")

    assert ledger.claim("a") == []
    assert [claim.run_id for claim in ledger.claim("b")] == [run_id]


def test_names_of_pools_are_compared_exactly(ledger: Ledger) -> None:
    ledger.add_job(pool="Päckchen")
    ledger.enqueue()

    assert ledger.claim(pools=["päckchen", "Packchen", "PÄCKCHEN"]) == []
    assert len(ledger.claim(pools=["Päckchen"])) == 1


def test_a_claim_carries_all_that_is_needed_to_start(ledger: Ledger) -> None:
    ledger.add_job(
        kind="command",
        target='["sleep", "1"]',
        timeout_seconds=5.5,
        retries=3,
        stdin="ünïcode ✓",
        cwd="/tmp",
        run_as="nobody",
        variables='{"A": "b"}',
        startup="cold",
        connection="warehouse",
        lease_seconds=7.0,
        memory_max_bytes=1 << 40,
        nice=-5,
        run_as_groups='["adm"]',
        env="shop",
        secrets='["TOKEN", "DB_PASSWORD"]',
    )
    run_id = ledger.enqueue(args='{"day": 1}', run_key="k")
    shop = Environment.checked("shop", version="1.2", interpreter="/venv/bin/python")

    claim = ledger.claim_one(environments=Environments([shop]), secrets=["DB_PASSWORD", "TOKEN"])

    assert dataclasses.asdict(claim) | {"claim_id": ""} == {
        "run_id": run_id,
        "claim_id": "",
        "fence": 1,
        "attempt": 1,
        "job": "job",
        "kind": "command",
        "target": '["sleep", "1"]',
        "args": '{"day": 1}',
        "schedule": None,
        "slot_at": None,
        "run_at": ledger.clock.now,
        "run_key": "k",
        "pool": "default",
        "delivery": "at_least_once",
        "lease_seconds": 7.0,
        "timeout_seconds": 5.5,
        "retries": 3,
        "stdin": "ünïcode ✓",
        "cwd": "/tmp",
        "run_as": "nobody",
        "variables": {"A": "b"},
        "checkpoint": None,
        "startup": "cold",
        "connection": "warehouse",
        "executor": "process",
        "marked": True,
        "problem": None,
        "limits": {"memory_max_bytes": 1 << 40, "nice": -5, "run_as_groups": '["adm"]'},
        "env": "shop",
        "environment": dataclasses.asdict(shop),
        "deadline_left_seconds": None,
        "part": None,
        "secrets": ("DB_PASSWORD", "TOKEN"),
    }


def test_a_claim_writes_the_run_its_attempt_and_its_event_together(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()

    claim = ledger.claim_one("a")

    row = ledger.run(run_id)
    (attempt,) = ledger.attempts(run_id)
    assert (row.state, row.node, row.holder, row.claim_id) == ("running", "a", "holder-of-a", claim.claim_id)
    assert row.lease_ends_at == ledger.clock.after(LEASE_SECONDS)
    assert (attempt.claim_id, attempt.fence, attempt.attempt) == (claim.claim_id, 1, 1)
    assert (attempt.node, attempt.boot_id, attempt.state) == ("a", "boot", "running")
    assert attempt.claimed_at == attempt.started_at == row.started_at == ledger.clock.now
    assert ledger.history(run_id) == [(None, "ready", "asked"), ("ready", "running", "started")]


def test_the_lease_of_a_job_goes_before_that_of_the_node(ledger: Ledger) -> None:
    ledger.add_job(lease_seconds=5.0)
    run_id = ledger.enqueue()

    claim = ledger.claim_one(lease_seconds=60)

    assert claim.lease_seconds == 5
    assert ledger.run(run_id).lease_ends_at == ledger.clock.after(5)


def test_each_claim_has_a_random_id_and_the_fence_rises(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue()

    claims = []
    for _ in range(3):
        claims.append(ledger.claim_one())
        ledger.end(claims[-1], "released")

    assert [claim.fence for claim in claims] == [1, 2, 3]
    assert [claim.attempt for claim in claims] == [1, 2, 3]
    assert len({claim.claim_id.partition("-")[0] for claim in claims}) == 3
    assert all(len(claim.claim_id.partition("-")[0]) == 32 for claim in claims)


def test_at_most_once_is_claimed_without_the_start_mark(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    run_id = ledger.enqueue()

    claim = ledger.claim_one()

    assert not claim.marked
    row = ledger.run(run_id)
    assert (row.state, row.reason, row.marked_at, row.started_at) == ("running", "claimed", None, None)
    assert ledger.attempts(run_id)[0].state == "claimed"


def test_the_start_mark_is_committed_before_anything_may_start(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    run_id = ledger.enqueue()
    claim = ledger.claim_one()
    ledger.clock.advance(seconds=1)

    assert mark_started(ledger.database, [claim.claim_id]) == {claim.claim_id}

    row = ledger.run(run_id)
    assert row.marked_at == row.started_at == ledger.attempts(run_id)[0].started_at == ledger.clock.now
    assert (row.reason, ledger.attempts(run_id)[0].state) == ("started", "running")


def test_marking_twice_is_marking_once(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once")
    before = ledger.run(claim.run_id)
    ledger.clock.advance(seconds=1)

    assert mark_started(ledger.database, [claim.claim_id]) == {claim.claim_id}
    assert ledger.run(claim.run_id) == before


def test_no_start_mark_once_the_lease_is_over(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    ledger.enqueue()
    claim = ledger.claim_one()
    ledger.clock.advance(seconds=LEASE_SECONDS)

    assert mark_started(ledger.database, [claim.claim_id]) == frozenset()
    assert ledger.run(claim.run_id).marked_at is None


def test_no_start_mark_for_a_run_that_is_to_be_cancelled(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    ledger.enqueue()
    claim = ledger.claim_one()
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="me")

    assert mark_started(ledger.database, [claim.claim_id]) == frozenset()


def test_no_start_mark_under_a_claim_that_is_not_current(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    ledger.enqueue()
    old = ledger.claim_one("a")
    ledger.end(old, "released")
    new = ledger.claim_one("b")

    assert mark_started(ledger.database, [old.claim_id, new.claim_id]) == {new.claim_id}


def test_a_lost_answer_to_the_mark_is_asked_again(ledger: Ledger) -> None:
    ledger.add_job(delivery="at_most_once")
    ledger.enqueue()
    claim = ledger.claim_one()

    with commit_breaks(ledger.database, "after") as broken:
        marked = mark_started(ledger.database, [claim.claim_id])

    assert broken == ["after"]
    assert marked == {claim.claim_id}


def test_claims_whose_commit_answer_was_lost_are_looked_up(ledger: Ledger) -> None:
    ledger.add_job()
    run_ids = ledger.enqueue_many([NewRun("job")] * 3)

    with commit_breaks(ledger.database, "after") as broken:
        claims = ledger.claim()

    assert broken == ["after"]
    assert [claim.run_id for claim in claims] == run_ids
    assert [ledger.run(run_id).attempt for run_id in run_ids] == [1, 1, 1]


def test_claims_that_were_not_committed_are_not_started(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()

    with commit_breaks(ledger.database, "before") as broken:
        claims = ledger.claim()

    assert broken == ["before"]
    assert claims == []
    assert ledger.run(run_id).state == "ready"
    assert len(ledger.claim()) == 1


def test_what_cannot_be_looked_up_either_is_not_started(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()

    def nobody_answers(*_args: object, **_options: object) -> None:
        raise DatabaseUnavailable("gone")

    node = ledger.connect()
    monkeypatch.setattr(node, "read", nobody_answers)
    with commit_breaks(node, "after"), pytest.raises(DatabaseUnavailable):
        ledger.claim(database=node)

    assert ledger.run(run_id).state == "running"  # its lease ends


# Renewing


@pytest.fixture
def pulse(ledger: Ledger) -> Pulse:
    return Pulse(ledger.connect())


def add_node(ledger: Ledger, name: str = "a", **columns: object) -> None:
    values = {
        "name": name,
        "state": "alive",
        "boot_id": "boot",
        "pid": 1,
        "pid_started": 1,
        "holder": identity_of(name).holder,
        "host": name,
        "version": "1",
        "pools": "[]",
        "slots": 1,
        "started_at": ledger.clock.now,
        "seen_at": ledger.clock.now,
        "lease_ends_at": ledger.clock.now,
    }
    ledger._insert(node, values | columns)


def test_a_renewal_prolongs_the_leases_from_the_databases_now(ledger: Ledger, pulse: Pulse) -> None:
    claim = ledger.start_one()
    ledger.clock.advance(seconds=20)

    renewal = renew_claims(pulse, identity_of("a"), [claim.claim_id], LEASE_SECONDS)

    assert renewal.kept == {claim.claim_id}
    assert ledger.run(claim.run_id).lease_ends_at == ledger.clock.after(LEASE_SECONDS)


def test_a_renewal_keeps_to_the_lease_of_the_job(ledger: Ledger, pulse: Pulse) -> None:
    claim = ledger.start_one(lease_seconds=7.0)

    renew_claims(pulse, identity_of("a"), [claim.claim_id], LEASE_SECONDS)

    assert ledger.run(claim.run_id).lease_ends_at == ledger.clock.after(7)


def test_a_renewal_keeps_to_the_lease_that_each_guardian_counts_by(ledger: Ledger, pulse: Pulse) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 3)
    long, short, edited = ledger.claim("a")
    ledger.set_run(edited.run_id, lease_seconds=3.0)  # by hand, which its guardian does not hear of

    leases = {long.claim_id: 60.0, short.claim_id: 5.0, edited.claim_id: 60.0}
    renew_claims(pulse, identity_of("a"), leases, 15.0, leases=leases)

    ends = {claim.run_id: ledger.run(claim.run_id).lease_ends_at for claim in (long, short, edited)}
    assert ends[long.run_id] == ends[edited.run_id] == ledger.clock.after(60)
    assert ends[short.run_id] == ledger.clock.after(5)


def test_a_run_that_somebody_keeps_locked_is_neither_lost_nor_does_it_hold_up_other_leases(
    ledger: Ledger, pulse: Pulse
) -> None:
    if ledger.database.dialect.one_writer:
        pytest.skip("nobody locks a row there, but all of them")
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 2)
    locked, free = ledger.claim()
    before = ledger.run(locked.run_id).lease_ends_at
    ledger.clock.advance(seconds=20)

    def keep_locked(connection: Connection) -> Renewal:
        connection.execute(select(run.c.id).where(run.c.id == locked.run_id).with_for_update())
        return renew_claims(pulse, identity_of("a"), [locked.claim_id, free.claim_id], LEASE_SECONDS)

    renewal = ledger.connect().write(keep_locked, repeatable=False)

    assert (renewal.kept, renewal.lost) == ({free.claim_id}, frozenset())
    assert ledger.run(free.run_id).lease_ends_at == ledger.clock.after(LEASE_SECONDS)
    assert ledger.run(locked.run_id).lease_ends_at == before
    assert renew_claims(pulse, identity_of("a"), [locked.claim_id], LEASE_SECONDS).kept == {locked.claim_id}


def test_a_renewal_says_what_was_lost(ledger: Ledger, pulse: Pulse) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 3)
    ended, stolen, mine = ledger.claim("a")
    ledger.end(ended)
    ledger.end(stolen, "released")
    theirs = ledger.claim_one("b")
    before = ledger.run(stolen.run_id)
    ledger.clock.advance(seconds=10)

    renewal = renew_claims(pulse, identity_of("a"), [c.claim_id for c in (ended, stolen, mine)], LEASE_SECONDS)

    assert theirs.run_id == stolen.run_id
    assert renewal.kept == {mine.claim_id}
    assert ledger.run(stolen.run_id) == before


def test_a_lease_that_is_over_goes_on_unless_somebody_has_taken_the_run_away(ledger: Ledger, pulse: Pulse) -> None:
    kept = ledger.start_one()
    ledger.enqueue()
    taken = ledger.started(ledger.claim_one())
    ledger.clock.step(hours=1)
    ledger.set_run(kept.run_id, lease_ends_at=ledger.clock.after(1))
    assert rescue_runs(ledger.database, rescuer="b") == 1
    ledger.set_run(kept.run_id, lease_ends_at=ledger.clock.after(-1))

    renewal = renew_claims(pulse, identity_of("a"), [kept.claim_id, taken.claim_id], LEASE_SECONDS)

    assert renewal.kept == {kept.claim_id}
    assert ledger.run(kept.run_id).lease_ends_at == ledger.clock.after(LEASE_SECONDS)
    assert ledger.run(taken.run_id).lease_ends_at is None


def test_neither_a_renewal_nor_an_end_waits_for_what_another_node_has_locked(
    ledger: Ledger, pulse: Pulse, database_url: str
) -> None:
    if ledger.database.dialect.one_writer:
        pytest.skip("a file has one lock for all")
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 40)
    theirs, ours = ledger.claim("b", limit=20), ledger.claim("a", limit=20)
    other = Database(database_url)
    done: list[int] = []

    def freezes(connection: Connection) -> None:
        connection.execute(FIND_RENEWABLE, {"claim_ids": [claim.claim_id for claim in theirs]}).all()
        done.append(len(renew_claims(pulse, identity_of("a"), [each.claim_id for each in ours], LEASE_SECONDS).kept))
        ledger.end(ours[0])

    other.write(freezes, repeatable=False)

    assert done == [20]
    assert ledger.run(ours[0].run_id).state == "succeeded"
    other.close()


def test_a_renewal_says_which_runs_are_to_be_cancelled(ledger: Ledger, pulse: Pulse) -> None:
    claim = ledger.start_one()
    ledger.set_run(claim.run_id, cancel_asked_at=ledger.clock.now, cancel_asked_by="ann")

    renewal = renew_claims(pulse, identity_of("a"), [claim.claim_id], LEASE_SECONDS)

    assert renewal.kept == {claim.claim_id}  # until its guardian has stopped it
    assert renewal.cancelled == {claim.claim_id: "ann"}


def test_a_renewal_prolongs_the_node_too(ledger: Ledger, pulse: Pulse) -> None:
    add_node(ledger, "a")
    ledger.clock.advance(seconds=20)

    renewal = renew_claims(pulse, identity_of("a"), [], LEASE_SECONDS)

    assert renewal.node_state is NodeState.ALIVE
    row = ledger.row(node.select())
    assert (row.seen_at, row.lease_ends_at) == (ledger.clock.now, ledger.clock.after(LEASE_SECONDS))


def test_a_node_without_a_good_round_keeps_its_lease_and_shows_its_age(ledger: Ledger, pulse: Pulse) -> None:
    add_node(ledger)

    renew_claims(pulse, identity_of("a"), [], LEASE_SECONDS, behind_seconds=40.0)
    ledger.clock.advance(seconds=2)

    (view,) = list_nodes(ledger.database)
    assert (view["state"], view["seen_seconds"]) == ("alive", 42.0)


def test_a_renewal_says_that_the_nodes_name_belongs_to_another_process(ledger: Ledger, pulse: Pulse) -> None:
    add_node(ledger, "a", holder="somebody else")
    before = ledger.row(node.select())
    ledger.clock.advance(seconds=20)

    renewal = renew_claims(pulse, identity_of("a"), [], LEASE_SECONDS)

    assert renewal.node_state is None
    assert ledger.row(node.select()) == before


def test_a_renewal_says_that_the_node_is_to_drain(ledger: Ledger, pulse: Pulse) -> None:
    add_node(ledger, "a", state="draining")

    assert renew_claims(pulse, identity_of("a"), [], LEASE_SECONDS).node_state is NodeState.DRAINING


def test_a_renewal_whose_answer_was_lost_is_sent_again(ledger: Ledger) -> None:
    claim = ledger.start_one()
    other = ledger.connect()

    with commit_breaks(other, "after") as broken:
        renewal = renew_claims(Pulse(other), identity_of("a"), [claim.claim_id], LEASE_SECONDS)

    assert broken == ["after"]
    assert renewal.kept == {claim.claim_id}


# Many at once


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_the_number_of_statements_does_not_depend_on_the_number_of_runs(ledger: Ledger, delivery: str) -> None:
    ledger.add_job(delivery=delivery)
    pulse = Pulse(ledger.database)
    counts: dict[str, set[int]] = {"enqueue": set(), "claim": set(), "mark": set(), "renew": set(), "end": set()}

    for number in (1, 10, 100):
        with statements_of(ledger.database) as sent:
            ledger.enqueue_many([NewRun("job", run_key=f"{number}.{i}") for i in range(number)])
            counts["enqueue"].add(len(sent))
        with statements_of(ledger.database) as sent:
            claims = ledger.claim(limit=number)
            counts["claim"].add(len(sent))
        assert len(claims) == number
        claim_ids = [claim.claim_id for claim in claims]
        with statements_of(ledger.database) as sent:
            assert len(mark_started(ledger.database, claim_ids)) == number
            counts["mark"].add(len(sent))
        pulse._open()  # LISTEN is sent once
        with statements_of(ledger.database) as sent:
            assert len(renew_claims(pulse, identity_of("a"), claim_ids, LEASE_SECONDS).kept) == number
            counts["renew"].add(len(sent))
        with statements_of(ledger.database) as sent:
            ledger.end_all(claims)
            counts["end"].add(len(sent))

    assert {name: len(found) for name, found in counts.items()} == dict.fromkeys(counts, 1), counts
    assert counts["claim"] == {4 if ledger.database.dialect.claim_form is ClaimForm.AT_ONCE else 5}
    assert counts["renew"] == {4}
