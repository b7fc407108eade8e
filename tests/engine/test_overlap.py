"""What a slot does while an earlier run of its schedule has not ended, through the engine."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rota.model.states import RunState
from rota.store.schedules import pause_schedule, resume_schedule
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import Ledger


def schedule(ledger: Ledger, **columns: object) -> int:
    """Add a job and its minutely schedule, due now."""
    ledger.add_job(lease_seconds=3600.0)
    return ledger.add_schedule(**({"next_slot_at": BEGINNING} | columns))


def slots(ledger: Ledger) -> list[tuple[int, str, str]]:
    """Return minute, state and reason of each row of the ledger."""
    return [
        (int((run.slot_at - BEGINNING).total_seconds() // 60), run.state, run.reason)
        for run in sorted(ledger.runs(), key=lambda run: run.slot_at)
    ]


def test_queue_runs_each_slot_after_the_one_before_it(node: Node, ledger: Ledger) -> None:
    schedule(ledger, overlap="queue")
    first = node.start_one()
    for _ in range(2):
        ledger.clock.advance(minutes=1)
        node.round()
    assert [state for _, state, _ in slots(ledger)] == ["running", "waiting", "waiting"]

    node.end(first)
    node.settle()
    second = node.started[-1]
    node.end(second)
    node.settle()

    assert [claim.slot_at for claim in node.started] == [BEGINNING + timedelta(minutes=n) for n in range(3)]
    assert [run.start_by for run in ledger.runs()] == [None] * 3


def test_a_run_that_nobody_took_in_time_does_not_keep_the_next_slot_from_running(node: Node, ledger: Ledger) -> None:
    schedule(ledger, overlap="skip", start_within_seconds=50.0)
    node.bookkeeper.stop_claiming()
    node.round()
    assert slots(ledger) == [(0, "ready", "due")]
    ledger.clock.advance(seconds=65)  # nobody was here

    Node(ledger, "b").settle()

    assert slots(ledger) == [(0, "missed", "window_passed"), (1, "running", "started")]


def test_a_queue_that_is_full_skips(node: Node, ledger: Ledger) -> None:
    schedule(ledger, overlap="queue", catch_up_limit=1)
    node.round()
    for _ in range(2):
        ledger.clock.advance(minutes=1)
        node.round()

    assert [(state, reason) for _, state, reason in slots(ledger)] == [
        ("running", "started"),
        ("waiting", "queued"),
        ("skipped", "overlap"),
    ]


def test_replace_stops_the_run_before_and_then_starts(node: Node, ledger: Ledger) -> None:
    schedule(ledger, overlap="replace")
    first = node.start_one()
    ledger.clock.advance(minutes=1)

    node.round()
    node.round()

    assert node.was_told_of_cancellation
    old = ledger.run(first.run_id)
    assert (old.state, old.cancel_asked_by) == ("running", "schedule each")
    assert [claim.run_id for claim in node.started] == [first.run_id]  # not beside it
    node.end(first, "cancelled")
    node.settle()
    assert ledger.run(first.run_id).state == RunState.CANCELLED
    assert node.started[-1].slot_at == BEGINNING + timedelta(minutes=1)
    assert "replaces" in ledger.events(first.run_id)[-2].text


def test_replace_withdraws_what_has_not_started(node: Node, ledger: Ledger) -> None:
    schedule(ledger, overlap="replace")
    node.bookkeeper.stop_claiming()
    node.round()
    assert slots(ledger) == [(0, "ready", "due")]
    ledger.clock.advance(minutes=1)

    node.round()
    node.round()

    assert slots(ledger) == [(0, "cancelled", "cancel"), (1, "ready", "due")]


def test_newest_first_runs_late_slots_from_the_newest_to_the_oldest(node: Node, ledger: Ledger) -> None:
    schedule(ledger, catch_up="all", catch_up_order="newest")
    ledger.clock.advance(minutes=3, seconds=30)
    node.settle()
    for _ in range(4):
        node.end(node.started[-1])
        node.settle()

    assert [claim.slot_at for claim in node.started] == [BEGINNING + timedelta(minutes=n) for n in (3, 2, 1, 0)]


def test_the_third_skip_in_a_row_is_told_and_a_run_forgets_them(node: Node, ledger: Ledger) -> None:
    schedule_id = schedule(ledger)
    first = node.start_one()
    told = "select count(*) from rota_event where kind = 'schedule' and to_state = 'skipping'"
    for skips in (1, 2, 3, 4):
        ledger.clock.advance(minutes=1)
        node.round()
        assert ledger.schedule(schedule_id).skips_in_row == skips
        assert ledger.value(told) == (1 if skips >= 3 else 0)

    node.end(first)
    ledger.clock.advance(minutes=1)
    node.round()

    assert ledger.schedule(schedule_id).skips_in_row == 0


@pytest.mark.parametrize("latest", [False, True])
def test_resuming_goes_on_from_now_and_with_latest_runs_the_newest_slot_that_may_start(
    node: Node, ledger: Ledger, latest: bool
) -> None:
    schedule(ledger, start_within_seconds=120.0)
    pause_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(minutes=9, seconds=30)

    resume_schedule(ledger.database, "each", actor="ann", latest=latest)
    node.settle()

    summary, *rest = slots(ledger)
    assert summary == (0, "skipped", "schedule_paused")
    assert ledger.runs()[0].slot_count == (9 if latest else 10)
    assert rest == ([(9, "running", "started")] if latest else [])
    ledger.clock.advance(seconds=30)
    node.round()
    assert slots(ledger)[-1][0] == 10
