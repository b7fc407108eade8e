"""Limits that hold in the whole cluster: taken with the claim, given back with its end, exact whoever claims."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from rota.model.instants import say_moment
from rota.model.run import End, NewRun
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.endings import end_runs, rescue_runs
from rota.store.history import why_run
from rota.store.interventions import rerun_run
from rota.store.jobs import edit_job
from rota.store.outlook import look
from rota.store.permits import tidy_permits
from rota.store.tables import permit, run
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of
from tests.store.living import start_node
from tests.store.trouble import commit_breaks, forget_row_locks

pytestmark = pytest.mark.cases_take_turns


def held(ledger: Ledger) -> list[tuple[str, str]]:
    """The permits that are taken: scope and name."""
    rows = ledger.rows(select(permit).where(permit.c.claim_id.is_not(None)).order_by(permit.c.scope, permit.c.name))
    return [(row.scope, row.name) for row in rows]


def test_no_more_runs_of_a_job_go_on_than_it_says_and_an_end_lets_the_next_one_go(ledger: Ledger) -> None:
    ledger.add_job(max_running=3)
    ledger.add_job("other")
    run_ids = ledger.enqueue_many([NewRun("job")] * 10)
    free = ledger.enqueue("other")

    claims = ledger.claim("a", 2) + ledger.claim("b", 10)

    assert sorted(claim.run_id for claim in claims) == [*run_ids[:3], free]  # past the seven that have to wait
    assert ledger.claim("c") == []
    assert held(ledger) == [("job", "")] * 3
    ledger.end(claims[0])
    assert [claim.run_id for claim in ledger.claim("c")] == [run_ids[3]]


@pytest.mark.parametrize("kind", ["succeeded", "exited", "released", "cancelled"])
def test_every_way_to_end_gives_a_permit_back(ledger: Ledger, kind: str) -> None:
    ledger.add_job(max_running=1, retries=5)
    ledger.enqueue_many([NewRun("job")] * 2)
    (claim,) = ledger.claim()

    ledger.end(claim, kind, exit_code=1)

    assert held(ledger) == []
    assert len(ledger.claim()) == 1


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_what_a_dead_node_held_comes_back_with_the_lease(ledger: Ledger, delivery: str) -> None:
    ledger.add_job(max_running=1, delivery=delivery)
    ledger.enqueue_many([NewRun("job")] * 2)
    ledger.started(ledger.claim_one("a"))
    assert ledger.claim("b") == []

    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    assert ledger.claim("b") == []  # until somebody has seen to it
    rescue_runs(ledger.database, rescuer="b")

    assert held(ledger) == []
    assert len(ledger.claim("b")) == 1


def test_a_mutex_is_held_by_one_run_of_all_jobs_that_name_it(ledger: Ledger) -> None:
    ledger.add_job("x", mutexes=json.dumps(["disk", "tape"]))
    ledger.add_job("y", mutexes=json.dumps(["tape"]))
    ledger.add_job("z", mutexes=json.dumps(["disk2", "Übung"], ensure_ascii=False))
    x, y, z = (ledger.enqueue(name) for name in ("x", "y", "z"))

    first = ledger.claim()

    assert [claim.run_id for claim in first] == [x, z]
    assert held(ledger) == [("mutex", name) for name in ("disk", "disk2", "tape", "Übung")]
    ledger.end(first[0])
    assert [claim.run_id for claim in ledger.claim()] == [y]


def test_mutexes_named_in_another_order_are_taken_together_or_not_at_all(ledger: Ledger) -> None:
    ledger.add_job("x", mutexes='["a", "b"]')
    ledger.add_job("y", mutexes='["b", "a"]')
    ledger.add_job("holder", mutexes='["b"]', priority=1)
    ledger.enqueue("holder")
    ledger.enqueue("x")
    ledger.enqueue("y")

    (holder,) = ledger.claim()

    assert holder.job == "holder"
    assert held(ledger) == [("mutex", "b")]  # nobody keeps `a` while it waits for `b`
    ledger.end(holder)
    assert [claim.job for claim in ledger.claim()] == ["x"]


def add_single_and_both(ledger: Ledger, **both: Any) -> None:
    ledger.add_job("a", mutexes='["a"]')
    ledger.add_job("b", mutexes='["b"]')
    ledger.add_job("both", mutexes='["a", "b"]', **both)


def test_a_run_of_several_mutexes_gets_them_although_others_always_have_one_of_them(ledger: Ledger) -> None:
    add_single_and_both(ledger)
    ledger.add_job("free")
    ledger.enqueue_many([NewRun("a"), NewRun("b")])
    first = {claim.job: claim for claim in ledger.claim()}
    both = ledger.enqueue("both")
    ledger.enqueue_many([NewRun("a"), NewRun("b")] * 3)
    free = ledger.enqueue("free")

    ledger.end(first["a"])
    assert [claim.run_id for claim in ledger.claim("n1", 1)] == [free]  # and `a` stays free
    ledger.end(first["b"])
    (claim,) = ledger.claim("n2")
    assert claim.run_id == both
    ledger.end(claim)
    assert sorted(claim.job for claim in ledger.claim()) == ["a", "b"]


def test_what_comes_before_a_run_of_several_mutexes_does_not_wait_for_it(ledger: Ledger) -> None:
    add_single_and_both(ledger)
    before, late = ledger.enqueue("b"), ledger.enqueue("both")
    (holder,) = ledger.claim("n1", 1)
    urgent = ledger.enqueue_many([NewRun("a", priority=10)])

    assert holder.run_id == before
    assert [claim.run_id for claim in ledger.claim()] == urgent
    assert ledger.run(late).state == "ready"


@pytest.mark.parametrize("held_by", ["environment", "pause", "limit"])
def test_nothing_is_kept_for_a_run_that_could_not_start_either(ledger: Ledger, held_by: str) -> None:
    add_single_and_both(ledger, max_running=1)
    ledger.enqueue("b")
    ledger.claim_one()
    ledger.enqueue("both")
    after = ledger.enqueue("a")
    if held_by == "environment":
        ledger.set_job("both", env="nowhere")
    elif held_by == "pause":
        ledger.set_job("both", state="paused")
    else:
        ledger.set_job("both", rate_count=1, rate_seconds=1000.0)
        ledger.execute(
            "insert into rota_permit (scope, job_id, name, number, free_at)"
            " select 'rate', id, '', 1, '2100-01-01 00:00:00.000000' from rota_job where name = 'both'"
        )

    assert [claim.run_id for claim in ledger.claim()] == [after]


def test_who_serves_several_pools_gets_past_what_a_mutex_is_kept_from(ledger: Ledger) -> None:
    add_single_and_both(ledger, pool="second")
    both = ledger.enqueue("both")
    ledger.enqueue_many([NewRun("a")] * 3)

    assert [claim.run_id for claim in ledger.claim("n1", 1, pools=("default", "second"))] == [both]


def test_whose_mutex_is_kept_for_another_run_says_so(ledger: Ledger) -> None:
    start_node(ledger)
    add_single_and_both(ledger)
    ledger.enqueue("b")
    ledger.claim_one()
    both, after = ledger.enqueue("both"), ledger.enqueue("a")

    said = why_run(ledger.database, after)["because"]

    assert said[0] == f"mutex a is kept for run {both} of job both, which comes first and waits for a and b"


def test_runs_of_one_key_are_limited_and_those_of_others_go_past_them(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant", max_per_key=2)
    ledger.add_job("other", concurrency_key="tenant", max_per_key=1)
    big = ledger.enqueue_many([NewRun("job", args='{"tenant": "big"}')] * 5)
    small = ledger.enqueue("job", args='{"tenant": "small"}')
    keyless = ledger.enqueue("job", args='{"tenant": null}')
    same_word = ledger.enqueue("other", args='{"tenant": "big"}')

    claims = ledger.claim()

    assert sorted(claim.run_id for claim in claims) == sorted([*big[:2], small, keyless, same_word])


def test_a_claim_that_meets_a_full_key_or_group_goes_on_with_the_others_of_the_same_job(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant", max_per_key=1, max_parallel=2)
    many = ledger.enqueue_many([NewRun("job", args='{"tenant": "big"}')] * 6)
    for run_id in many:
        ledger.set_run(run_id, behind_seconds=0)  # before all the others
    small = ledger.enqueue("job", args='{"tenant": "small"}')
    keyless = ledger.enqueue_many([NewRun("job")] * 6)
    for run_id in keyless[:5]:
        ledger.set_run(run_id, group_id="one")

    claims = ledger.claim(limit=5)

    # Each of them, and not only the first of the job, on one look.
    assert sorted(claim.run_id for claim in claims) == [many[0], small, keyless[0], keyless[1], keyless[5]]


def test_a_rate_counts_starts_in_any_stretch_of_its_length(ledger: Ledger) -> None:
    ledger.add_job(rate_count=2, rate_seconds=60.0)
    ledger.enqueue_many([NewRun("job")] * 6)

    first = ledger.claim(limit=1)
    ledger.clock.advance(seconds=30)
    second = ledger.claim()
    for claim in first + second:
        ledger.end(claim)  # what has ended counts all the same
    assert (len(first), len(second), len(ledger.claim())) == (1, 1, 0)

    ledger.clock.advance(seconds=31)
    third = ledger.claim()
    ledger.clock.advance(seconds=30)
    assert (len(third), len(ledger.claim())) == (1, 1)


def test_only_a_rate_that_is_spent_says_when_to_look_again(ledger: Ledger) -> None:
    ledger.add_job(rate_count=2, rate_seconds=60.0)
    ledger.add_job("other", rate_count=2, rate_seconds=10.0)
    ledger.enqueue("other")
    ledger.enqueue_many([NewRun("job")] * 3)

    def next_free_at() -> datetime | None:
        return look(ledger.database, identity_of("a"), ["default"]).next_free_at

    ledger.claim(limit=2)
    assert next_free_at() is None
    ledger.clock.advance(seconds=1)
    assert len(ledger.claim()) == 1

    assert next_free_at() == ledger.clock.after(59)
    ledger.clock.advance(seconds=59)
    assert next_free_at() is None
    ledger.set_job(rate_count=1)
    assert next_free_at() == ledger.clock.after(1)


@pytest.mark.parametrize("between", [{}, {"rate_count": None, "rate_seconds": None}])
def test_a_rate_that_was_mistyped_holds_a_job_no_longer_than_the_one_it_gets(
    ledger: Ledger, between: dict[str, None]
) -> None:
    ledger.add_job(rate_count=1, rate_seconds=365 * 86_400.0)
    ledger.enqueue_many([NewRun("job")] * 3)
    ledger.claim_one()
    assert ledger.claim() == []

    for change in (between, {"rate_count": 1, "rate_seconds": 60.0}):
        edit_job(ledger.database, "job", lambda spec, change=change: dataclasses.replace(spec, **change), actor="ann")
    assert ledger.claim() == []
    ledger.clock.advance(seconds=60)
    assert len(ledger.claim()) == 1

    edit_job(ledger.database, "job", lambda spec: dataclasses.replace(spec, rate_seconds=3600.0), actor="ann")
    ledger.clock.advance(seconds=60)
    assert len(ledger.claim()) == 1


def test_a_long_run_does_not_hold_its_place_in_a_rate_for_longer(ledger: Ledger) -> None:
    ledger.add_job(rate_count=1, rate_seconds=10.0)
    ledger.enqueue_many([NewRun("job")] * 2)
    ledger.claim_one()

    ledger.clock.advance(seconds=11)

    assert len(ledger.claim()) == 1


def test_runs_of_one_group_go_so_many_at_a_time(ledger: Ledger) -> None:
    ledger.add_job(max_parallel=2)
    run_ids = ledger.enqueue_many([NewRun("job")] * 5)
    for number, run_id in enumerate(run_ids):
        ledger.set_run(run_id, group_id="one" if number < 4 else "two")

    claims = ledger.claim()

    assert [claim.run_id for claim in claims] == [run_ids[0], run_ids[1], run_ids[4]]


def test_a_lower_limit_stops_nobody_and_lets_nobody_go_until_there_are_fewer(ledger: Ledger) -> None:
    job_id = ledger.add_job(max_running=4)
    ledger.enqueue_many([NewRun("job")] * 8)
    claims = ledger.claim(limit=4)

    ledger.execute("update rota_job set max_running = 2 where id = :id", id=job_id)
    for claim in claims[:2]:
        ledger.end(claim)
    assert ledger.claim() == []
    ledger.end(claims[2])
    assert len(ledger.claim()) == 1
    ledger.execute("update rota_job set max_running = null where id = :id", id=job_id)
    assert len(ledger.claim()) == 3


@pytest.mark.parametrize(
    ("limits", "edited", "scope"),
    [
        ({}, {"max_running": 3}, "job"),
        ({}, {"max_per_key": 3}, "key"),
        ({"max_running": 20}, {"max_running": 3}, "job"),
        ({"max_running": 1}, {"max_running": 3}, "job"),
        ({"max_running": 4}, {"max_per_key": 3}, "key"),
    ],
)
def test_runs_that_go_on_count_for_a_limit_that_comes_or_changes_meanwhile(
    ledger: Ledger, limits: dict[str, int], edited: dict[str, int], scope: str
) -> None:
    ledger.add_job(concurrency_key="tenant", **limits)
    ledger.enqueue_many([NewRun("job", args='{"tenant": "big"}')] * 12)
    before = ledger.claim("a", limit=2)
    assert len(before) == min(2, limits.get("max_running", 2))

    ledger.set_job(**edited)

    going = before + ledger.claim("a", limit=1) + ledger.claim("b")
    assert len(going) == 3
    assert ledger.claim("c") == []
    assert [found for found, _ in held(ledger)].count(scope) == 3
    for _ in range(3):
        ledger.end(going.pop(0))
        going += ledger.claim("c")
        assert len(going) == 3


def test_more_runs_than_a_first_limit_go_on_to_their_end_and_none_begins_until_there_are_fewer(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 9)
    claims = ledger.claim(limit=5)

    ledger.set_job(max_running=3)

    for claim in claims[:2]:
        assert ledger.claim("b") == []
        ledger.end(claim)
    assert ledger.claim("b") == []
    ledger.end(claims[2])
    assert len(ledger.claim("b")) == 1
    ledger.end_all(claims[3:])
    assert len(ledger.claim("b")) == 2


def test_a_mutex_that_is_named_or_renamed_while_runs_go_on_is_held_by_them(ledger: Ledger) -> None:
    ledger.add_job("x")
    ledger.add_job("y", mutexes='["disk"]')
    ledger.enqueue("x")
    (x,) = ledger.claim()
    ledger.enqueue("y")

    ledger.set_job("x", mutexes='["disk"]')
    assert ledger.claim() == []
    ledger.set_job("x", mutexes='["tape"]')
    ledger.set_job("y", mutexes='["tape"]')
    assert ledger.claim() == []
    ledger.set_job("x", mutexes='["band"]')  # its run still goes on with what it once held
    assert ledger.claim() == []

    ledger.end(x)
    assert [claim.job for claim in ledger.claim()] == ["y"]


def test_runs_of_a_group_count_for_a_limit_that_comes_meanwhile(ledger: Ledger) -> None:
    ledger.add_job()
    for run_id in ledger.enqueue_many([NewRun("job")] * 4):
        ledger.set_run(run_id, group_id="one")
    (first,) = ledger.claim(limit=1)

    ledger.set_job(max_parallel=2)

    assert len(ledger.claim()) == 1
    ledger.end(first)
    assert len(ledger.claim()) == 1


def test_a_run_that_counts_late_counts_once_and_gives_its_permit_back(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 6)
    claims = ledger.claim(limit=2)
    ledger.set_job(max_running=2)

    assert ledger.claim() == []
    assert held(ledger) == [("job", "")] * 2
    ledger.end_all(claims)

    assert held(ledger) == []
    assert len(ledger.claim()) == 2


def test_a_lower_limit_holds_although_places_beyond_it_come_back_one_by_one(ledger: Ledger) -> None:
    ledger.add_job(max_running=6)
    ledger.enqueue_many([NewRun("job")] * 12)
    claims = ledger.claim(limit=6)
    ledger.set_job(max_running=3)
    ledger.end_all(claims[:3])
    assert ledger.claim() == []
    ledger.end(claims[3])

    assert len(ledger.claim()) == 1

    # One place was left, and it is the first one for all who look: not any that is free, which two might take at once.
    numbers = ledger.rows(select(permit.c.number).where(permit.c.claim_id.is_not(None)).order_by(permit.c.number))
    assert [row.number for row in numbers] == [1, 5, 6]


def test_a_lost_answer_to_commit_holds_no_permit_twice(ledger: Ledger) -> None:
    ledger.add_job(max_running=1)
    ledger.enqueue_many([NewRun("job")] * 2)

    with commit_breaks(ledger.database, "after"):
        (claim,) = ledger.claim()

    assert held(ledger) == [("job", "")]
    ledger.end(claim)
    assert held(ledger) == []


def test_mutexes_that_nobody_can_read_fail_that_run_and_no_other(ledger: Ledger) -> None:
    ledger.add_job("bad", mutexes='{"not": "a list"}')
    ledger.add_job("good", max_running=1)
    ledger.enqueue("bad")
    ledger.enqueue("good")

    bad, good = ledger.claim()

    assert "mutexes" in (bad.problem or "")
    assert good.problem is None


def test_a_permit_without_its_claim_is_a_violation_and_is_freed(ledger: Ledger) -> None:
    ledger.add_job(max_running=1)
    ledger.enqueue_many([NewRun("job")] * 2)
    claim = ledger.claim_one()
    ledger.execute("update rota_permit set claim_id = 'nobody' where claim_id = :claim_id", claim_id=claim.claim_id)
    ledger.end(claim)
    assert ledger.claim() == []
    assert [row.rule_broken for row in ledger.rows(text("select * from rota_violations"))] == ["permit_stray"]

    assert tidy_permits(ledger.database) == 1

    assert len(ledger.claim()) == 1


def test_permits_that_nobody_has_taken_for_long_are_deleted_and_made_again(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant", max_per_key=1)
    ledger.add_job("slow", rate_count=1, rate_seconds=86400.0)
    ledger.enqueue_many([NewRun("job", args=json.dumps({"tenant": f"t{number}"})) for number in range(5)])
    ledger.enqueue("slow")
    claims = ledger.claim()
    assert len(claims) == 6
    for claim in claims[1:]:
        ledger.end(claim)

    assert tidy_permits(ledger.database) == 0
    ledger.clock.advance(seconds=3601)
    assert tidy_permits(ledger.database) == 4

    assert ledger.value("select count(*) from rota_permit") == 2  # one is held, one counts for a day
    ledger.enqueue("job", args='{"tenant": "t3"}')
    ledger.enqueue("slow")
    assert [claim.job for claim in ledger.claim()] == ["job"]


def test_more_permits_than_one_transaction_takes_are_deleted_at_a_time(ledger: Ledger) -> None:
    job_id = ledger.add_job()
    rows = [{"scope": "key", "job_id": job_id, "name": f"t{number}", "number": 1} for number in range(2500)]
    ledger.database.write(lambda connection: connection.execute(insert(permit), rows), repeatable=False)

    assert tidy_permits(ledger.database) == 2500


def test_a_place_that_was_deleted_while_a_later_one_was_held_is_made_again(ledger: Ledger) -> None:
    ledger.add_job(max_running=2)
    ledger.enqueue_many([NewRun("job")] * 4)
    long = ledger.claim_one()
    ledger.clock.advance(seconds=3500)
    ledger.claim_one()
    ledger.clock.advance(seconds=200)
    ledger.end(long)

    assert tidy_permits(ledger.database) == 1  # nobody took it within an hour, since it was held

    assert len(ledger.claim()) == 1
    assert held(ledger) == [("job", "")] * 2


def test_keys_that_differ_by_spaces_at_their_end_are_one_on_every_database(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant", max_per_key=1)
    wanted = [NewRun("job", args=json.dumps({"tenant": f"acme{' ' * number}"})) for number in range(3)]
    run_ids = ledger.enqueue_many(wanted)
    ledger.set_run(run_ids[2], concurrency_key="acme  ")  # by hand

    taken: list[int] = []
    while claims := ledger.claim():
        assert len(claims) == 1
        taken += [claim.run_id for claim in claims]
        ledger.end(claims[0])

    assert sorted(taken) == run_ids


def race(
    ledger: Ledger,
    claimers: int,
    act: Callable[[Any, str], bool],
    prepare: Callable[[Database], object],
) -> None:
    """Let nodes act at once, each on a connection of its own, until none finds anything."""
    failures: list[BaseException] = []
    together = threading.Barrier(claimers)

    def work(name: str) -> None:
        database = ledger.connect(connections_max=1)
        prepare(database)
        try:
            together.wait(30)
            while act(database, name):
                pass
        except BaseException as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"n{number}",)) for number in range(claimers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


AWAKE_MAX = 8  # of those that wait for an end: else hundreds of thousands of claims find nothing, for an hour
AHEAD_MAX = 200  # of the runs that are ready: each claim that finds nothing reads all of them


def check_limit_under_a_race(
    ledger: Ledger, claimers: int, runs: int, prepare: Callable[[Database], object] = lambda _: None
) -> None:
    ledger.add_job(max_running=3)
    changed = threading.Condition()
    most: list[int] = []
    done: list[int] = []
    asked = 0

    def ask() -> None:
        nonlocal asked
        while asked < runs and asked - len(done) <= AHEAD_MAX // 2:
            portion = min(AHEAD_MAX // 2, runs - asked)
            ledger.enqueue_many([NewRun("job")] * portion)
            asked += portion

    ask()
    count = select(func.count()).select_from(run).where(run.c.state == "running")

    def act(database: Any, name: str) -> bool:
        seen = len(done)
        claims = ledger.claim(name, 5, database=database)
        now = database.read(lambda connection: connection.execute(count).scalar_one())
        if claims:
            end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded") for claim in claims])
        with changed:
            most.append(now)
            done.extend(claim.run_id for claim in claims)
            ask()
            if len(done) >= runs:
                changed.notify_all()
            elif claims:
                changed.notify(AWAKE_MAX)
            else:  # as a node does that is told of ends; those that are not told look once a second
                changed.wait_for(lambda: len(done) > seen, timeout=1.0)
            return len(done) < runs

    race(ledger, claimers, act, prepare)

    assert max(most) == 3
    assert len(done) == len(set(done)) == runs
    assert ledger.value("select count(*) from rota_permit") == 3
    assert held(ledger) == []


def test_a_limit_of_three_is_never_four_under_many_claimers(ledger: Ledger) -> None:
    check_limit_under_a_race(ledger, claimers=10, runs=200)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_limit_of_three_is_never_four_under_fifty_claimers_and_ten_thousand_runs(ledger: Ledger) -> None:
    check_limit_under_a_race(ledger, claimers=50, runs=10_000)


def test_a_limit_holds_where_no_lock_is_kept(ledger: Ledger) -> None:
    check_limit_under_a_race(ledger, claimers=8, runs=100, prepare=forget_row_locks)


@pytest.mark.parametrize("before", [None, pytest.param(8, marks=pytest.mark.long)])
def test_a_limit_that_is_set_while_many_claim_is_never_passed_from_then_on(ledger: Ledger, before: int | None) -> None:
    ledger.add_job(max_running=before)
    runs = 90
    ledger.enqueue_many([NewRun("job")] * runs)
    long = ledger.claim("long", 2)
    lock = threading.Lock()
    seen: list[int] = []  # how many ran, since fewer than the limit did for the first time
    done: list[int] = []
    count = select(func.count()).select_from(run).where(run.c.state == "running")

    def act(database: Any, name: str) -> bool:
        claims = ledger.claim(name, 3, database=database)
        with lock:
            now = database.read(lambda connection: connection.execute(count).scalar_one())
            if is_edited.is_set() and (seen or now <= 3):
                seen.append(now)
        if claims:
            end_runs(database, [End(claim.claim_id, claim.run_id, "succeeded") for claim in claims])
        with lock:
            done.extend(claim.run_id for claim in claims)
            if len(done) > runs // 5 and not is_edited.is_set():
                edit_job(database, "job", lambda spec: dataclasses.replace(spec, max_running=3), actor="ann")
                is_edited.set()
            return len(done) < runs - len(long)

    is_edited = threading.Event()
    race(ledger, 8, act, lambda _: None)
    ledger.end_all(long)

    assert max(seen) <= 3
    assert len(done) == len(set(done)) == runs - len(long)
    assert held(ledger) == []


def test_keys_take_turns_however_long_the_line_of_one_of_them_is(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant", pool="shared")
    ledger.add_job("other", pool="shared")

    def ask(tenant: str, count: int) -> None:
        ledger.enqueue_many([NewRun("job", args=json.dumps({"tenant": tenant}))] * count)

    def tenants(count: int) -> str:
        claims = ledger.claim(limit=count, pools=["shared"])
        return "".join("-" if claim.job == "other" else json.loads(claim.args)["tenant"] for claim in claims)

    ask("a", 20)
    assert tenants(2) == "aa"
    ledger.clock.advance(hours=1)  # by now `a` has waited for long, and yet
    ask("b", 3)
    ask("c", 1)
    assert tenants(6) == "abcaba"
    ledger.clock.advance(seconds=5)
    ask("b", 2)
    assert tenants(4) == "baba"


@pytest.mark.parametrize("kind", ["delayed", "retried"])
def test_keys_take_turns_also_where_runs_have_waited(ledger: Ledger, kind: str) -> None:
    ledger.add_job(concurrency_key="tenant", retries=1, retry_delay_seconds=60.0)
    delay = 60.0 if kind == "delayed" else None
    ledger.enqueue_many([NewRun("job", args='{"tenant": "a"}', in_seconds=delay)] * 4)
    if kind == "retried":
        ledger.end_all(ledger.claim(), "exited")
    ledger.clock.advance(seconds=61)
    assert advance_runs(ledger.database).ready == 4

    ledger.clock.advance(minutes=5)
    ledger.enqueue_many([NewRun("job", args='{"tenant": "b"}')] * 2)

    assert [json.loads(claim.args)["tenant"] for claim in ledger.claim()] == list("ababaa")


def test_a_key_that_is_stuck_lets_no_other_job_wait_for_ever(ledger: Ledger) -> None:
    ledger.add_job("shared", concurrency_key="tenant", max_per_key=1)
    ledger.add_job("plain")
    ledger.enqueue_many([NewRun("shared", args='{"tenant": "stuck"}')] * 2)
    ledger.claim(lease_seconds=1e6)  # and the second one waits for it
    ledger.clock.advance(hours=1)
    plain = ledger.enqueue("plain")

    days = 0
    while ledger.run(plain).state == "ready":
        days += 1
        ledger.clock.advance(days=1)
        ledger.enqueue("shared", args=json.dumps({"tenant": f"new-{days}"}))
        ledger.end(ledger.claim_one())  # all that there is room for
        assert days < 10

    assert days == 7


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
@pytest.mark.parametrize("keys", ["aa", "ab"])
def test_a_run_that_is_due_for_half_a_century_shares_with_the_others(
    ledger: Ledger, order: tuple[str, str], keys: str
) -> None:
    ledger.add_job(concurrency_key="tenant")
    run_at = {"old": datetime(1971, 1, 1, tzinfo=UTC), "new": None}

    run_ids = [
        ledger.enqueue(args=json.dumps({"tenant": key}), run_at=run_at[when])
        for key, when in zip(keys, order, strict=True)
    ]

    assert sorted(claim.run_id for claim in ledger.claim()) == run_ids


def test_a_rerun_does_not_go_back_to_the_end_of_the_line_it_once_stood_in(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant")
    run_ids = ledger.enqueue_many([NewRun("job", args='{"tenant": "a"}')] * 9)
    ledger.end_all(ledger.claim())
    assert ledger.run(run_ids[8]).behind_seconds == 8

    rerun_run(ledger.database, run_ids[8], actor="ann")

    assert ledger.run(run_ids[8]).behind_seconds is None


def test_a_fair_share_does_not_stand_above_priority(ledger: Ledger) -> None:
    ledger.add_job(concurrency_key="tenant")
    ledger.enqueue_many([NewRun("job", args='{"tenant": "a"}')] * 3)
    urgent = ledger.enqueue("job", args='{"tenant": "a"}', priority=1)

    assert ledger.claim_one().run_id == urgent


def test_what_has_waited_long_enough_goes_before_what_is_more_important(ledger: Ledger) -> None:
    ledger.add_job()
    old = ledger.enqueue()
    ledger.clock.advance(minutes=9)
    newer = ledger.enqueue(priority=1)
    ledger.clock.advance(minutes=2)
    newest = ledger.enqueue(priority=1)

    assert [claim.run_id for claim in ledger.claim()] == [newer, old, newest]


def test_why_says_which_limit_holds_a_run_back_and_who_has_what_it_waits_for(ledger: Ledger) -> None:
    ledger.add_job(
        max_running=1, mutexes='["disk"]', concurrency_key="tenant", max_per_key=1, rate_count=1, rate_seconds=90.0
    )
    ledger.add_job("other", mutexes='["disk"]')
    first, second = ledger.enqueue_many([NewRun("job", args='{"tenant": "big"}')] * 2)
    waiting = ledger.enqueue("other")
    start_node(ledger)
    ledger.claim()

    because = why_run(ledger.database, second)["because"]

    free_at = say_moment(ledger.clock.after(90))
    assert because[:4] == [
        f"max_running is 1, and as many runs of its job go on: run {first} of job job",
        f"mutex disk is held by run {first} of job job",
        f"max_per_key is 1, and as many runs of its job with key big go on: run {first} of job job",
        f"its job has started as often as its rate, 1/1m30s, allows; the next may start {free_at}",
    ]
    assert why_run(ledger.database, waiting)["because"][0] == f"mutex disk is held by run {first} of job job"
