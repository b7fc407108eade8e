"""Definitions of jobs and schedules: what every door refuses, and what comes back from the store."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from rota.errors import Invalid
from rota.model.ending import Backoff
from rota.model.job import JobKind, JobSpec, Startup
from rota.model.schedule import ScheduleSpec
from rota.model.states import Delivery
from tests.model.slow_cron import instant

NOW = instant("2026-11-20T12:00")

FULL: dict[str, Any] = {
    "kind": "command",
    "target": ["/usr/bin/printf", "%s", "a b"],
    "pool": "reports",
    "timeout": "5m",
    "start_within": "15m",
    "delivery": "at_most_once",
    "retries": "forever",
    "lost_max": "2",
    "retry_delay": "0s",
    "backoff": "exponential",
    "retry_delay_max": "1h",
    "retry_on": ["exit:75", "OSError"],
    "no_retry_on": "timeout",
    "deadline": "2h",
    "no_op_exit_code": 99,
    "cancel_exit_code": "98",
    "breaker_failures": 5,
    "breaker_pause": "10m",
    "lease": 5,
    "priority": "-3",
    "stdin": "",
    "cwd": "/srv",
    "run_as": "www-data",
    "run_as_groups": ["www-data", "adm"],
    "memory_max": "1.5G",
    "cpu_max": "90.5s",
    "open_files_max": "64",
    "processes_max": 20,
    "nice": "-5",
    "ionice": "best-effort",
    "secrets": ["TOKEN", "DB_PASSWORD"],
    "umask": "27",
    "variables": {"B": "2", "A": ""},
    "startup": "cold",
    "alert": ["ops", "boss"],
    "alert_on": ["lost,late", "failure"],
    "alert_quiet": "1h",
}


def test_a_job_is_read_from_what_users_type() -> None:
    spec = JobSpec.checked("report", **FULL)

    assert spec == JobSpec(
        name="report",
        kind=JobKind.COMMAND,
        target=("/usr/bin/printf", "%s", "a b"),
        pool="reports",
        timeout_seconds=300,
        start_within_seconds=900,
        delivery=Delivery.AT_MOST_ONCE,
        retries=-1,
        lost_max=2,
        retry_delay_seconds=0,
        backoff=Backoff.EXPONENTIAL,
        retry_delay_max_seconds=3600,
        retry_on=("OSError", "exit:75"),
        no_retry_on=("timeout",),
        deadline_seconds=7200,
        no_op_exit_code=99,
        cancel_exit_code=98,
        breaker_failures=5,
        breaker_pause_seconds=600,
        lease_seconds=5,
        priority=-3,
        stdin="",
        cwd="/srv",
        run_as="www-data",
        run_as_groups=("www-data", "adm"),
        memory_max_bytes=3 << 29,
        cpu_max_seconds=91,
        open_files_max=64,
        processes_max=20,
        nice=-5,
        ionice="best-effort:4",
        secrets=("DB_PASSWORD", "TOKEN"),
        umask="027",
        variables={"A": "", "B": "2"},
        startup=Startup.COLD,
        alert=("boss", "ops"),
        alert_on=("failure", "lost", "late"),
        alert_quiet_seconds=3600,
    )


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec.checked("report", **FULL),
        JobSpec.checked("hello", kind="shell", target="echo hello $ROTA_RUN_ID"),
        JobSpec.checked("call", kind="call", target="app.jobs:Reports.sales"),
        JobSpec.checked("call", kind="call", target="app.jobs:Reports.sales", delivery="transactional"),
        JobSpec.checked("tidy", kind="sql", target=["select 1", "select 2"], connection="warehouse"),
        JobSpec.checked(
            "everywhere",
            kind="shell",
            target="true",
            on="all",
            max_parallel=2,
            prefer=["gpu=yes", "web1"],
            exclude="web2",
            retry_node="other",
            max_running=3,
            mutexes=["b", "a", "b"],
            concurrency_key="tenant",
            max_per_key=2,
            rate="100/1h30m",
            keep={"failed": "forever", "succeeded": "7d"},
            after=["load", "clean", "load"],
            upstream_failure="skip",
        ),
        JobSpec.checked("small", kind="call", target="app.jobs:ping", executor="async", cwd="/srv", lease="5s"),
    ],
)
def test_a_job_comes_back_from_its_definition_by_way_of_json(spec: JobSpec) -> None:
    text = json.dumps(spec.definition(), sort_keys=True)

    assert JobSpec.from_definition(json.loads(text)) == spec
    assert json.dumps(JobSpec.from_definition(json.loads(text)).definition(), sort_keys=True) == text


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("kind", {"kind": "python"}),
        ("sql", {"kind": "sql", "target": []}),
        ("sql", {"kind": "sql", "target": ["select 1", " "]}),
        ("sql", {"kind": "sql", "target": ["select 1"] * 101}),
        ("sql", {"kind": "sql", "target": 1}),
        ("connection", {"connection": "rota"}),
        ("connection", {"kind": "sql", "target": "select 1", "connection": "a b"}),
        ("delivery", {"delivery": "transactional"}),
        ("delivery", {"kind": "sql", "target": "select 1", "connection": "other", "delivery": "transactional"}),
        ("env", {"kind": "call", "target": "a:b", "env": "shop", "delivery": "transactional"}),
        ("env", {"kind": "sql", "target": "select 1", "env": "shop"}),
        ("call", {"kind": "call", "target": "app.jobs"}),
        ("call", {"kind": "call", "target": "app jobs:run"}),
        ("call", {"kind": "call", "target": "../app:run"}),
        ("call", {"kind": "call", "target": None}),
        ("command", {"kind": "command", "target": "ls -l"}),
        ("command", {"kind": "command", "target": []}),
        ("command", {"kind": "command", "target": [""]}),
        ("command", {"kind": "command", "target": ["ls", 1]}),
        ("command", {"kind": "command", "target": ["ls", "a\0"]}),
        ("shell", {"kind": "shell", "target": "  "}),
        ("shell", {"kind": "shell", "target": ["ls"]}),
        ("shell", {"kind": "shell", "target": "x" * 2_000_000}),
        ("pool", {"pool": "a b"}),
        ("timeout", {"timeout": "1.5x"}),
        ("timeout", {"timeout": "-1d"}),
        ("timeout", {"timeout": "0s"}),
        ("start_within", {"start_within": "0s"}),
        ("start_within", {"start_within": "0.5s"}),
        ("delivery", {"delivery": "exactly_once"}),
        ("retries", {"retries": -2}),
        ("retries", {"retries": 1.5}),
        ("retries", {"retries": True}),
        ("retries", {"retries": "many"}),
        ("lost_max", {"lost_max": -1}),
        ("retry_delay", {"retry_delay": "soon"}),
        ("backoff", {"backoff": "linear"}),
        ("lease", {"lease": "0.5s"}),
        ("lease", {"lease": "2d"}),
        ("priority", {"priority": 10**9}),
        ("stdin", {"stdin": "\ud800"}),
        ("stdin", {"stdin": b"x"}),
        ("cwd", {"cwd": "srv"}),
        ("run_as", {"run_as": "root:root"}),
        ("startup", {"startup": "hot"}),
        ("executor", {"executor": "fibre"}),
        ("on", {"on": "some"}),
        ("max_parallel", {"on": "all", "max_parallel": 0}),
        ("max_parallel", {"max_parallel": 2}),
        ("prefer", {"prefer": "a b"}),
        ("prefer", {"prefer": ["=yes"]}),
        ("prefer", {"prefer": 1}),
        ("exclude", {"exclude": ["gpu="]}),
        ("exclude", {"exclude": [f"n{number}" for number in range(51)]}),
        ("retry_node", {"retry_node": "same"}),
        ("max_running", {"max_running": 0}),
        ("max_running", {"max_running": -1}),
        ("max_running", {"max_running": 1.5}),
        ("max_running", {"max_running": True}),
        ("max_running", {"max_running": 10_001}),
        ("mutexes", {"mutexes": "a b"}),
        ("mutexes", {"mutexes": 5}),
        ("mutexes", {"mutexes": [f"m{number}" for number in range(21)]}),
        ("concurrency_key", {"concurrency_key": "a-b"}),
        ("max_per_key", {"max_per_key": "0"}),
        ("rate", {"rate": 5}),
        ("rate", {"rate": "5"}),
        ("rate", {"rate": "0/1h"}),
        ("rate", {"rate": "5/0s"}),
        ("rate", {"rate": "many/1h"}),
        ("rate", {"rate": "5/0.5s"}),
        ("after", {"after": "a b"}),
        ("after", {"after": 5}),
        ("after", {"after": ["job"], "name": "job"}),
        ("after", {"after": [f"job{number}" for number in range(101)]}),
        ("upstream_failure", {"upstream_failure": "retry"}),
        ("keep", {"keep": "soon"}),
        ("keep", {"keep": {"running": "1d"}}),
        ("keep.failed", {"keep": {"failed": "1s"}}),
        ("executor", {"executor": "thread"}),
        ("executor", {"kind": "command", "target": ["ls"], "executor": "async"}),
        *(
            (name, {"kind": "call", "target": "app:work", "executor": "thread", name: value})
            for name, value in {
                "env": "shop",
                "run_as": "www-data",
                "run_as_groups": ["adm"],
                "stdin": "x",
                "memory_max": "1G",
                "cpu_max": "5s",
                "open_files_max": 64,
                "processes_max": 9,
                "nice": 5,
                "ionice": "idle",
                "umask": "077",
                "startup": "cold",
                "secrets": ["TOKEN"],
                "delivery": "transactional",
            }.items()
        ),
        ("run_as", {"run_as": ""}),
        ("run_as_groups", {"run_as_groups": "adm"}),
        ("run_as_groups", {"run_as_groups": []}),
        ("run_as_groups", {"run_as_groups": ["a:b"]}),
        ("run_as_groups", {"run_as_groups": [5]}),
        ("run_as_groups", {"run_as_groups": {"adm": 1}}),
        ("memory_max", {"memory_max": "64"}),
        ("memory_max", {"memory_max": "much"}),
        ("memory_max", {"memory_max": "-1G"}),
        ("memory_max", {"memory_max": "9999999T"}),
        ("memory_max", {"memory_max": 1e9}),
        ("memory_max", {"memory_max": True}),
        ("cpu_max", {"cpu_max": "0.5s"}),
        ("cpu_max", {"cpu_max": "soon"}),
        ("open_files_max", {"open_files_max": 2}),
        ("open_files_max", {"open_files_max": "many"}),
        ("processes_max", {"processes_max": 0}),
        ("processes_max", {"processes_max": 10**9}),
        ("nice", {"nice": 20}),
        ("nice", {"nice": "-21"}),
        ("nice", {"nice": 1.0}),
        ("ionice", {"ionice": "fast"}),
        ("ionice", {"ionice": "realtime"}),
        ("ionice", {"ionice": "best-effort:8"}),
        ("ionice", {"ionice": "idle:1"}),
        ("umask", {"umask": 27}),
        ("umask", {"umask": "089"}),
        ("umask", {"umask": "1777"}),
        ("secrets", {"secrets": "DB_PASSWORD"}),
        ("secrets", {"secrets": ["1A"]}),
        ("secrets", {"secrets": ["DB PASSWORD"]}),
        ("secrets", {"secrets": ["PÄSSWORD"]}),
        ("secrets", {"secrets": ["A" * 101]}),
        ("secrets", {"secrets": [""]}),
        ("secrets", {"secrets": [5]}),
        ("secrets", {"secrets": ["ROTA_DB"]}),
        ("secrets", {"secrets": ["A", "B", "A"]}),
        ("secrets", {"secrets": ["A"], "variables": {"A": "x"}}),
        ("secrets", {"secrets": [f"A{number}" for number in range(51)]}),
        ("variables", {"variables": {"1A": "x"}}),
        ("variables", {"variables": {"A=B": "x"}}),
        ("variables", {"variables": {"ROTA_DB": "x"}}),
        ("variables", {"variables": ["A=1"]}),
        ("variables.A", {"variables": {"A": 1}}),
        ("variables.A", {"variables": {"A": "x\0"}}),
        ("name", {"name": ""}),
    ],
)
def test_a_job_with_a_value_that_breaks_its_rule_is_refused_under_its_name(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        JobSpec.checked(**{"name": "n", "kind": "shell", "target": "true", **changes})

    assert refused.value.field == field
    assert refused.value.rule


def test_editing_a_job_changes_what_is_named_and_none_gives_back_the_default() -> None:
    spec = JobSpec.checked("report", **FULL)

    edited = spec.edited(timeout=None, retries=None, priority=7, kind="shell", target="true")

    assert (edited.timeout_seconds, edited.retries, edited.priority) == (None, 0, 7)
    assert (edited.kind, edited.target) == (JobKind.SHELL, "true")
    assert (edited.pool, edited.delivery, edited.variables) == (spec.pool, spec.delivery, spec.variables)
    for wrong in ({"tmieout": "5m"}, {"kind": "shell"}, {"timeout": "0s"}):
        with pytest.raises(Invalid):
            spec.edited(**wrong)


def test_statements_on_rotas_own_database_are_transactional_unless_told() -> None:
    own = JobSpec.checked("tidy", kind="sql", target="select 1")
    elsewhere = JobSpec.checked("tidy", kind="sql", target="select 1", connection="warehouse")

    assert (own.target, own.connection, own.delivery) == (("select 1",), "rota", Delivery.TRANSACTIONAL)
    assert (elsewhere.connection, elsewhere.delivery) == ("warehouse", Delivery.AT_LEAST_ONCE)
    assert own.edited(delivery="at_most_once").delivery is Delivery.AT_MOST_ONCE
    shell = own.edited(kind="shell", target="true", delivery="at_least_once")
    assert (shell.connection, shell.delivery) == (None, Delivery.AT_LEAST_ONCE)


def test_a_field_that_no_job_has_is_refused() -> None:
    definition = JobSpec.checked("a", kind="shell", target="true").definition()

    with pytest.raises(Invalid, match="a job has no such field"):
        JobSpec.from_definition({**definition, "on": "all"})
    with pytest.raises(Invalid, match="a schedule has no such field"):
        ScheduleSpec.from_definition({"name": "a", "job": "b", "kind": "cron", "expression": "@daily", "colour": "red"})


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("schedule", {}),
        ("gap", {"cron": "@daily", "gap": "jump"}),
        ("fold", {"cron": "@daily", "fold": "twice"}),
        ("interval", {"interval": "3 moons"}),
        ("weekly", {"weekly": "someday 07:00"}),
        ("every", {"every": 0}),
        ("calendars", {"cron": "@daily", "calendars": {"a": 1}}),
        ("cron", {"cron": "???"}),
        ("cron", {"cron": "0 0 30 2 *"}),
        ("cron", {"cron": 5}),
        ("tz", {"cron": "@daily", "tz": "JST-9"}),
        ("every", {"every": "0s"}),
        ("every", {"every": "0.5s"}),
        ("every", {"every": "-1d"}),
        ("at", {"at": "soon"}),
        ("anchor", {"cron": "@daily", "anchor": "2026-01-01"}),
        ("anchor", {"every": "1h", "anchor": "then"}),
        ("delay", {"cron": "@daily", "delay": "-5s"}),
        ("start_within", {"cron": "@daily", "start_within": 0}),
        ("catch_up", {"cron": "@daily", "catch_up": "some"}),
        ("catch_up_limit", {"cron": "@daily", "catch_up_limit": 0}),
        ("catch_up_limit", {"cron": "@daily", "catch_up_limit": 100_000}),
        ("overlap", {"cron": "@daily", "overlap": "wait"}),
        ("in_order", {"cron": "@daily", "in_order": "yes", "catch_up": "all"}),
        ("args", {"cron": "@daily", "args": "{"}),
        ("args", {"cron": "@daily", "args": "[]"}),
        ("args", {"cron": "@daily", "args": ["a"]}),
        ("args", {"cron": "@daily", "args": {"x": "x" * 1_100_000}}),
        ("job", {"cron": "@daily", "job": ""}),
        ("key", {"cron": "@daily", "name": "a\tb"}),
    ],
)
def test_a_schedule_with_a_value_that_breaks_its_rule_is_refused_under_its_name(
    field: str, options: dict[str, Any]
) -> None:
    with pytest.raises(Invalid) as refused:
        ScheduleSpec.checked(**{"name": "n", "job": "j", **options})

    assert refused.value.field == field


@pytest.mark.parametrize(
    "spec",
    [
        ScheduleSpec.checked("late", job="hello", cron="0 7 * * *", tz="Europe/Amsterdam", start_within="5m", delay=30),
        ScheduleSpec.checked(
            "tick", job="hello", every="2s", anchor="2026-11-20", catch_up="all", args={"b": 1, "a": 2}
        ),
        ScheduleSpec.checked("each", job="hello", cron="@daily", catch_up="all", in_order=True),
        ScheduleSpec.checked("once", job="hello", at="2026-12-01T07:00", tz="Asia/Tokyo", overlap="allow"),
        ScheduleSpec.checked(
            "all",
            job="hello",
            cron=["H 7 * * *", "0 12 * * 5"],
            at="2026-12-24T10:00",
            weekly="sat 09:00",
            interval="3 months at 09:00",
            anchor="2026-01-31",
            tz="Europe/Amsterdam",
            gap="skip",
            fold="both",
            start="2026-01-01",
            end="2030-01-01",
            first_run="2026-12-01T05:00",
            calendars=["work", "freeze"],
            on_closed="next",
            jitter="10s",
            catch_up="all",
            catch_up_order="newest",
            overlap="queue",
        ),
    ],
)
def test_a_schedule_comes_back_from_its_definition_and_from_its_columns(spec: ScheduleSpec) -> None:
    definition = spec.definition()

    assert ScheduleSpec.from_definition(json.loads(json.dumps(definition))) == spec
    assert ScheduleSpec.from_definition({**definition, "anchor_at": spec.anchor_at, "args": spec.args}) == spec


def test_contradictory_options_are_refused() -> None:
    for field, options in (
        ("overlap", {"catch_up": "all", "overlap": "replace"}),
        ("in_order", {"in_order": True}),
        ("catch_up_order", {"in_order": True, "catch_up": "all", "catch_up_order": "newest"}),
        ("start_within", {"in_order": True, "catch_up": "all", "start_within": "1h"}),
        ("end", {"start": "2026-12-02", "end": "2026-12-01"}),
        ("first_run", {"first_run": "2026-12-02", "end": "2026-12-01"}),
        ("first_run", {"first_run": "2026-12-01", "start": "2026-12-02"}),
        ("on_closed", {"on_closed": "next"}),
        ("jitter", {"jitter": "2d"}),
    ):
        with pytest.raises(Invalid) as refused:
            ScheduleSpec.checked("n", job="j", cron="@daily", **options)
        assert refused.value.field == field


def test_what_is_allowed_and_may_surprise_is_explained() -> None:
    spec = ScheduleSpec.checked("n", job="j", cron="0 7 * * *", catch_up="all", start_within="30m")

    assert ["catch-up all with a start window of 30m" in note for note in spec.notes()] == [True]


def test_the_first_run_is_the_first_slot_and_changes_no_other() -> None:
    spec = ScheduleSpec.checked("n", job="j", every="1h", anchor=NOW, first_run=NOW + timedelta(minutes=90))

    assert spec.first_slot(NOW) == NOW + timedelta(minutes=90)
    assert spec.timing(NOW).next(NOW + timedelta(minutes=90)) == NOW + timedelta(hours=2)
    assert spec.first_slot(NOW + timedelta(days=1)) == NOW + timedelta(hours=25)  # it has been


def test_a_new_timing_takes_the_place_of_the_old_one() -> None:
    spec = ScheduleSpec.checked("n", job="j", every="1h", anchor="2026-11-20", delay="5s")

    edited = spec.edited(cron="@daily", tz="Asia/Tokyo")

    assert (edited.kind, edited.expression, edited.zone, edited.anchor_at) == ("cron", "@daily", "Asia/Tokyo", None)
    assert edited.delay_seconds == 5
    assert spec.edited(delay=None).delay_seconds == 0
    assert spec.edited(delay=None).anchor_at == spec.anchor_at
    with pytest.raises(Invalid, match="a schedule has no such field"):
        spec.edited(colour="red")


def test_the_first_slot_lies_ahead_and_a_schedule_that_has_none_is_refused() -> None:
    assert ScheduleSpec.checked("n", job="j", every="1h").first_slot(NOW) == NOW + timedelta(hours=1)
    with pytest.raises(Invalid, match="due after now"):
        ScheduleSpec.checked("n", job="j", at=NOW).first_slot(NOW)


def test_the_start_window_of_a_schedule_goes_before_its_jobs() -> None:
    own = ScheduleSpec.checked("n", job="j", cron="@daily", start_within="1m")
    silent = ScheduleSpec.checked("n", job="j", cron="@daily")

    assert own.rule(NOW, {}, 900).window_seconds(NOW) == 60
    assert silent.rule(NOW, {}, 900).window_seconds(NOW) == 900
    assert silent.rule(NOW).window_seconds(instant("2026-11-20T00:00")) == 86400


def test_a_secret_s_value_given_with_its_name_is_not_shown_when_that_is_refused() -> None:
    with pytest.raises(Invalid, match=r"secrets 'DB_PASSWORD=\.\.\.' is refused") as refused:
        JobSpec.checked("n", kind="shell", target="true", secrets=["DB_PASSWORD=hunter2"])

    assert "hunter2" not in str(vars(refused.value))


def test_the_secrets_of_a_job_are_changed_as_a_whole_and_taken_away() -> None:
    spec = JobSpec.checked("n", kind="shell", target="true", secrets=["B", "A"])

    assert spec.secrets == ("A", "B")
    assert spec.edited(secrets=["C"]).secrets == ("C",)
    assert spec.edited(secrets="none").secrets == spec.edited(secrets=None).secrets == ()
    with pytest.raises(Invalid, match="the job's variables set it"):
        spec.edited(variables={"A": "1"})
