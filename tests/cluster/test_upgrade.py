"""A deploy kills nothing: the worker is stopped, replaced on disk, started again and killed, and no job notices."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from rota.store.tables import node
from tests.cluster.cluster import ROOT, WAIT_SECONDS, Cluster
from tests.cluster.test_outlives import times_taken_over, wait_for_renewal

JOBS = 20
NEWER = "99.9.9"


def install(library: Path, version: str | None = None) -> None:
    """Install Rota there, in place of what was there before: at once, since a stand-in may be starting from it."""
    package = library / f"rota-{version}"
    shutil.copytree(ROOT / "rota", package, ignore=shutil.ignore_patterns("__pycache__"))
    if version is not None:
        init = package / "__init__.py"
        text, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text(), flags=re.M)
        assert count == 1
        init.write_text(text)
    (library / "next").symlink_to(package)
    (library / "next").replace(library / "rota")


def version_of(cluster: Cluster) -> str:
    return cluster.database.read(lambda c: c.execute(select(node.c.version)).scalar_one())


@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_twenty_jobs_live_through_an_upgrade_and_a_crash_of_their_worker(cluster: Cluster, seconds: int) -> None:
    library = cluster.folder / "lib"
    install(library)
    line = 'note start; sleep {0}; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end; echo done'
    cluster.add_shell("works", line.format(seconds))
    values = {"slots": JOBS, "lease_seconds": 15.0, "library": str(library)}
    worker = cluster.start("a", **values)
    run_ids = cluster.enqueue("works", JOBS)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == JOBS, "all have started")

    worker.signal(signal.SIGTERM)
    assert worker.exit_status() == 0
    install(library, NEWER)
    worker = cluster.start("a", **values)
    cluster.wait(lambda: times_taken_over(cluster) == JOBS, "all are taken over")
    assert version_of(cluster) == NEWER
    worker.kill()
    worker = cluster.start("a", **values)
    cluster.wait(lambda: times_taken_over(cluster) == 2 * JOBS, "and once more")
    wait_for_renewal(cluster, *run_ids)
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(*run_ids, seconds=seconds + WAIT_SECONDS) == {"succeeded"}
    assert len(cluster.ledger.entries("start")) == len(cluster.ledger.entries("end")) == JOBS
    for run_id in run_ids:
        (tried,) = cluster.attempts(run_id)
        assert (tried.state, tried.exit_code, tried.stdout_bytes) == ("succeeded", 0, len("done\n"))
    assert worker.trouble() == []
