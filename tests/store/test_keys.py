"""Keys: a run holds one while it is unfinished, for a time after it was asked for, or for ever; nobody else does."""

from __future__ import annotations

import threading

import pytest

from rota.errors import Conflict
from rota.model.run import NewRun
from rota.store import runs
from rota.store.interventions import cancel_run, rerun_run
from rota.store.requests import request_runs
from tests.store.ledger import Ledger

pytestmark = pytest.mark.cases_take_turns

HOUR = 3600.0


def end_one(ledger: Ledger, kind: str = "succeeded") -> None:
    ledger.end(ledger.claim_one(), kind)


def asked(ledger: Ledger, unique_seconds: float | None, kind: str = "succeeded") -> int:
    """Have a run of key k asked for and ended."""
    run_id = ledger.enqueue(run_key="k", unique_seconds=unique_seconds)
    end_one(ledger, kind)
    return run_id


@pytest.mark.parametrize("kind", ["succeeded", "exception"])
def test_a_key_with_a_window_holds_that_long_after_it_was_asked_for_however_it_ended(ledger: Ledger, kind: str) -> None:
    ledger.add_job()
    first = asked(ledger, HOUR, kind)

    ledger.clock.advance(minutes=59)
    within = ledger.enqueue(run_key="k")
    ledger.clock.advance(minutes=1)
    after = ledger.enqueue(run_key="k", unique_seconds=HOUR)

    assert within == first != after
    assert (ledger.run(first).active_key, ledger.run(after).active_key) == (None, "k")
    assert ledger.run(first).run_key == "k"


def test_a_run_that_is_unfinished_holds_its_key_beyond_the_window(ledger: Ledger) -> None:
    ledger.add_job()
    first = ledger.enqueue(run_key="k", unique_seconds=HOUR)
    ledger.clock.advance(hours=2)

    assert ledger.enqueue(run_key="k") == first
    end_one(ledger)
    assert ledger.run(first).active_key is None
    assert ledger.enqueue(run_key="k") != first


def test_a_key_for_ever_gives_the_same_run_for_ever(ledger: Ledger) -> None:
    ledger.add_job()
    first = asked(ledger, -1)
    ledger.clock.advance(days=3000)

    assert ledger.enqueue(run_key="k") == first
    assert ledger.violations() == []


def test_a_cancelled_run_holds_its_key_as_long_as_any_other(ledger: Ledger) -> None:
    ledger.add_job()
    first = ledger.enqueue(run_key="k", unique_seconds=HOUR)
    cancel_run(ledger.database, first, actor="ann")

    assert ledger.enqueue(run_key="k") == first


def test_a_batch_takes_keys_that_are_over_and_gets_those_that_hold(ledger: Ledger) -> None:
    ledger.add_job()
    wanted = [NewRun("job", run_key=f"k{number}", unique_seconds=HOUR * number) for number in (1, 3)]
    first = ledger.enqueue_many(wanted)
    ledger.end_all(ledger.claim())
    ledger.clock.advance(hours=2)

    again = ledger.enqueue_many([*wanted, NewRun("job", run_key="new"), NewRun("job")])

    assert again[1] == first[1]
    assert len({*first, *again}) == 5
    assert [len(ledger.events(run_id)) for run_id in (again[0], again[2], again[3])] == [1, 1, 1]


def test_two_who_ask_at_the_end_of_the_window_at_once_get_one_new_run(ledger: Ledger) -> None:
    ledger.add_job()
    keys = [f"k{number}" for number in range(10)]
    wanted = [NewRun("job", run_key=key, unique_seconds=HOUR) for key in keys]
    old = ledger.enqueue_many(wanted)
    ledger.end_all(ledger.claim(limit=10))
    ledger.clock.advance(hours=1)
    together, answers = threading.Barrier(4), list[list[int]]()

    def ask() -> None:
        database = ledger.connect()
        together.wait(30)
        answers.append([made.run_id for made in request_runs(database, wanted)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert not set(answers[0]) & set(old)
    assert len(ledger.runs()) == 20


def test_a_rerun_takes_its_key_again(ledger: Ledger) -> None:
    ledger.add_job()
    first = asked(ledger, None)

    rerun_run(ledger.database, first, actor="ann")

    assert ledger.enqueue(run_key="k") == first
    end_one(ledger)
    assert ledger.run(first).active_key is None


@pytest.mark.parametrize("unique_seconds", [None, HOUR])
def test_a_run_whose_key_another_one_holds_is_not_run_again(ledger: Ledger, unique_seconds: float | None) -> None:
    ledger.add_job()
    first = asked(ledger, None)
    second = ledger.enqueue(run_key="k", unique_seconds=unique_seconds)
    if unique_seconds:
        end_one(ledger)

    with pytest.raises(Conflict, match=f"which run {second}"):
        rerun_run(ledger.database, first, actor="ann")

    assert (ledger.run(first).state, ledger.run(second).active_key) == ("succeeded", "k")


def test_a_rerun_takes_a_key_whose_window_is_over(ledger: Ledger) -> None:
    ledger.add_job()
    first = asked(ledger, None)
    second = asked(ledger, HOUR)
    ledger.clock.advance(hours=1)

    rerun_run(ledger.database, first, actor="ann")

    assert (ledger.run(first).active_key, ledger.run(second).active_key) == ("k", None)


def test_a_rerun_and_a_request_for_its_key_at_once_make_one_unfinished_run(ledger: Ledger) -> None:
    ledger.add_job()
    first = asked(ledger, None)
    together, refused = threading.Barrier(2), list[Conflict]()

    def rerun() -> None:
        database = ledger.connect()
        together.wait(30)
        try:
            rerun_run(database, first, actor="ann")
        except Conflict as error:
            refused.append(error)

    thread = threading.Thread(target=rerun)
    thread.start()
    together.wait(30)
    (got,) = request_runs(ledger.database, [NewRun("job", run_key="k")])
    thread.join(60)

    assert (got.run_id == first) is not bool(refused)
    assert [row.id for row in ledger.runs() if row.finished_at is None] == [got.run_id]


@pytest.mark.parametrize(
    ("unique_seconds", "unfinished", "finished", "over"),
    [(None, "end", None, None), (HOUR, "moment", "moment", None), (-1, "forever", "forever", "forever")],
)
def test_a_run_shows_until_when_it_holds_its_key(
    ledger: Ledger, unique_seconds: float | None, unfinished: str, finished: str | None, over: str | None
) -> None:
    ledger.add_job()
    moment = ledger.clock.after(HOUR).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    run_id = ledger.enqueue(run_key="k", unique_seconds=unique_seconds)
    shown = [runs.read_run(ledger.database, run_id)["key_until"]]
    end_one(ledger)

    shown.append(runs.read_run(ledger.database, run_id)["key_until"])
    ledger.clock.advance(hours=1)
    shown.append(runs.read_run(ledger.database, run_id)["key_until"])

    assert shown == [moment if word == "moment" else word for word in (unfinished, finished, over)]
    assert runs.read_run(ledger.database, ledger.enqueue())["key_until"] is None
