"""Whatever brought a run into its state, `why` says it in a sentence, and the life of the run tells it too."""

from __future__ import annotations

import pytest

from rota.model.reasons import Reason
from rota.model.states import RunState
from rota.store.history import why_run
from rota.store.runs import read_run
from tests.engine.node import Node
from tests.engine.test_reasons import SCENARIOS

WORDS_MIN = 3


@pytest.mark.parametrize("reason", SCENARIOS)
def test_a_reason_is_explained_by_why_and_told_in_the_life_of_its_run(node: Node, reason: Reason) -> None:
    state, scenario = SCENARIOS[reason]
    scenario(node)
    told = node.ledger.rows(
        "select run_id, text from rota_event where reason = :reason and to_state = :state order by id",
        reason=reason.value,
        state=state.value,
    )
    runs = {row.run_id: row.text for row in told}

    for run_id, text in runs.items():
        answer = why_run(node.database, run_id)
        life = read_run(node.database, run_id)["events"]
        because = answer["because"]

        assert because
        assert all(len(sentence.split()) >= WORDS_MIN and "None" not in sentence for sentence in because)
        assert text in [event["text"] for event in life]
        assert answer["events"] == life
        row = node.ledger.run(run_id)
        if (row.state, row.reason) == (state.value, reason.value) and state is not RunState.RUNNING:
            assert any(text in sentence for sentence in because)
    assert runs


def test_a_slot_that_was_late_lost_and_retried_tells_its_whole_life(node: Node) -> None:
    clock = node.ledger.clock
    node.ledger.add_job(retries=1)
    node.ledger.add_schedule(next_slot_at=clock.after(60), delay_seconds=30.0, start_within_seconds=3600.0)
    clock.advance(seconds=60)
    node.round()  # due
    clock.advance(seconds=40)
    node.settle()  # its delay has passed
    (claim,) = node.started
    node.end(claim, "exited", exit_code=9)
    clock.advance(seconds=10)
    node.settle()  # the retry
    node.end(node.started[-1], "exited", exit_code=0)

    answer = why_run(node.database, claim.run_id)

    assert answer["subject"] == f"run {claim.run_id} of job job, slot 2026-11-02T12:01:00Z of schedule each"
    assert [event["to"] for event in answer["events"]] == [
        "waiting", "ready", "running", "waiting", "ready", "running", "succeeded",
    ]  # fmt: skip
    assert answer["because"] == [
        "attempt 2 ended well on a (ended_well)",
        "attempt 2 on a ended 2026-11-02T12:01:50Z",
        "attempt 1 on a ended 2026-11-02T12:01:40Z: exited with 9; retry 1 of 1 in 10 s",
    ]
