"""Jobs declared in code."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from sqlalchemy import create_engine

from rota import Invalid, NotFound, Rota
from rota.client.declared import REGISTERED, DeclaredJob, declare_all
from rota.store.database import Database


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, DeclaredJob[Any, Any]]:
    """Leave the jobs of other modules alone."""
    fresh: dict[str, DeclaredJob[Any, Any]] = {}
    for module in ("rota.client.declared", "rota.client.rota"):
        monkeypatch.setattr(f"{module}.REGISTERED", fresh)
    assert REGISTERED is not fresh
    return fresh


def sales_report(day: str | None = None, *, rows: int = 12) -> dict[str, Any]:
    """Report sales."""
    return {"day": day, "rows": rows}


async def fetch(url: str) -> str:
    return url


OPTIONS: dict[str, Any] = {
    "cron": "0 7 * * *",
    "tz": "Europe/Amsterdam",
    "start_within": "15m",
    "timeout": "5m",
    "retries": 3,
    "pool": "reports",
}


def outcomes(rota: Rota) -> list[tuple[str, str, str]]:
    return [(found.kind, found.name, found.outcome) for found in rota.declare()]


def test_a_declared_job_is_still_its_function(rota: Rota) -> None:
    job = rota.job(**OPTIONS)(sales_report)

    assert job("today", rows=3) == {"day": "today", "rows": 3}
    assert (job.__name__, job.__doc__) == ("sales_report", "Report sales.")
    assert inspect.signature(job) == inspect.signature(sales_report)
    assert job.__rota_function__ is sales_report


def test_a_job_says_in_its_declaration_where_it_runs(rota: Rota) -> None:
    rota.job(executor="async")(fetch)
    rota.job(executor="thread")(sales_report)

    rota.declare()

    assert rota.jobs.show("fetch")["executor"] == "async"
    assert rota.jobs.show("sales_report")["executor"] == "thread"


def test_a_function_that_is_not_asynchronous_cannot_be_declared_so(rota: Rota) -> None:
    with pytest.raises(Invalid, match="executor thread"):
        rota.job(executor="async")(sales_report)


def test_declaring_adds_the_job_and_its_schedule_once(rota: Rota) -> None:
    rota.job(**OPTIONS)(sales_report)

    first, second = outcomes(rota), outcomes(rota)

    assert first == [("job", "sales_report", "added"), ("schedule", "sales_report", "added")]
    assert second == [("job", "sales_report", "unchanged"), ("schedule", "sales_report", "unchanged")]
    job, schedule = rota.jobs.show("sales_report"), rota.schedules["sales_report"].show()
    assert job["call"] == f"{__name__}:sales_report"
    assert (job["start_within"], job["timeout"], job["retries"], job["pool"]) == (900, 300, 3, "reports")
    assert (job["declared_by"], job["schedules"]) == (__name__, ["sales_report"])
    assert (schedule["cron"], schedule["tz"], schedule["declared_by"]) == ("0 7 * * *", "Europe/Amsterdam", __name__)


def test_a_changed_declaration_is_brought_into_force(rota: Rota) -> None:
    rota.job(**OPTIONS)(sales_report)
    rota.declare()
    rota.job(**(OPTIONS | {"retries": 5, "cron": "0 8 * * *"}))(sales_report)

    report = rota.declare()

    assert [found.outcome for found in report] == ["changed", "changed"]
    assert str(report[0]) == "job sales_report: changed, retries 3 -> 5"
    assert rota.jobs.show("sales_report")["retries"] == 5
    assert rota.schedules["sales_report"].show()["cron"] == "0 8 * * *"


def test_what_was_edited_elsewhere_is_reported_and_stays(rota: Rota) -> None:
    rota.job(**OPTIONS)(sales_report)
    rota.declare()
    rota.jobs.edit("sales_report", retries=9)
    rota.schedules["sales_report"].edit(cron="0 9 * * *")

    report = rota.declare()

    assert [found.outcome for found in report] == ["edited elsewhere", "edited elsewhere"]
    assert "retries 9 -> 3" in str(report[0])
    assert "rota schedule show sales_report" in str(report[1])
    assert rota.jobs.show("sales_report")["retries"] == 9
    assert rota.schedules["sales_report"].show()["cron"] == "0 9 * * *"


def test_a_run_is_asked_for_by_the_functions_own_arguments(rota: Rota) -> None:
    job = rota.job()(sales_report)
    with pytest.raises(NotFound):
        job.enqueue()
    rota.declare()

    handle = job.enqueue(
        day="2026-11-19",
        key="sales-2026-11-19",
        unique_for="1h",
        delay="1m",
        priority=3,
        retries="forever",
        retry_delay=5,
    )

    view = handle.show()
    assert (view["args"], view["key"], view["priority"]) == ({"day": "2026-11-19"}, "sales-2026-11-19", 3)
    assert view["unique_for"] == 3600
    assert (view["retries"], view["retry_delay"]) == ("forever", 5)
    assert view["run_at"] == "2026-11-02T12:01:00.000000Z"


def test_arguments_that_the_function_does_not_take_are_refused(rota: Rota) -> None:
    job = rota.job(name="fetch-it")(fetch)
    rota.declare()

    for wrong in ({}, {"link": "x"}, {"url": "x", "more": 1}):
        with pytest.raises(Invalid, match="does not take them") as refusal:
            job.enqueue(**wrong)
        assert refusal.value.field == "args"

    assert rota.runs.list() == []


def test_a_run_is_asked_for_in_the_callers_transaction(rota: Rota, database_url: str) -> None:
    job = rota.job()(sales_report)
    rota.declare()
    engine = create_engine(Database(database_url).url)

    with engine.connect() as tx:
        job.using(tx).enqueue(day="lost")
        tx.rollback()
        handle = job.using(tx).enqueue(day="kept", key="k", unique_for="forever")
        tx.commit()
    engine.dispose()

    assert [view["args"] for view in rota.runs.list()] == [{"day": "kept"}]
    assert (handle.show()["key"], handle.show()["key_until"]) == ("k", "forever")


def test_only_what_is_given_is_declared(rota: Rota) -> None:
    first = rota.job()(sales_report)
    rota.job()(fetch)

    assert [found.name for found in declare_all(rota, [first])] == ["sales_report"]


def local_job() -> Any:
    def inner() -> None: ...

    return inner


def main_job() -> None: ...


def keyed(key: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "field"),
    [
        (sales_report, {"cron": "???"}, "cron"),
        (sales_report, {"cron": "0 7 * * *", "tz": "JST-9"}, "tz"),
        (sales_report, {"every": "5m", "overlap": "maybe"}, "overlap"),
        (sales_report, {"tz": "UTC"}, "tz"),
        (sales_report, {"timeout": "1.5x"}, "timeout"),
        (sales_report, {"retry": 3}, "retry"),
        (sales_report, {"shell": "true"}, "shell"),
        (sales_report, {"name": ""}, "name"),
        (local_job(), {}, "call"),
        (keyed, {}, "parameter"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_at_once(
    rota: Rota,
    registered: dict[str, DeclaredJob[Any, Any]],
    function: Any,
    options: dict[str, Any],
    field: str,
) -> None:
    with pytest.raises(Invalid) as refusal:
        rota.job(**options)(function)

    assert refusal.value.field == field
    assert registered == {}
    assert rota.jobs.list() == []


def test_a_job_of_the_main_module_is_refused_when_declared_and_nothing_is_stored(
    rota: Rota, monkeypatch: pytest.MonkeyPatch
) -> None:
    rota.job()(sales_report)
    monkeypatch.setattr(main_job, "__module__", "__main__")
    rota.job()(main_job)

    with pytest.raises(Invalid, match="main module"):
        rota.declare()

    assert rota.jobs.list() == []


def test_a_declared_job_names_its_secrets(rota: Rota) -> None:
    rota.job(secrets=["TOKEN", "DB_PASSWORD"])(sales_report)

    rota.declare()

    assert rota.jobs.show("sales_report")["secrets"] == ["DB_PASSWORD", "TOKEN"]
    assert outcomes(rota) == [("job", "sales_report", "unchanged")]
    with pytest.raises(Invalid, match="it is named twice"):
        rota.job(secrets=["TOKEN", "TOKEN"])(sales_report)


def test_what_the_code_declares_no_more_is_a_ghost_and_goes_on(
    rota: Rota, registered: dict[str, DeclaredJob[Any, Any]]
) -> None:
    rota.job(**OPTIONS)(sales_report)
    rota.job(executor="async")(fetch)
    rota.declare()
    registered.pop("sales_report")

    found = [str(one) for one in rota.declare() if one.outcome == "ghost"]

    assert found == [
        f"{kind} sales_report is declared no more by {__name__}, and goes on as it is: declare it again, or take it "
        f"away with `rota {kind} delete sales_report`"
        for kind in ("job", "schedule")
    ]
    assert [view["name"] for view in rota.jobs.list() if view["ghost_since"]] == ["sales_report"]
    assert rota.schedules["sales_report"].show()["state"] == "active"

    rota.job(**OPTIONS)(sales_report)
    assert not [one for one in rota.declare() if one.outcome == "ghost"]
    assert not [view for view in rota.jobs.list() if view["ghost_since"]]


def test_what_a_module_declared_that_is_not_loaded_here_is_no_ghost(rota: Rota) -> None:
    rota.job(**OPTIONS)(sales_report)
    rota.declare()
    with rota.database.engine.begin() as connection:
        connection.exec_driver_sql("update rota_job set declared_by = 'another.module', name = 'other'")

    assert [one.name for one in rota.declare() if one.kind == "job" and one.outcome == "ghost"] == []


def test_jobs_are_declared_behind_those_that_they_run_after(rota: Rota) -> None:
    rota.job(name="a-report", after=["z-load"])(sales_report)
    rota.job(name="z-load", executor="async")(fetch)

    assert [one.name for one in rota.declare() if one.kind == "job"] == ["z-load", "a-report"]
    assert rota.jobs.show("z-load")["dependants"] == ["a-report"]
