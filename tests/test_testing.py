"""``rota.testing``: what users try their schedules and jobs out with must do what a worker would do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rota import Invalid, Release, Retry, Skip
from rota.errors import StateError
from rota.testing import SimulatedRun, Simulation

START = "2026-03-02T00:00Z"  # a Monday


@pytest.fixture
def sim() -> Iterator[Simulation]:
    with Simulation(START) as made:
        made.rota.jobs.add("job", command=["true"])
        yield made


def slots(sim: Simulation, **chosen: Any) -> list[str]:
    return [run["slot"][:16] for run in sim.runs(**chosen)]


def states(sim: Simulation) -> list[str]:
    return [run["state"] for run in sim.runs()]


def test_the_clock_stands_still_until_it_is_moved(sim: Simulation) -> None:
    before = sim.rota.database.now()

    sim.advance("90m")

    assert before == datetime(2026, 3, 2, tzinfo=UTC)
    assert sim.rota.database.now() == sim.now == before + timedelta(minutes=90)


def test_a_node_that_works_through_long_quiet_times_is_not_taken_for_silent(
    sim: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    sim.rota.schedules.add("daily", "job", cron="0 7 * * *")

    sim.run_until("2026-03-05T00:00Z")

    assert states(sim) == ["succeeded"] * 3
    assert [record.message for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


def test_a_run_that_nobody_will_take_is_no_idleness(sim: Simulation) -> None:
    sim.rota.jobs.add("reports", command=["true"], pool="reports")
    sim.rota.enqueue("reports")

    with pytest.raises(StateError, match="unfinished"):
        sim.run_until_idle(within="1h")


def test_a_job_gets_whatever_environment_it_asks_for(sim: Simulation, caplog: pytest.LogCaptureFixture) -> None:
    for name, env in (("any", "shop"), ("exact", "shop==1.2"), ("late", "tools==3")):
        sim.rota.jobs.add(name, command=["true"], env=env)
    sim.rota.enqueue("any")
    sim.rota.enqueue("exact")
    sim.run_until_idle()
    sim.rota.enqueue("late")

    sim.advance("10m")

    assert states(sim) == ["succeeded"] * 3
    assert [record.message for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


def test_a_job_gets_whatever_secrets_it_names(sim: Simulation) -> None:
    sim.rota.jobs.add("one", command=["true"], secrets=["TOKEN"])
    sim.rota.enqueue("one")
    sim.run_until_idle()
    sim.rota.jobs.add("two", command=["true"], secrets=["DB_PASSWORD", "TOKEN"])
    sim.rota.enqueue("two")

    sim.run_until_idle()

    assert states(sim) == ["succeeded"] * 2


def test_everything_due_is_decided_and_run_at_its_instant() -> None:
    with Simulation("2026-03-28T00:00Z") as sim:
        called: list[SimulatedRun] = []
        sim.rota.jobs.add("report", command=["true"])
        sim.handle("report", called.append)
        sim.rota.schedules.add("nightly", job="report", cron="30 2 * * *", tz="Europe/Amsterdam")

        sim.run_until("2026-03-30T12:00Z")

        # The night of the 29th has no 02:30: it is moved to the end of the gap.
        assert slots(sim) == ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]
        assert states(sim) == ["succeeded"] * 3
        assert [run.now for run in called] == [run.slot for run in called]


def test_a_handler_sees_its_run_and_gives_its_result(sim: Simulation) -> None:
    sim.handle("job", lambda run: {"attempt": run.attempt, "day": run.args["day"], "slot": run.slot is None})

    handle = sim.rota.enqueue("job", {"day": "monday"})
    sim.run_until_idle()

    assert handle.result == {"attempt": 1, "day": "monday", "slot": True}


def test_an_exception_fails_the_run_and_retries_wait_by_the_clock(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", retries=2, retry_delay="10m")
    seen: list[datetime] = []

    def fail_once(run: SimulatedRun) -> str:
        seen.append(run.now)
        if run.attempt == 1:
            raise ValueError("not today")
        return "done"

    sim.handle("job", fail_once)
    handle = sim.rota.enqueue("job")
    sim.run_until_idle()

    assert handle.result == "done"
    assert seen[1] - seen[0] == timedelta(minutes=10)
    first = handle.show()["attempts"][0]
    assert (first["error"]["type"], first["error"]["message"]) == ("ValueError", "not today")


@pytest.mark.parametrize(
    ("raised", "state", "reason"),
    [
        (Skip("nothing"), "skipped", "no_op"),
        (ValueError("no"), "failed", "exception"),
        (Retry("no"), "failed", "exception"),
    ],
)
def test_what_a_handler_raises_ends_its_run_as_in_a_worker(
    sim: Simulation, raised: Exception, state: str, reason: str
) -> None:
    def handler(_run: SimulatedRun) -> None:
        raise raised

    sim.handle("job", handler)
    handle = sim.rota.enqueue("job")
    sim.run_until_idle()

    assert (handle.state, handle.show()["reason"]["code"]) == (state, reason)


def test_a_retry_may_say_when(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", retries=1)

    def handler(run: SimulatedRun) -> None:
        if run.attempt == 1:
            raise Retry("the file is not there yet", after="3h")

    sim.handle("job", handler)
    sim.rota.enqueue("job")
    sim.run_until_idle()

    assert sim.now == datetime(2026, 3, 2, 3, tzinfo=UTC)


def test_a_run_that_is_given_back_is_taken_again(sim: Simulation) -> None:
    def handler(run: SimulatedRun) -> str:
        if run.attempt < 3:
            raise Release
        return "at last"

    sim.handle("job", handler)
    handle = sim.rota.enqueue("job")
    sim.run_until_idle()

    assert (handle.result, handle.show()["attempt"]) == ("at last", 3)


def test_a_run_that_is_given_back_for_ever_is_an_error(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rota.testing.ROUNDS_MAX", 50)

    def handler(_run: SimulatedRun) -> None:
        raise Release

    sim.handle("job", handler)
    sim.rota.enqueue("job")

    with pytest.raises(StateError, match="no end of things to do"):
        sim.run_until_idle()


def test_a_result_that_is_not_json_fails_the_run(sim: Simulation) -> None:
    sim.handle("job", lambda _: {1, 2})
    handle = sim.rota.enqueue("job")
    sim.run_until_idle()

    assert (handle.state, handle.show()["reason"]["code"]) == ("failed", "bad_result")


def test_a_run_takes_its_time_by_the_clock_and_keeps_its_lease(sim: Simulation) -> None:
    sim.handle("job", lambda _: "done", takes="10h")
    handle = sim.rota.enqueue("job")

    sim.advance("9h59m")
    assert handle.state == "running"

    sim.advance("1m")
    shown = handle.show()
    assert (shown["state"], shown["attempt"], shown["attempts"][0]["seconds"]) == ("succeeded", 1, 36000.0)


def test_a_time_limit_cuts_a_run_off(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", timeout="1h")
    sim.handle("job", lambda _: "done", takes=lambda run: timedelta(hours=run.attempt + 1))
    handle = sim.rota.enqueue("job")
    sim.run_until_idle()

    assert (handle.state, handle.show()["reason"]["code"]) == ("failed", "timeout")
    assert handle.show()["reason"]["text"].endswith("it ran for 3600.0 s, and its timeout is 3600 s")
    assert sim.now == datetime(2026, 3, 2, 1, tzinfo=UTC)


def test_overlap_follows_from_how_long_runs_take(sim: Simulation) -> None:
    sim.handle("job", lambda _: None, takes="90m")
    sim.rota.schedules.add("hourly", job="job", cron="0 * * * *")

    sim.run_until("2026-03-02T04:30Z")

    assert states(sim) == ["succeeded", "skipped", "succeeded", "skipped"]


def test_a_newer_slot_replaces_a_run(sim: Simulation) -> None:
    sim.handle("job", lambda _: None, takes="90m")
    sim.rota.schedules.add("hourly", job="job", cron="0 * * * *", overlap="replace")

    sim.run_until("2026-03-02T03:30Z")

    assert states(sim) == ["cancelled", "cancelled", "running"]


def test_a_run_that_queues_starts_when_the_one_before_it_ends(sim: Simulation) -> None:
    started: list[datetime] = []
    sim.handle("job", lambda run: started.append(run.now), takes="90m")
    sim.rota.schedules.add("hourly", job="job", cron="0 * * * *", overlap="queue", end="2026-03-02T02:30Z")

    sim.run_until_idle(within="1s")
    sim.run_until("2026-03-02T02:00Z")
    sim.run_until_idle()

    assert [moment.strftime("%H:%M") for moment in started] == ["01:00", "02:30"]


def test_no_more_runs_at_once_than_there_are_slots() -> None:
    with Simulation(START, slots=2) as sim:
        started: list[datetime] = []
        sim.rota.jobs.add("job", command=["true"])
        sim.handle("job", lambda run: started.append(run.now), takes="1h")
        sim.rota.enqueue_many([("job", None)] * 5)
        sim.run_until_idle()

        assert [moment.hour for moment in started] == [0, 0, 1, 1, 2]


def test_what_is_due_in_an_outage_is_decided_afterwards(sim: Simulation) -> None:
    sim.rota.schedules.add("latest", job="job", cron="0 * * * *")
    sim.rota.schedules.add("all", job="job", cron="0 * * * *", catch_up="all")

    sim.down("2026-03-02T00:10Z", "2026-03-02T03:10Z")
    sim.run_until("2026-03-02T03:30Z")

    assert [(run["slot"][11:13], run["state"]) for run in sim.runs(schedule="latest")] == [
        ("01", "missed"),
        ("02", "missed"),
        ("03", "succeeded"),
    ]
    assert [run["state"] for run in sim.runs(schedule="all")] == ["succeeded"] * 3


def test_what_runs_when_an_outage_begins_is_lost_and_runs_again(sim: Simulation) -> None:
    sim.handle("job", lambda _: "done", takes="1h")
    handle = sim.rota.enqueue("job")

    sim.down("2026-03-02T00:30Z", "2026-03-02T00:30:10Z")
    sim.run_until_idle()

    # It is back before the lease is over, and has to wait for its end, a minute after the outage began.
    shown = handle.show()
    assert [attempt["state"] for attempt in shown["attempts"]] == ["lost", "succeeded"]
    assert sim.now.strftime("%H:%M:%S") == "01:31:00"


def test_at_most_once_stays_lost_after_an_outage(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", delivery="at_most_once")
    sim.handle("job", lambda _: "done", takes="1h")
    handle = sim.rota.enqueue("job")

    sim.down("2026-03-02T00:30Z", "2026-03-02T02:00Z")
    sim.run_until_idle()

    assert handle.state == "lost"


def test_a_job_without_a_handler_is_called_if_it_is_python_and_succeeds_if_it_is_a_command(sim: Simulation) -> None:
    sim.rota.jobs.add("python", call="posixpath:basename")
    sim.rota.jobs.add("missing", call="no_such_module:f")
    handles = [sim.rota.enqueue("python", {"p": "/tmp/x"}), sim.rota.enqueue("missing"), sim.rota.enqueue("job")]
    sim.run_until_idle()

    assert handles[0].result == "x"
    assert (handles[1].state, handles[1].show()["error"]["type"]) == ("failed", "ModuleNotFoundError")
    assert (handles[2].state, handles[2].result) == ("succeeded", None)


def test_the_last_handler_that_matches_the_whole_name_wins(sim: Simulation) -> None:
    sim.rota.jobs.add("import-a", command=["true"])
    sim.handle(re.compile(r"import-."), lambda _: "pattern")
    sim.handle("import", lambda _: "other")
    handle = sim.rota.enqueue("import-a")
    sim.run_until_idle()
    sim.handle("import-a", lambda _: "name")
    another = sim.rota.enqueue("import-a")
    sim.run_until_idle()

    assert (handle.result, another.result) == ("pattern", "name")


def test_jobs_may_ask_for_runs_of_others(sim: Simulation) -> None:
    sim.rota.jobs.add("next", command=["true"])
    sim.handle("job", lambda _: sim.rota.enqueue("next", delay="5m").id)
    sim.rota.enqueue("job")
    sim.run_until_idle()

    assert states(sim) == ["succeeded", "succeeded"]
    assert sim.now == datetime(2026, 3, 2, 0, 5, tzinfo=UTC)


def test_what_never_comes_to_rest_is_an_error(sim: Simulation) -> None:
    sim.handle("job", lambda _: None, takes="2h")
    sim.rota.schedules.add("hourly", job="job", cron="0 * * * *", overlap="allow")
    sim.run_until("2026-03-02T01:00Z")

    with pytest.raises(StateError, match="unfinished"):
        sim.run_until_idle(within="6h")


def test_delay_and_the_start_window_go_by_the_clock(sim: Simulation) -> None:
    sim.handle("job", lambda _: None, takes="2h")
    sim.rota.schedules.add("late", job="job", cron="0 1 * * *", delay="30m")
    sim.run_until("2026-03-02T02:00Z")

    assert sim.runs()[0]["started_at"] == "2026-03-02T01:30:00.000000Z"


def test_why_is_answered_by_what_was_recorded(sim: Simulation) -> None:
    sim.rota.schedules.add("hourly", job="job", cron="0 * * * *")
    sim.down("2026-03-02T00:10Z", "2026-03-02T03:10Z")
    sim.run_until("2026-03-02T04:00Z")

    assert sim.rota.why.schedule("hourly", "2026-03-02T01:00Z")["state"] == "missed"
    assert sim.rota.why.job("job")["state"] == "active"
    assert not [text for text in sim.rota.why.job("job")["because"] if "no node" in text]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda sim: sim.run_until("2026-03-01T00:00Z"), "moment"),
        (lambda sim: sim.down("2026-03-01T00:00Z", "2026-03-03T00:00Z"), "start"),
        (lambda sim: sim.down("2026-03-03T00:00Z", "2026-03-03T00:00Z"), "end"),
        (lambda sim: sim.handle("job", "no function"), "handler"),
        (lambda sim: sim.handle("job", print, takes="soon"), "takes"),
        (lambda sim: sim.advance("-1h"), "duration"),
    ],
)
def test_what_makes_no_sense_is_refused(sim: Simulation, wrong: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        wrong(sim)

    assert refused.value.field == field


def test_full_jitter_is_the_same_in_every_simulation_of_the_same_runs() -> None:
    def waits() -> list[datetime]:
        with Simulation(START) as sim:
            sim.rota.jobs.add("job", command=["true"], retries=4, retry_delay="10m", backoff="jitter")
            starts: list[datetime] = []

            def fail(run: SimulatedRun) -> None:
                starts.append(run.now)
                raise ValueError

            sim.handle("job", fail)
            sim.rota.enqueue("job")
            sim.run_until_idle()
            return starts

    first = waits()

    assert first == waits()
    assert len(set(first)) == 5


def test_a_simulated_error_is_chosen_by_its_base_class_and_a_run_by_its_own_retries(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", retries=5, retry_delay="1m", retry_on=["OSError"])
    raised: list[type[Exception]] = [ConnectionError, ValueError, ConnectionError, ConnectionError, ConnectionError]

    def fail(_: SimulatedRun) -> None:
        raise raised.pop(0)

    sim.handle("job", fail)
    first = sim.rota.enqueue("job")
    sim.run_until_idle()
    second = sim.rota.enqueue("job", retries=2, retry_delay="5m")
    sim.run_until_idle()

    assert [view["attempt"] for view in sim.runs()] == [2, 3]
    assert first.show()["reason"]["text"].endswith("not retried: retry_on names only OSError")
    assert second.state == "failed"
    assert sim.now.strftime("%H:%M") == "00:11"


def test_the_deadline_cuts_a_simulated_run_off(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", retries="forever", retry_delay="10m", deadline="1h", timeout="25m")
    sim.handle("job", lambda _: None, takes="30m")
    run = sim.rota.enqueue("job")

    sim.run_until_idle()

    # 25 minutes, 10 of waiting, and the 25 that are left.
    assert (run.state, run.show()["reason"]["code"], run.show()["attempt"]) == ("failed", "deadline", 2)
    assert "ran into the deadline of its run" in run.show()["reason"]["text"]
    assert sim.now.strftime("%H:%M") == "01:00"


def test_a_simulated_breaker_opens_lets_one_through_and_closes(sim: Simulation) -> None:
    sim.rota.jobs.edit("job", breaker_failures=2, breaker_pause="25m")
    sim.handle("job", lambda run: 1 / 0 if run.now.hour < 1 else None)
    sim.rota.schedules.add("often", "job", cron="*/10 * * * *", overlap="allow", start_within="6h")

    sim.run_until("2026-03-02T01:25Z")

    starts = [(run["started_at"] or "")[11:16] for run in sim.runs()]
    assert [run["state"] for run in sim.runs()][:3] == ["failed", "failed", "failed"]
    assert starts[:3] == ["00:10", "00:20", "00:45"]  # the third was let through after the pause, and opened it again
    assert set(starts[3:]) == {"01:10", "01:20"}
    assert {run["state"] for run in sim.runs()[3:]} == {"succeeded"}


def test_a_paused_pool_holds_its_runs_until_it_is_resumed(sim: Simulation) -> None:
    sim.rota.schedules.add("hourly", "job", every="1h", overlap="allow", start_within="2h")
    sim.rota.pools.pause("default")
    sim.advance("90m")
    held = states(sim)
    sim.rota.pools.resume("default")

    sim.advance("1s")

    assert held
    assert set(held) == {"ready"}
    assert states(sim) == ["succeeded"] * len(held)


def test_a_simulated_chain_runs_in_order_through_a_failure_and_an_outage() -> None:
    with Simulation(START) as sim:
        sim.rota.jobs.add("load", command=["true"], retries=1, retry_delay="10m")
        sim.rota.jobs.add("report", command=["true"], after=["load"])
        for name in ("load", "report"):
            sim.rota.schedules.add(name, job=name, cron="0 * * * *", catch_up="all", in_order=True)
        seen: list[str] = []
        fails = [True]

        def work(run: SimulatedRun) -> None:
            assert run.slot is not None
            seen.append(f"{run.job} {run.slot:%H} at {run.now:%H:%M}")
            if run.job == "load" and fails.pop() if fails else False:
                raise ValueError

        sim.handle(re.compile("load|report"), work, takes="5m")
        sim.down("2026-03-02T01:30Z", "2026-03-02T03:30Z")
        sim.advance("4h30m")

    assert seen == [
        "load 01 at 01:00", "load 01 at 01:15", "report 01 at 01:20",
        "load 02 at 03:30", "report 02 at 03:35", "load 03 at 03:35", "report 03 at 03:40",
        "load 04 at 04:00", "report 04 at 04:05",
    ]  # fmt: skip


def test_periods_are_worked_on_when_they_have_closed_by_the_clocks_of_their_zone() -> None:
    with Simulation(start="2026-03-28T22:30Z") as sim:
        zone = {"period_tz": "Europe/Amsterdam"}
        sim.rota.jobs.add("hits", command=["x"], period="hour", **zone)
        sim.rota.jobs.add("daily", command=["x"], period="day", rolls_up=["hits"], **zone)
        told: list[tuple[str, str]] = []
        for job in ("hits", "daily"):
            sim.handle(job, lambda run: told.append((f"{run.now:%H:%M}", run.period.name)))

        sim.run_until("2026-03-29T02:00Z")

    # Two o'clock is skipped in that night.
    assert told == [
        ("23:00", "2026-03-28T23"), ("23:00", "2026-03-28"), ("00:00", "2026-03-29T00"), ("01:00", "2026-03-29T01"),
        ("02:00", "2026-03-29T03"),
    ]  # fmt: skip


def test_alerts_are_made_and_can_be_looked_at_and_none_is_sent(sim: Simulation) -> None:
    def fail(_run: SimulatedRun) -> None:
        raise ValueError("no")

    sim.rota.jobs.add("load", command=["true"], alert=["ops", "boss"])
    told: list[Any] = []
    sim.handle("load", fail)
    sim.handle("rota:alert:ops", lambda run: told.append(run.args["alert"]["kind"]))
    sim.rota.enqueue("load")

    sim.run_until_idle()

    assert told == ["failure"]
    assert sorted((run["job"], run["state"]) for run in sim.runs()) == [
        ("load", "failed"),
        ("rota:alert:boss", "succeeded"),
        ("rota:alert:ops", "succeeded"),
    ]
