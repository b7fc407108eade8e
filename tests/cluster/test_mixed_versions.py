"""A rolling upgrade: the program before goes on, beside the new one, on the database that the new one has upgraded.

The program before is the last one in the repository's history that knew the schema before; a clone without its history
fails here.
"""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import func, select

from rota.errors import DatabaseUnavailable
from rota.store import migrate
from rota.store.jobs import edit_job
from rota.store.migrate import SCHEMA_VERSION, schema_version
from rota.store.tables import attempt, run
from tests.cluster.cluster import PATH, ROOT, WAIT_SECONDS, Cluster, Worker, descendants_of
from tests.cluster.conftest import open_cluster
from tests.cluster.ledger import NOTE
from tests.conftest import assert_no_violations
from tests.execution.harness import wait_until

RUNS = 60
SLOT_SECONDS = 1

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.PIPE).stdout


def install_older(library: Path) -> None:
    """Put the last program of the schema before there, with the tests' worker process of its time."""
    where = "rota/store/migrate.py"
    made = git("log", "--format=%H", "--reverse", f"-SSCHEMA_VERSION = {SCHEMA_VERSION} ", "--", where).decode().split()
    assert made, "the history does not tell when this schema came: clone the repository with its history"
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{made[0]}~", "rota", "tests"))) as archive:
        archive.extractall(library, filter="data")
    older = re.search(r"^SCHEMA_VERSION = (\d+)", (library / where).read_text(), re.M)
    assert older is not None
    assert int(older[1]) == SCHEMA_VERSION - 1


class Older:
    """The command line of the older program."""

    def __init__(self, library: Path, url: str) -> None:
        self.library = library
        self.environ = {"PATH": PATH, "PYTHONPATH": str(library), "ROTA_DB": url}

    def rota(self, *words: str) -> None:
        command = [sys.executable, "-P", "-m", "rota", *words]
        subprocess.run(command, check=True, env=self.environ, cwd=self.library, stdout=subprocess.DEVNULL)


def upgrade(cluster: Cluster) -> None:
    def try_once() -> bool:
        try:
            migrate.upgrade(cluster.database)
        except DatabaseUnavailable:  # nodes keep a table locked now and then
            return False
        return True

    wait_until(try_once, "the schema is upgraded", WAIT_SECONDS)


def kill_whole(worker: Worker) -> None:
    """Kill a worker and all that it has started: the machine is gone."""
    below = descendants_of(worker.pid)
    worker.kill(*below)


def nodes_of_attempts(cluster: Cluster, *states: str) -> set[str]:
    statement = select(attempt.c.node).where(attempt.c.state.in_(states)).distinct()
    return set(cluster.database.read(lambda c: c.execute(statement).scalars().all()))


def test_old_and_new_programs_share_the_work_while_nodes_are_upgraded_one_by_one(
    empty_database_url: str, folder: Path
) -> None:
    library = folder / "older"
    install_older(library)
    older = Older(library, empty_database_url)
    older.rota("db", "upgrade")
    with open_cluster(empty_database_url, folder) as cluster:
        variables = ["--variable", f"LEDGER={cluster.ledger.path}", "--retries", "3", "--retry-delay", "0s"]
        older.rota("job", "add", "tick", "--shell", NOTE + "note start; note end", *variables)
        older.rota("job", "add", "works", "--shell", NOTE + "note start; sleep 0.3; note end", *variables)
        older.rota("schedule", "add", "each-second", "tick", "--every", f"{SLOT_SECONDS}s", "--catch-up", "all")

        values = {"slots": 4, "lease_seconds": 3.0, "library": str(library)}
        a, b = (cluster.start(name, **values) for name in "ab")
        cluster.wait(lambda: len(cluster.ledger.entries("end")) >= 3, "the older programs work")
        upgrade(cluster)
        assert cluster.database.read(schema_version) == (SCHEMA_VERSION, 2)
        c = cluster.start("c", slots=4, lease_seconds=3.0)
        # What waits for an upstream the older programs leave alone.
        cluster.add_shell("gate", 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end')
        cluster.add_shell("behind", "note start; note end")
        after = {"after": ["gate"]}
        edit_job(cluster.database, "behind", lambda spec: spec.edited(**after), actor="test")
        behind, gate = cluster.enqueue("behind") + cluster.enqueue("gate")
        run_ids = cluster.enqueue("works", RUNS)
        cluster.wait(lambda: nodes_of_attempts(cluster, "succeeded") == {"a", "b", "c"}, "all three have done some")

        assert cluster.states([behind]) == {"waiting"}
        (folder / "go").touch()
        assert cluster.wait_for_end(gate, behind) == {"succeeded"}
        (gate_end,), (behind_start,) = (
            cluster.ledger.entries(w, run_id=r) for w, r in (("end", gate), ("start", behind))
        )
        assert gate_end.at <= behind_start.at

        kill_whole(a)
        cluster.wait(lambda: cluster.states(run_ids) == {"succeeded"}, "the others have done all of it")
        again = cluster.enqueue("works", RUNS)
        b.signal(signal.SIGINT)
        assert b.exit_status() == 0
        assert cluster.wait_for_end(*again) == {"succeeded"}

        # Once each, but for what the machine that was killed had in its hands.
        ended = [entry.run_id for entry in cluster.ledger.entries("end") if entry.run_id in {*run_ids, *again}]
        assert sorted(set(ended)) == sorted({*run_ids, *again})
        tried_again = {run_id for run_id in run_ids if len(cluster.attempts(run_id)) > 1}
        assert len(ended) - len(set(ended)) <= len(tried_again) <= 4
        statement = select(func.count(), func.min(run.c.slot_at), func.max(run.c.slot_at)).where(run.c.job == "tick")
        count, first, last = cluster.database.read(lambda connection: connection.execute(statement).one())
        assert count == (last - first).total_seconds() / SLOT_SECONDS + 1
        assert b.trouble() == []
        assert c.trouble() == []
    assert_no_violations(empty_database_url)
