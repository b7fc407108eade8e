"""Why something is as it is: the facts that are named, the deciding one first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rota.errors import NotFound
from rota.model.run import NodeIdentity
from rota.store import history, interventions, jobs, schedules
from rota.store.nodes import register_node
from rota.store.slots import fire_schedules
from rota.store.status import read_status
from tests.clock import BEGINNING
from tests.store.ledger import Ledger

ANN = "ann@desk"
MINUTE = timedelta(minutes=1)


def start_node(ledger: Ledger, name: str = "a", *, pools: tuple[str, ...] = ("default",), slots: int = 4) -> None:
    register_node(
        ledger.database,
        NodeIdentity("", f"holder-of-{name}", "boot"),
        host="alpha",
        pid=1,
        pid_started=1,
        pools=pools,
        slots=slots,
        version="0.1.0",
        lease_seconds=60.0,
        wanted=name,
    )


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

    assert f"it queues behind an earlier slot of its schedule: run {first.id}, ready" in why(ledger, second.id)[0]


def test_a_running_run_names_its_node_its_lease_and_who_wants_it_stopped(ledger: Ledger) -> None:
    claim = ledger.start_one(delivery="at_most_once")

    running = why(ledger, claim.run_id)
    interventions.cancel_run(ledger.database, claim.run_id, actor=ANN)
    cancelled = why(ledger, claim.run_id)
    ledger.clock.advance(seconds=61)
    over = why(ledger, claim.run_id)

    assert running == ["a has attempt 1, under a lease until 2026-11-02T12:01:00Z"]
    assert cancelled[0] == f"{ANN} asked to cancel it 2026-11-02T12:00:00Z; a is to stop it"
    assert any("its lease is over: a fell silent" in sentence for sentence in over)


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


def schedule_that_fired(ledger: Ledger, clock: Any) -> None:
    ledger.add_job()
    start_node(ledger)
    spec = schedules.ScheduleSpec.checked("each", job="job", cron="* * * * *")
    schedules.add_schedule(ledger.database, spec, actor=ANN)
    clock.advance(minutes=1)
    fire_schedules(ledger.database, fired_by="a")


def test_a_schedule_tells_its_next_slot_and_what_became_of_the_last_one(ledger: Ledger, clock: Any) -> None:
    schedule_that_fired(ledger, clock)

    answer = history.why_schedule(ledger.database, "each")

    assert answer["because"][0] == "its next slot is 2026-11-02T12:02:00Z, in 1m"
    assert "run 1 is ready; overlap is skip" in answer["because"][1]
    assert answer["because"][-1].startswith("its last decided slot: slot 2026-11-02T12:01:00Z is run 1, ready")


@pytest.mark.parametrize(
    ("columns", "state", "said"),
    [
        ({"problem": "cannot be fired: x"}, "set aside", "it is set aside and fires nothing until it is edited"),
        ({"state": "paused", "paused_at": BEGINNING}, "paused", "it is paused since 2026-11-02T12:00:00Z"),
        ({"next_slot_at": None}, "active", "it has no slots left"),
        ({"next_slot_at": BEGINNING - MINUTE}, "active", "is due since 2m and not decided"),
    ],
)
def test_a_schedule_tells_why_it_does_not_fire(
    ledger: Ledger, clock: Any, columns: dict[str, Any], state: str, said: str
) -> None:
    ledger.add_job()
    start_node(ledger)
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING + MINUTE)
    ledger.set_schedule(schedule_id, **columns)
    clock.advance(minutes=1)

    answer = history.why_schedule(ledger.database, "each")

    assert answer["state"] == state
    assert said in answer["because"][0]


def test_each_kind_of_slot_is_accounted_for(ledger: Ledger, clock: Any) -> None:
    schedule_that_fired(ledger, clock)
    clock.advance(days=1)
    fire_schedules(ledger.database, fired_by="a")

    def about(slot: Any) -> tuple[str, str]:
        answer = history.why_schedule(ledger.database, "each", slot)
        return answer["state"], answer["because"][0]

    assert about(BEGINNING + MINUTE) == (
        "ready",
        "slot 2026-11-02T12:01:00Z is run 1, ready: " + ledger.run(1).reason_text,
    )
    shared = about(BEGINNING + 5 * MINUTE)
    assert shared[0] == "missed"
    assert "slots from 2026-11-02T12:02:00Z to" in shared[1]
    ahead = about(clock.now + 2 * MINUTE)
    assert (ahead[0], ahead[1]) == ("ahead", "it is ahead, in 2m")
    none = about(BEGINNING + timedelta(seconds=90))
    assert none == (
        "none",
        "the schedule, cron * * * * * in UTC, is not due then; the next slot after it is 2026-11-02T12:02:00Z",
    )
    assert about(BEGINNING - 5 * MINUTE) == ("none", "the schedule was added later: nothing was decided about it")
    clock.advance(minutes=1)
    assert about(clock.now)[0] == "due"


@pytest.mark.parametrize("ask", [history.why_job, history.why_schedule])
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
