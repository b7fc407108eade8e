"""``rota forecast`` and the preview of a schedule, through Python and the command line, on every database."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from rota import Invalid, NotFound, Rota
from rota.cli.door import Door
from rota.cli.main import main
from rota.store.durations import RUNS_LOOKED_AT
from rota.store.forecast import read_ahead
from tests.clock import Clock
from tests.store.ledger import Ledger, identity_of


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("job", command=["true"])
    return "job"


def add_node(ledger: Ledger, name: str = "a", *, slots: int = 2, pools: tuple[str, ...] = ("default",)) -> None:
    from rota.store.nodes import register_node

    register_node(
        ledger.database, identity_of(name), host=name, pid=1, pid_started=1, pools=pools, slots=slots, version="1",
        lease_seconds=60.0,
    )  # fmt: skip


def run_once(rota: Rota, ledger: Ledger, clock: Clock, seconds: float, kind: str = "succeeded") -> None:
    rota.enqueue("job")
    claim = ledger.claim_one()
    clock.advance(seconds=seconds)
    ledger.end(claim, kind, seconds=seconds)


def test_a_forecast_goes_by_the_durations_of_the_latest_good_attempts(
    rota: Rota, ledger: Ledger, clock: Clock, job: str
) -> None:
    for seconds in (60.0, 1200.0, 1800.0):
        run_once(rota, ledger, clock, seconds)
    run_once(rota, ledger, clock, 9000.0, "exception")
    add_node(ledger)
    rota.schedules.add("hourly", job=job, cron="0 * * * *")

    forecast = rota.forecast()

    (pool,) = forecast["pools"]
    assert (pool["pool"], pool["slots"], pool["runs"], pool["peak"]) == ("default", 2, 24, 1)
    assert pool["occupancy_max"] == round(1200 / 7200, 4)
    assert sum(hour["slots"] for hour in forecast["hours"]) == 24
    assert (forecast["is_complete"], forecast["unknown_jobs"], forecast["collisions"]) == (True, [], [])


def test_of_the_next_schedules_only_so_many_are_looked_at(rota: Rota, ledger: Ledger, job: str) -> None:
    add_node(ledger)
    for number in range(3):
        rota.schedules.add(f"hourly{number}", job=job, cron=f"{number} * * * *")

    some, all_of_them = rota.forecast(schedules=2), rota.forecast()

    assert (some["schedules"], some["is_complete"]) == (2, False)
    assert (all_of_them["schedules"], all_of_them["is_complete"]) == (3, True)
    assert sum(hour["slots"] for hour in some["hours"]) == 48
    with pytest.raises(Invalid, match="schedules"):
        rota.forecast(schedules=0)


def test_no_more_than_the_latest_runs_are_looked_at(rota: Rota, ledger: Ledger, clock: Clock, job: str) -> None:
    run_once(rota, ledger, clock, 60.0)
    for run_id in ledger.enqueue_many([_request(job)] * RUNS_LOOKED_AT):
        rota.runs[run_id].cancel()
    rota.schedules.add("hourly", job=job, cron="0 * * * *")

    assert rota.forecast()["unknown_jobs"] == ["job"]


def _request(job: str) -> Any:
    from rota.model.run import NewRun

    return NewRun(job)


def test_only_living_nodes_count(rota: Rota, ledger: Ledger, clock: Clock, job: str) -> None:
    add_node(ledger, "gone", slots=8)
    clock.advance(seconds=61)
    add_node(ledger, "alive", slots=3, pools=("default", "other"))
    rota.schedules.add("hourly", job=job, cron="0 * * * *")

    pools = {pool["pool"]: pool["slots"] for pool in rota.forecast()["pools"]}

    assert pools == {"default": 3, "other": 3}


def test_a_forecast_may_be_of_one_job(rota: Rota, job: str) -> None:
    rota.jobs.add("other", command=["true"])
    rota.schedules.add("hourly", job=job, cron="0 * * * *")
    rota.schedules.add("minutely", job="other", cron="* * * * *")

    assert sum(hour["slots"] for hour in rota.forecast(job=job)["hours"]) == 23
    with pytest.raises(NotFound):
        rota.forecast(job="nobody")


@pytest.mark.parametrize("days", [0, 367, "soon"])
def test_a_forecast_is_of_a_year_at_most(rota: Rota, days: Any) -> None:
    with pytest.raises(Invalid) as refused:
        rota.forecast(days)

    assert refused.value.field == "days"


def test_paused_and_broken_schedules_are_left_out(rota: Rota, ledger: Ledger, job: str) -> None:
    rota.schedules.add("hourly", job=job, cron="0 * * * *")
    rota.schedules.add("paused", job=job, cron="0 * * * *")
    rota.schedules["paused"].pause()
    broken = ledger.add_schedule("broken", next_slot_at=ledger.clock.after(60))
    ledger.set_schedule(broken, expression="0 25 * * *")

    forecast = rota.forecast()

    assert (sum(hour["slots"] for hour in forecast["hours"]), forecast["left_out"]) == (23, ["broken"])
    ledger.execute("delete from rota_schedule where name = 'broken'")


def test_a_preview_marks_what_a_change_of_the_zone_does(rota: Rota, job: str) -> None:
    rota.schedules.add("nightly", job=job, cron="30 2 * * *", tz="Europe/Amsterdam", delay="5m")

    views = rota.schedules["nightly"].preview(3, "2026-03-27T12:00Z")

    assert [view["slot"][:16] for view in views] == ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]
    assert [bool(view["notes"]) for view in views] == [False, True, False]
    assert views[1]["local"] == "2026-03-29T03:00:00+02:00"
    assert views[1]["run_at"] == "2026-03-29T01:05:00.000000Z"


def test_a_preview_marks_what_a_calendar_does(rota: Rota, job: str) -> None:
    rota.calendars.add("rest", weekdays=["sat", "sun"])
    rota.schedules.add("skips", job=job, cron="0 9 * * *", calendars=["rest"])
    rota.schedules.add("moves", job=job, cron="0 9 * * *", calendars=["rest"], on_closed="next")
    friday = "2026-11-06T00:00Z"

    skips, moves = (rota.schedules[key].preview(3, friday) for key in ("skips", "moves"))

    assert [(view["slot"][8:10], bool(view["notes"])) for view in skips] == [("06", False), ("07", True), ("08", True)]
    assert [(view["slot"][8:10], bool(view["notes"])) for view in moves] == [("06", False), ("09", True), ("10", False)]


def test_a_preview_begins_with_the_first_run_and_is_what_next_says(rota: Rota, clock: Clock, job: str) -> None:
    rota.schedules.add("later", job=job, cron="0 * * * *", first_run=clock.now + timedelta(hours=5, minutes=30))

    views = rota.schedules["later"].preview(2)

    assert [view["slot"][11:16] for view in views] == ["17:30", "18:00"]
    assert views[0]["slot"] == rota.schedules["later"].show()["next_slot"]


def test_the_slots_of_a_preview_come_to_be(rota: Rota, clock: Clock, ledger: Ledger, job: str) -> None:
    from rota.store.firing import fire_schedules

    rota.schedules.add("quarters", job=job, cron="*/15 * * * *", overlap="allow")
    expected = [view["slot"] for view in rota.schedules["quarters"].preview(8)]
    for _ in expected:
        clock.advance(minutes=15)
        fire_schedules(ledger.database, fired_by="test")

    assert [run["slot"] for run in reversed(rota.runs.list(schedule="quarters"))] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"cron": "30 2 * * *", "tz": "Europe/Amsterdam", "delay": "1m", "jitter": "9m"},
        {"every": "90s", "anchor": "2026-01-01"},
        {"cron": "0 9 * * *", "calendars": ["quiet"], "on_closed": "next"},
        {"weekly": "sat 09:00", "first_run": "2090-01-01"},
    ],
)
def test_a_preview_of_what_is_not_stored_is_what_it_is_once_it_is(
    rota: Rota, clock: Clock, job: str, options: dict[str, Any]
) -> None:
    rota.calendars.add("quiet", weekdays=["sat", "sun"])
    rota.schedules.add("old", job, cron="@yearly")

    new = rota.schedules.preview("new", job, 5, **options)
    edited = rota.schedules["old"].preview_edit(5, **options)

    assert [one["key"] for one in rota.schedules.list()] == ["old"]
    assert rota.schedules["old"].show()["revision"] == 1
    view = rota.schedules.add("new", job, **options)
    rota.schedules["old"].edit(**options)
    assert (new["slots"], new["notes"]) == (rota.schedules["new"].preview(5), view["notes"])
    assert edited["slots"] == rota.schedules["old"].preview(5)
    assert rota.schedules["new"].preview_edit(5)["slots"] == new["slots"]


def test_a_preview_of_what_is_not_stored_is_refused_as_storing_it_would_be(rota: Rota, job: str) -> None:
    with pytest.raises(NotFound):
        rota.schedules.preview("new", "nothing", cron="@daily")
    with pytest.raises(Invalid, match="calendar"):
        rota.schedules.preview("new", job, cron="@daily", calendars=["nothing"], on_closed="next")
    with pytest.raises(NotFound):
        rota.schedules["new"].preview_edit(cron="@daily")
    with pytest.raises(Invalid, match="tz"):
        rota.schedules.preview("new", job, cron="@daily", tz="Mars/Base")


def test_what_is_ahead_is_told_in_one_look(rota: Rota, ledger: Ledger, clock: Clock, job: str) -> None:
    assert read_ahead(ledger.database).next_slot_at is None
    rota.schedules.add("hourly", job=job, cron="0 * * * *")
    rota.enqueue(job, delay="10m")
    rota.enqueue(job)
    ledger.claim_one()

    ahead = read_ahead(ledger.database)

    assert ahead.next_slot_at == clock.after(3600)
    assert ahead.next_due_at == clock.after(600)
    assert (ahead.next_lease_end_at, ahead.lease_count) == (clock.after(60), 1)


def test_a_run_that_queues_and_was_put_off_is_not_ahead_but_for_its_window(
    rota: Rota, ledger: Ledger, clock: Clock, job: str
) -> None:
    from rota.store.advancing import advance_runs
    from rota.store.firing import fire_schedules

    rota.schedules.add("hourly", job=job, cron="0 * * * *", overlap="queue", start_within="3h")
    for _ in range(2):
        clock.advance(hours=1)
        fire_schedules(ledger.database, fired_by="test")
        ledger.claim()
    clock.advance(seconds=1)
    assert advance_runs(ledger.database).postponed == 1

    assert read_ahead(ledger.database).next_due_at == clock.after(3 * 3600 - 1)


@pytest.mark.parametrize("days", [1, 2, 7])
def test_the_screen_is_80_columns_wide(
    rota: Rota, ledger: Ledger, clock: Clock, job: str, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    run_once(rota, ledger, clock, 5000.0)
    add_node(ledger)
    for number in range(5):
        rota.schedules.add(f"hourly-{number}", job=job, cron="0 * * * *", tz="Europe/Amsterdam")
    monkeypatch.setattr(Door, "rota", rota)

    shown = CliRunner().invoke(main, ["forecast", "--days", str(days)])
    as_json = CliRunner().invoke(main, ["forecast", "--days", str(days), "--json"])

    assert shown.exit_code == 0, shown.output
    tables = [line for line in shown.output.splitlines() if "hourly-" not in line and "at once for" not in line]
    assert max(map(len, tables)) <= 80, shown.output
    assert "up to 5 runs at once for 2 slots" in shown.output
    assert "a run is expected to take 1h23m20s" in shown.output
    assert len(json.loads(as_json.output)["hours"]) in {24 * days, 24 * days + 1}
