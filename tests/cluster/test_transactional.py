"""Transactional jobs and jobs of SQL: their rows are there exactly when their run is ``succeeded``."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, text

from rota.store.interventions import cancel_run
from rota.store.tables import node
from rota.store.transaction import JobTransaction
from tests.cluster.cluster import Cluster, descendants_of

CALLABLES = "tests.cluster.transactional"
LEASE = 60.0
TIMEOUT = 20.0


@pytest.fixture
def kept(cluster: Cluster) -> Cluster:
    """A cluster whose database has a table of the application's."""
    make = text("create table kept (run_id integer not null, n integer not null, attempt integer not null)")
    cluster.database.write(lambda connection: connection.execute(make), repeatable=False)
    return cluster


def add(cluster: Cluster, function: str, **columns: Any) -> None:
    values = {"delivery": "transactional", "timeout_seconds": TIMEOUT, "lease_seconds": LEASE} | columns
    cluster.add_job(function, "call", f"{CALLABLES}:{function}", **values)


def rows_of(cluster: Cluster, run_id: int) -> int:
    count = text("select count(*) from kept where run_id = :run_id")
    return int(cluster.database.read(lambda c: c.execute(count, {"run_id": run_id}).scalar_one()))


def renewed_at(cluster: Cluster) -> Any:
    return cluster.database.read(lambda c: c.execute(select(node.c.seen_at).where(node.c.name == "a")).scalar_one())


def test_killed_at_every_statement_its_rows_are_there_exactly_when_it_succeeded(kept: Cluster) -> None:
    add(kept, "keep")
    kept.start("a", slots=3)
    run_ids = [kept.enqueue("keep", args={"kill_at": point})[0] for point in range(1, 51)]
    kept.wait_for_end(*run_ids, seconds=120)

    found = {run_id: kept.run(run_id).state for run_id in run_ids}
    killed = {run_id: (kept.folder / f"killed-{run_id}") for run_id in run_ids}
    points = [file.read_text() for file in killed.values() if file.exists()]
    # Each was reached: the three of the job's own, those of the end, and COMMIT from both sides.
    assert sum(point.startswith("before insert into kept") for point in points) == 3
    assert sum(point.startswith("after UPDATE rota_run") for point in points) == 1
    assert points[-2:] == ["before commit", "after commit"]
    assert len(points) < len(run_ids)
    assert {run_id: rows_of(kept, run_id) for run_id in run_ids} == {
        run_id: 3 if state == "succeeded" else 0 for run_id, state in found.items()
    }
    survived = [run_id for run_id, file in killed.items() if not file.exists() or file.read_text() == "after commit"]
    assert survived == [run_id for run_id, state in found.items() if state == "succeeded"]
    assert {state for run_id, state in found.items() if run_id not in survived} == {"failed"}


@pytest.mark.parametrize(
    ("how", "state", "rows", "told"),
    [
        ("raise", "failed", 0, "raised ValueError: no"),
        ("skip", "skipped", 0, "nothing"),
        ("result", "failed", 0, "left a result that cannot be kept"),
        ("commit", "failed", 0, "committed with the end of its run"),
        ("rollback", "failed", 0, "undone when it raises"),
        ("statement", "failed", 0, "COMMIT would end the transaction"),
        ("part", "succeeded", 1, "ended well"),
    ],
)
def test_only_what_ends_well_is_kept(kept: Cluster, how: str, state: str, rows: int, told: str) -> None:
    add(kept, "keep_and")
    worker = kept.start("a")
    (run_id,) = kept.enqueue("keep_and", args={"how": how})

    assert kept.wait_for_end(run_id) == {state}

    assert rows_of(kept, run_id) == rows
    assert told in kept.run(run_id).reason_text
    assert worker.trouble() == []


def test_of_one_that_returns_because_it_is_told_to_stop_nothing_is_kept(kept: Cluster) -> None:
    add(kept, "keep_when_stopped")
    worker = kept.start("a", grace_seconds=20.0)
    (run_id,) = kept.enqueue("keep_when_stopped")
    kept.wait((kept.folder / "waits").exists, "it waits")

    cancel_run(kept.database, run_id, actor="ann@desk")

    assert kept.wait_for_end(run_id) == {"cancelled"}
    assert rows_of(kept, run_id) == 0
    assert worker.trouble() == []


def test_the_end_of_its_process_is_added_when_it_comes(kept: Cluster) -> None:
    add(kept, "keep_and")
    worker = kept.start("a", lease_seconds=3.0)
    (run_id,) = kept.enqueue("keep_and", args={"how": "linger"})

    assert kept.wait_for_end(run_id) == {"succeeded"}
    (before,) = kept.attempts(run_id)
    (kept.folder / "leave").touch()
    after = kept.wait(lambda: [a for a in kept.attempts(run_id) if a.seconds is not None], "the process has ended")[0]

    assert (before.state, before.exit_code, before.pid) == ("succeeded", None, None)
    assert (after.state, after.exit_code, json.loads(kept.run(run_id).result)) == ("succeeded", 0, "linger")
    assert after.cpu_seconds > 0
    assert worker.trouble() == []


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_who_took_it_over_lets_the_process_of_one_that_has_committed_end_by_itself(kept: Cluster) -> None:
    add(kept, "keep_and", lease_seconds=30.0)
    first = kept.start("a", lease_seconds=3.0)
    (run_id,) = kept.enqueue("keep_and", args={"how": "wait and linger"})
    kept.wait((kept.folder / "waits").exists, "it waits")
    first.kill()
    worker = kept.start("a", lease_seconds=3.0)
    kept.wait(lambda: any("has taken it over" in told for told in kept.events(run_id)), "it is taken over")

    (kept.folder / "go").touch()
    assert kept.wait_for_end(run_id) == {"succeeded"}
    for _ in range(3):  # the last one comes when what the first has brought was heard
        seen = renewed_at(kept)
        kept.wait(lambda: renewed_at(kept) > seen, "the worker renews")  # noqa: B023 - called at once
    (kept.folder / "leave").touch()

    after = kept.wait(lambda: [a for a in kept.attempts(run_id) if a.seconds is not None], "the process has ended")[0]
    assert (after.state, after.exit_code, after.exit_signal) == ("succeeded", 0, None)
    assert "belongs to another node" not in worker.log()


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_cancelled_before_its_end_it_leaves_nothing(kept: Cluster) -> None:
    add(kept, "keep_and", lease_seconds=3.0)
    kept.start("a", lease_seconds=3.0)
    (run_id,) = kept.enqueue("keep_and", args={"how": "wait"})
    kept.wait(lambda: (kept.folder / "waits").exists(), "it waits")

    ask = text("update rota_run set cancel_asked_at = lease_ends_at, cancel_asked_by = 'test' where id = :run_id")
    kept.database.write(lambda c: c.execute(ask, {"run_id": run_id}), repeatable=True)

    assert kept.wait_for_end(run_id) == {"cancelled"}
    assert rows_of(kept, run_id) == 0


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_zombie_commits_nothing_once_its_run_is_with_another_node(kept: Cluster) -> None:
    """The machine is stopped with the job in its transaction, past its lease, and goes on when the run has ended."""
    add(kept, "keep_when_told", lease_seconds=3.0, timeout_seconds=None)
    first = kept.start("a", lease_seconds=3.0)
    (run_id,) = kept.enqueue("keep_when_told")
    kept.wait(lambda: (kept.folder / "kept-1").exists(), "the first has written")
    machine = [first.pid, *descendants_of(first.pid)]
    for pid in machine:
        os.kill(pid, signal.SIGSTOP)
    kept.start("b", lease_seconds=3.0)
    kept.wait(lambda: (kept.folder / "kept-2").exists(), "the second has written")

    # Who would stop it stands still: it is to reach its end.
    (zombie,) = [pid for pid in machine if b"transactional_job" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (kept.folder / "go-1").touch()
    os.kill(zombie, signal.SIGCONT)
    kept.wait(lambda: (kept.folder / "over-1").exists(), "the first has come to the end of its transaction")
    assert (kept.run(run_id).state, rows_of(kept, run_id)) == ("running", 0)
    (kept.folder / "go-2").touch()

    assert kept.wait_for_end(run_id) == {"succeeded"}
    assert rows_of(kept, run_id) == 1
    assert [one.state for one in kept.attempts(run_id)] == ["lost", "succeeded"]
    for pid in machine:
        if pid != zombie:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.only_on("postgresql")
def test_what_a_job_locks_is_let_go_when_its_machine_vanishes_and_not_while_it_computes(kept: Cluster) -> None:
    transaction = JobTransaction(kept.url, claim_id="none", run_id=1, fence=1)

    def shown(connection: Connection) -> list[str]:
        names = ("idle_in_transaction_session_timeout", "statement_timeout", "client_connection_check_interval")
        return [str(connection.execute(text(f"show {name}")).scalar()) for name in names]

    assert shown(transaction.connection) == ["0", "0", "5s"]
    assert kept.database.read(shown) == ["5s", "1min", "0"]
    transaction.close()


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
@pytest.mark.parametrize(
    ("how", "attempts"),
    [("lock", ["lost", "succeeded"]), ("commit", ["lost", "succeeded"]), ("answer", ["succeeded"])],
)
def test_what_the_database_undoes_is_done_again_and_what_it_has_done_is_not(
    kept: Cluster, how: str, attempts: list[str]
) -> None:
    """A lock that is not had, a connection lost before COMMIT, and the answer to one lost; without any retries."""
    add(kept, "keep_and_lose")
    (run_id,) = kept.enqueue("keep_and_lose", args={"how": how})
    with kept.database.engine.connect() as holder:
        holder.execute(text("insert into kept (run_id, n, attempt) values (0, 0, 0)"))
        holder.commit()
        holder.execute(text("update kept set n = 1 where run_id = 0"))
        worker = kept.start("a")

        assert kept.wait_for_end(run_id) == {"succeeded"}, kept.run(run_id).reason_text
        holder.rollback()

    assert [one.state for one in kept.attempts(run_id)] == attempts
    assert rows_of(kept, run_id) == 1
    assert worker.trouble() == []
