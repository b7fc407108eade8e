"""The bookkeeper's rounds, stepped by hand: what it tells the watch, and what it keeps when the database is gone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace

import pytest

from rota.engine import bookkeeper as bookkeeper_module
from rota.engine import books as books_module
from rota.engine import scheduler as scheduler_module
from rota.engine.backoff import SECONDS_FIRST
from rota.engine.bookkeeper import Idle, RenewalWanted
from rota.engine.tidier import Tidier
from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.model.run import End, NewRun, NodeIdentity, Written
from rota.model.states import RunState
from rota.store.database import Database
from rota.store.endings import Delivered
from rota.store.interventions import cancel_run, freeze_run, thaw_run
from rota.store.nodes import read_node
from rota.store.outlook import Outlook
from tests.clock import BEGINNING
from tests.engine.node import Node
from tests.store.ledger import LEASE_SECONDS, Ledger, statements_of
from tests.store.living import start_node
from tests.store.trouble import commit_breaks


@pytest.fixture
def job(ledger: Ledger) -> int:
    return ledger.add_job()


def test_a_due_slot_is_fired_and_started_within_one_round(node: Node, job: int) -> None:
    node.ledger.add_schedule(next_slot_at=BEGINNING)

    node.round()

    assert [claim.slot_at for claim in node.started] == [BEGINNING]
    assert node.ledger.states() == [RunState.RUNNING]


def test_what_is_started_has_its_start_mark(node: Node) -> None:
    node.ledger.add_job("once", delivery="at_most_once")
    node.ledger.add_job("least")
    node.ledger.enqueue("once")
    node.ledger.enqueue("least")

    node.round()

    assert len(node.started) == 2
    assert all(node.ledger.run(claim.run_id).marked_at is not None for claim in node.started)


def test_no_more_is_claimed_than_there_are_free_slots(ledger: Ledger, job: int) -> None:
    node = Node(ledger, slots=2)
    ledger.enqueue_many([NewRun("job")] * 5)

    node.round()
    node.round()
    assert len(node.started) == 2

    node.end(node.started[0])
    assert len(node.started) == 3


def test_nodes_that_have_nothing_to_do_look_again_at_times_spread_by_chance(node: Node) -> None:
    node.settle()
    poll_seconds = node.database.dialect.poll_seconds
    waits: list[float] = []
    for _ in range(20):
        before = time.monotonic()
        node.round()
        waits.append(node.bookkeeper._look_at - before)

    assert min(waits) >= poll_seconds * (1 - bookkeeper_module.POLL_SPREAD)
    assert max(waits) - min(waits) > poll_seconds * bookkeeper_module.POLL_SPREAD / 4


def test_a_look_that_took_long_does_not_put_off_the_next_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from look to look, but for half of the time, so that a database that is slow gets some rest."""
    node.settle()
    poll_seconds = node.database.dialect.poll_seconds
    slept = 0.0
    begun = time.monotonic()
    monkeypatch.setattr(bookkeeper_module, "time", SimpleNamespace(monotonic=lambda: begun + slept))
    look = node.bookkeeper._scheduler.look
    took = 0.0

    def look_slowly() -> Outlook:
        nonlocal slept
        slept += took
        return look()

    monkeypatch.setattr(node.bookkeeper._scheduler, "look", look_slowly)
    for seconds, wait_max in ((poll_seconds / 4, poll_seconds), (poll_seconds * 3, poll_seconds * 3.5)):
        took = seconds
        before = slept = node.bookkeeper._look_at - begun
        node.round()
        wait = node.bookkeeper._look_at - begun - before
        assert wait_max * (1 - bookkeeper_module.POLL_SPREAD) <= wait <= wait_max


def test_an_end_is_acknowledged_once_it_is_committed(node: Node, job: int) -> None:
    node.ledger.enqueue()
    claim = node.start_one()
    assert node.bookkeeper.held_count == 1

    node.end(claim)

    assert node.acknowledged == [claim.claim_id]
    assert node.bookkeeper.held_count == 0
    assert node.ledger.run(claim.run_id).state == "succeeded"


def test_an_end_is_kept_while_the_database_is_away(node: Node, job: int) -> None:
    node.ledger.enqueue()
    claim = node.start_one()
    node.bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "succeeded"))

    with commit_breaks(node.database, "before", times=100), pytest.raises(DatabaseUnavailable):
        node.bookkeeper.round()
    assert (node.acknowledged, node.bookkeeper.held_count) == ([], 1)

    node.bookkeeper.round()
    assert node.acknowledged == [claim.claim_id]
    assert node.ledger.run(claim.run_id).state == "succeeded"


def test_a_mark_that_is_not_known_to_be_committed_starts_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.ledger.add_job(delivery="at_most_once")
    run_id = node.ledger.enqueue()

    def mark_badly(*_given: object) -> None:
        raise DatabaseUnavailable("gone", outcome_unknown=True)

    with monkeypatch.context() as patched:
        patched.setattr(bookkeeper_module, "mark_started", mark_badly)
        with pytest.raises(DatabaseUnavailable):
            node.round()

    assert node.started == []
    node.settle()
    assert [attempt.state for attempt in node.ledger.attempts(run_id)] == ["released", "running"]


def test_a_run_that_is_cancelled_before_its_start_mark_is_not_started(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.ledger.add_job(delivery="at_most_once")
    run_id = node.ledger.enqueue()
    mark = bookkeeper_module.mark_started

    def cancel_first(database: object, claim_ids: list[str]) -> frozenset[str]:
        cancel_run(node.ledger.database, run_id, actor="ann")
        return mark(database, claim_ids)

    monkeypatch.setattr(bookkeeper_module, "mark_started", cancel_first)
    node.round()
    node.bookkeeper.round()

    assert node.started == []
    assert (node.ledger.run(run_id).state, node.bookkeeper.held_count) == ("cancelled", 0)


def test_renewals_are_asked_for_until_guardians_were_told_to_freeze_and_to_thaw(node: Node, job: int) -> None:
    run_ids = node.ledger.enqueue_many([NewRun("job")] * 2)
    node.settle()
    asked: list[bool] = []

    def look() -> None:
        asked.append(any(isinstance(message, RenewalWanted) for message in node.round()))

    freeze_run(node.ledger.database, run_ids[0], actor="ann")
    look()
    look()  # somebody had the row locked, so the renewal passed over it
    node.bookkeeper.hear_frozen(frozenset(run_ids[:1]))
    look()
    thaw_run(node.ledger.database, run_ids[0], actor="ann")
    freeze_run(node.ledger.database, run_ids[1], actor="ann")
    look()  # as many as before, and others
    node.bookkeeper.hear_frozen(frozenset(run_ids[1:]))
    look()

    assert asked == [True, True, False, True, False]


def test_one_end_that_the_database_refuses_keeps_no_other_from_it(node: Node, job: int) -> None:
    node.ledger.enqueue_many([NewRun("job")] * 3)
    node.round()
    claims = node.started
    for number, claim in enumerate(claims):
        # A number that no column of 64 bits holds.
        bytes_total = 2**70 if number == 1 else 0
        node.bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "succeeded", stdout=Written(b"", b"", bytes_total)))

    node.bookkeeper.round()

    assert [node.ledger.run(claim.run_id).state for claim in claims] in (
        ["succeeded", "failed", "succeeded"],
        ["succeeded", "succeeded", "succeeded"],  # SQLite keeps what does not fit
    )
    assert sorted(node.acknowledged) == sorted(claim.claim_id for claim in claims)
    assert node.bookkeeper.held_count == 0


def test_a_run_whose_guardian_died_is_ready_again_at_once(node: Node, job: int) -> None:
    node.ledger.enqueue()
    claim = node.start_one()

    node.bookkeeper.hear_dead_guardian(claim.claim_id)
    node.bookkeeper.round()

    assert [attempt.state for attempt in node.ledger.attempts(claim.run_id)] == ["lost", "running"]
    assert node.started[-1].attempt == 2
    assert node.bookkeeper.held_count == 1


def test_what_is_given_back_after_the_last_round_is_delivered_too(node: Node, job: int) -> None:
    run_id = node.ledger.enqueue()
    claim = node.start_one()
    node.bookkeeper.stop()

    node.bookkeeper.hear_end(End(claim.claim_id, run_id, "released", error_message="the worker is leaving"))
    node.bookkeeper.deliver_rest()

    assert node.ledger.states() == [RunState.READY]
    assert node.acknowledged == [claim.claim_id]


def test_a_node_that_leaves_claims_nothing_but_still_fires_and_ends(node: Node, job: int) -> None:
    node.ledger.enqueue()
    claim = node.start_one()
    node.bookkeeper.stop_claiming()
    node.ledger.add_schedule(next_slot_at=BEGINNING)

    node.round()
    node.end(claim)

    assert len(node.started) == 1
    assert node.ledger.states().count(RunState.READY) == 1
    assert node.ledger.run(claim.run_id).state == "succeeded"


def test_a_round_with_nothing_to_do_says_so_in_one_statement(node: Node, job: int) -> None:
    node.round()

    with statements_of(node.database) as sent:
        told = node.round()

    assert told == [Idle()]
    assert len(sent) == 1


def test_the_next_look_is_no_later_than_the_next_thing_that_is_due(node: Node, job: int) -> None:
    node.ledger.add_schedule(next_slot_at=BEGINNING + timedelta(seconds=0.2))

    before = time.monotonic()
    node.round()

    assert node.bookkeeper._look_at <= time.monotonic() + 0.2
    assert node.bookkeeper._look_at >= before


def test_a_cancellation_reaches_the_watch(node: Node, job: int) -> None:
    node.ledger.enqueue()
    claim = node.start_one()
    cancel_run(node.ledger.database, claim.run_id, actor="ann")

    node.round()

    assert node.was_told_of_cancellation


def test_two_nodes_share_the_work_and_each_run_is_started_once(ledger: Ledger, job: int) -> None:
    first, second = Node(ledger, "a", slots=3), Node(ledger, "b", slots=3)
    run_ids = ledger.enqueue_many([NewRun("job")] * 6)

    first.round()
    second.round()

    started = [claim.run_id for claim in first.started + second.started]
    assert sorted(started) == sorted(run_ids)
    assert (len(first.started), len(second.started)) == (3, 3)


def test_a_node_rescues_the_runs_of_one_that_fell_silent(ledger: Ledger, job: int) -> None:
    silent, healthy = Node(ledger, "a"), Node(ledger, "b")
    run_id = ledger.enqueue()
    silent.round()
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)

    healthy.settle()

    (claim,) = healthy.started
    assert (claim.run_id, claim.attempt, claim.fence) == (run_id, 2, 2)
    silent.end(silent.started[0])
    assert ledger.run(run_id).state == "running"
    assert ledger.attempts(run_id)[0].orphan_at is not None


def test_a_broken_schedule_is_set_aside_and_the_node_comes_to_rest(node: Node, job: int) -> None:
    node.ledger.add_schedule("broken", next_slot_at=BEGINNING, zone="JST-9")
    node.ledger.add_schedule("good", next_slot_at=BEGINNING)

    node.settle()

    assert [claim.schedule for claim in node.started] == ["good"]


def test_slots_of_an_hour_are_all_accounted_for_when_nobody_looked(node: Node, job: int) -> None:
    node.ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all")
    node.ledger.clock.advance(hours=1)

    for _ in range(61):
        node.settle()
        node.end(node.started[-1])
        node.ledger.clock.advance(seconds=0.5)

    assert [claim.slot_at for claim in node.started] == [BEGINNING + timedelta(minutes=n) for n in range(61)]
    assert set(node.ledger.states()) == {RunState.SUCCEEDED}


def test_an_end_that_is_refused_is_kept_and_holds_up_nobody_else(
    node: Node, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_id, other_id = node.ledger.enqueue(), node.ledger.enqueue()
    node.round()
    claims = {claim.run_id: claim for claim in node.started}
    end_runs = books_module.end_runs

    def refuse(database: Database, ends: list[End], *, waits: bool) -> Delivered:
        if any(end.run_id == refused_id for end in ends):
            raise DatabaseRefused("no right to do this")
        return end_runs(database, ends, waits=waits)

    with monkeypatch.context() as patched:
        patched.setattr(books_module, "end_runs", refuse)
        for claim in claims.values():
            node.bookkeeper.hear_end(End(claim.claim_id, claim.run_id, "succeeded"))
        later_id = node.ledger.enqueue()
        node.settle()

    assert node.acknowledged == [claims[other_id].claim_id]
    assert [claim.run_id for claim in node.started][2:] == [later_id]
    assert node.ledger.run(refused_id).state == "running"

    later = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: later)
    node.bookkeeper.round()
    assert node.ledger.run(refused_id).state == "succeeded"
    assert claims[refused_id].claim_id in node.acknowledged


def test_what_somebody_keeps_locked_is_tried_again_long_before_the_next_look(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.settle()
    asked: list[str] = []

    def adopt(database: Database, identity: NodeIdentity, claim_ids: Sequence[str]) -> frozenset[str]:
        asked.extend(claim_ids)
        return frozenset(claim_ids)

    monkeypatch.setattr(bookkeeper_module, "adopt_claims", adopt)
    node.bookkeeper.hear_adopted("claim")
    node.bookkeeper.round()

    assert 0.0 < node.bookkeeper._wait_seconds() <= SECONDS_FIRST
    assert caplog.messages == []  # mostly it is a renewal, for a moment
    later = time.monotonic() + SECONDS_FIRST
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert node.bookkeeper._wait_seconds() == 0.0
    node.bookkeeper.round()
    assert asked == ["claim"] * 2
    assert caplog.messages == ["1 runs are locked by somebody; what is to be written of them waits"]


def test_a_node_that_drains_or_has_other_settings_tells_the_others(node: Node, ledger: Ledger) -> None:
    start_node(ledger, "a")
    node.bookkeeper.apply(dataclasses.replace(node.settings, pools=("other",), slots=3))
    node.round()
    before = read_node(ledger.database, "a")

    node.bookkeeper.stop_claiming(tell=True)
    node.round()

    assert (before["state"], before["pools"], before["slots"]) == ("alive", ["other"], 3)
    assert read_node(ledger.database, "a")["state"] == "draining"


@pytest.mark.parametrize("duty", ["fire_schedules", "advance_runs", "rescue_runs", "watch_health"])
def test_one_duty_that_fails_holds_up_no_other_and_does_not_spin(
    node: Node, job: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, duty: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseRefused("an odd row")

    ledger, clock = node.ledger, node.ledger.clock
    lost = ledger.enqueue()
    ledger.claim(node="other")
    waiting = ledger.enqueue(run_at=clock.now + timedelta(seconds=1))
    ledger.add_schedule("each", next_slot_at=clock.now)
    clock.advance(seconds=LEASE_SECONDS + 1)
    monkeypatch.setattr(scheduler_module, duty, fail)

    for _ in range(5):
        node.round()

    done_by = {"fire_schedules": "slot", "advance_runs": "waiting", "rescue_runs": "lost"}
    # What fails is due all the time: it waits longer each time, now the better part of a second, and never for long.
    waits = node.bookkeeper._look_at - time.monotonic()
    assert (0.5 if duty in done_by else 0.0) < waits <= (1.0 if duty in done_by else 5.0)
    started = {{lost: "lost", waiting: "waiting"}.get(claim.run_id, "slot") for claim in node.started}
    assert started == {"slot", "waiting", "lost"} - {done_by.get(duty)}
    assert "something that is due failed, 4 times in a row" in caplog.text
    assert "3 times" not in caplog.text


@pytest.mark.parametrize("duty", ["correct_absent_nodes", "miss_unreachable", "tidy_permits", "begin"])
def test_what_is_tidied_each_minute_is_tidied_whatever_of_it_fails(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, duty: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseRefused("an odd row")

    done: list[str] = []
    for name in ("correct_absent_nodes", "miss_unreachable", "tidy_permits"):
        monkeypatch.setattr(scheduler_module, name, lambda _, name=name: done.append(name))
    monkeypatch.setattr(Tidier, "begin", lambda _: done.append("begin"))
    monkeypatch.setattr(Tidier if duty == "begin" else scheduler_module, duty, fail)

    node.round()

    assert {*done, duty} == {"correct_absent_nodes", "miss_unreachable", "tidy_permits", "begin"}
    assert "something that is due failed" in caplog.text


def test_rounds_that_fail_for_a_reason_that_nobody_foresaw_do_not_flood_the_log(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = iter(range(4, -1, -1))

    def fail() -> None:
        if next(left) == 0:
            node.bookkeeper.stop()
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(node.bookkeeper, "round", fail)
    monkeypatch.setattr(time, "sleep", lambda _: None)

    node.bookkeeper.run()

    assert [record.getMessage()[-16:] for record in caplog.records] == [f"{n} times in a row" for n in (1, 2, 4)]
    assert "ZeroDivisionError" in caplog.text
