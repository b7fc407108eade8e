"""Jobs of SQL: statements in one transaction, on Rota's own database or on another one that the node names."""

from __future__ import annotations

import json
import socket
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text

from tests.cluster.cluster import Cluster
from tests.store.ledger import output_of

KEEP = "insert into kept (n, word) values (:n, :word)"


@pytest.fixture
def kept(cluster: Cluster) -> Cluster:
    """A cluster whose database has a table of the application's."""
    make = text("create table kept (n integer not null, word varchar(100))")
    cluster.database.write(lambda connection: connection.execute(make), repeatable=False)
    return cluster


def add(cluster: Cluster, *statements: str, **columns: Any) -> None:
    values = {"connection": "rota", "delivery": "transactional", "timeout_seconds": 20.0, "lease_seconds": 60.0}
    cluster.add_job("tidy", "sql", json.dumps(statements), **values | columns)


def rows_of(cluster: Cluster) -> list[tuple[int, str]]:
    rows = cluster.database.read(lambda c: c.execute(text("select n, word from kept order by n")).all())
    return [(row.n, row.word) for row in rows]


def test_statements_take_their_values_from_the_run_and_commit_with_its_end(kept: Cluster) -> None:
    add(kept, KEEP, "insert into kept (n, word) select n + run.id, job from kept join rota_run run on run.id = :run_id",
        "select n, word from kept order by n")  # fmt: skip
    worker = kept.start("a")
    (run_id,) = kept.enqueue("tidy", args={"n": 7, "word": "x'; drop table kept; --"})

    assert kept.wait_for_end(run_id) == {"succeeded"}

    assert json.loads(kept.run(run_id).result) == {"rows": [1, 1, 2]}
    assert rows_of(kept) == [(7, "x'; drop table kept; --"), (7 + run_id, "tidy")]
    kept.wait(lambda: kept.attempts(run_id)[0].seconds is not None, "the process has ended")
    assert [json.loads(line) for line in output_of(kept.database, run_id, stream="stdout").splitlines()] == [
        {"n": n, "word": word} for n, word in rows_of(kept)
    ]
    assert worker.trouble() == []


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("insert into kept (n) values (null)", "null"),
        ("insert into nowhere (n) values (1)", "nowhere"),
        (
            "insert into kept (n) values (:other)",
            'it has no value for :other; give it with --args \'{"other": "..."}\'',
        ),
        ("commit", "COMMIT would end the transaction"),
    ],
)
def test_of_statements_that_fail_none_is_kept(kept: Cluster, second: str, told: str) -> None:
    add(kept, KEEP, second)
    worker = kept.start("a")
    (run_id,) = kept.enqueue("tidy", args={"n": 7, "word": "x"})

    assert kept.wait_for_end(run_id) == {"failed"}

    reason = kept.run(run_id).reason_text
    assert told in reason
    assert "\n" not in reason
    assert "sqlalche.me" not in reason
    assert second == "commit" or f": statement 2, {second[:40]}" in reason
    assert rows_of(kept) == []
    assert worker.trouble() == []


def test_another_connection_is_the_nodes(kept: Cluster) -> None:
    file = kept.folder / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("create table kept (n integer)")
    add(kept, "insert into kept (n) values (:n)", connection="other", delivery="at_least_once", timeout_seconds=None)
    kept.start("a", connections={"other": f"sqlite:///{file}"})
    (run_id,) = kept.enqueue("tidy", args={"n": 7})

    assert kept.wait_for_end(run_id) == {"succeeded"}

    assert json.loads(kept.run(run_id).result) == {"rows": [1]}
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("select n from kept").fetchall() == [(7,)]


def test_a_connection_that_nobody_answers_fails_and_says_no_password(kept: Cluster) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        unused_port = server.getsockname()[1]
    add(kept, "select 1", connection="other", delivery="at_least_once", timeout_seconds=None)
    worker = kept.start("a", connections={"other": f"postgresql://me:swordfish@127.0.0.1:{unused_port}/x"})
    (run_id,) = kept.enqueue("tidy")

    assert kept.wait_for_end(run_id) == {"failed"}

    (tried,) = kept.attempts(run_id)
    assert "OperationalError" in tried.error_type
    kept_of_it = f"{tried.error_message}{tried.traceback}{kept.run(run_id).reason_text}{worker.log()}"
    assert "swordfish" not in kept_of_it


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"connection": "elsewhere", "delivery": "at_least_once"}, "this node has rota"),
        ({"connection": None, "delivery": "at_least_once"}, "this node has rota"),
        ({"target": "select 1"}, "statements are a JSON list of texts"),
        ({"connection": "elsewhere"}, "which commits by itself"),
        ({"kind": "shell", "target": "true"}, "a command cannot share Rota's transaction"),
    ],
)
def test_a_row_that_no_door_would_take_fails_and_says_why(kept: Cluster, columns: dict[str, Any], told: str) -> None:
    add(kept, "select 1")
    change = text(f"update rota_job set {', '.join(f'{name} = :{name}' for name in columns)}")
    kept.database.write(lambda c: c.execute(change, columns), repeatable=False)
    worker = kept.start("a")
    (run_id,) = kept.enqueue("tidy")

    assert kept.wait_for_end(run_id) == {"failed"}

    assert told in kept.run(run_id).reason_text
    assert worker.trouble() == []


def test_on_sqlite_a_transaction_may_not_outlast_a_third_of_the_lease(kept: Cluster) -> None:
    add(kept, "select 1", timeout_seconds=1.5, lease_seconds=3.0)
    kept.start("a")
    (run_id,) = kept.enqueue("tidy")

    state = kept.wait_for_end(run_id)

    if kept.database.dialect.one_writer:
        assert state == {"failed"}
        assert "a time limit of at most a third of its lease, 1 s of 3 s" in kept.run(run_id).reason_text
    else:
        assert state == {"succeeded"}
