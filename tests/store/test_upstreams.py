"""Runs of jobs that run after others: they start when what they build on is done, and not before."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from rota.errors import Conflict, Invalid
from rota.model.findings import FindingCode
from rota.model.job import JobSpec
from rota.model.states import RunState
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.downstream import read_downstream
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.history import why_run
from rota.store.interventions import mark_succeeded, rerun_run, skip_run
from rota.store.jobs import add_job, delete_job, edit_job, read_job
from rota.store.schedules import pause_schedule
from rota.store.upstreams import look_at_upstreams
from tests.clock import BEGINNING
from tests.store.ledger import Ledger, statements_of
from tests.store.living import start_node

# Rules that statements shared by all databases keep.
pytestmark = pytest.mark.takes_turns


def add(ledger: Ledger, name: str, *after: str, **options: Any) -> None:
    spec = JobSpec.checked(name, kind="shell", target="true", after=list(after), **options)
    add_job(ledger.database, spec, actor="ann")


def set_after(ledger: Ledger, name: str, *after: str) -> None:
    edit_job(ledger.database, name, lambda spec: spec.edited(after=list(after)), actor="ann")


def settle(ledger: Ledger, database: Database | None = None) -> None:
    """Do what the scheduler does about waiting runs, until nothing is left to do now."""
    using = database or ledger.database
    while True:
        looked = look_at_upstreams(using)
        advanced = advance_runs(using)
        if not (looked.ready or looked.skipped or looked.again or advanced.ready or advanced.missed):
            return


def fire(ledger: Ledger) -> None:
    fire_schedules(ledger.database, fired_by="a")
    settle(ledger)


def slots(ledger: Ledger, job: str) -> list[str]:
    return [found.state for found in ledger.runs() if found.job == job]


def run_of(ledger: Ledger, job: str, slot: datetime | None = None) -> Any:
    (found,) = [one for one in ledger.runs() if one.job == job and slot in (None, one.slot_at)]
    return found


def finish(ledger: Ledger, kind: str = "succeeded") -> None:
    """Let all that is ready run, and end like that."""
    ledger.end_all(ledger.claim(), kind)
    settle(ledger)


def chain(ledger: Ledger, **options: Any) -> None:
    """``load`` each minute, and ``report`` after it, each minute too."""
    add(ledger, "load")
    add(ledger, "report", "load", **options)
    for name in ("load", "report"):
        ledger.add_schedule(name, name, next_slot_at=BEGINNING)


# Definitions


def test_upstreams_are_kept_with_the_job_and_told_from_both_sides(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")

    assert read_job(ledger.database, "report")["after"] == ["load"]
    assert read_job(ledger.database, "load")["dependants"] == ["report"]

    set_after(ledger, "report")
    assert read_job(ledger.database, "load")["dependants"] == []


def test_an_unknown_upstream_is_refused_by_name_and_nothing_is_added(ledger: Ledger) -> None:
    add(ledger, "load")

    with pytest.raises(Invalid, match="after 'lode' is refused: there is no such job"):
        add(ledger, "report", "load", "lode")
    assert ledger.value("select count(*) from rota_job") == 1


def test_a_cycle_is_refused_with_its_path(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "clean", "load")
    add(ledger, "report", "clean")

    with pytest.raises(Invalid, match="it closes a cycle: load after report after clean after load"):
        set_after(ledger, "load", "report")
    with pytest.raises(Invalid, match="a job cannot run after itself"):
        set_after(ledger, "load", "load")
    assert read_job(ledger.database, "load")["after"] == []


def test_a_job_that_others_run_after_is_not_deleted(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")

    with pytest.raises(Conflict, match=r"others build on job 'load' \(report\)"):
        delete_job(ledger.database, "load", actor="ann")
    delete_job(ledger.database, "report", actor="ann")
    delete_job(ledger.database, "load", actor="ann")
    assert ledger.value("select count(*) from rota_dependency") == 0


# The same slot


def test_a_slot_runs_when_the_same_slot_of_its_upstream_has_succeeded(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    assert (slots(ledger, "load"), slots(ledger, "report")) == (["ready"], ["waiting"])
    assert [claim.job for claim in ledger.claim()] == ["load"]

    waiting = run_of(ledger, "report")
    assert (waiting.reason, waiting.due_at) == ("upstream", None)


def test_what_ends_an_upstream_brings_its_dependants_forward_at_once(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    (claim,) = ledger.claim()
    ledger.clock.advance(seconds=1)
    settle(ledger)
    assert run_of(ledger, "report").upstreams_due_at > ledger.clock.now

    ledger.end(claim)

    assert run_of(ledger, "report").upstreams_due_at == ledger.clock.now
    settle(ledger)
    assert slots(ledger, "report") == ["ready"]
    told = [found.text for found in ledger.events(run_of(ledger, "report").id)][-1]
    assert told == f"what it builds on is done: load, whose slot {BEGINNING:%Y-%m-%dT%H:%M:%SZ} (run 1) has succeeded"


def test_a_dependant_that_nobody_brought_forward_is_looked_at_again_by_itself(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    (claim,) = ledger.claim()
    ledger.end(claim)
    later = ledger.clock.after(2)
    ledger.set_run(run_of(ledger, "report").id, upstreams_due_at=later)  # as if it had not been there yet

    settle(ledger)
    assert slots(ledger, "report") == ["waiting"]
    ledger.clock.advance(seconds=3)
    settle(ledger)
    assert slots(ledger, "report") == ["ready"]


def test_it_waits_for_the_slot_that_its_upstream_has_not_decided_yet(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger)
    finish(ledger)
    ledger.clock.advance(minutes=1)
    loads = ledger.value("select id from rota_schedule where name = 'load'")
    ledger.set_schedule(loads, next_slot_at=ledger.clock.after(3600))
    fire_schedules(ledger.database, fired_by="a")
    ledger.set_schedule(loads, next_slot_at=ledger.clock.after(-1))  # due, and nobody has fired it
    settle(ledger)

    assert slots(ledger, "report") == ["succeeded", "waiting"]
    (first, *_) = why_run(ledger.database, ledger.runs()[-1].id)["because"]
    assert "load, whose slot" in first
    assert "is not decided yet" in first


def test_all_upstreams_are_waited_for(ledger: Ledger) -> None:
    add(ledger, "hits")
    add(ledger, "sales")
    add(ledger, "report", "hits", "sales")
    for name in ("hits", "sales", "report"):
        ledger.add_schedule(name, name, next_slot_at=BEGINNING)
    fire(ledger)
    first, second = ledger.claim()

    ledger.end(first)
    settle(ledger)
    assert slots(ledger, "report") == ["waiting"]
    ledger.end(second)
    settle(ledger)
    assert slots(ledger, "report") == ["ready"]


def test_a_slot_that_its_upstream_found_nothing_to_do_in_is_done(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)

    finish(ledger, "no_op")

    assert slots(ledger, "load") == ["skipped"]
    assert slots(ledger, "report") == ["ready"]


# The latest one


def test_without_a_slot_at_the_same_moment_the_latest_one_before_it_counts(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.add_schedule("load", "load", next_slot_at=BEGINNING, expression="0 * * * *")
    ledger.add_schedule("report", "report", next_slot_at=BEGINNING)
    fire(ledger)
    finish(ledger)
    finish(ledger)
    ledger.clock.advance(minutes=1)
    fire(ledger)

    assert slots(ledger, "report") == ["succeeded", "ready"]


def test_the_latest_one_is_to_be_clean(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.add_schedule("load", "load", next_slot_at=BEGINNING, expression="0 * * * *")
    fire(ledger)
    finish(ledger, "failed")
    ledger.clock.advance(minutes=1)
    run_id = ledger.enqueue("report")
    settle(ledger)
    assert ledger.run(run_id).state == RunState.WAITING

    mark_succeeded(ledger.database, run_of(ledger, "load").id, actor="ann")
    settle(ledger)

    assert ledger.run(run_id).state == RunState.READY


def test_the_last_run_counts_of_an_upstream_without_a_schedule(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    run_id = ledger.enqueue("report")
    settle(ledger)
    assert "load, which has not run yet" in ledger.run(run_id).reason_text

    ledger.enqueue("load")
    finish(ledger, "failed")
    assert ledger.run(run_id).state == RunState.WAITING
    ledger.enqueue("load")
    finish(ledger)
    assert ledger.run(run_id).state == RunState.READY


@pytest.mark.writes_runs_by_hand
def test_a_slot_that_a_calendar_closes_is_none(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger)
    finish(ledger)
    ledger.clock.advance(minutes=1)
    fire_schedules(ledger.database, fired_by="a")
    ledger.execute(
        "update rota_run set state = 'skipped', reason = 'calendar', finished_at = run_at "
        "where job = 'load' and state = 'ready'"
    )
    of_it = "run_id = (select id from rota_run where reason = 'calendar')"
    ledger.execute(f"update rota_event set to_state = 'skipped' where {of_it}")
    settle(ledger)

    assert slots(ledger, "report") == ["succeeded", "ready"]


def test_while_its_upstream_is_paused_a_slot_waits(ledger: Ledger) -> None:
    chain(ledger)
    pause_schedule(ledger.database, "load", actor="ann")
    fire(ledger)

    assert slots(ledger, "report") == ["waiting"]
    assert "whose schedule load is paused" in run_of(ledger, "report").reason_text


# Upstreams that fail


@pytest.mark.parametrize("again", [rerun_run, mark_succeeded])
def test_by_default_it_waits_until_a_failed_upstream_is_done_after_all(ledger: Ledger, again: Any) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger, "failed")
    assert slots(ledger, "report") == ["waiting"]
    assert "(run 1) has failed" in run_of(ledger, "report").reason_text

    again(ledger.database, run_of(ledger, "load").id, actor="ann")
    finish(ledger)

    assert slots(ledger, "load") == ["succeeded"]
    settle(ledger)
    assert slots(ledger, "report") in (["ready"], ["succeeded"])


def test_one_that_asks_for_it_is_skipped_when_its_upstream_fails(ledger: Ledger) -> None:
    chain(ledger, upstream_failure="skip")
    add(ledger, "export", "report")
    ledger.add_schedule("export", "export", next_slot_at=BEGINNING)
    fire(ledger)
    finish(ledger, "failed")

    assert slots(ledger, "report") == ["skipped"]
    assert run_of(ledger, "report").reason == "upstream_failed"
    assert slots(ledger, "export") == ["waiting"]  # which skips only if it asks for that too


def test_an_upstream_that_is_tried_again_has_not_failed(ledger: Ledger) -> None:
    chain(ledger, upstream_failure="skip")
    ledger.set_job("load", retries=1)
    fire(ledger)
    finish(ledger, "failed")

    assert slots(ledger, "load") == ["waiting"]
    assert slots(ledger, "report") == ["waiting"]


def test_the_windows_of_dependants_begin_with_the_end_of_the_last_upstream(ledger: Ledger) -> None:
    chain(ledger, start_within="30s")
    fire(ledger)
    (claim,) = ledger.claim()
    ledger.clock.advance(minutes=10)
    settle(ledger)
    assert slots(ledger, "report") == ["waiting"]

    ledger.end(claim)
    settle(ledger)

    assert slots(ledger, "report") == ["ready"]
    assert (run_of(ledger, "report").start_by - ledger.clock.now).total_seconds() == 30
    ledger.clock.advance(seconds=31)
    settle(ledger)
    assert slots(ledger, "report") == ["missed"]


# Among the runs of one schedule


def test_slots_that_wait_are_no_overlap(ledger: Ledger) -> None:
    chain(ledger)
    ledger.set_schedule(ledger.value("select id from rota_schedule where name = 'load'"), overlap="allow")
    fire(ledger)
    (first,) = ledger.claim()
    ledger.clock.advance(minutes=1)
    fire(ledger)
    assert slots(ledger, "report") == ["waiting", "waiting"]

    finish(ledger)  # the second slot of load
    assert slots(ledger, "report") == ["waiting", "ready"]
    ledger.end(first)
    settle(ledger)
    assert slots(ledger, "report") == ["skipped", "ready"]
    assert run_of(ledger, "report", BEGINNING).reason == "overlap"


@pytest.mark.parametrize("at_once", [True, False])
def test_two_slots_that_are_let_go_together_run_one_after_the_other(ledger: Ledger, at_once: bool) -> None:
    chain(ledger)
    ledger.execute("update rota_schedule set overlap = case when name = 'load' then 'allow' else 'queue' end")
    fire(ledger)
    ledger.clock.advance(minutes=1)
    fire(ledger)
    first, second = ledger.claim()
    if at_once:
        ledger.end_all([first, second])
    else:
        ledger.end(first)
        settle(ledger)
        ledger.end(second)
    settle(ledger)

    assert slots(ledger, "report") == ["ready", "waiting"]
    finish(ledger)
    assert slots(ledger, "report") == ["succeeded", "ready"]


# By hand


def test_a_run_that_is_forced_does_not_wait(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")

    run_id = ledger.enqueue("report", is_forced=True)

    assert ledger.run(run_id).state == RunState.READY


def test_a_rerun_is_refused_while_an_upstream_is_undone_unless_forced(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger)
    finish(ledger)
    load, report = run_of(ledger, "load").id, run_of(ledger, "report").id
    rerun_run(ledger.database, load, actor="ann")

    with pytest.raises(Conflict, match=rf"builds on what is not done: .*load, .*`rota run rerun {report} --force`"):
        rerun_run(ledger.database, report, actor="ann")
    rerun_run(ledger.database, report, actor="ann", force=True)
    assert ledger.run(report).state == RunState.READY


def three_in_a_row(ledger: Ledger, *, minutes: int = 2) -> None:
    """``load``, ``report`` and ``export``, and ``stats`` aside, for so many minutes, all of them done."""
    chain(ledger)
    add(ledger, "export", "report")
    add(ledger, "stats")
    for name in ("export", "stats"):
        ledger.add_schedule(name, name, next_slot_at=BEGINNING)
    for _ in range(minutes):
        fire(ledger)
        for _ in range(3):
            finish(ledger)
        ledger.clock.advance(minutes=1)
    assert set(ledger.states()) == {RunState.SUCCEEDED}


def test_all_that_builds_on_a_run_is_done_again_after_it_and_nothing_else(ledger: Ledger) -> None:
    three_in_a_row(ledger)
    load, report, export = (run_of(ledger, name, BEGINNING).id for name in ("load", "report", "export"))
    assert [one["id"] for one in read_downstream(ledger.database, load)] == [report, export]

    assert rerun_run(ledger.database, load, actor="ann", downstream=True) == [report, export]

    settle(ledger)
    again: list[list[str]] = []
    while claims := ledger.claim():
        again.append([claim.job for claim in claims])
        ledger.end_all(claims)
        settle(ledger)
    assert again == [["load"], ["report"], ["export"]]
    assert [one.attempt for one in ledger.runs()] == [2, 2, 2, 1, 1, 1, 1, 1]


def test_with_a_rarer_upstream_all_slots_up_to_its_next_one_build_on_it(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.add_schedule("load", "load", next_slot_at=BEGINNING, expression="*/2 * * * *")
    ledger.add_schedule("report", "report", next_slot_at=BEGINNING)
    for _ in range(4):
        fire(ledger)
        finish(ledger)
        finish(ledger)
        ledger.clock.advance(minutes=1)
    first = run_of(ledger, "load", BEGINNING).id

    built = [one["slot"][14:16] for one in read_downstream(ledger.database, first)]

    assert built == ["00", "01"]


def test_what_builds_on_it_and_is_about_to_start_waits_again(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger)
    report = run_of(ledger, "report").id
    assert ledger.run(report).state == RunState.READY

    rerun_run(ledger.database, run_of(ledger, "load").id, actor="ann", downstream=True)

    settle(ledger)
    assert ledger.run(report).state == RunState.WAITING
    finish(ledger)
    assert ledger.run(report).state == RunState.READY


def test_while_something_that_builds_on_it_is_running_nothing_is_changed(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)
    finish(ledger)
    (claim,) = ledger.claim()
    load = run_of(ledger, "load").id

    with pytest.raises(Conflict, match=rf"what builds on run {load} is running \(run {claim.run_id} of report\)"):
        rerun_run(ledger.database, load, actor="ann", downstream=True)

    assert ledger.run(load).state == RunState.SUCCEEDED


def test_what_was_skipped_for_an_upstream_is_done_with_it_and_what_was_skipped_otherwise_is_not(
    ledger: Ledger,
) -> None:
    chain(ledger, upstream_failure="skip")
    add(ledger, "export", "load")
    ledger.add_schedule("export", "export", next_slot_at=BEGINNING)
    fire(ledger)
    skip_run(ledger.database, run_of(ledger, "export").id, actor="ann")
    finish(ledger, "failed")
    load, report = run_of(ledger, "load").id, run_of(ledger, "report").id
    assert ledger.run(report).state == RunState.SKIPPED

    assert rerun_run(ledger.database, load, actor="ann", downstream=True) == [report]
    finish(ledger)
    finish(ledger)

    assert ledger.run(report).state == RunState.SUCCEEDED
    assert run_of(ledger, "export").state == RunState.SKIPPED


def test_of_a_run_without_a_slot_nobody_knows_what_builds_on_it(ledger: Ledger) -> None:
    add(ledger, "load")
    run_id = ledger.enqueue("load")
    finish(ledger)

    with pytest.raises(Conflict, match="is of no slot"):
        rerun_run(ledger.database, run_id, actor="ann", downstream=True)
    assert ledger.run(run_id).state == RunState.SUCCEEDED


def test_one_that_waits_can_be_done_without(ledger: Ledger) -> None:
    chain(ledger)
    fire(ledger)

    skip_run(ledger.database, run_of(ledger, "report").id, actor="ann")

    found = run_of(ledger, "report")
    assert (found.state, found.upstreams_due_at, found.awaiting_job_id) == ("skipped", None, None)


# Why


def test_why_names_the_whole_chain_down_to_the_first_cause(ledger: Ledger) -> None:
    start_node(ledger)
    chain(ledger)
    add(ledger, "export", "report")
    ledger.add_schedule("export", "export", next_slot_at=BEGINNING)
    fire(ledger)
    finish(ledger, "failed")

    because = why_run(ledger.database, run_of(ledger, "export").id)["because"]

    at = f"{BEGINNING:%Y-%m-%dT%H:%M:%SZ}"
    assert because[0] == f"it waits for report, whose slot {at} (run 2) is waiting"
    assert because[1] == f"run 2 of report waits for load, whose slot {at} (run 1) has failed"
    assert because[2].startswith("run 1 of load: attempt 1 ")


def test_what_waits_for_a_failed_upstream_is_found_and_what_waits_for_one_that_runs_is_not(ledger: Ledger) -> None:
    start_node(ledger)
    chain(ledger)
    fire(ledger)
    (claim,) = ledger.claim()
    settle(ledger)
    assert codes(ledger) == []

    ledger.end(claim, "failed")
    settle(ledger)

    (found,) = [one for one in check_health(ledger.database).findings if one.code is FindingCode.UPSTREAM_FAILED]
    assert found.text.startswith("1 run is waiting for job load, whose slot ")
    assert "(run 1) has failed: run 2 of report; see to its run with `rota run rerun`" in found.text


def test_a_look_that_nobody_makes_is_found(ledger: Ledger) -> None:
    start_node(ledger)
    chain(ledger)
    fire_schedules(ledger.database, fired_by="a")
    (claim,) = ledger.claim()
    ledger.clock.advance(minutes=2)

    assert FindingCode.RUN_STUCK in codes(ledger)
    settle(ledger)
    assert FindingCode.RUN_STUCK not in codes(ledger)
    ledger.end(claim)


def codes(ledger: Ledger) -> list[FindingCode]:
    about_runs = {FindingCode.UPSTREAM_FAILED, FindingCode.RUN_STUCK}
    return [found.code for found in check_health(ledger.database).findings if found.code in about_runs]


# At the edges


def test_a_thousand_dependants_are_let_go_in_as_many_statements_as_one(ledger: Ledger) -> None:
    add(ledger, "load")
    counts: list[int] = []
    for number in (1, 40):
        for other in range(number):
            add(ledger, f"report-{number}-{other}", "load")
        ledger.enqueue("load")
        (claim,) = ledger.claim()
        runs = [ledger.enqueue(f"report-{number}-{other}") for other in range(number)]
        settle(ledger)
        with statements_of(ledger.database) as sent:
            ledger.end(claim)
            assert look_at_upstreams(ledger.database).ready == number
        counts.append(len(sent))
        ledger.end_all(ledger.claim(limit=100))
        assert {ledger.run(run_id).state for run_id in runs} == {RunState.SUCCEEDED}

    assert counts[0] == counts[1]


def test_an_end_brings_only_the_slots_forward_that_it_decides(ledger: Ledger) -> None:
    chain(ledger)
    ledger.execute("update rota_schedule set overlap = 'allow', catch_up = 'all'")
    ledger.clock.advance(minutes=2)
    fire(ledger)
    first, *_ = ledger.claim()
    ledger.clock.advance(seconds=1)
    settle(ledger)

    ledger.end(first)

    due = [one.upstreams_due_at == ledger.clock.now for one in ledger.runs() if one.job == "report"]
    assert due == [True, False, False]


def test_a_cycle_that_was_made_by_hand_is_found_and_stops_nobody_else(ledger: Ledger) -> None:
    start_node(ledger)
    add(ledger, "load")
    add(ledger, "report", "load")
    add(ledger, "aside")
    add(ledger, "after-aside", "aside")
    ledger.execute(
        "insert into rota_dependency (job_id, upstream_id)"
        " select j.id, u.id from rota_job j, rota_job u where j.name = 'load' and u.name = 'report'"
    )
    for name in ("load", "report", "after-aside", "aside"):
        ledger.set_job(name, after='["x"]' if name != "aside" else None)
        ledger.enqueue(name)
    settle(ledger)
    finish(ledger)

    assert slots(ledger, "after-aside") == ["ready"]
    assert (slots(ledger, "load"), slots(ledger, "report")) == (["waiting"], ["waiting"])
    (found,) = [one for one in check_health(ledger.database).findings if one.code is FindingCode.UPSTREAM_CYCLE]
    assert found.text.startswith("runs of job report wait for themselves: report after load after report")
    assert why_run(ledger.database, 1)["because"][:2] == [
        "it waits for report, whose run 2 is waiting",
        "run 2 of report waits for load, whose run 1 is waiting",
    ]


def test_an_upstream_that_was_deleted_by_hand_is_named(ledger: Ledger) -> None:
    add(ledger, "load")
    add(ledger, "report", "load")
    ledger.execute("delete from rota_job where name = 'load'")
    run_id = ledger.enqueue("report")
    settle(ledger)

    assert "which does not exist any more" in ledger.run(run_id).reason_text
