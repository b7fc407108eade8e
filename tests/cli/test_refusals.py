"""Bad input at the command line: refused with field, value and rule, and nothing stored."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call, read, refusal


@pytest.fixture
def rota_with_job(rota: Call) -> Call:
    read(rota("job", "add", "hello", "--shell", "echo hello", "--json"))
    return rota


@pytest.mark.parametrize(
    ("words", "field", "value", "rule"),
    [
        (["--cron", "???"], "cron", "???", ""),
        (["--cron", "60 * * * *"], "cron", "60 * * * *", ""),
        (["--cron", "a b c d e f"], "cron", "a b c d e f", ""),
        (["--cron", "0 0 30 2 *"], "cron", "0 0 30 2 *", "must fire"),
        (["--cron", "@reboot"], "cron", "@reboot", ""),
        (["--cron", "0 7 * * *", "--tz", "JST-9"], "tz", "JST-9", "IANA"),
        (["--every", "1.5x"], "every", "1.5x", "duration"),
        (["--every", "-1d"], "every", "-1d", "negative"),
        (["--every", "0s"], "every", "0s", "zero"),
        (["--every", "1m", "--delay", "-1d"], "delay", "-1d", "negative"),
        (["--every", "1m", "--start-within", "0s"], "start_within", "0s", "zero"),
        (["--every", "1m", "--catch-up", "some"], "catch_up", "some", "latest"),
        (["--every", "1m", "--overlap", "maybe"], "overlap", "maybe", "skip"),
        (["--every", "1m", "--args", "{bad"], "args", "{bad", "JSON"),
        (["--every", "1m", "--args", "[1]"], "args", None, "object"),
    ],
)
def test_a_schedule_that_breaks_a_rule_is_refused_and_not_stored(rota_with_job, words, field, value, rule):
    result = rota_with_job("schedule", "add", "s", "hello", *words, "--json")

    error = refusal(result)
    assert result.exit_code == 2
    assert (error["code"], error["field"]) == ("invalid", field)
    assert value is None or error["value"] == value
    assert rule in error["rule"]
    assert read(rota_with_job("schedule", "list", "--json")) == []


@pytest.mark.parametrize(
    ("name", "words", "field"),
    [
        ("", ["--shell", "true"], "name"),
        ("n" * 201, ["--shell", "true"], "name"),
        ("two\nlines", ["--shell", "true"], "name"),
        ("bell\a", ["--shell", "true"], "name"),
        ("job", ["--shell", "true", "--timeout", "1.5x"], "timeout"),
        ("job", ["--shell", "true", "--timeout", "0s"], "timeout"),
        ("job", ["--shell", "true", "--lease", "-1d"], "lease"),
        ("job", ["--shell", "true", "--retries", "many"], "retries"),
        ("job", ["--shell", "true", "--delivery", "never"], "delivery"),
        ("job", ["--shell", "true", "--backoff", "wild"], "backoff"),
        ("job", ["--shell", "true", "--priority", "high"], "priority"),
        ("job", ["--shell", "true", "--cwd", "relative"], "cwd"),
        ("job", ["--shell", "true", "--retry-on", "timout"], "retry_on"),
        ("job", ["--shell", "true", "--no-retry-on", "exit:0"], "no_retry_on"),
        ("job", ["--shell", "true", "--backoff", "random"], "backoff"),
        ("job", ["--shell", "true", "--deadline", "0"], "deadline"),
        ("job", ["--shell", "true", "--no-op-exit-code", "0"], "no_op_exit_code"),
        ("job", ["--shell", "true", "--no-op-exit-code", "7", "--cancel-exit-code", "7"], "cancel_exit_code"),
        ("job", ["--shell", "true", "--breaker-failures", "0"], "breaker_failures"),
        ("job", ["--shell", "true", "--breaker-pause", "soon"], "breaker_pause"),
        ("job", ["--shell", "true", "--variable", "=x"], "variable"),
        ("job", ["--shell", "true", "--variable", "ROTA_DB=x"], "variables"),
        ("job", ["--shell", "true", "--if-exists", "panic"], "if_exists"),
        ("job", ["--shell", "true", "--secret", "A-B"], "secrets"),
        ("job", ["--shell", "true", "--secret", "A", "--secret", "A"], "secrets"),
        ("job", ["--shell", "true", "--secret", "A", "--variable", "A=1"], "secrets"),
        ("job", ["--shell", "true", "--memory-max", "much"], "memory_max"),
        ("job", ["--shell", "true", "--cpu-max", "0s"], "cpu_max"),
        ("job", ["--shell", "true", "--processes-max", "0"], "processes_max"),
        ("job", ["--shell", "true", "--nice", "-21"], "nice"),
        ("job", ["--shell", "true", "--ionice", "realtime"], "ionice"),
        ("job", ["--shell", "true", "--umask", "888"], "umask"),
        ("job", ["--shell", "true", "--run-as-group", "a b"], "run_as_groups"),
        ("job", ["--shell", " "], "shell"),
        ("job", ["--call", "no colon"], "call"),
        ("job", ["--command"], "command"),
        ("job", ["--shell", "true", "--", "ls"], "command"),
        ("job", ["--shell", "true", "--call", "a:b"], "job"),
        ("job", [], "job"),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused_and_not_stored(rota, name, words, field):
    result = rota("job", "add", "--json", name, *words)

    assert result.exit_code == 2
    assert refusal(result)["field"] == field
    assert read(rota("job", "list", "--json")) == []


@pytest.mark.parametrize(
    ("args", "rule"),
    [
        ("{bad", "JSON"),
        ('{"a": NaN}', ""),
        ("7", "object"),
        ('{"a": "' + "x" * 1024 * 1024 + '"}', "1 MiB"),
    ],
)
def test_arguments_that_are_no_json_object_or_too_large_are_refused_and_nothing_is_enqueued(rota_with_job, args, rule):
    result = rota_with_job("job", "run", "hello", "--args", "-", "--json", stdin=args)

    error = refusal(result)
    assert result.exit_code == 2
    assert error["field"] == "args"
    assert rule.lower().replace("1 mib", "1048576") in error["rule"].lower().replace("1 mib", "1048576")
    assert read(rota_with_job("run", "list", "--json")) == []


def test_a_name_that_is_taken_is_refused_and_the_job_stays_as_it_was(rota_with_job):
    result = rota_with_job("job", "add", "hello", "--shell", "echo other", "--json")

    assert result.exit_code == 1
    assert refusal(result)["code"] == "already-exists"
    assert read(rota_with_job("job", "show", "hello", "--json"))["shell"] == "echo hello"


def test_a_name_that_is_taken_may_be_updated_or_skipped_on_request(rota_with_job):
    skipped = read(rota_with_job("job", "add", "hello", "--shell", "echo other", "--if-exists", "skip", "--json"))
    updated = read(rota_with_job("job", "add", "hello", "--shell", "echo other", "--if-exists", "update", "--json"))

    assert (skipped["shell"], updated["shell"]) == ("echo hello", "echo other")


@pytest.mark.parametrize(
    "words",
    [
        ["job", "show", "nope"],
        ["job", "run", "nope"],
        ["job", "pause", "nope"],
        ["job", "delete", "nope"],
        ["schedule", "show", "nope"],
        ["schedule", "next", "nope"],
        ["schedule", "add", "s", "nope", "--every", "1m"],
        ["schedule", "resume", "nope"],
        ["run", "show", "4711"],
        ["run", "logs", "4711"],
        ["run", "cancel", "4711"],
        ["run", "list", "--job", "nope"],
        ["node", "show", "nope"],
        ["node", "drain", "nope"],
        ["node", "resume", "nope"],
        ["pool", "pause", "nope"],
        ["pool", "resume", "nope"],
        ["why", "run", "4711"],
        ["why", "job", "nope"],
        ["why", "schedule", "nope"],
    ],
)
def test_what_is_not_there_is_named_and_the_exit_code_is_1(rota, words):
    result = rota(*words)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: there is no ")
    assert words[-1] in line or "nope" in line


@pytest.mark.parametrize("run_id", ["0", "x", "-1", "99999999999999999999"])
def test_what_is_no_number_of_a_run_is_refused(rota, run_id):
    result = rota("run", "show", "--json", "--", run_id)

    assert result.exit_code == 2
    assert refusal(result)["field"] == "run"


@pytest.mark.parametrize("url", ["nonsense", "oracle://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_wrong_database_url_is_refused(rota, url):
    result = rota("job", "list", "--db", url)

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_database_that_was_not_upgraded_is_refused_with_the_command_that_does(rota, tmp_path):
    result = rota("job", "list", "--db", f"sqlite:///{tmp_path / 'new.db'}", "--json")

    error = refusal(result)
    assert (result.exit_code, error["code"]) == (1, "database-version")
    assert "rota db upgrade" in error["message"]


def test_a_flag_of_a_later_version_is_unknown(rota):
    result = rota("job", "add", "x", "--shell", "true", "--quota", "day")

    assert result.exit_code == 2
    assert "--quota" in result.stderr


def test_control_characters_of_what_was_refused_never_reach_the_terminal(rota, tmp_path):
    file = tmp_path / "rota.toml"
    file.write_text('"a\\u0007bell" = 1')

    for words in (["job", "show", "a\abell"], ["job", "list", "--a\abell"], ["job", "list", "--config", str(file)]):
        result = rota(*words)

        assert result.exit_code != 0
        assert "\a" not in result.stderr
        assert "x07bell" in result.stderr


def test_an_error_of_a_file_of_settings_names_it(rota, tmp_path):
    file = tmp_path / "rota.toml"
    file.write_text("leese = 3")

    result = rota("job", "list", "--config", str(file))

    assert result.exit_code == 2
    assert str(file) in result.stderr
    assert "did you mean lease?" in result.stderr


def test_none_is_a_choice_of_what_to_catch_up_and_takes_other_values_away(rota):
    rota("job", "add", "hello", "--shell", "true")
    rota("schedule", "add", "each", "hello", "--every", "1h", "--catch-up", "none", "--start-within", "5m")

    def shown(name):
        return read(rota("schedule", "show", "each", "--json"))[name]

    assert (shown("catch_up"), shown("start_within")) == ("none", 300.0)
    rota("schedule", "edit", "each", "--catch-up", "latest", "--start-within", "none")
    assert (shown("catch_up"), shown("start_within")) == ("latest", None)
    rota("schedule", "edit", "each", "--catch-up", "none")
    assert shown("catch_up") == "none"
    assert refusal(rota("schedule", "edit", "each", "--overlap", "none", "--json"))["field"] == "overlap"


def test_secrets_are_named_changed_and_taken_away_by_a_flag(rota):
    rota("job", "add", "hello", "--shell", "true", "--secret", "TOKEN", "--secret", "DB_PASSWORD")

    def shown():
        return read(rota("job", "show", "hello", "--json"))["secrets"]

    assert shown() == ["DB_PASSWORD", "TOKEN"]
    assert "DB_PASSWORD" in rota("job", "show", "hello").output
    rota("job", "edit", "hello", "--secret", "OTHER")
    assert shown() == ["OTHER"]
    refused = refusal(rota("job", "edit", "hello", "--secret", "none", "--secret", "A", "--json"))
    assert (refused["field"], refused["value"]) == ("secrets", "none")
    assert shown() == ["OTHER"]
    rota("job", "edit", "hello", "--secret", "none")
    assert shown() == []


def test_limits_are_given_changed_and_taken_away_by_flags(rota):
    limits = ["--memory-max", "512M", "--cpu-max", "90s", "--open-files-max", "64", "--processes-max", "20"]
    rota("job", "add", "hello", "--shell", "true", *limits, "--nice", "-5", "--ionice", "idle", "--umask", "77")
    rota("job", "edit", "hello", "--run-as-group", "adm", "--run-as-group", "users")

    def shown(*names):
        view = read(rota("job", "show", "hello", "--json"))
        return [view[name] for name in names]

    assert shown("memory_max", "cpu_max", "open_files_max", "processes_max") == [512 << 20, 90, 64, 20]
    assert shown("nice", "ionice", "umask", "run_as_groups") == [-5, "idle", "077", ["adm", "users"]]
    rota("job", "edit", "hello", "--memory-max", "none", "--nice", "none", "--run-as-group", "none")
    assert shown("memory_max", "nice", "run_as_groups", "umask") == [None, None, None, "077"]


def test_a_worker_that_cannot_begin_is_no_node(rota, start_rota, tmp_path):
    folder = tmp_path / ("x" * 120)  # too long for the sockets in it

    process = start_rota("worker", "--name", "w", "--state-dir", str(folder))

    assert process.wait(60) == 2
    assert read(rota("node", "list", "--json")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job", "add", "x", "--sql", "select 1"], "timeout is not given: on SQLite, where one writes at a time"),
        (["job", "add", "x", "--sql", "select 1", "--timeout", "30s"], "timeout '30s' is refused: on SQLite"),
        (["job", "add", "x"], "job is refused: it has exactly one of call, command, shell and sql"),
        (
            ["job", "add", "x", "--shell", "true", "--call", "a:b"],
            "job 'call and shell' is refused: it has exactly one",
        ),
        (["schedule", "add", "x", "hello"], "schedule is refused: it has at least one of"),
        (
            ["job", "add", "x", "--shell", "true", "--keep", "succeeded"],
            "keep 'succeeded' is refused: it is STATE=DURATION, such as succeeded=7d or failed=forever, with a state "
            "of cancelled, failed, lost, missed, skipped, succeeded; or a duration, or forever, for all of them",
        ),
        (
            ["job", "add", "x", "--shell", "true", "--keep", "7d", "--keep", "failed=9d"],
            "keep '7d' is refused: it is STATE=DURATION",
        ),
        (
            ["job", "add", "x", "--shell", "true", "--max-parallel", "0"],
            "max_parallel 0 is refused: it is a whole number from 1",
        ),
        (["job", "add", "x", "--shell", "true", "--max-parallel", "2"], "give on=all too"),
    ],
)
def test_what_was_not_given_or_given_twice_is_named_as_it_is_typed(rota_with_job, words, said):
    result = rota_with_job(*words)

    assert result.exit_code == 2
    assert said in result.stderr
