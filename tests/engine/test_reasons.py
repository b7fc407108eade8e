"""Every reason is produced through the engine: no code is in the list that nothing gives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from rota.model.calendars import Calendar
from rota.model.job import JobSpec
from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.store.calendars import add_calendar
from rota.store.forgetting import forget_node
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run, skip_run
from rota.store.jobs import add_job
from rota.store.schedules import pause_schedule, resume_schedule
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import LEASE_SECONDS
from tests.store.living import start_node, stop_node

Scenario = Callable[[Node], None]

SCENARIOS: dict[Reason, tuple[RunState, Scenario]] = {}


def produces(reason: Reason, state: RunState) -> Callable[[Scenario], Scenario]:
    """Register what brings a run into ``state`` for ``reason``."""

    def register(scenario: Scenario) -> Scenario:
        assert reason not in SCENARIOS
        SCENARIOS[reason] = (state, scenario)
        return scenario

    return register


def schedule(node: Node, **columns: object) -> int:
    """Add a job and its schedule, due now."""
    node.ledger.add_job()
    return node.ledger.add_schedule(**({"next_slot_at": BEGINNING} | columns))


def ends(kind: str, **facts: object) -> Scenario:
    def scenario(node: Node) -> None:
        node.ledger.add_job()
        node.ledger.enqueue()
        node.end(node.start_one(), kind, **facts)

    return scenario


def lose(node: Node, times: int = 1) -> None:
    """Let a run be started, and its node fall silent, so many times."""
    for _ in range(times):
        node.start_one()
        node.ledger.clock.advance(seconds=LEASE_SECONDS + 1)
        # The lost claim is forgotten by its own node too, as by a restart.
        node.bookkeeper._held.clear()
        node.bookkeeper.stop_claiming()
        node.round()
        node.bookkeeper._accepting = True
        node.ledger.clock.advance(hours=1)


@produces(Reason.DELAY, RunState.WAITING)
def _(node: Node) -> None:
    schedule(node, delay_seconds=30.0)
    node.round()


@produces(Reason.NOT_BEFORE, RunState.WAITING)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue(in_seconds=60)


@produces(Reason.QUEUED, RunState.WAITING)
def _(node: Node) -> None:
    schedule(node, catch_up="all")
    node.ledger.clock.advance(minutes=2, seconds=30)
    node.round()


def builds_on_a_failed_one(node: Node, **options: object) -> None:
    node.ledger.add_job("upstream")
    node.ledger.enqueue("upstream")
    node.end(node.start_one(), "failed")
    add_job(
        node.database,
        JobSpec.checked("job", kind="shell", target="true", after=["upstream"], **options),  # pyright: ignore[reportArgumentType]
        actor="ann",
    )
    node.ledger.enqueue()


@produces(Reason.UPSTREAM, RunState.WAITING)
def _(node: Node) -> None:
    builds_on_a_failed_one(node)


@produces(Reason.RETRY, RunState.WAITING)
def _(node: Node) -> None:
    node.ledger.add_job(retries=1)
    node.ledger.enqueue()
    node.end(node.start_one(), "exited", exit_code=1)


@produces(Reason.LOST_BACKOFF, RunState.WAITING)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue()
    lose(node, times=2)


@produces(Reason.DUE, RunState.READY)
def _(node: Node) -> None:
    schedule(node)
    node.round()


@produces(Reason.ASKED, RunState.READY)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue()


@produces(Reason.RELEASED, RunState.READY)
def _(node: Node) -> None:
    ends("released")(node)


@produces(Reason.LEASE_OVER, RunState.READY)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue()
    lose(node)


@produces(Reason.RERUN, RunState.READY)
def _(node: Node) -> None:
    ends("succeeded")(node)
    rerun_run(node.database, node.started[0].run_id, actor="ann")


@produces(Reason.CLAIMED, RunState.RUNNING)
def _(node: Node) -> None:
    node.ledger.add_job(delivery="at_most_once")
    node.ledger.enqueue()
    node.round()


@produces(Reason.STARTED, RunState.RUNNING)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue()
    node.round()


@produces(Reason.OVERLAP, RunState.SKIPPED)
def _(node: Node) -> None:
    schedule(node)
    node.round()
    node.ledger.clock.advance(minutes=1)
    node.round()


@produces(Reason.REPLACED, RunState.SKIPPED)
def _(node: Node) -> None:
    schedule(node, kind="every", expression="1", anchor_at=BEGINNING, overlap="replace")
    node.ledger.clock.advance(seconds=1)
    node.round()


@produces(Reason.CALENDAR, RunState.SKIPPED)
def _(node: Node) -> None:
    add_calendar(node.ledger.database, Calendar.checked("rest", weekdays=["mon"]), actor="ann")
    schedule(node, calendars='["rest"]')
    node.round()


@produces(Reason.JOB_PAUSED, RunState.SKIPPED)
def _(node: Node) -> None:
    schedule(node)
    node.ledger.set_job(state="paused")
    node.round()


@produces(Reason.SCHEDULE_PAUSED, RunState.SKIPPED)
def _(node: Node) -> None:
    schedule(node)
    pause_schedule(node.database, "each", actor="ann")
    node.ledger.clock.advance(minutes=5)
    node.round()
    resume_schedule(node.database, "each", actor="ann")


@produces(Reason.UPSTREAM_FAILED, RunState.SKIPPED)
def _(node: Node) -> None:
    builds_on_a_failed_one(node, upstream_failure="skip")
    node.round()


@produces(Reason.OPERATOR, RunState.SKIPPED)
def _(node: Node) -> None:
    node.ledger.add_job()
    skip_run(node.database, node.ledger.enqueue(), actor="ann")


SCENARIOS[Reason.NO_OP] = (RunState.SKIPPED, ends("no_op"))


@produces(Reason.WINDOW_PASSED, RunState.MISSED)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue(start_within_seconds=30)
    node.ledger.clock.advance(seconds=31)
    node.round()


@produces(Reason.NODE_FORGOTTEN, RunState.MISSED)
def _(node: Node) -> None:
    start_node(node.ledger, "b")
    stop_node(node.ledger, "b")
    node.ledger.add_job()
    node.ledger.set_run(node.ledger.enqueue(), target_node="b")
    forget_node(node.database, "b", actor="ann")


@produces(Reason.CATCH_UP_LATEST, RunState.MISSED)
def _(node: Node) -> None:
    schedule(node, start_within_seconds=3600.0)
    node.ledger.clock.advance(minutes=5)
    node.round()


@produces(Reason.CATCH_UP_NONE, RunState.MISSED)
def _(node: Node) -> None:
    schedule(node, catch_up="none", start_within_seconds=3600.0)
    node.ledger.clock.advance(minutes=5)
    node.round()


@produces(Reason.NO_NODE, RunState.MISSED)
def _(node: Node) -> None:
    node.ledger.add_job(runs_on="all", pool="empty")
    node.ledger.add_schedule(next_slot_at=BEGINNING)
    node.round()


@produces(Reason.CATCH_UP_LIMIT, RunState.MISSED)
def _(node: Node) -> None:
    schedule(node, catch_up="all", catch_up_limit=2)
    node.ledger.clock.advance(minutes=5)
    node.round()


@produces(Reason.CANCEL, RunState.CANCELLED)
def _(node: Node) -> None:
    node.ledger.add_job()
    node.ledger.enqueue()
    claim = node.start_one()
    cancel_run(node.database, claim.run_id, actor="ann")
    node.round()
    assert node.was_told_of_cancellation
    node.end(claim, "cancelled")


SCENARIOS[Reason.ENDED_WELL] = (RunState.SUCCEEDED, ends("exited", exit_code=0))


@produces(Reason.MARKED, RunState.SUCCEEDED)
def _(node: Node) -> None:
    ends("exited", exit_code=1)(node)
    mark_succeeded(node.database, node.started[0].run_id, actor="ann")


@produces(Reason.LATE_TRUTH, RunState.SUCCEEDED)
def _(node: Node) -> None:
    node.ledger.add_job(delivery="at_most_once")
    node.ledger.enqueue()
    lose(node)
    node.end(node.started[0], "exited", exit_code=0)


SCENARIOS |= {
    Reason.EXIT_CODE: (RunState.FAILED, ends("exited", exit_code=2)),
    Reason.SIGNAL: (RunState.FAILED, ends("signalled", signal=11)),
    Reason.CPU_LIMIT: (RunState.FAILED, ends("signalled", signal=24, error_type="CpuLimit")),
    Reason.OUT_OF_MEMORY: (RunState.FAILED, ends("signalled", signal=9, error_type="OutOfMemory")),
    Reason.TIMEOUT: (RunState.FAILED, ends("timeout")),
    Reason.EXCEPTION: (RunState.FAILED, ends("exception", error_type="ValueError", error_message="no")),
    Reason.START_ERROR: (RunState.FAILED, ends("not_started", error_message="no such file")),
    Reason.BAD_RESULT: (RunState.FAILED, ends("bad_result", error_message="too large")),
    Reason.NO_RESULT: (RunState.FAILED, ends("no_result")),
}


@produces(Reason.DEADLINE, RunState.FAILED)
def _(node: Node) -> None:
    node.ledger.add_job(deadline_seconds=60.0)
    node.ledger.enqueue()
    node.end(node.start_one(), "deadline")


@produces(Reason.LOST_MAX, RunState.FAILED)
def _(node: Node) -> None:
    node.ledger.add_job(lost_max=0)
    node.ledger.enqueue()
    lose(node)


@produces(Reason.LOST, RunState.LOST)
def _(node: Node) -> None:
    node.ledger.add_job(delivery="at_most_once")
    node.ledger.enqueue()
    lose(node)


@pytest.mark.parametrize("reason", SCENARIOS)
def test_a_reason_is_given_with_its_state_and_a_sentence(node: Node, reason: Reason) -> None:
    state, scenario = SCENARIOS[reason]

    scenario(node)

    told = node.ledger.rows(
        "select to_state, text from rota_event"
        " where reason = :reason and (from_state is null or from_state <> to_state)",
        reason=reason.value,
    )
    assert told, f"nothing was told with reason {reason}"
    assert {row.to_state for row in told} == {state.value}
    assert all(row.text.strip() for row in told)


def test_no_reason_is_left_without_a_scenario() -> None:
    assert set(SCENARIOS) == set(Reason)


def test_the_clock_of_the_scenarios_is_the_databases(node: Node) -> None:
    node.ledger.clock.advance(days=1)

    assert node.database.now() == BEGINNING + timedelta(days=1)
