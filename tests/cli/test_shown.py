"""What commands show to people: values as they are typed, and a word where there is nothing to show."""

from __future__ import annotations

import json
from pathlib import Path

from rota.store.database import Database
from rota.store.periods import look_at_periods
from tests.cli.conftest import Call


def fact(output: str, name: str) -> str:
    (line,) = [line for line in output.splitlines() if line.split(maxsplit=1)[:1] == [name]]
    return line.split(maxsplit=1)[1]


def test_a_job_is_shown_as_it_is_written_with_flags(rota: Call):
    rota("job", "add", "j", "--mutex", "m", "--mutex", "n", "--timeout", "90s", "--keep", "failed=9d",
         "--variable", "A=b c", "--command", "--", "echo", "a b")  # fmt: skip

    shown = rota("job", "show", "j").stdout

    assert fact(shown, "command") == "echo 'a b'"
    assert fact(shown, "mutexes") == "m, n"
    assert fact(shown, "timeout") == "1m30s"
    assert fact(shown, "keep") == "failed=9d"
    assert fact(shown, "variables") == "A=b c"


def test_who_asks_for_a_key_that_a_run_holds_is_told_so(rota: Call):
    rota("job", "add", "j", "--shell", "true")

    assert rota("job", "run", "j", "--key", "k").stdout == "run 1\n"
    assert rota("job", "run", "j", "--key", "k").stdout == "run 1 has the key k and is ready: no other was made\n"


def test_a_limit_for_each_key_of_a_job_without_one_is_remarked_on(rota: Call):
    assert "max_per_key limits only runs" in rota("job", "add", "j", "--shell", "true", "--max-per-key", "1").stderr
    with_key = ["--shell", "true", "--max-per-key", "1", "--concurrency-key", "tenant"]
    assert rota("job", "add", "k", *with_key).stderr == ""


def test_logs_of_a_run_that_has_not_started_say_so(rota: Call):
    rota("job", "add", "j", "--shell", "true")
    rota("job", "run", "j")

    result = rota("run", "logs", "1")

    assert result.stdout == ""
    assert "run 1 is ready and has not started: `rota why run 1`" in result.stderr


def test_the_settings_say_where_the_default_database_is(rota: Call, state_home: dict[str, str]):
    result = rota("config", "show", environ={"ROTA_DB": None})  # pyright: ignore[reportArgumentType]

    assert f"sqlite:///{Path(state_home['XDG_STATE_HOME']) / 'rota' / 'rota.db'}" in result.stdout


def test_a_system_crontab_that_is_taken_for_a_user_s_is_noticed(rota: Call, tmp_path: Path):
    file = tmp_path / "copied"
    file.write_text("17 * * * * root cd / && run-parts /etc/cron.hourly\n")

    said = rota("import", "crontab", str(file), "--plan").stderr
    assert "(root): if this is a system crontab, import it with --system" in said
    assert "--system" not in rota("import", "crontab", str(file), "--plan", "--system").stderr
    file.write_text("17 * * * * true\n")
    assert "--system" not in rota("import", "crontab", str(file), "--plan").stderr


def test_periods_are_shown_as_json(rota: Call, url: str):
    rota("job", "add", "sales", "--shell", "true", "--period", "year", "--period-start", "2024")
    look_at_periods(Database(url))

    first, second, *_ = json.loads(rota("period", "list", "sales", "--json").stdout)
    tree = json.loads(rota("period", "tree", "sales", "--json").stdout)

    assert (first["period"], first["state"], first["start"]) == ("2024", "in_progress", "2024-01-01T00:00:00.000000Z")
    assert (second["period"], second["state"], second["finished_at"]) == ("2025", "open", None)
    assert tree["oldest_unfinished"] == first


def test_people_are_shown_moments_to_the_second_and_programs_exactly(rota: Call):
    rota("job", "add", "j", "--shell", "true")
    rota("job", "run", "j", "--at", "2030-11-20T07:00:00.25Z")

    shown, told = rota("run", "show", "1").stdout, rota("why", "run", "1").stdout
    exact = json.loads(rota("run", "show", "1", "--json").stdout)

    assert fact(shown, "run_at") == "2030-11-20T07:00:00Z"
    assert "it may start at 2030-11-20T07:00:00Z, in " in told
    assert exact["run_at"] == "2030-11-20T07:00:00.250000Z"
    assert "000Z" not in shown + told


def test_slots_are_shown_to_people_exactly_as_they_are_copied(rota: Call):
    rota("job", "add", "j", "--shell", "true")
    rota("schedule", "add", "s", "j", "--at", "2030-11-20T07:00:00.25Z")

    assert fact(rota("schedule", "show", "s").stdout, "next_slot") == "2030-11-20T07:00:00.250000Z"
    assert "its next slot is 2030-11-20T07:00:00.250000Z" in rota("why", "schedule", "s").stdout
