"""``rota check``, and what ``rota status`` and ``rota why`` say of the same things."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from rota.client import Rota
from rota.model.run import NodeIdentity
from rota.store.nodes import register_node
from tests.cli.conftest import Call, read, refusal


@pytest.fixture
def client(url: str) -> Iterator[Rota]:
    made = Rota(url)
    yield made
    made.close()


@pytest.fixture
def alive(client: Rota) -> None:
    register_node(
        client.database,
        NodeIdentity("", "holder", "boot"),
        host="alpha",
        pid=1,
        pid_started=1,
        pools=["default"],
        slots=4,
        version="0.1.0",
        lease_seconds=600.0,
        wanted="a",
    )


def age(client: Rota, seconds: int) -> None:
    """Let what waits have waited for longer than it has."""
    back = f"strftime('%Y-%m-%d %H:%M:%f000', {{}}, '-{seconds} seconds')"
    for table, column in (("rota_run", "run_at"), ("rota_run", "enqueued_at"), ("rota_event", "at")):
        statement = text(f"update {table} set {column} = {back.format(column)}")
        client.database.write(lambda connection, statement=statement: connection.execute(statement), repeatable=False)


@pytest.mark.usefixtures("alive")
def test_where_nothing_is_found_it_is_ok(rota: Call) -> None:
    plain, plugin = rota("check"), rota("check", "--nagios")

    assert (plain.exit_code, plain.stdout) == (0, "ok: ready 0, running 0, late 0, nodes 1, cgroups 0\n")
    assert (plugin.exit_code, plugin.stdout) == (
        0,
        "ROTA OK - nodes 1, running 0 | ready=0 running=0 late=0 nodes=1\n",
    )
    assert read(rota("check", "--json"))["findings"] == []


@pytest.mark.usefixtures("alive")
def test_what_is_late_is_a_warning_or_critical_by_the_thresholds(rota: Call, client: Rota) -> None:
    client.jobs.add("job", shell="true")
    run_id = client.enqueue("job").id
    age(client, 120)

    warning = rota("check", "--nagios")
    critical = rota("check", "--nagios", "--critical-late", "90s")
    patient = rota("check", "--warning-late", "5m")

    assert warning.exit_code == 1
    assert warning.stdout.startswith("ROTA WARNING - 1 run is ready in pool default, for up to 2m")
    assert warning.stdout.endswith(
        f"run {run_id} of job; its nodes do not take them | ready=1 running=0 late=1 nodes=1\n"
    )
    assert critical.exit_code == 2
    assert critical.stdout.startswith("ROTA CRITICAL - ")
    assert patient.exit_code == 0


def test_a_pool_without_a_node_is_critical_and_told_to_programs(rota: Call, client: Rota) -> None:
    client.jobs.add("job", shell="true")
    client.enqueue("job")

    result = rota("check", "--json")

    view = json.loads(result.stdout)
    assert result.exit_code == 2
    assert view["state"] == "critical"
    assert view["counts"] == {"ready": 1, "running": 0, "late": 0, "nodes": 0, "cgroups": 0}
    (finding,) = view["findings"]
    assert (finding["severity"], finding["code"], finding["subject"]) == ("critical", "scheduler_stopped", "cluster")
    assert finding["text"].startswith("no node has ever been there")
    assert client.check()["findings"] == view["findings"]
    assert "critical: no node has ever been there" in rota("check").stdout
    assert "critical: no node has ever been there" in rota("status").stdout
    assert read(rota("status", "--json"))["findings"] == view["findings"]


@pytest.mark.parametrize("flags", [(), ("--nagios",), ("--json",)])
def test_a_database_that_nobody_can_ask_is_unknown(rota: Call, flags: tuple[str, ...]) -> None:
    away = rota("check", *flags, "--db", "postgresql://nobody@127.0.0.1:1/rota")

    assert away.exit_code == 3
    if flags == ("--nagios",):
        assert away.stdout.startswith("ROTA UNKNOWN - the database does not answer: ")
        assert "|" not in away.stdout
    elif flags == ("--json",):
        assert json.loads(away.stdout)["state"] == "unknown"
    else:
        assert away.stderr.startswith("unknown: ")


def test_a_schema_that_does_not_fit_and_a_threshold_that_is_none_are_unknown(rota: Call, client: Rota) -> None:
    bad = rota("check", "--nagios", "--warning-late", "soon")
    unfit = text("update rota_schema set compatible_from = 99, version = 99")
    client.database.write(lambda connection: connection.execute(unfit), repeatable=False)

    wrong = rota("check", "--nagios")

    assert (bad.exit_code, wrong.exit_code) == (3, 3)
    assert "warning_late 'soon' is refused" in bad.stdout
    assert "upgrade the program" in wrong.stdout


@pytest.mark.usefixtures("alive")
def test_one_line_stays_one_line_whatever_a_text_holds(rota: Call, client: Rota) -> None:
    client.jobs.add("job", shell="true")
    for number in range(5):
        client.schedules.add(f"s{number}", job="job", cron="0 0 1 1 *")
    client.database.write(
        lambda connection: connection.execute(
            text("update rota_schedule set next_slot_at = '2020-01-01 00:00:00.000000', problem = :problem"),
            {"problem": "a | b\nc\x1b[31m"},
        ),
        repeatable=False,
    )

    result = rota("check", "--nagios")

    (line,) = result.stdout.splitlines()
    assert line.count("|") == 1
    assert "a / b c\\x1b[31m; " in line
    assert "; and 2 more | ready=0" in line


@pytest.mark.usefixtures("alive")
def test_why_reads_a_slot_as_it_is_typed(rota: Call, client: Rota) -> None:
    client.jobs.add("job", shell="true")
    client.schedules.add("nightly", job="job", cron="30 3 * * *", tz="Asia/Tokyo")

    day = rota("why", "schedule", "nightly", "2030-01-05")
    minute = read(rota("why", "schedule", "nightly", "2030-01-05T03:30", "--json"))

    assert day.stdout.startswith("slot 2030-01-04T18:30:00Z of schedule nightly: ahead\n  - it is ahead, in ")
    assert minute["subject"] == "slot 2030-01-04T18:30:00Z of schedule nightly"
    refused = rota("why", "schedule", "nightly", "tonight", "--json")
    assert refused.exit_code == 2
    assert refusal(refused)["code"] == "invalid"
