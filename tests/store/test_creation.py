"""Asking for runs: once per request, once per unfinished key, many in as many statements as one."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from rota.errors import NotFound
from rota.model.run import Made, NewRun
from rota.store.creation import enqueue_runs, request_ids
from rota.store.requests import request_runs
from tests.store.ledger import Ledger, statements_of
from tests.store.trouble import commit_breaks

pytestmark = pytest.mark.cases_take_turns


def test_a_run_that_is_asked_for_is_ready_at_once(ledger: Ledger) -> None:
    job_id = ledger.add_job(priority=3, pool="far", lease_seconds=9.0)

    run_id = ledger.enqueue(args='{"day": "✓"}', requested_by="ann")

    row = ledger.run(run_id)
    assert (row.state, row.reason, row.job_id, row.job) == ("ready", "asked", job_id, "job")
    assert (row.args, row.requested_by, row.priority, row.pool) == ('{"day": "✓"}', "ann", 3, "far")
    assert (row.run_at, row.enqueued_at) == (ledger.clock.now, ledger.clock.now)
    assert (row.start_by, row.due_at, row.lease_seconds, row.attempt, row.fence) == (None, None, 9, 0, 0)
    (told,) = ledger.events(run_id)
    assert (told.from_state, told.to_state, told.reason, told.actor) == (None, "ready", "asked", "ann")


def test_ids_come_in_the_order_of_the_requests(ledger: Ledger) -> None:
    ledger.add_job("one")
    ledger.add_job("two")

    ids = ledger.enqueue_many([NewRun("two", args='{"n": 1}'), NewRun("one", args='{"n": 2}'), NewRun("two")])

    assert [(ledger.run(run_id).job, ledger.run(run_id).args) for run_id in ids] == [
        ("two", '{"n": 1}'),
        ("one", '{"n": 2}'),
        ("two", "{}"),
    ]


@pytest.mark.parametrize("ahead", [{"in_seconds": 90.0}, {"run_at": True}])
def test_a_run_asked_for_later_waits_until_then(ledger: Ledger, ahead: dict[str, object]) -> None:
    ledger.add_job()
    then = ledger.clock.after(90)

    run_id = ledger.enqueue(**({"run_at": then} if "run_at" in ahead else ahead))

    row = ledger.run(run_id)
    assert (row.state, row.reason, row.run_at, row.due_at) == ("waiting", "not_before", then, then)
    assert ledger.claim() == []


def test_a_run_asked_for_in_the_past_is_ready(ledger: Ledger) -> None:
    ledger.add_job()
    past = ledger.clock.after(-3600)

    row = ledger.run(ledger.enqueue(run_at=past))

    assert (row.state, row.run_at) == ("ready", past)


@pytest.mark.parametrize(("own", "of_job", "expected"), [(30.0, 60.0, 30), (None, 60.0, 60), (None, None, None)])
def test_the_window_of_a_request_goes_before_the_jobs(
    ledger: Ledger, own: float | None, of_job: float | None, expected: float | None
) -> None:
    ledger.add_job(start_within_seconds=of_job)

    row = ledger.run(ledger.enqueue(start_within_seconds=own))

    assert row.start_by == row.due_at == (None if expected is None else ledger.clock.after(expected))


def test_the_window_of_a_later_run_counts_from_its_time(ledger: Ledger) -> None:
    ledger.add_job()

    row = ledger.run(ledger.enqueue(in_seconds=100, start_within_seconds=30))

    assert row.start_by == ledger.clock.after(130)
    assert row.due_at == ledger.clock.after(100)


def test_a_run_of_a_paused_job_says_that_it_is_paused(ledger: Ledger) -> None:
    ledger.add_job(state="paused")

    row = ledger.run(ledger.enqueue())

    assert (row.state, row.reason_text) == ("ready", "asked to run now; its job is paused")


def test_an_unknown_job_is_refused_and_nothing_of_the_batch_is_stored(ledger: Ledger) -> None:
    ledger.add_job()

    with pytest.raises(NotFound, match="'nobody'"):
        ledger.enqueue_many([NewRun("job"), NewRun("nobody")])

    assert ledger.runs() == []


def test_the_same_request_sent_twice_makes_one_run(ledger: Ledger) -> None:
    ledger.add_job()
    requests = request_ids(2)

    def send(args: str) -> list[int]:
        wanted = [NewRun("job", args=args), NewRun("job")]
        return ledger.database.write(lambda connection: enqueue_runs(connection, wanted, requests), repeatable=True)

    first, again = send('{"n": 1}'), send('{"n": 2}')

    assert first == again
    assert [row.args for row in ledger.runs()] == ['{"n": 1}', "{}"]
    assert len(ledger.events(first[0])) == 1


def test_the_same_request_sent_again_after_the_run_has_ended_is_still_that_run(ledger: Ledger) -> None:
    ledger.add_job()
    requests = request_ids(1)
    send = lambda connection: enqueue_runs(connection, [NewRun("job", run_key="k")], requests)  # noqa: E731
    (run_id,) = ledger.database.write(send, repeatable=True)
    ledger.end(ledger.claim_one())

    assert ledger.database.write(send, repeatable=True) == [run_id]


def test_a_key_gives_the_unfinished_run_that_holds_it(ledger: Ledger) -> None:
    ledger.add_job()
    first = ledger.enqueue(run_key="k", args='{"n": 1}')

    assert ledger.enqueue(run_key="k", args='{"n": 2}') == first
    claim = ledger.claim_one()
    assert ledger.enqueue(run_key="k") == first
    ledger.end(claim)
    assert ledger.enqueue(run_key="k") != first


def test_a_key_belongs_to_its_job(ledger: Ledger) -> None:
    ledger.add_job("one")
    ledger.add_job("two")

    assert ledger.enqueue("one", run_key="k") != ledger.enqueue("two", run_key="k")


def test_keys_are_compared_exactly(ledger: Ledger) -> None:
    ledger.add_job()

    ids = {ledger.enqueue(run_key=key) for key in ("key", "Key", "kéy", "ke\u0301y")}

    assert len(ids) == 4


def test_a_key_twice_in_one_batch_is_one_run(ledger: Ledger) -> None:
    ledger.add_job()

    ids = ledger.enqueue_many([NewRun("job", run_key="k"), NewRun("job"), NewRun("job", run_key="k")])

    assert ids[0] == ids[2] != ids[1]
    assert len(ledger.runs()) == 2


def test_a_batch_mixes_keys_that_are_held_with_new_ones(ledger: Ledger) -> None:
    ledger.add_job()
    held = ledger.enqueue(run_key="held")

    ids = ledger.enqueue_many([NewRun("job", run_key="new"), NewRun("job", run_key="held")])

    assert ids[1] == held
    assert len(ledger.runs()) == 2


def test_a_request_whose_commit_answer_was_lost_makes_one_run(ledger: Ledger) -> None:
    ledger.add_job()

    with commit_breaks(ledger.database, "after") as broken:
        (made,) = request_runs(ledger.database, [NewRun("job")])

    assert broken == ["after"]
    assert [row.id for row in ledger.runs()] == [made.run_id]
    assert made.is_new


def test_a_request_that_was_not_committed_is_sent_again(ledger: Ledger) -> None:
    ledger.add_job()

    with commit_breaks(ledger.database, "before") as broken:
        (made,) = request_runs(ledger.database, [NewRun("job")])

    assert broken == ["before"]
    assert [row.id for row in ledger.runs()] == [made.run_id]


def test_callers_that_ask_for_the_same_key_at_once_get_the_same_run(ledger: Ledger) -> None:
    ledger.add_job()
    together, answers = threading.Barrier(4), list[list[Made]]()

    def ask() -> None:
        database = ledger.connect()
        together.wait(30)
        answers.append(request_runs(database, [NewRun("job", run_key=f"k{number}") for number in range(10)]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert len(answers) == 4
    each = list(zip(*answers, strict=True))  # what all were told of each key
    assert all(len({made.run_id for made in told}) == 1 for told in each)
    assert [sum(made.is_new for made in told) for told in each] == [1] * 10
    assert len(ledger.runs()) == 10


def test_a_large_batch_is_stored_whole(ledger: Ledger) -> None:
    ledger.add_job()
    wanted = [NewRun("job", args=f'{{"n": {number}, "text": "{"x" * 200}"}}') for number in range(2500)]

    ids = [made.run_id for made in request_runs(ledger.database, wanted)]

    assert len(set(ids)) == 2500
    assert ledger.run(ids[1234]).args == wanted[1234].args


def test_moments_keep_their_microseconds(ledger: Ledger) -> None:
    ledger.add_job()
    moment = ledger.clock.now + timedelta(days=1, microseconds=1)

    assert ledger.run(ledger.enqueue(run_at=moment)).run_at == moment


def test_text_is_stored_as_it_is(ledger: Ledger) -> None:
    ledger.add_job()
    text = '{"quotes": "\'\\"`", "percent": "%s %(x)s :y ?", "emoji": "🦀", "newline": "a\\nb"}'

    assert ledger.run(ledger.enqueue(args=text, run_key="100%:k?")).args == text


def test_asking_takes_as_many_statements_for_many_runs_as_for_one(ledger: Ledger) -> None:
    ledger.add_job()
    counts: set[int] = set()
    for size in (1, 10, 100):
        with statements_of(ledger.database) as sent:
            ledger.enqueue_many([NewRun("job")] * size)
        counts.add(len(sent))

    assert counts == {4}
