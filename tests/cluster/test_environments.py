"""Applications side by side on one worker, each in its environment: real interpreters under real workers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from rota.store.runs import read_run
from tests.cluster.cluster import Cluster, Worker
from tests.cluster.test_warm import await_parent

APPLICATION = """
import os, sys
LEVEL = {level!r}
def go(): return [LEVEL, sys.prefix]
def by_whom(): return os.getppid()
"""


@pytest.fixture(scope="session")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it, not even pip."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder


def shop(cluster: Cluster, version: str, **facts: Any) -> dict[str, Any]:
    """Put a version of an application into a folder, and describe its environment."""
    folder = cluster.folder / f"shop-{version}"
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APPLICATION.format(level=version))
    return {"name": "shop", "version": version, "python_path": [str(folder)], **facts}


def broken_shop(cluster: Cluster, what: str) -> dict[str, Any]:
    """Describe an environment of which something is not there, or cannot be executed."""
    facts = shop(cluster, "1")
    gone, no_program = cluster.folder / "gone", cluster.folder / "python"
    no_program.write_text("#!/bin/sh\n")  # which nobody may execute
    facts |= {
        "interpreter": {"interpreter": str(gone / "bin/python")},
        "program": {"interpreter": str(no_program)},
        "folder": {"python_path": [*facts["python_path"], str(gone)]},
    }[what]
    return facts


def trouble(*workers: Worker) -> list[str]:
    """Return what went wrong, but for the finding that an environment is missing, where that is meant."""
    return [line for worker in workers for line in worker.trouble() if "has environment shop==2; a has" not in line]


def add_call(cluster: Cluster, name: str, **columns: Any) -> None:
    cluster.add_job(name, "call", "app:go", variables="{}", **columns)


def result(cluster: Cluster, run_id: int) -> tuple[str | None, Any]:
    view = read_run(cluster.database, run_id)
    assert view["state"] == "succeeded", view
    return view["environment"], view["result"]


def test_three_applications_with_a_module_of_one_name_run_side_by_side(cluster: Cluster, bare_venv: Path) -> None:
    (cluster.folder / "own").mkdir()
    (cluster.folder / "own/app.py").write_text(APPLICATION.format(level="own"))
    environments = [shop(cluster, "1"), shop(cluster, "2", interpreter=str(bare_venv / "bin/python"))]
    for name, env in (("one", "shop==1"), ("two", "shop==2"), ("newest", "shop"), ("own", None)):
        add_call(cluster, name, env=env)
    worker = cluster.start("a", environments=environments, import_dirs=[str(cluster.folder / "own")])

    run_ids = [cluster.enqueue(name)[0] for name in ("one", "two", "newest", "own")]
    cluster.wait_for_end(*run_ids)

    assert [result(cluster, run_id) for run_id in run_ids] == [
        ("shop==1", ["1", sys.prefix]),
        ("shop==2", ["2", str(bare_venv)]),
        ("shop==2", ["2", str(bare_venv)]),
        (None, ["own", sys.prefix]),
    ]
    assert worker.trouble() == []


def test_each_environment_has_a_warm_parent_of_its_own(cluster: Cluster, bare_venv: Path) -> None:
    environments = [shop(cluster, "1"), shop(cluster, "2", interpreter=str(bare_venv / "bin/python"))]
    worker = cluster.start("a", environments=environments)
    for version in ("1", "2"):
        cluster.add_job(f"of-{version}", "call", "app:by_whom", variables="{}", env=f"shop=={version}")

    parents = [await_parent(cluster, f"of-{version}") for version in ("1", "2")]

    assert parents[0] != parents[1]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in parents]
    assert [line[0].decode() for line in lines] == [sys.executable, str(bare_venv / "bin/python")]
    assert worker.trouble() == []


def test_a_command_finds_the_programs_of_its_environment(cluster: Cluster, bare_venv: Path) -> None:
    facts = shop(cluster, "1", interpreter=str(bare_venv / "bin/python"), variables={"LEVEL": "from shop"})
    cluster.add_job(
        "command", "command", '["python", "-c", "import app, os, sys; print(app.LEVEL, os.environ[\'LEVEL\'])"]',
        env="shop", variables="{}",
    )  # fmt: skip
    cluster.add_job("shell", "shell", "command -v python", env="shop", variables="{}")
    cluster.start("a", environments=[facts])

    run_ids = [cluster.enqueue(name)[0] for name in ("command", "shell")]
    cluster.wait_for_end(*run_ids)

    written = text("select data from rota_output where stream = 'stdout' order by attempt_id")
    said = {bytes(row[0]) for row in cluster.database.read(lambda connection: connection.execute(written).all())}
    assert said == {b"1 from shop\n", f"{bare_venv}/bin/python\n".encode()}


def test_a_run_waits_for_a_node_that_has_its_environment_and_that_one_takes_it(cluster: Cluster) -> None:
    add_call(cluster, "pinned", env="shop==2")
    add_call(cluster, "any", env="shop")
    first = cluster.start("a", environments=[shop(cluster, "1")])
    pinned, unpinned = cluster.enqueue("pinned")[0], cluster.enqueue("any")[0]
    cluster.wait_for_end(unpinned)

    waiting = cluster.run(pinned)
    second = cluster.start("b", environments=[shop(cluster, "2")])
    cluster.wait_for_end(pinned)

    assert (waiting.state, waiting.attempt) == ("ready", 0)
    assert (cluster.run(unpinned).node, cluster.run(pinned).node) == ("a", "b")
    assert result(cluster, pinned)[0] == "shop==2"
    assert trouble(first, second) == []


def test_an_environment_that_a_node_gets_is_there_after_it_has_read_its_settings_again(cluster: Cluster) -> None:
    add_call(cluster, "pinned", env="shop==2")
    worker = cluster.start("a", environments=[shop(cluster, "1")])
    (run_id,) = cluster.enqueue("pinned")

    worker.write_settings(environments=[shop(cluster, "1"), shop(cluster, "2")])
    worker.signal(signal.SIGHUP)
    cluster.wait_for_end(run_id)

    assert result(cluster, run_id)[0] == "shop==2"
    assert trouble(worker) == []


@pytest.mark.parametrize("what", ["interpreter", "program", "folder"])
def test_an_environment_that_is_broken_fails_the_run_with_the_reason_and_its_retries_wait(
    cluster: Cluster, bare_venv: Path, what: str
) -> None:
    gone, no_program = cluster.folder / "gone", cluster.folder / "python"
    facts = broken_shop(cluster, what)
    add_call(cluster, "broken", env="shop", retries=1, retry_delay_seconds=0.2)
    add_call(cluster, "patient", env="shop", retries=1, retry_delay_seconds=3600.0)
    cluster.add_shell("good", "note start")
    worker = cluster.start("a", environments=[facts])

    (broken,), (patient,) = cluster.enqueue("broken"), cluster.enqueue("patient")
    cluster.wait_for_end(broken)
    cluster.wait(lambda: cluster.run(patient).state == "waiting", "it waits for its retry")
    (good,) = cluster.enqueue("good")

    assert cluster.wait_for_end(good) == {"succeeded"}
    view = read_run(cluster.database, broken)
    assert (view["state"], view["reason"]["code"]) == ("failed", "start_error")
    sentence = {
        "interpreter": f"running '{gone}/bin/python' failed: No such file or directory; it is the interpreter of "
        "environment shop==1 on a: put it back, or correct the environment where it is registered",
        "program": f"running '{no_program}' failed: Permission denied; it is the interpreter of environment shop==1 on "
        "a: put it back, or correct the environment where it is registered",
        "folder": f"looking for '{gone}' failed: No such file or directory; it is a folder of environment shop==1 on "
        "a: put it back, or correct the environment where it is registered",
    }[what]
    assert view["error"]["message"] == sentence
    assert sentence in view["reason"]["text"]
    first, second = cluster.attempts(broken)
    assert (second.claimed_at - first.finished_at).total_seconds() >= 0.2
    assert cluster.run(patient).attempt == 1
    assert worker.trouble() == []


@pytest.mark.parametrize("what", ["interpreter", "program", "folder"])
@pytest.mark.parametrize("kind", ["command", "shell"])
def test_a_command_of_a_broken_environment_runs_no_other_program_of_that_name(
    cluster: Cluster, kind: str, what: str
) -> None:
    gone, no_program = cluster.folder / "gone", cluster.folder / "python"
    facts = broken_shop(cluster, what)
    target = {"command": f'["touch", "{cluster.folder}/ran"]', "shell": f"touch {cluster.folder}/ran"}[kind]
    cluster.add_job("broken", kind, target, env="shop", variables="{}")
    worker = cluster.start("a", environments=[facts])
    (run_id,) = cluster.enqueue("broken")

    assert cluster.wait_for_end(run_id) == {"failed"}
    view = read_run(cluster.database, run_id)
    sentence = {
        "interpreter": f"looking for '{gone}/bin/python' failed: No such file or directory; it is the interpreter of",
        "program": f"looking for '{no_program}' failed: Permission denied; it is the interpreter of",
        "folder": f"looking for '{gone}' failed: No such file or directory; it is a folder of",
    }[what]
    advice = f"{sentence} environment shop==1 on a: put it back, or correct the environment where it is registered"
    assert (view["reason"]["code"], view["error"]["message"]) == ("start_error", advice)
    assert not (cluster.folder / "ran").exists()
    assert worker.trouble() == []
