"""The one place that writes a run's state: by the table, by compare-and-set, all of a batch or none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rota.errors import Conflict
from rota.model.reasons import Reason
from rota.model.run import NewRun
from rota.model.states import TRANSITIONS, AttemptState, Because, RunState
from rota.store.advancing import advance_runs
from rota.store.endings import surrender_runs
from rota.store.moves import Move, Stale, apply_moves
from tests.store.ledger import Ledger, statements_of

pytestmark = pytest.mark.cases_take_turns

SKIP = Move(
    run_id=0,
    fence=0,
    claim_id=None,
    source=RunState.READY,
    target=RunState.SKIPPED,
    because=Because.DONE_WITHOUT,
    reason=Reason.OPERATOR,
    text="not today",
    actor="ann",
)


def apply(ledger: Ledger, *moves: Move) -> None:
    ledger.database.write(lambda connection: apply_moves(connection, moves), repeatable=True)


@pytest.fixture
def run_ids(ledger: Ledger) -> list[int]:
    ledger.add_job()
    return ledger.enqueue_many([NewRun("job")] * 3)


def test_a_move_changes_the_state_and_tells_it(ledger: Ledger, run_ids: list[int]) -> None:
    apply(ledger, dataclasses.replace(SKIP, run_id=run_ids[0]))

    row = ledger.run(run_ids[0])
    told = ledger.events(run_ids[0])[-1]
    assert (row.state, row.reason, row.reason_text) == ("skipped", "operator", "not today")
    assert (row.finished_at, row.due_at) == (ledger.clock.now, None)
    assert (told.from_state, told.to_state, told.reason, told.text) == ("ready", "skipped", "operator", "not today")
    assert (told.actor, told.at, told.job) == ("ann", ledger.clock.now, "job")


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": RunState.WAITING},
        {"fence": 1},
        {"claim_id": "another"},
        {"run_id": 4711},
    ],
)
def test_a_move_that_was_decided_for_another_state_changes_nothing_of_its_batch(
    ledger: Ledger, run_ids: list[int], wrong: dict[str, object]
) -> None:
    good = dataclasses.replace(SKIP, run_id=run_ids[0])
    before = ledger.runs()

    with pytest.raises(Stale):
        apply(ledger, good, dataclasses.replace(SKIP, **({"run_id": run_ids[1]} | wrong)))

    assert ledger.runs() == before
    assert len(ledger.events(run_ids[0])) == 1


def test_a_move_that_the_table_does_not_know_is_refused(ledger: Ledger, run_ids: list[int]) -> None:
    impossible = dataclasses.replace(SKIP, run_id=run_ids[0], target=RunState.SUCCEEDED, because=Because.ENDED_WELL)

    with pytest.raises(Conflict, match="cannot go from ready to succeeded"):
        apply(ledger, dataclasses.replace(SKIP, run_id=run_ids[1]), impossible)

    assert ledger.states() == [RunState.READY] * 3


def test_every_move_that_is_not_in_the_table_is_refused_before_anything_is_sent() -> None:
    no_connection: Any = None
    known = {(move.source, move.target, move.because) for move in TRANSITIONS}
    refused = 0

    for source in RunState:
        for target in RunState:
            for because in Because:
                if (source, target, because) in known:
                    continue
                move = dataclasses.replace(SKIP, source=source, target=target, because=because)
                with pytest.raises(Conflict):
                    apply_moves(no_connection, [move])
                refused += 1

    assert refused == len(RunState) ** 2 * len(Because) - sum(1 for move in TRANSITIONS if move.source)


def test_the_same_run_twice_in_a_batch_is_refused_as_a_whole(ledger: Ledger, run_ids: list[int]) -> None:
    move = dataclasses.replace(SKIP, run_id=run_ids[0])

    with pytest.raises(Stale):
        apply(ledger, move, move)

    assert ledger.states() == [RunState.READY] * 3


def test_a_move_that_ends_an_attempt_closes_it(ledger: Ledger) -> None:
    claim = ledger.start_one()
    move = Move(
        run_id=claim.run_id,
        fence=claim.fence,
        claim_id=claim.claim_id,
        source=RunState.RUNNING,
        target=RunState.WAITING,
        because=Because.RETRY_LEFT,
        reason=Reason.RETRY,
        text="again",
        wait_seconds=12.5,
        retries_added=1,
        attempt_state=AttemptState.FAILED,
    )

    apply(ledger, move)

    row = ledger.run(claim.run_id)
    (attempt,) = ledger.attempts(claim.run_id)
    assert (row.run_at, row.due_at) == (ledger.clock.after(12.5), ledger.clock.after(12.5))
    assert (row.retries_used, row.losses, row.lease_ends_at, row.finished_at) == (1, 0, None, None)
    assert (attempt.state, attempt.reason, attempt.finished_at) == ("failed", "retry", ledger.clock.now)


def test_a_rerun_begins_with_new_budgets_and_no_window(ledger: Ledger) -> None:
    ledger.add_job(retries=1, retry_delay_seconds=0.0, start_within_seconds=30.0)
    run_id = ledger.enqueue()
    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    advance_runs(ledger.database)
    surrender_runs(ledger.database, [ledger.claim_one().claim_id], actor="a")
    claim = ledger.claim_one()
    ledger.end(claim, "exited", exit_code=1)
    assert (ledger.run(run_id).retries_used, ledger.run(run_id).losses) == (1, 1)
    ledger.clock.advance(hours=1)

    apply(
        ledger,
        Move(
            run_id=run_id,
            fence=claim.fence,
            claim_id=claim.claim_id,
            source=RunState.FAILED,
            target=RunState.READY,
            because=Because.RERUN,
            reason=Reason.RERUN,
            text="again",
            resets=True,
        ),
    )

    row = ledger.run(run_id)
    assert (row.retries_used, row.losses, row.attempt, row.fence) == (0, 0, 3, 3)
    assert (row.start_by, row.due_at, row.run_at, row.finished_at) == (None, None, ledger.clock.now, None)


def test_a_finished_run_gives_its_key_back(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(run_key="k")

    apply(ledger, dataclasses.replace(SKIP, run_id=run_id))

    assert (ledger.run(run_id).run_key, ledger.run(run_id).active_key) == ("k", None)


def test_a_batch_of_any_size_takes_the_same_statements(ledger: Ledger) -> None:
    ledger.add_job()
    counts: set[int] = set()
    for size in (1, 10, 100):
        moves = [dataclasses.replace(SKIP, run_id=run_id) for run_id in ledger.enqueue_many([NewRun("job")] * size)]
        with statements_of(ledger.database) as sent:
            apply(ledger, *moves)
        counts.add(len(sent))

    assert counts == {4}


def test_no_moves_take_no_statement(ledger: Ledger) -> None:
    with statements_of(ledger.database) as sent:
        apply(ledger)

    assert sent == []
