"""What cannot be is refused at the door with the field, the value and the rule, and nothing is changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rota.errors import Conflict, Invalid, NotFound
from rota.model.job import JobSpec
from rota.model.run import NewRun
from rota.model.schedule import ScheduleSpec
from rota.model.timeline import read_timeline
from rota.store.creation import enqueue_runs, request_ids
from rota.store.jobs import add_job, delete_job
from rota.store.schedules import add_schedule
from tests.store.ledger import Ledger
from tests.store.timelines import Timelines

pytestmark = pytest.mark.takes_turns

JOBS = "select count(*) from rota_job"
PERIODS = "select count(*) from rota_period"


@pytest.fixture
def timelines(ledger: Ledger) -> Timelines:
    made = Timelines(ledger)
    made.add("hits", period_start="2026-11-01T22")
    made.add("daily", "day", period_start="2026-11-01", rolls_up=["hits"])
    return made


@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"period": "25 hours"}, "period", "at most 23 hours"),
        ({"period": "week"}, "period", "weeks are none"),
        ({"period": "hour", "period_tz": "Mars/Base"}, "period_tz", "IANA"),
        ({"period": "hour", "period_start": "2026-11-02T13"}, "period_start", "begins in 1h"),
        ({"period": "hour", "period_start": "yesterday"}, "period_start", "the name of a period, or a time"),
        ({"period": "hour", "period_mode": "sometimes"}, "period_mode", "discrete, continuous, recomputing"),
        ({"period": "hour", "refresh": "1m"}, "refresh", "worked on once"),
        ({"period": "hour", "settle": "-1m"}, "settle", "duration"),
        ({"period": "hour", "blocking": "all"}, "blocking", "normal, children, dependencies"),
        ({"period": "hour", "periods_at_once": 0}, "periods_at_once", "from 1 to"),
        ({"period": "hour", "give_up_failures": 3, "retries": 2}, "give_up_failures", "give one of them"),
        ({"period": "hour", "give_up_failures": "many"}, "give_up_failures", "from 1 to"),
        ({"period": "hour", "on": "all"}, "on", "by one node"),
        ({"period": "hour", "start_within": "5m"}, "start_within", "give_up_age"),
        ({"period": "day", "rolls_up": ["none-such"]}, "rolls_up", "there is no such job"),
        ({"period": "day", "rolls_up": ["new"]}, "rolls_up", "roll up itself"),
        ({"period": "hour", "rolls_up": ["daily"]}, "rolls_up", "not finer"),
        ({"period": "day", "rolls_up": ["hits"], "after": ["hits"]}, "after", "name it once"),
        ({"period": "day", "period_tz": "Asia/Tokyo", "rolls_up": ["hits"]}, "rolls_up", "choose one"),
        ({"rolls_up": ["hits"], "period": None}, "rolls_up", "give period too"),
    ],
)
def test_a_job_whose_periods_cannot_be_is_refused(
    timelines: Timelines, ledger: Ledger, options: dict[str, Any], field: str, rule: str
) -> None:
    jobs = ledger.value(JOBS)

    with pytest.raises(Invalid, match=rule) as refusal:
        timelines.add("new", **options)

    assert refusal.value.field == field
    assert ledger.value(JOBS) == jobs


def test_what_rolls_up_itself_over_others_is_refused_with_its_path(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("export", "day", after=["daily"])

    with pytest.raises(Invalid, match="hits after export after daily after hits") as refusal:
        timelines.edit("hits", after=["export"])

    assert refusal.value.field == "after"


@pytest.mark.parametrize(
    ("first", "last", "error", "rule"),
    [
        ("2026-11-01T21", None, Invalid, "begin"),
        ("2026-11-02T05", "2026-11-02T04", Invalid, "earlier one first"),
        ("2026-11-02T13", None, Conflict, "has not begun"),
        ("2026-11-02T05", "2026-11-03T05", Conflict, "has not begun"),
        ("2026-11-02", None, Conflict, "has not begun"),
        ("2026-11-02T05..2026-11-02T06", None, Invalid, "each period is one hour"),
        ("2026-11-02T24", None, Invalid, "no such hour"),
    ],
)
def test_a_range_that_is_not_in_the_ledger_is_neither_done_again_nor_skipped(
    timelines: Timelines, ledger: Ledger, first: str, last: str | None, error: type[Exception], rule: str
) -> None:
    timelines.work()
    before = timelines.states("hits")

    for verb in (timelines.reprocess, timelines.skip):
        with pytest.raises(error, match=rule):
            verb("hits", first, last)

    assert timelines.states("hits") == before


def test_a_job_without_periods_has_none_to_do_again(timelines: Timelines, ledger: Ledger) -> None:
    ledger.add_job("plain")

    with pytest.raises(Invalid, match="it has no periods"):
        timelines.reprocess("plain", "2026-11-02")
    with pytest.raises(NotFound):
        timelines.reprocess("none-such", "2026-11-02")


def test_a_job_with_periods_takes_no_schedule_and_no_request(timelines: Timelines, ledger: Ledger) -> None:
    spec = ScheduleSpec.checked("each", job="hits", cron="* * * * *")
    with pytest.raises(Invalid, match="takes no schedule"):
        add_schedule(ledger.database, spec, actor="ann")
    ledger.add_job("plain")
    ledger.add_schedule("each", "plain")
    with pytest.raises(Invalid, match="schedule each"):
        timelines.edit("plain", period="hour")
    with pytest.raises(Conflict, match="rota period reprocess hits"):
        ledger.database.write(
            lambda connection: enqueue_runs(connection, [NewRun("hits")], request_ids(1)), repeatable=False
        )


def test_what_others_roll_up_keeps_periods_that_fit_and_stays(timelines: Timelines, ledger: Ledger) -> None:
    for change in ({"period": "2 days"}, {"period": None}, {"period_tz": "Asia/Tokyo"}):
        with pytest.raises(Invalid, match="daily"):
            timelines.edit("hits", **change)
    with pytest.raises(Conflict, match="daily"):
        delete_job(ledger.database, "hits", actor="ann")


def test_another_cut_of_what_was_worked_on_wants_a_reset_first(timelines: Timelines, ledger: Ledger) -> None:
    timelines.work()
    periods = ledger.value(PERIODS)

    with pytest.raises(Conflict, match="rota job reset hits"):
        timelines.edit("hits", period="2 hours", period_start="2026-11-01T22")
    with pytest.raises(Conflict, match="rota job reset daily"):
        timelines.edit("daily", period=None)

    assert ledger.value(PERIODS) == periods


def test_a_row_that_was_written_by_hand_is_set_aside_and_stops_no_other(timelines: Timelines, ledger: Ledger) -> None:
    timelines.add("other", period_start="2026-11-02T11")
    timelines.look()
    ledger.execute("update rota_job set timeline = '{\"period\": \"fortnight\"}' where name = 'hits'")

    timelines.work()

    assert ("other", "2026-11-02T11") in timelines.done
    row = timelines.row("hits", "2026-11-01T23")
    assert row.state == "open"


def test_rules_that_were_spoilt_by_hand_are_replaced_and_what_was_done_holds(
    timelines: Timelines, ledger: Ledger
) -> None:
    timelines.add("other", period_start="2026-11-02T10")
    timelines.work()
    ledger.execute("update rota_job set timeline = 'spoilt' where name = 'other'")
    spec = JobSpec.checked("other", kind="shell", target="true", period="hour", period_start="2026-11-02T10")

    add_job(ledger.database, spec, actor="ann", if_exists="update")
    ledger.clock.advance(hours=1)
    timelines.work()

    assert [name for job, name in timelines.done if job == "other"] == [
        "2026-11-02T10", "2026-11-02T11", "2026-11-02T12"
    ]  # fmt: skip
    ledger.execute("update rota_job set timeline = 'spoilt' where name = 'other'")
    with pytest.raises(Conflict, match="rota job reset other"):
        add_job(
            ledger.database,
            dataclasses.replace(spec, timeline=read_timeline('{"period": "2 hours"}')),
            actor="ann",
            if_exists="update",
        )
