"""Bad input is refused with field, value and rule, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rota import AlreadyExists, Invalid, NotFound, Rota
from tests.store.ledger import Ledger

DEEP: Any = []
for _ in range(70):
    DEEP = [DEEP]

Act = Callable[[Rota], object]


def add_schedule(**options: Any) -> Act:
    return lambda rota: rota.schedules.add("k", "job", **options)


def add_job(name: str = "new", **options: Any) -> Act:
    return lambda rota: rota.jobs.add(name, **({"shell": "true"} | options))


def enqueue(*args: Any, **options: Any) -> Act:
    return lambda rota: rota.enqueue("job", *args, **options)


REFUSED: dict[str, tuple[Act, str]] = {
    "cron ???": (add_schedule(cron="???"), "cron"),
    "cron minute 60": (add_schedule(cron="60 * * * *"), "cron"),
    "cron six fields of nonsense": (add_schedule(cron="a b c d e f"), "cron"),
    "cron that never fires": (add_schedule(cron="0 0 30 2 *"), "cron"),
    "cron at reboot": (add_schedule(cron="@reboot"), "cron"),
    "zone JST-9": (add_schedule(cron="0 7 * * *", tz="JST-9"), "tz"),
    "every 1.5x": (add_schedule(every="1.5x"), "every"),
    "every -1d": (add_schedule(every="-1d"), "every"),
    "every 0s": (add_schedule(every="0s"), "every"),
    "all and replace": (add_schedule(every="5m", catch_up="all", overlap="replace"), "overlap"),
    "end before start": (add_schedule(every="5m", start="2030-01-02", end="2030-01-01"), "end"),
    "end in the past": (add_schedule(every="5m", end="2020-01-01"), "end"),
    "jitter longer than the interval": (add_schedule(every="5m", jitter="6m"), "jitter"),
    "interval of zero": (add_schedule(interval="0 days"), "interval"),
    "unknown calendar": (add_schedule(every="5m", calendars=["nowhere"]), "calendars"),
    "unknown gap": (add_schedule(cron="30 2 * * *", gap="jump"), "gap"),
    "unknown overlap": (add_schedule(every="5m", overlap="maybe"), "overlap"),
    "calendar that leaves no day": (
        lambda rota: rota.calendars.add("none", weekdays=["mon", "tue", "wed", "thu", "fri", "sat", "sun"]),
        "weekdays",
    ),
    "calendar that closes nothing": (lambda rota: rota.calendars.add("none"), "calendar"),
    "no timing": (add_schedule(), "schedule"),
    "at in the past": (add_schedule(at="2020-01-01"), "at"),
    "schedule args that are no object": (add_schedule(every="5m", args=[1]), "args"),
    "unknown option of a schedule": (add_schedule(every="5m", timezone="UTC"), "timezone"),
    "catch-up that does not exist": (add_schedule(every="5m", catch_up="some"), "catch_up"),
    "timeout 1.5x": (add_job(timeout="1.5x"), "timeout"),
    "timeout -1d": (add_job(timeout="-1d"), "timeout"),
    "timeout 0s": (add_job(timeout="0s"), "timeout"),
    "lease 0s": (add_job(lease="0s"), "lease"),
    "job name empty": (add_job(""), "name"),
    "job name too long": (add_job("x" * 201), "name"),
    "job name with a control character": (add_job("a\nb"), "name"),
    "job without a target": (lambda rota: rota.jobs.add("new"), "job"),
    "job with two targets": (add_job(call="a:b"), "job"),
    "call that is no callable": (lambda rota: rota.jobs.add("new", call="nothing"), "call"),
    "retries that are no number": (add_job(retries="many"), "retries"),
    "unknown option of a job": (add_job(time_out="5m"), "time_out"),
    "if_exists that does not exist": (add_job(if_exists="replace"), "if_exists"),
    "args that are not JSON": (enqueue({"when": object()}), "args"),
    "args that are no object": (enqueue([1, 2]), "args"),
    "args with NaN": (enqueue({"x": float("nan")}), "args"),
    "args above 1 MiB": (enqueue({"x": "y" * 1024 * 1024}), "args"),
    "args too deep": (enqueue({"x": DEEP}), "args"),
    "key with a control character": (enqueue(key="a\0b"), "key"),
    "unique_for without a key": (enqueue(unique_for="1h"), "unique_for"),
    "unique_for 0s": (enqueue(key="k", unique_for=0), "unique_for"),
    "unique_for eternity": (enqueue(key="k", unique_for="eternity"), "unique_for"),
    "unique_for of many without a key": (
        lambda rota: rota.enqueue_many([{"job": "job", "unique_for": "1h"}]),
        "unique_for",
    ),
    "delay -1d": (enqueue(delay="-1d"), "delay"),
    "a moment and a delay": (enqueue(at="2030-01-01", delay=5), "delay"),
    "at that is no time": (enqueue(at="tomorrow"), "at"),
    "priority that is no number": (enqueue(priority="high"), "priority"),
    "retries below none": (enqueue(retries=-1), "retries"),
    "retry delay that is no duration": (enqueue(retry_delay="soon"), "retry_delay"),
    "start_within 0s": (enqueue(start_within="0s"), "start_within"),
    "one bad request of many": (lambda rota: rota.enqueue_many([("job", {}), ("job", {"x": {1}})]), "args"),
    "a request without a job": (lambda rota: rota.enqueue_many([{"args": {}}]), "requests[0]"),
    "a request with an unknown option": (lambda rota: rota.enqueue_many([{"job": "job", "when": 1}]), "requests[0]"),
    "a request that is text": (lambda rota: rota.enqueue_many(["jo"]), "requests[0]"),
    "a request of three": (lambda rota: rota.enqueue_many([("job", {}, 5)]), "requests[0]"),
    "a shell line that no process takes": (add_job(shell="#" * 128 * 1024), "shell"),
    "an argument that no process takes": (lambda rota: rota.jobs.add("new", command=["x", "y" * 200_000]), "command"),
    "a variable that no process takes": (add_job(variables={"A": "y" * (128 * 1024 - 2)}), "variables.A"),
    "run number 0": (lambda rota: rota.runs[0], "run"),
    "run number that is none": (lambda rota: rota.runs["x"], "run"),
    "state that does not exist": (lambda rota: rota.runs.list(state="done"), "state"),
    "limit 0": (lambda rota: rota.runs.list(limit=0), "limit"),
    "edit to a bad value": (lambda rota: rota.jobs.edit("job", timeout="1.5x"), "timeout"),
    "edit of the schedule to a bad value": (lambda rota: rota.schedules["each"].edit(cron="???"), "cron"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_its_field_and_nothing_is_stored(rota: Rota, ledger: Ledger, case: str) -> None:
    act, field = REFUSED[case]
    rota.jobs.add("job", shell="true")
    rota.schedules.add("each", "job", every="1h")
    before = rota.jobs.list(), rota.schedules.list(), ledger.value("select count(*) from rota_event")

    with pytest.raises(Invalid) as refusal:
        act(rota)

    assert refusal.value.field == field
    assert refusal.value.rule
    assert field in str(refusal.value)
    assert (rota.jobs.list(), rota.schedules.list(), ledger.value("select count(*) from rota_event")) == before
    assert ledger.runs() == []


@pytest.mark.parametrize(
    "act",
    [
        lambda rota: rota.enqueue("nothing"),
        lambda rota: rota.enqueue_many([("job", {}), ("nothing", {})]),
        lambda rota: rota.schedules.add("k", "nothing", every="5m"),
        lambda rota: rota.jobs.edit("nothing", retries=1),
        lambda rota: rota.jobs.show("nothing"),
        lambda rota: rota.jobs.delete("nothing"),
        lambda rota: rota.jobs.pause("nothing"),
        lambda rota: rota.schedules["nothing"].edit(every="5m"),
        lambda rota: rota.schedules["nothing"].delete(),
        lambda rota: rota.schedules["nothing"].next(),
        lambda rota: rota.runs[4711].show(),
        lambda rota: rota.runs[4711].cancel(),
        lambda rota: rota.runs[4711].logs(),
        lambda rota: rota.runs[4711].state,
        lambda rota: rota.runs.list(job="nothing"),
        lambda rota: rota.runs.list(schedule="nothing"),
        lambda rota: rota.nodes.show("nothing"),
        lambda rota: rota.nodes.drain("nothing"),
        lambda rota: rota.nodes.resume("nothing"),
        lambda rota: rota.pools.pause("nothing"),
        lambda rota: rota.pools.resume("nothing"),
        lambda rota: rota.why.run(4711),
        lambda rota: rota.why.job("nothing"),
        lambda rota: rota.why.schedule("nothing"),
    ],
)
def test_what_does_not_exist_is_not_found_and_nothing_is_stored(rota: Rota, ledger: Ledger, act: Act) -> None:
    rota.jobs.add("job", shell="true")

    with pytest.raises(NotFound, match=r"nothing|4711"):
        act(rota)

    assert ledger.runs() == []
    assert rota.schedules.list() == []


def test_a_name_that_is_taken_is_refused_as_such_and_only_then(rota: Rota) -> None:
    rota.jobs.add("job", shell="true")
    rota.schedules.add("k", "job", every="5m")

    with pytest.raises(AlreadyExists, match="job 'job'"):
        rota.jobs.add("job", shell="false")
    with pytest.raises(AlreadyExists, match="schedule 'k'"):
        rota.schedules.add("k", "job", every="1m")
    rota.jobs.add("Job", shell="true")  # names are compared exactly on every database

    assert rota.jobs.show("job")["shell"] == "true"
    assert rota.schedules["k"].show()["every"] == 300
