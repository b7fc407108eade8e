"""The command line in tests: called in this process where only words count, as real processes where signals do."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rota.cli.main import main

Call = Callable[..., Result]


@pytest.fixture
def state_home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's Rota is seen."""
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, made once and copied for each test."""
    from rota.client.schema import upgrade

    file = tmp_path_factory.mktemp("migrated") / "rota.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def url(migrated: Path, tmp_path: Path) -> str:
    """A migrated SQLite database: these doors pass words on, and the store is tested on every database elsewhere."""
    for part in migrated.parent.iterdir():  # the file, and its log where it has one
        shutil.copy(part, tmp_path / part.name)
    return f"sqlite:///{tmp_path / 'rota.db'}"


@contextlib.contextmanager
def logging_as_it_was() -> Iterator[None]:
    """Take back what a worker makes of its process's log: this one has other tests to run."""
    root = logging.getLogger("rota")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = handlers, level, propagate


@pytest.fixture
def rota(url: str, state_home: dict[str, str]) -> Call:
    """Call the command line in this process."""

    def call(*words: str, environ: dict[str, str] | None = None, stdin: str | bytes | None = None) -> Result:
        environment = state_home | {"ROTA_DB": url} | (environ or {})
        with logging_as_it_was():
            result = CliRunner().invoke(main, list(words), input=stdin, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def start_rota(url: str, state_home: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start real ``rota`` processes; none is left behind."""
    started: list[subprocess.Popen[str]] = []
    state = tempfile.mkdtemp(prefix="rota-")  # sockets need a short path, which a test's own folder is not

    def start(*words: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rota", *words],
            env=os.environ | state_home | {"ROTA_DB": url, "ROTA_STATE_DIR": state} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)
    shutil.rmtree(state)


def read(result: Result) -> Any:
    """Return what a command showed as JSON."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result: Result) -> dict[str, Any]:
    """Return the error that a command with ``--json`` left on standard error."""
    (line,) = result.stderr.splitlines()
    return json.loads(line)["error"]
