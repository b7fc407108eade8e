"""Broken jobs, broken rows, a database that goes away: what fails alone, what goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.cluster.cluster import TROUBLE, Cluster
from tests.cluster.conftest import open_cluster
from tests.conftest import SERVERS, assert_no_violations, migrate
from tests.servers import STARTERS, MariaDB, PostgreSQL

LOG_LINES_MAX = 30  # of a database that is away for some seconds


def test_a_job_that_cannot_be_done_fails_with_its_reason_and_the_worker_lives(cluster: Cluster) -> None:
    cluster.add_job("no_module", "call", "tests.cluster.no_such_module:work")
    cluster.add_job("no_function", "call", "tests.cluster.callables:no_such_function")
    cluster.add_job("not_json", "call", "tests.cluster.callables:not_json")
    cluster.add_job("no_command", "command", '["/no/such/program", "argument"]')
    cluster.add_shell("quick", "note quick")
    names = ("no_module", "no_function", "not_json", "no_command")
    run_ids = [cluster.enqueue(name)[0] for name in names]
    worker = cluster.start("a")

    assert cluster.wait_for_end(*run_ids) == {"failed"}

    by_name = {
        name: (cluster.run(run_id), cluster.attempts(run_id)[0]) for name, run_id in zip(names, run_ids, strict=True)
    }
    run, attempt = by_name["no_module"]
    assert (run.reason, attempt.error_type) == ("exception", "ModuleNotFoundError")
    assert "no_such_module" in attempt.error_message
    run, attempt = by_name["no_function"]
    assert run.reason == "exception"
    assert "no_such_function" in attempt.error_message
    run, attempt = by_name["not_json"]
    assert run.reason in {"bad_result", "exception"}
    assert "tests.cluster.callables:not_json returned something that cannot be kept" in attempt.error_message
    run, attempt = by_name["no_command"]
    assert (run.reason, attempt.error_type) == ("start_error", "FileNotFoundError")
    assert "/no/such/program" in attempt.error_message
    assert cluster.wait_for_end(*cluster.enqueue("quick")) == {"succeeded"}
    assert worker.trouble() == []


BROKEN = {
    "kind": {"kind": "nonsense"},
    "target not JSON": {"kind": "command", "target": "[not json"},
    "target no list": {"kind": "command", "target": "5"},
    "target empty": {"kind": "command", "target": "[]"},
    "target of numbers": {"kind": "command", "target": "[1, 2]"},
    "variables not JSON": {"variables": "{not json"},
    "variables no object": {"variables": "[1]"},
    "variables with a NUL": {"variables": '{"A": "\\u0000"}'},
    "backoff": {"backoff": "nonsense", "target": "false", "retries": 1},
    "folder": {"cwd": "/no/such/folder"},
    "user": {"run_as": "no such user"},
}


def test_a_broken_row_fails_with_a_reason_and_stops_nobody_else(cluster: Cluster) -> None:
    cluster.add_shell("good", "note good")
    broken: dict[str, int] = {}
    for number, (what, columns) in enumerate(BROKEN.items()):
        cluster.add_job(f"broken{number}", **{"kind": "shell", "target": "true", **columns})
        (broken[what],) = cluster.enqueue(f"broken{number}")
    good = cluster.enqueue("good", 3)
    worker = cluster.start("a", slots=20)

    assert cluster.wait_for_end(*good) == {"succeeded"}
    cluster.wait_for_end(*broken.values())

    assert {what: cluster.run(run_id).state for what, run_id in broken.items()} == dict.fromkeys(broken, "failed")
    reasons = {what: cluster.run(run_id).reason_text for what, run_id in broken.items()}
    assert all(reasons.values()), reasons
    assert "nonsense" in reasons["kind"]
    assert "target" in reasons["target not JSON"]
    # And it is not the last that the worker does.
    assert cluster.wait_for_end(*cluster.enqueue("good")) == {"succeeded"}
    assert worker.stop() == 0
    assert "Traceback" not in worker.log()


# Asked for twice, a callable gets a warm parent, which is made of what stands in its job's row.
BROKEN_CALLS = {
    "value with a NUL": {"variables": '{"A": "\\u0000"}'},
    "name of nothing": {"variables": '{"": "x"}'},
    "name with an equals sign": {"variables": '{"A=B": "x"}'},
    "half of a surrogate pair": {"variables": '{"A": "\\ud800"}'},
    "folder that is none": {"cwd": "/no/such/folder"},
    "interpreter of another module": {"target": "no.such:function"},
    "no target": {"target": ""},
}


def test_a_callable_that_no_process_can_be_made_for_fails_with_a_reason_and_the_worker_lives(cluster: Cluster) -> None:
    cluster.add_shell("good", "note good")
    broken: dict[str, list[int]] = {}
    for number, (what, columns) in enumerate(BROKEN_CALLS.items()):
        cluster.add_job(f"broken{number}", **{"kind": "call", "target": "json:loads", "variables": "{}", **columns})
        broken[what] = cluster.enqueue(f"broken{number}", 3)
    worker = cluster.start("a", slots=4)

    cluster.wait_for_end(*(run_id for run_ids in broken.values() for run_id in run_ids))

    for what, run_ids in broken.items():
        assert cluster.states(run_ids) == {"failed"}, what
        assert all(cluster.run(run_id).reason in {"start_error", "exception"} for run_id in run_ids), what
    assert cluster.wait_for_end(*cluster.enqueue("good")) == {"succeeded"}
    assert worker.stop() == 0
    assert worker.trouble() == []


def test_more_than_a_guardian_takes_fails_with_a_reason(cluster: Cluster) -> None:
    cluster.add_shell("good", "note good")
    cluster.add_shell("large", "true")
    much = 55_000_000 if cluster.database.dialect.name in {"sqlite", "postgresql"} else 15_000_000
    column = {"sqlite": "stdin = printf('%.*c', :much, 'x')"}.get(
        cluster.database.dialect.name, "stdin = repeat('x', :much)"
    )
    statement = text(f"update rota_job set {column} where name = 'large'")
    cluster.database.write(lambda c: c.execute(statement, {"much": much}), repeatable=True)
    (run_id,) = cluster.enqueue("large")
    worker = cluster.start("a")

    (state,) = cluster.wait_for_end(run_id)

    assert cluster.wait_for_end(*cluster.enqueue("good")) == {"succeeded"}
    assert worker.trouble() == []
    if much > 48 * 1024 * 1024:
        assert (state, cluster.run(run_id).reason) == ("failed", "start_error")
        assert "are 50331648 at most" in cluster.run(run_id).reason_text
    else:  # as much as the column holds
        assert state == "succeeded"


@pytest.fixture(params=["postgresql", "mariadb", "mysql"])
def own_server(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A server of this test's, that may be stopped; a file cannot be."""
    servers = request.config.stash[SERVERS]
    if request.param not in servers.kinds:
        pytest.skip(f"{request.param} is left out on request")
    if request.param in servers.missing:
        pytest.skip(servers.missing[request.param])
    with STARTERS[request.param](prepare=migrate) as server:
        yield server


def test_a_worker_whose_database_goes_away_for_a_while_goes_on_and_says_so_in_few_lines(
    own_server: PostgreSQL | MariaDB, folder: Path
) -> None:
    url = own_server.create_database()
    with open_cluster(url, folder, spared=lambda: {own_server.process.pid}) as cluster:
        cluster.add_shell("waits", 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end')
        cluster.add_shell("quick", "note quick")
        worker = cluster.start("a")
        (run_id,) = cluster.enqueue("waits")
        cluster.wait_for_note("start", run_id)

        cluster.database.close()
        own_server.process.stop()
        (cluster.folder / "go").touch()
        cluster.wait_for_note("end", run_id)
        cluster.wait_for_log(worker, "round 1 in a row failed")
        own_server.process.start()

        assert cluster.wait_for_end(run_id) == {"succeeded"}
        assert [(a.state, a.exit_code) for a in cluster.attempts(run_id)] == [("succeeded", 0)]
        assert cluster.wait_for_end(*cluster.enqueue("quick")) == {"succeeded"}
        assert "the database answers again" in worker.log()
        assert len(worker.log().splitlines()) <= LOG_LINES_MAX
        assert [line for line in worker.log().splitlines() if TROUBLE.search(line)] == []
        assert worker.stop() == 0
    assert_no_violations(url)
