"""Jobs that run on all nodes of their pool: which nodes a slot or a request is for, and each decided for itself."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from rota.errors import Conflict, Invalid
from rota.model.job import JobSpec
from rota.model.run import NewRun
from rota.store import fanout
from rota.store.advancing import advance_runs, miss_unreachable
from rota.store.creation import make_runs, request_ids
from rota.store.firing import Fired, fire_schedules
from rota.store.interventions import cancel_run, rerun_run
from rota.store.jobs import add_job, edit_job
from rota.store.requests import request_runs
from rota.store.schedules import edit_schedule, pause_schedule, resume_schedule
from rota.store.tables import node, schema
from tests.clock import BEGINNING
from tests.store.ledger import LEASE_SECONDS, Ledger, statements_of
from tests.store.living import start_node, stop_node
from tests.store.trouble import commit_breaks

# Rules that statements shared by all databases keep.
pytestmark = pytest.mark.takes_turns

MINUTE = timedelta(minutes=1)


@pytest.fixture
def job(ledger: Ledger) -> int:
    """A job for all nodes of the pool, which are a and b; c serves another one."""
    for name in "ab":
        start_node(ledger, name)
    start_node(ledger, "c", pools=("other",))
    return ledger.add_job(runs_on="all")


def fire(ledger: Ledger) -> Fired:
    return fire_schedules(ledger.database, fired_by="a")


def told(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Target, state and reason of all runs, by slot and target."""
    runs = sorted(ledger.runs(), key=lambda run: (run.slot_at or BEGINNING, run.target_node))
    return [(run.target_node, run.state, run.reason) for run in runs]


def claim_on(ledger: Ledger, name: str) -> Any:
    (claim,) = ledger.claim(name, 1)
    return claim


# Slots


def test_a_slot_makes_one_run_for_each_registered_node_of_the_pool_in_one_group(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)

    assert fire(ledger) == Fired(schedules=1, runs=2, ready=2)
    assert [fire(ledger).runs for _ in range(2)] == [0, 0]

    runs = ledger.runs()
    assert told(ledger) == [("a", "ready", "due"), ("b", "ready", "due")]
    assert {run.group_id for run in runs} == {fanout.slot_group(schedule_id, BEGINNING)}
    assert ledger.schedule(schedule_id).next_slot_at == BEGINNING + MINUTE
    assert [ledger.history(run.id) for run in runs] == [[(None, "ready", "due")]] * 2
    assert ledger.violations() == []


def test_each_node_takes_its_own_run_only(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)

    claims = {name: ledger.claim(name) for name in "abc"}

    assert {name: len(found) for name, found in claims.items()} == {"a": 1, "b": 1, "c": 0}
    assert all(ledger.run(found[0].run_id).target_node == name for name, found in claims.items() if found)


def test_nodes_that_fire_at_once_fan_out_once(ledger: Ledger, job: int) -> None:
    for number in range(10):
        ledger.add_schedule(f"s{number}", next_slot_at=BEGINNING)
    together, failures = threading.Barrier(3), []

    def take_part(name: str) -> None:
        database = ledger.connect()
        try:
            together.wait(30)
            for _ in range(4):
                fire_schedules(database, fired_by=name, limit=4)
        except Exception as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=take_part, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failures:
        raise failures[0]

    fire(ledger)
    assert Counter((run.schedule, run.target_node) for run in ledger.runs()) == {
        (f"s{number}", name): 1 for number in range(10) for name in "ab"
    }
    assert len({run.group_id for run in ledger.runs()}) == 10


def test_a_fan_out_whose_commit_answer_was_lost_happened_once(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)

    with commit_breaks(ledger.database, "after") as broken:
        fire(ledger)

    assert broken == ["after"]
    assert len(ledger.runs()) == 2


def test_a_node_that_is_down_gets_its_run_until_it_was_silent_for_seven_days(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING + timedelta(days=7), expression="0 0 * * *")
    stop_node(ledger, "b")
    ledger.clock.advance(days=7, seconds=-1)
    start_node(ledger, "a")
    ledger.set_schedule(schedule_id, next_slot_at=ledger.clock.now)

    fire(ledger)
    ledger.clock.advance(seconds=2)
    ledger.set_schedule(schedule_id, next_slot_at=ledger.clock.now)
    fire(ledger)

    assert [run.target_node for run in ledger.runs()] == ["a", "b", "a"]


def test_a_node_that_drains_counts_and_one_that_was_forgotten_does_not(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.execute("update rota_node set drain_asked_at = seen_at, state = 'draining' where name = 'a'")
    ledger.execute("delete from rota_node where name = 'b'")

    fire(ledger)

    assert [run.target_node for run in ledger.runs()] == ["a"]


def test_all_count_while_the_clock_is_not_trusted(ledger: Ledger, job: int) -> None:
    ledger.clock.advance(days=30)
    ledger.add_schedule(next_slot_at=ledger.clock.now)
    ledger.execute(update(schema).values(clock_held_until=ledger.clock.after(60)))

    fire_schedules(ledger.database, fired_by="a", is_held=True)

    assert [run.target_node for run in ledger.runs()] == ["a", "b"]


def test_where_nobody_is_registered_one_row_says_so_and_cannot_be_done_again_on_any_node(ledger: Ledger) -> None:
    ledger.add_job(runs_on="all")
    start_node(ledger, "c", pools=("other",))
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="replace")

    assert fire(ledger) == Fired(schedules=1, runs=1)

    (run,) = ledger.runs()
    assert told(ledger) == [("", "missed", "no_node")]
    assert "no node that it may run on is registered in its pool" in run.reason_text
    with pytest.raises(Conflict, match="stands for all nodes"):
        rerun_run(ledger.database, run.id, actor="ann")
    assert ledger.violations() == []


def test_a_node_that_joins_later_starts_with_the_next_slot(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING, overlap="allow")
    fire(ledger)
    start_node(ledger, "d")
    ledger.set_schedule(schedule_id, next_slot_at=BEGINNING)  # as by a backup that was put back
    fire(ledger)

    ledger.clock.advance(minutes=1)
    fire(ledger)

    of_slots = Counter(run.slot_at for run in ledger.runs())
    assert of_slots == {BEGINNING: 2, BEGINNING + MINUTE: 3}


def test_overlap_compares_runs_of_the_same_node(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    claim_on(ledger, "a")
    ledger.end(claim_on(ledger, "b"))

    ledger.clock.advance(minutes=1)
    fire(ledger)

    assert told(ledger)[2:] == [("a", "skipped", "overlap"), ("b", "ready", "due")]


def test_slots_that_one_node_skips_again_and_again_are_told_with_its_name(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    claim_on(ledger, "a")
    for _ in range(3):
        ledger.end(claim_on(ledger, "b"))
        ledger.clock.advance(minutes=1)
        fire(ledger)

    (warned,) = ledger.rows("select text from rota_event where to_state = 'skipping'")
    assert warned.text.startswith("3 slots in a row were skipped on a, since")
    assert ledger.schedule(schedule_id).skips_in_row == 3


def test_nodes_that_skip_a_slot_in_turn_have_not_skipped_several_in_a_row(ledger: Ledger, job: int) -> None:
    schedule_id = ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    busy = {name: claim_on(ledger, name) for name in "ab"}
    for ends, starts in ("b", "b"), ("a", "a"), ("b", "b"), ("a", "a"):
        ledger.end(busy.pop(ends))
        ledger.clock.advance(minutes=1)
        fire(ledger)  # the other one is still at it, and is skipped
        busy[starts] = claim_on(ledger, starts)

    assert [reason for _, _, reason in told(ledger)].count("overlap") == 4
    assert ledger.schedule(schedule_id).skips_in_row == 1
    assert ledger.rows("select text from rota_event where to_state = 'skipping'") == []


def test_a_slot_replaces_what_the_same_node_has(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="replace")
    fire(ledger)
    on_a = claim_on(ledger, "a")
    ledger.end(claim_on(ledger, "b"))
    ledger.clock.advance(minutes=1)
    fire(ledger)  # b has one that is ready, a one that waits for the end of the first
    ledger.end(claim_on(ledger, "b"))

    ledger.clock.advance(minutes=1)
    fire(ledger)

    assert ledger.run(on_a.run_id).cancel_asked_by == "schedule each"
    assert told(ledger)[2:] == [
        ("a", "cancelled", "cancel"),
        ("b", "succeeded", "ended_well"),
        ("a", "waiting", "queued"),
        ("b", "ready", "due"),
    ]


def test_a_queue_goes_on_for_each_node_by_itself(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, overlap="queue")
    fire(ledger)
    on_b = claim_on(ledger, "b")
    ledger.clock.advance(minutes=1)
    fire(ledger)

    ledger.end(on_b)
    advance_runs(ledger.database)

    assert told(ledger)[2:] == [("a", "waiting", "queued"), ("b", "ready", "due")]


def test_late_slots_are_caught_up_on_each_node(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all", start_within_seconds=7200.0)
    ledger.clock.advance(minutes=2, seconds=30)

    fire(ledger)

    assert Counter(told(ledger)) == {
        ("a", "ready", "due"): 1,
        ("a", "waiting", "queued"): 2,
        ("b", "ready", "due"): 1,
        ("b", "waiting", "queued"): 2,
    }


def test_a_span_of_late_slots_is_one_row_for_each_node(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(days=2)

    fire(ledger)

    counted = Counter[str]()
    for run in ledger.runs():
        counted[run.target_node] += run.slot_count
    assert counted == {"a": 2881, "b": 2881}
    assert len(ledger.runs()) == 4
    assert ledger.violations() == []


def test_more_rows_than_one_look_makes_are_made_by_the_next_ones(
    ledger: Ledger, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "ROWS_MAX", 7)
    ledger.add_schedule(next_slot_at=BEGINNING, catch_up="all", start_within_seconds=7200.0)
    ledger.clock.advance(minutes=9)

    fired = [fire(ledger).runs for _ in range(6)]

    assert fired == [6, 6, 6, 2, 0, 0]
    assert Counter(told(ledger)) == {
        (name, state, reason): number
        for name in "ab"
        for state, reason, number in (("ready", "due", 1), ("waiting", "queued", 9))
    }


def test_a_thousand_nodes_are_one_firing(ledger: Ledger, job: int) -> None:
    like_a = ledger.row(select(node).where(node.c.name == "a"))._asdict()
    del like_a["id"]
    rows = [like_a | {"name": f"n{number}"} for number in range(fanout.TARGETS_MAX)]
    ledger.database.write(lambda connection: connection.execute(insert(node), rows), repeatable=True)
    ledger.add_schedule(next_slot_at=BEGINNING)

    assert fire(ledger).runs == fanout.TARGETS_MAX


def test_a_word_that_nobody_knows_sets_the_schedule_aside_and_stops_no_other(ledger: Ledger, job: int) -> None:
    ledger.add_job("odd", runs_on="some")
    odd = ledger.add_schedule("odd", "odd", next_slot_at=BEGINNING)
    ledger.add_schedule(next_slot_at=BEGINNING)

    assert fire(ledger).set_aside == 1

    assert "rota job edit --on" in ledger.schedule(odd).problem
    assert [run.job for run in ledger.runs()] == ["job", "job"]


def test_a_schedule_that_is_resumed_with_the_latest_runs_it_on_all(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    pause_schedule(ledger.database, "each", actor="ann")
    ledger.clock.advance(minutes=3, seconds=1)

    resume_schedule(ledger.database, "each", actor="ann", latest=True)

    assert Counter(told(ledger)) == {
        (name, state, reason): 1
        for name in "ab"
        for state, reason in (("skipped", "schedule_paused"), ("ready", "due"))
    }
    assert ledger.violations() == []


@pytest.mark.parametrize(("before", "after"), [("any", "all"), ("all", "any")])
def test_a_job_that_is_edited_overlaps_with_what_is_open_from_before(ledger: Ledger, before: str, after: str) -> None:
    for name in "ab":
        start_node(ledger, name)
    ledger.add_job(runs_on=before)
    ledger.add_schedule(next_slot_at=BEGINNING)
    fire(ledger)
    opened = ledger.claim("a", 1)

    ledger.set_job(runs_on=after)
    ledger.clock.advance(minutes=1)
    fire(ledger)
    later = [run for run in ledger.runs() if run.slot_at != BEGINNING]

    assert opened
    assert {run.reason for run in later} == {"overlap"}
    assert [run.target_node for run in later] == (["a", "b"] if after == "all" else [""])


def test_an_edited_schedule_tells_of_the_slots_that_went_by_in_one_row(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING)
    ledger.clock.advance(seconds=5)

    edit_schedule(ledger.database, "each", lambda spec: spec.edited(cron="*/5 * * * *"), actor="ann")

    (run,) = ledger.runs()
    assert (run.target_node, run.state, run.slot_count) == ("", "skipped", 1)
    with pytest.raises(Conflict, match="stands for all nodes"):
        rerun_run(ledger.database, run.id, actor="ann")


@pytest.mark.parametrize("excluded", ["b", "disk=slow"])
def test_nodes_that_the_job_excludes_are_left_out(ledger: Ledger, job: int, excluded: str) -> None:
    ledger.execute(update(node).where(node.c.name == "b").values(labels='{"disk": "slow"}'))
    ledger.set_job(exclude=f'["{excluded}"]')
    ledger.add_schedule(next_slot_at=BEGINNING)

    fire(ledger)
    request_runs(ledger.database, [NewRun("job")])
    assert [run.target_node for run in ledger.runs()] == ["a", "a"]

    ledger.set_job(exclude='["a", "b"]')
    ledger.clock.advance(seconds=60)
    fire(ledger)
    assert {run.target_node for run in ledger.runs() if run.reason == "no_node"} == {""}
    with pytest.raises(Conflict, match="none that it does not exclude is registered there"):
        request_runs(ledger.database, [NewRun("job")])


# What becomes of a run that waits for its node


def test_a_run_is_missed_at_the_end_of_its_window_for_its_node_alone(ledger: Ledger, job: int) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, start_within_seconds=50.0)
    fire(ledger)
    ledger.end(claim_on(ledger, "a"))

    ledger.clock.advance(seconds=LEASE_SECONDS)
    start_node(ledger, "a")
    advance_runs(ledger.database)
    fire(ledger)

    assert told(ledger) == [
        ("a", "succeeded", "ended_well"),
        ("b", "missed", "window_passed"),
        ("a", "ready", "due"),
        ("b", "ready", "due"),
    ]
    text_of_b = next(run.reason_text for run in ledger.runs() if run.state == "missed")
    assert text_of_b.endswith("it is for node b, which is silent since 2026-11-02T12:00:00Z")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update rota_node set lease_ends_at = null, state = 'gone' where name = 'b'", "said goodbye"),
        ("delete from rota_node where name = 'b'", "is not registered any more"),
        ("update rota_node set drain_asked_at = seen_at, drain_asked_by = 'ann' where name = 'b'", "as ann asked"),
        ("update rota_node set pools = '[]' where name = 'b'", "does not serve pool default any more"),
        ("update rota_node set state = 'alive' where name = 'b'", "is alive and had not taken it"),
    ],
)
def test_what_was_missed_says_why_its_node_did_not_come(ledger: Ledger, job: int, change: str, said: str) -> None:
    ledger.add_schedule(next_slot_at=BEGINNING, start_within_seconds=5.0)
    fire(ledger)
    ledger.end(claim_on(ledger, "a"))
    ledger.execute(change)

    ledger.clock.advance(seconds=6)
    advance_runs(ledger.database)

    (missed,) = [run for run in ledger.runs() if run.state == "missed"]
    assert said in missed.reason_text


def test_cancelled_rerun_retried_and_rescued_it_stays_with_its_node_and_group(ledger: Ledger, job: int) -> None:
    ledger.set_job(retries=1, retry_delay_seconds=0.0)
    ledger.add_schedule(next_slot_at=BEGINNING, start_within_seconds=86_400.0)
    fire(ledger)
    of_b = claim_on(ledger, "b")
    whose = lambda: (ledger.run(of_b.run_id).target_node, ledger.run(of_b.run_id).group_id)  # noqa: E731
    before = whose()

    ledger.end(of_b, "exited", exit_code=1)
    advance_runs(ledger.database)
    seen = [ledger.claim("a", 5, pools=("default",))[0].run_id != of_b.run_id]
    ledger.end(claim_on(ledger, "b"), "exited", exit_code=1)
    rerun_run(ledger.database, of_b.run_id, actor="ann")
    seen.append(ledger.claim("a") == [])
    cancel_run(ledger.database, of_b.run_id, actor="ann")

    assert seen == [True, True]
    assert whose() == before
    assert ledger.run(of_b.run_id).state == "cancelled"


def test_a_run_without_a_window_is_let_go_once_its_node_does_not_count_any_more(ledger: Ledger, job: int) -> None:
    ledger.set_job(runs_on="all")
    request_runs(ledger.database, [NewRun("job")])
    ledger.execute("delete from rota_node where name = 'b'")

    ledger.clock.advance(days=6)

    assert [miss_unreachable(ledger.database) for _ in range(2)] == [1, 0]
    assert told(ledger) == [("a", "ready", "asked"), ("b", "missed", "no_node")]
    assert ledger.violations() == []


@pytest.mark.parametrize("has_started", [False, True])
def test_a_run_without_a_window_is_let_go_once_its_node_has_left_the_pool(
    ledger: Ledger, job: int, has_started: bool
) -> None:
    window = {"start_within_seconds": 60.0} if has_started else {}
    request_runs(ledger.database, [NewRun("job", **window)])
    if has_started:
        ledger.end(claim_on(ledger, "b"), "released")
    start_node(ledger, "b", pools=("default:2", "other"))

    assert [miss_unreachable(ledger.database) for _ in range(2)] == [1, 0]

    assert told(ledger) == [("a", "ready", "asked"), ("b", "missed", "no_node")]
    assert ledger.runs()[1].reason_text == "it is for node b, which does not serve pool default any more"
    assert ledger.violations() == []


@pytest.mark.parametrize("selector", ["b", "gpu=yes"])
@pytest.mark.parametrize("limit", [1, 500])
def test_a_run_without_a_window_is_let_go_once_its_job_excludes_its_node(
    ledger: Ledger, job: int, selector: str, limit: int
) -> None:
    request_runs(ledger.database, [NewRun("job", run_key="once")])
    request_runs(ledger.database, [NewRun("job", start_within_seconds=60.0)])
    ledger.execute("update rota_node set labels = :labels where name = 'b'", labels='{"gpu": "yes"}')
    assert miss_unreachable(ledger.database) == 0

    ledger.set_job(exclude=json.dumps([selector]))
    assert [miss_unreachable(ledger.database, limit=limit) for _ in range(2)] == [1, 0]

    assert [row.state for row in ledger.runs()] == ["ready", "missed", "ready", "ready"]
    assert ledger.runs()[1].reason_text == "it is for node b, which its job excludes"
    assert ledger.runs()[1].active_key is None
    assert ledger.violations() == []


def test_a_run_with_a_window_waits_until_it_closes_for_a_node_that_has_left_the_pool(ledger: Ledger, job: int) -> None:
    request_runs(ledger.database, [NewRun("job", start_within_seconds=50.0) for _ in range(2)])
    start_node(ledger, "b", pools=("other",))

    assert miss_unreachable(ledger.database) == 0
    start_node(ledger, "b")
    ledger.end(claim_on(ledger, "b"))
    start_node(ledger, "b", pools=("other",))
    ledger.clock.advance(seconds=51)
    advance_runs(ledger.database)

    of_b = [run for run in ledger.runs() if run.target_node == "b"]
    assert [(run.state, run.reason) for run in of_b] == [("succeeded", "ended_well"), ("missed", "window_passed")]
    assert of_b[1].reason_text.endswith("it is for node b, which does not serve pool default any more")


# Requests


def test_a_request_makes_one_run_for_each_registered_node_in_one_group(ledger: Ledger, job: int) -> None:
    (made,) = request_runs(ledger.database, [NewRun("job", args='{"n": 1}')])

    runs = ledger.runs()
    assert (made.run_id, made.group_id) == (runs[0].id, runs[0].group_id)
    assert [(run.target_node, run.group_id == made.group_id, run.args) for run in runs] == [
        ("a", True, '{"n": 1}'),
        ("b", True, '{"n": 1}'),
    ]
    assert runs[0].reason_text == "asked to run now, on all 2 nodes registered in pool default"
    assert [ledger.history(run.id) for run in runs] == [[(None, "ready", "asked")]] * 2


def test_the_same_request_sent_again_is_the_same_group_also_when_a_node_joined_meanwhile(
    ledger: Ledger, job: int
) -> None:
    requests = request_ids(1)
    send = lambda: ledger.database.write(  # noqa: E731
        lambda connection: make_runs(connection, [NewRun("job")], requests), repeatable=True
    )

    first = send()
    start_node(ledger, "d")

    assert send() == first
    assert len(ledger.runs()) == 2


def test_a_request_whose_commit_answer_was_lost_makes_one_group(ledger: Ledger, job: int) -> None:
    with commit_breaks(ledger.database, "after") as broken:
        request_runs(ledger.database, [NewRun("job")])

    assert broken == ["after"]
    assert len(ledger.runs()) == 2


def test_a_request_that_nobody_would_serve_is_refused(ledger: Ledger) -> None:
    ledger.add_job(runs_on="all")

    with pytest.raises(Conflict, match="on all nodes of pool default, and none is registered there"):
        request_runs(ledger.database, [NewRun("job")])

    assert ledger.runs() == []


def test_a_request_for_a_job_with_an_unknown_word_is_refused(ledger: Ledger, job: int) -> None:
    ledger.set_job(runs_on="some")

    with pytest.raises(Invalid, match="rota job edit --on"):
        request_runs(ledger.database, [NewRun("job")])


def test_requests_of_both_kinds_are_answered_in_order(ledger: Ledger, job: int) -> None:
    ledger.add_job("one")

    made = request_runs(ledger.database, [NewRun("one"), NewRun("job"), NewRun("one"), NewRun("job")])

    assert [one.group_id is not None for one in made] == [False, True, False, True]
    jobs = [ledger.run(one.run_id).job for one in made]
    assert jobs == ["one", "job", "one", "job"]
    assert len(ledger.runs()) == 6


def test_a_key_gives_the_group_back_while_one_of_its_runs_is_unfinished(ledger: Ledger, job: int) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k")])[0]  # noqa: E731

    first = ask()
    ledger.end(claim_on(ledger, "a"))
    start_node(ledger, "d")
    again = ask()
    ledger.end(claim_on(ledger, "b"))
    later = ask()

    assert again == first
    assert (first.is_new, again.is_new, later.is_new) == (True, False, True)
    assert later.group_id not in (None, first.group_id)
    assert Counter(run.target_node for run in ledger.runs()) == {"a": 2, "b": 2, "d": 1}
    assert {run.run_key for run in ledger.runs()} == {"k"}
    assert ledger.violations() == []


def test_a_rerun_of_one_of_a_group_takes_its_key_again(ledger: Ledger, job: int) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k")])[0]  # noqa: E731
    first = ask()
    for name in "ab":
        ledger.end(claim_on(ledger, name))

    rerun_run(ledger.database, first.run_id, actor="ann")

    assert ask() == first
    ledger.end(claim_on(ledger, "a"))
    assert ask() != first
    with pytest.raises(Conflict, match="has let go of its key k"):
        rerun_run(ledger.database, first.run_id, actor="ann")
    assert ledger.violations() == []


def test_a_key_that_a_run_for_any_node_holds_gives_that_run(ledger: Ledger, job: int) -> None:
    ledger.set_job(runs_on=None)
    (first,) = request_runs(ledger.database, [NewRun("job", run_key="k")])
    ledger.set_job(runs_on="all")

    assert request_runs(ledger.database, [NewRun("job", run_key="k")]) == [first]


def edit_on(ledger: Ledger, on: str) -> None:
    edit_job(ledger.database, "job", lambda spec: spec.edited(on=on), actor="ann")


def test_a_key_that_a_group_holds_gives_that_group_also_once_the_job_is_for_any_node(ledger: Ledger, job: int) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k")])[0]  # noqa: E731
    long = "k" * 200
    first, of_long = request_runs(ledger.database, [NewRun("job", run_key="k"), NewRun("job", run_key=long)])
    edit_on(ledger, "any")
    answers = [ask(), *request_runs(ledger.database, [NewRun("job", run_key=key) for key in ("k", long, "k")])]
    for name in "ab":  # the first is the one of key k
        ledger.end(claim_on(ledger, name))
        answers.append(ask())

    assert answers[:5] == [first, first, of_long, first, first]
    assert answers[5].group_id is None
    assert ledger.run(answers[5].run_id).target_node == ""
    assert ledger.violations() == []


def test_a_key_with_a_window_that_a_group_holds_is_over_when_the_window_is(ledger: Ledger, job: int) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k", unique_seconds=3600.0)])[0]  # noqa: E731
    first = ask()
    for name in "ab":
        ledger.end(claim_on(ledger, name))
    edit_on(ledger, "any")

    ledger.clock.advance(seconds=3599)
    within = ask()
    ledger.clock.advance(seconds=1)

    assert within == first
    assert ask().group_id is None


def test_a_key_that_the_run_of_a_node_holds_counts_also_when_the_node_has_left(ledger: Ledger, job: int) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k")])[0]  # noqa: E731
    first = ask()
    ledger.end(claim_on(ledger, "a"))
    start_node(ledger, "b", pools=("other",))

    assert ask() == first


def test_a_rerun_is_refused_while_another_holds_its_key_from_before_the_job_was_edited(
    ledger: Ledger, job: int
) -> None:
    ask = lambda: request_runs(ledger.database, [NewRun("job", run_key="k")])[0]  # noqa: E731
    group = ask()
    for name in "ab":
        ledger.end(claim_on(ledger, name))
    edit_on(ledger, "any")
    for_any = ask()
    with pytest.raises(Conflict, match=f"which run {for_any.run_id} "):
        rerun_run(ledger.database, group.run_id, actor="ann")

    ledger.end(claim_on(ledger, "a"))
    rerun_run(ledger.database, group.run_id, actor="ann")
    with pytest.raises(Conflict, match=f"which run {group.run_id} "):
        rerun_run(ledger.database, for_any.run_id, actor="ann")
    assert ask() == group


def test_a_key_that_is_held_comes_twice_in_one_batch(ledger: Ledger, job: int) -> None:
    (first,) = request_runs(ledger.database, [NewRun("job", run_key="k")])

    assert request_runs(ledger.database, [NewRun("job", run_key="k")] * 2) == [first, first]


def test_a_job_that_never_ran_on_all_nodes_is_not_asked_for_groups(ledger: Ledger) -> None:
    start_node(ledger, "a")
    added = {name: JobSpec.checked(name, kind="shell", target="true") for name in ("never", "before")}
    for spec in added.values():
        add_job(ledger.database, spec, actor="ann")
    edit_job(ledger.database, "never", lambda spec: spec.edited(retries=1), actor="ann")
    for on in ("all", "any"):
        edit_job(ledger.database, "before", lambda spec: spec.edited(on=on), actor="ann")  # noqa: B023 - at once

    with statements_of(ledger.database) as sent:
        request_runs(ledger.database, [NewRun("never", run_key="k")])
        usual = len(sent)
        request_runs(ledger.database, [NewRun("before", run_key="k")])

    assert not any("rota_node" in statement for statement in sent[:usual])
    assert any("rota_node" in statement for statement in sent[usual:])


def test_a_key_twice_in_one_batch_is_one_group(ledger: Ledger, job: int) -> None:
    first, second = request_runs(ledger.database, [NewRun("job", run_key="k"), NewRun("job", run_key="k")])

    assert first == second
    assert len(ledger.runs()) == 2


def test_callers_that_ask_for_the_same_key_at_once_get_the_same_group(ledger: Ledger, job: int) -> None:
    together, answers = threading.Barrier(4), []

    def ask() -> None:
        database = ledger.connect()
        together.wait(30)
        answers.append(request_runs(database, [NewRun("job", run_key=f"k{number}") for number in range(5)]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert len(ledger.runs()) == 10


def test_a_key_and_a_name_of_the_longest_make_a_key_of_their_own(ledger: Ledger) -> None:
    ledger.add_job(runs_on="all")
    for name in "ab":
        start_node(ledger, name)
        ledger.execute(update(node).where(node.c.name == name).values(name="n" * 199 + name))

    request_runs(ledger.database, [NewRun("job", run_key="k" * 200)])

    assert len({run.active_key for run in ledger.runs()}) == 2
