"""``Rota``: asking for runs, waiting for them, and looking at everything."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rota import ConfigError, Conflict, DatabaseVersion, Rota, RunFailed, RunTimeout
from rota.client.location import database_url
from rota.client.runs import RunHandle
from tests.clock import BEGINNING, Clock
from tests.store.ledger import Ledger


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("job", shell="true")
    return "job"


def test_an_asked_run_is_ready_at_once_and_names_who_asked(rota: Rota, job: str) -> None:
    view = rota.enqueue(job, {"day": "2026-11-19"}).show()

    assert (view["state"], view["args"], view["requested_by"]) == ("ready", {"day": "2026-11-19"}, "ann@desk")
    assert view["events"][0]["actor"] == "ann@desk"


def test_a_moment_without_an_offset_is_in_the_default_zone(rota: Rota, job: str) -> None:
    rota.default_zone = "Europe/Amsterdam"

    views = [rota.enqueue(job, at=at).show() for at in ("2026-11-03T07:00", datetime(2026, 11, 3, 7, tzinfo=UTC))]
    schedule = rota.schedules.add("k", job, cron="0 7 * * *")

    assert [view["run_at"] for view in views] == ["2026-11-03T06:00:00.000000Z", "2026-11-03T07:00:00.000000Z"]
    assert schedule["tz"] == "Europe/Amsterdam"


def test_a_delay_counts_from_the_databases_now(rota: Rota, job: str, clock: Clock) -> None:
    view = rota.enqueue(job, delay="1h30m", start_within="5m", priority=7).show()

    assert (view["state"], view["run_at"]) == ("waiting", "2026-11-02T13:30:00.000000Z")
    assert (view["start_by"], view["priority"]) == ("2026-11-02T13:35:00.000000Z", 7)


def test_a_key_gives_the_unfinished_run_that_has_it(rota: Rota, job: str, ledger: Ledger) -> None:
    first = rota.enqueue(job, {"a": 1}, key="k")
    again = rota.enqueue(job, {"a": 2}, key="k")
    ledger.end(ledger.claim_one())
    later = rota.enqueue(job, {"a": 3}, key="k")

    assert (first.id, again.id) == (1, 1)
    assert later.id != first.id
    assert (first.is_new, again.is_new, later.is_new) == (True, False, True)


def test_many_requests_give_their_handles_in_order(rota: Rota, job: str) -> None:
    rota.jobs.add("other", shell="true")

    handles = rota.enqueue_many(
        [
            (job, {"n": 0}),
            {"job": "other", "key": "k", "unique_for": "1d"},
            {"job": job, "args": {"n": 2}, "delay": 60},
            ("other", None),
        ]
    )

    views = [handle.show() for handle in handles]
    assert [view["job"] for view in views] == ["job", "other", "job", "other"]
    assert [view["args"] for view in views] == [{"n": 0}, {}, {"n": 2}, {}]
    assert [view["key"] for view in views] == [None, "k", None, None]
    assert [view["unique_for"] for view in views] == [None, 86400, None, None]
    assert rota.enqueue_many([]) == []


def test_waiting_ends_with_the_run_and_gives_its_result(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)

    def end_it(_seconds: float) -> None:
        ledger.end(ledger.claim_one(), result='{"rows": 12}')

    result = RunHandle(rota, handle.id, sleep=end_it).wait(timeout=60).result

    assert result == {"rows": 12}
    assert handle.state == "succeeded"


def test_waiting_gives_up_in_time_and_the_run_goes_on(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)

    with pytest.raises(RunTimeout, match="it goes on"):
        handle.wait(timeout=0)
    with pytest.raises(Conflict, match="wait for it"):
        _ = handle.result

    assert handle.state == "ready"


def test_the_result_of_a_run_that_failed_is_an_error_that_says_why(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)
    ledger.end(ledger.claim_one(), "exited", exit_code=3)

    with pytest.raises(RunFailed, match="exited with 3") as failure:
        _ = handle.wait().result

    assert (failure.value.run_id, failure.value.state) == (handle.id, "failed")


def test_everything_that_is_shown_can_be_written_as_json(rota: Rota, job: str, ledger: Ledger) -> None:
    rota.schedules.add("k", job, every="5m")
    handle = rota.enqueue(job)
    ledger.end(ledger.claim_one())

    views: list[Any] = [
        rota.jobs.list(),
        rota.jobs.show(job),
        rota.schedules.list(),
        rota.schedules["k"].show(),
        rota.runs.list(),
        handle.show(),
        rota.nodes.list(),
        rota.status(),
        rota.why.run(handle.id),
        rota.why.job(job),
        rota.why.schedule("k"),
        rota.why.schedule("k", "2026-11-02T12:05:00"),
    ]

    assert json.loads(json.dumps(views)) == views


def test_the_actions_on_a_run_are_there_on_its_handle(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)

    states = [handle.cancel(), handle.rerun().state]
    handle.skip()
    states.append(handle.state)
    handle.mark_succeeded()
    states.append(handle.state)

    assert states == ["cancelled", "ready", "skipped", "succeeded"]
    assert handle.logs() == b""
    assert rota.runs.list(job=job, state="succeeded")[0]["id"] == handle.id


def test_a_schedule_is_edited_previewed_and_deleted_by_its_key(rota: Rota, job: str) -> None:
    rota.schedules.add("nightly", job, cron="0 7 * * *", tz="Europe/Amsterdam", delay="30s", args={"a": 1})
    handle = rota.schedules["nightly"]

    slots = handle.next(2)
    later = handle.next(after="2026-12-01T00:00")
    edited = handle.edit(delay=None, overlap="allow")
    paused = handle.pause()["state"]
    resumed = handle.resume()["state"]

    assert slots == [datetime(2026, 11, 3, 6, tzinfo=UTC), datetime(2026, 11, 4, 6, tzinfo=UTC)]
    assert later == [datetime(2026, 12, 1, 6, tzinfo=UTC)]
    assert (edited["delay"], edited["overlap"], edited["args"]) == (0, "allow", {"a": 1})
    assert (paused, resumed) == ("paused", "active")
    assert handle.exists()
    handle.delete()
    assert not handle.exists()


def test_a_job_is_edited_paused_and_deleted_by_its_name(rota: Rota, job: str) -> None:
    edited = rota.jobs.edit(job, command=["echo", "hi"], retries="forever")
    again = rota.jobs.edit(job, retries=None)
    states = [rota.jobs.pause(job)["state"], rota.jobs.resume(job)["state"]]
    rota.jobs.delete(job)

    assert (edited["shell"], edited["command"], edited["retries"]) == (None, ["echo", "hi"], "forever")
    assert again["retries"] == 0
    assert states == ["paused", "active"]
    assert rota.jobs.list() == []


def test_a_database_without_a_schema_is_refused_with_what_to_do(empty_database_url: str) -> None:
    with Rota(empty_database_url) as rota, pytest.raises(DatabaseVersion, match="rota db upgrade"):
        rota.jobs.list()


@pytest.mark.parametrize("change", ["version = 0", "version = 99, compatible_from = 99"])
def test_a_schema_outside_the_compatible_range_is_refused(database_url: str, ledger: Ledger, change: str) -> None:
    ledger.execute(f"update rota_schema set {change}")

    with Rota(database_url) as rota, pytest.raises(DatabaseVersion, match="upgrade"):
        rota.jobs.add("job", shell="true")

    assert ledger.rows("select id from rota_job") == []


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="database URL"):
        Rota("not a url").jobs.list()


def test_the_database_is_found_by_its_variable_then_the_file_then_the_state_folder(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://host/b\n", encoding="utf-8")
    environ = {"ROTA_DB_FILE": str(file), "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}

    assert database_url(environ | {"ROTA_DB": "sqlite:////a.db"}) == "sqlite:////a.db"
    assert database_url(environ) == "postgresql://host/b"
    del environ["ROTA_DB_FILE"]
    assert database_url(environ) == f"sqlite:///{tmp_path}/state/rota/rota.db"
    assert (tmp_path / "state" / "rota").stat().st_mode & 0o777 == 0o700
    del environ["XDG_STATE_HOME"]
    assert database_url(environ) == f"sqlite:///{tmp_path}/.local/state/rota/rota.db"


@pytest.mark.parametrize("content", [None, "", "one\ntwo"])
def test_a_database_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError, match=r"ROTA_DB_FILE.*url"):
        database_url({"ROTA_DB_FILE": str(file)})


def test_a_jobs_process_does_not_open_a_database_of_its_own_by_mistake(tmp_path: Path) -> None:
    environ = {"ROTA_RUN_ID": "1", "HOME": str(tmp_path)}

    with pytest.raises(ConfigError, match=r"Rota\(url\)"):
        database_url(environ)

    assert list(tmp_path.iterdir()) == []


def test_declaring_a_job_neither_imports_sqlalchemy_nor_looks_for_a_database(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from rota import Rota, Retry, current_run\n"
        "rota = Rota()\n"
        "@rota.job(cron='0 7 * * *', retries=3)\n"
        "def report(day=None): return day\n",
        encoding="utf-8",
    )
    check = "import app, sys; assert app.report(3) == 3; print(*(name for name in sys.modules if 'sqlalchemy' in name))"

    paths = f"{tmp_path}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={"HOME": str(tmp_path), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]


def test_the_clock_of_these_tests_stands_still(rota: Rota) -> None:
    assert rota.database.now() == BEGINNING
