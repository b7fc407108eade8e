"""Why something is as it is: the facts that are named, the deciding one first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rota.errors import NotFound
from rota.store import history, interventions, jobs, slot_history
from rota.store.advancing import advance_runs
from rota.store.clock import tell_clock_step
from rota.store.firing import fire_schedules
from rota.store.status import read_status
from tests.clock import BEGINNING
from tests.store.ledger import Ledger
from tests.store.living import start_node, stop_node

pytestmark = pytest.mark.cases_take_turns

ANN = "ann@desk"
MINUTE = timedelta(minutes=1)


def why(ledger: Ledger, run_id: int) -> list[str]:
    return history.why_run(ledger.database, run_id)["because"]


def test_a_ready_run_names_the_pool_that_nobody_serves_first(ledger: Ledger) -> None:
    ledger.add_job(pool="reports", start_within_seconds=3600.0)
    run_id = ledger.enqueue()
    jobs.pause_job(ledger.database, "job", actor=ANN)

    because = why(ledger, run_id)

    assert "no node serves pool reports" in because[0]
    assert "rota worker --pool reports" in because[0]
    assert "is paused" in because[1]
    assert "must start by 2026-11-02T13:00:00Z, in 1h" in because[2]


def test_a_ready_run_names_the_last_node_of_its_pool_that_fell_silent(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    run_id = ledger.enqueue()
    ledger.clock.advance(minutes=5)

    assert "no node of pool default is alive: a was the last one, seen 2026-11-02T12:00:00Z" in why(ledger, run_id)[0]


def test_a_ready_run_names_the_slots_that_are_taken_and_the_runs_before_it(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger, slots=1)
    first = ledger.enqueue()
    ledger.clock.advance(seconds=1)
    before = ledger.enqueue(priority=5)
    last = ledger.enqueue()

    in_line = why(ledger, last)
    next_one = why(ledger, before)
    ledger.claim_one()
    taken = why(ledger, first)

    assert "2 ready runs of pool default come before it, by priority or age" in in_line[0]
    assert "it is the next one of pool default" in next_one[0]
    assert "all 1 slots of pool default are taken, on a" in taken[0]


def test_a_waiting_run_names_its_moment(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)

    because = why(ledger, ledger.enqueue(in_seconds=90.0))

    assert "it may start at 2026-11-02T12:01:30Z, in 1m30s" in because[0]


def test_a_queued_run_names_the_one_before_it(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule(next_slot_at=BEGINNING - 2 * MINUTE, catch_up="all")
    fire_schedules(ledger.database, fired_by="a")
    first, second, *_ = ledger.runs()

    assert (
        why(ledger, second.id)[0]
        == f"it queues behind run {first.id} of its schedule, ready, of the slot 2026-11-02T11:58:00Z"
    )


def test_a_run_that_replaces_another_names_the_stop_it_waits_for(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="replace")
    fire_schedules(ledger.database, fired_by="a")
    claim = ledger.claim_one()
    ledger.clock.advance(minutes=1)
    fire_schedules(ledger.database, fired_by="a")
    second = ledger.runs()[-1]

    assert why(ledger, second.id)[0] == (
        f"overlap is replace: it starts once run {claim.run_id} has stopped; "
        "a was asked 2026-11-02T12:01:00Z to stop it"
    )


def test_a_retry_names_what_went_wrong_and_when_it_is_tried_again(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)
    ledger.end(claim, "exited", exit_code=7)

    because = why(ledger, claim.run_id)

    assert because[0] == (
        "it may start at 2026-11-02T12:00:10Z, in 10s: attempt 1 on a exited with 7; retry 1 of 1 in 10 s"
    )
    assert because[1] == "no node serves pool default: start one with `rota worker --pool default`"


def test_a_waiting_run_whose_time_came_names_the_node_that_is_missing(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(in_seconds=90.0)
    ledger.clock.advance(minutes=2)

    because = why(ledger, run_id)

    assert because[0] == "no node is alive to move it on: start one with `rota worker`"
    assert because[1].startswith("its time came 2026-11-02T12:01:30Z, and a node is to move it on")


def test_a_ready_run_tells_to_whom_it_is_offered(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger, "a", slots=1)
    start_node(ledger, "b", slots=3)
    start_node(ledger, "elsewhere", pools=("reports",))
    first, second = ledger.enqueue(), ledger.enqueue()
    (claim,) = ledger.claim("a", 1)
    assert claim.run_id == first

    because = why(ledger, second)

    assert because[0].startswith("it is the next one of pool default")
    told = because[1].removeprefix("it is offered to ").split(", ")
    assert sorted(told) == ["a (0 of 1 slots free)", "b (3 of 3 slots free)"]


def test_a_paused_job_decides_before_the_slots_that_are_taken(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger, slots=1)
    run_id = ledger.enqueue()
    ledger.enqueue(priority=1)
    ledger.claim_one()
    jobs.pause_job(ledger.database, "job", actor=ANN)

    because = why(ledger, run_id)

    assert because[0] == f"its job job is paused since 2026-11-02T12:00:00Z, by {ANN}: `rota job resume job`"
    assert because[1] == "all 1 slots of pool default are taken, on a"
    assert not any("offered" in sentence for sentence in because)


def test_a_closed_window_decides_and_a_clock_that_stepped_holds_even_that(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    run_id = ledger.enqueue(start_within_seconds=30.0)
    ledger.clock.step(hours=1)
    closed = why(ledger, run_id)
    tell_clock_step(ledger.database, 3600.0, 60.0, node="a")

    held = why(ledger, run_id)

    assert closed[0] == "its start window closed at 2026-11-02T12:00:30Z, 59m30s ago: it will be missed"
    assert held[0].startswith(
        "its start window closed at 2026-11-02T12:00:30Z, 59m30s ago; the database's clock has stepped"
    )
    assert held[0].endswith("nothing late is decided before 2026-11-02T13:01:00Z, in 1m")


def test_a_lease_that_is_over_is_not_taken_away_while_the_clock_is_held(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.clock.step(hours=1)
    tell_clock_step(ledger.database, 3600.0, 60.0, node="a")

    (first, *_) = why(ledger, claim.run_id)

    assert first.startswith(
        "its lease is over: a fell silent; the database's clock has stepped: nothing late is decided"
    )


def test_a_slot_that_was_skipped_names_the_run_in_its_way_also_after_that_has_ended(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire_schedules(ledger.database, fired_by="a")
    claim = ledger.claim_one()
    ledger.clock.advance(minutes=1)
    fire_schedules(ledger.database, fired_by="a")
    skipped = ledger.runs()[-1]

    during = why(ledger, skipped.id)
    ledger.clock.advance(seconds=5)
    ledger.end(claim)
    after = why(ledger, skipped.id)

    said = f"run {claim.run_id}, of the slot 2026-11-02T12:00:00Z, stood in its way; it"
    assert during[:3] == [f"{skipped.reason_text} (overlap)", f"{said} has not ended yet", "it never started"]
    assert after[1] == f"{said} ended 2026-11-02T12:01:05Z"


def test_every_attempt_is_told_with_its_node(ledger: Ledger) -> None:
    claim = ledger.start_one(retries=1)
    ledger.end(claim, "exited", exit_code=7)
    ledger.clock.advance(seconds=10)
    advance_runs(ledger.database)
    ledger.end(ledger.claim_one("b"), "exited", exit_code=8)

    because = why(ledger, claim.run_id)

    assert because[0].endswith("(exit_code)")
    assert because[0].startswith("attempt 2 on b exited with 8")
    assert because[1] == "attempt 2 on b ended 2026-11-02T12:00:10Z"
    assert because[2].startswith("attempt 1 on a ended 2026-11-02T12:00:00Z: exited with 7")


def test_a_running_run_names_its_node_its_lease_and_who_wants_it_stopped(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once")

    running = why(ledger, claim.run_id)
    interventions.cancel_run(ledger.database, claim.run_id, actor=ANN)
    cancelled = why(ledger, claim.run_id)
    ledger.clock.advance(seconds=61)
    over = why(ledger, claim.run_id)

    assert running == [
        "a has attempt 1, under a lease until 2026-11-02T12:01:00Z",
        "it runs since 2026-11-02T12:00:00Z, for 0s",
    ]
    assert cancelled[0] == f"{ANN} asked to cancel it 2026-11-02T12:00:00Z; a is to stop it"
    assert any("its lease is over: a fell silent" in sentence for sentence in over)


def test_a_node_that_has_not_been_seen_for_too_long_is_named_before_its_lease_is_over(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    ready = ledger.enqueue()
    ledger.clock.advance(seconds=30)
    in_time = why(ledger, ready)
    running = ledger.claim_one(lease_seconds=600.0)
    ready = ledger.enqueue()

    ledger.clock.advance(seconds=1)

    assert "it is offered to a (4 of 4 slots free)" in in_time
    assert "it is offered to a (3 of 4 slots free, not seen for 31s)" in why(ledger, ready)
    assert why(ledger, running.run_id)[1].startswith("a may be dead, not seen for 31s; its job may go on without it")


def test_a_running_run_tells_that_its_node_is_gone(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    ledger.enqueue()
    run_id = ledger.claim_one(lease_seconds=600.0).run_id
    there = why(ledger, run_id)
    stop_node(ledger)
    left = why(ledger, run_id)
    start_node(ledger)
    ledger.clock.advance(seconds=61)

    silent = why(ledger, run_id)

    goes_on = "its job may go on without it: a worker that starts there takes it over, a stand-in renews it until then"
    assert [sentence for sentence in there if goes_on in sentence] == []
    assert left[1] == f"a has left, seen 2026-11-02T12:00:00Z; {goes_on}"
    assert silent[1] == f"a fell silent, seen 2026-11-02T12:00:00Z; {goes_on}"


def test_a_finished_run_repeats_its_recorded_reason(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(claim, "exited", exit_code=3)
    never = ledger.enqueue()
    interventions.cancel_run(ledger.database, never, actor=ANN)

    answer = history.why_run(ledger.database, claim.run_id)

    assert answer["state"] == "failed"
    assert answer["subject"] == f"run {claim.run_id} of job job"
    assert answer["because"][0] == f"{ledger.run(claim.run_id).reason_text} (exit_code)"
    assert [event["to"] for event in answer["events"]] == ["ready", "running", "failed"]
    assert why(ledger, never) == [f"cancelled by {ANN} before it started (cancel)", "it never started"]


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("it asked for more address space than memory_max allows", "a larger memory_max of its job would have given"),
        ("killed while the kernel killed 1 process", "memory_max of its job, if it has one, or the memory"),
    ],
)
def test_what_ran_out_of_memory_is_told_which_memory_where_that_is_known(
    ledger: Ledger, message: str, advice: str
) -> None:
    claim = ledger.start_one()
    ledger.end(claim, "exited", exit_code=1, error_type="MemoryError", error_message=message)

    assert why(ledger, claim.run_id)[-1].startswith(advice)


def test_a_run_whose_job_was_deleted_by_hand_says_so(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    run_id = ledger.enqueue()
    ledger.execute("delete from rota_job")

    assert any("its job job was deleted" in sentence for sentence in why(ledger, run_id))


def test_a_job_tells_what_holds_it_and_when_it_is_due(ledger: Ledger) -> None:
    ledger.add_job()
    start_node(ledger)
    idle = history.why_job(ledger.database, "job")["because"]
    ledger.add_schedule("nightly", next_slot_at=BEGINNING + MINUTE)
    claim_id = ledger.enqueue()
    ledger.end(ledger.claim_one())
    jobs.pause_job(ledger.database, "job", actor=ANN)

    answer = history.why_job(ledger.database, "job")

    assert idle == [
        "it has no schedule: it runs when somebody asks, as with `rota job run`",
        "nothing has asked for a run of it yet",
    ]
    assert answer["state"] == "paused"
    assert "it is paused" in answer["because"][0]
    assert "schedule nightly is due next at 2026-11-02T12:01:00Z" in answer["because"]
    assert any(f"its latest run, {claim_id}, is succeeded" in sentence for sentence in answer["because"])
    assert [event["to"] for event in answer["events"]] == ["paused"]


@pytest.mark.parametrize("pause", [False, True])
def test_what_holds_a_job_and_its_run_is_told_once(ledger: Ledger, pause: bool) -> None:
    ledger.add_job()
    ledger.enqueue()
    if pause:
        start_node(ledger)
        jobs.pause_job(ledger.database, "job", actor=ANN)

    first, *others = history.why_job(ledger.database, "job")["because"]

    assert ("it is paused since" if pause else "no node serves pool default: ") in first
    assert "run 1 is ready, and waits for that" in others
    assert not [one for one in others if "paused" in one or "no node" in one]


@pytest.mark.parametrize("ask", [history.why_job, slot_history.why_schedule])
def test_what_nobody_knows_is_not_found(ledger: Ledger, ask: Any) -> None:
    with pytest.raises(NotFound):
        ask(ledger.database, "nothing")
    with pytest.raises(NotFound):
        history.why_run(ledger.database, 4711)


def test_the_status_shows_each_part_once_and_counts_every_state(ledger: Ledger, clock: Any) -> None:
    ledger.add_job()
    start_node(ledger)
    schedule_id = ledger.add_schedule("broken", next_slot_at=BEGINNING)
    ledger.set_schedule(schedule_id, problem="cannot be fired: x")
    ledger.add_schedule("overdue", next_slot_at=BEGINNING)
    failed, running, late = ledger.enqueue(), ledger.enqueue(), ledger.enqueue()
    ledger.enqueue(in_seconds=3600.0)
    claims = ledger.claim(limit=2)
    ledger.end(claims[0], "exited", exit_code=1)
    clock.advance(seconds=30)

    view = read_status(ledger.database)

    assert view["now"] == "2026-11-02T12:00:30.000000Z"
    assert {state: count for state, count in view["counts"].items() if count} == {
        "waiting": 1,
        "ready": 1,
        "running": 1,
        "failed": 1,
    }
    assert [run["id"] for run in view["failed"]] == [failed]
    assert [run["id"] for run in view["running"]] == [running]
    assert [run["id"] for run in view["late"]] == [late]
    assert [found["key"] for found in view["problems"]] == ["broken"]
    assert [found["key"] for found in view["overdue"]] == ["overdue"]
    assert [node["name"] for node in view["nodes"]] == ["a"]
