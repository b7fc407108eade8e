"""The example of a web server's logs does what its page says, typed line by line into a shell, with real workers."""

from __future__ import annotations

import doctest
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rota import Rota
from tests.docs.pages import ROOT, find_blocks, split_commands

EXAMPLE = ROOT / "examples" / "weblog"
SECONDS_MAX = 120  # a hang guard
MARK = "-- the next line of the page, after"
PARTING = "rm -r"


@pytest.fixture
def folder() -> Iterator[Path]:
    """The files of the example, in a folder with a short name: the sockets of a worker have their paths in it."""
    with TemporaryDirectory(prefix="rota-weblog-", ignore_cleanup_errors=True) as name:
        for path in EXAMPLE.glob("*.py"):
            shutil.copy(path, name)
        yield Path(name)


def read_page() -> list[tuple[str, str]]:
    """Return the commands of the page, each with what it says that they write."""
    blocks = [block for block in find_blocks(EXAMPLE / "README.md") if block.language == "console"]
    return [pair for block in blocks for pair in split_commands(block.text)]


def type_lines(folder: Path, commands: list[str]) -> list[str]:
    """Type commands into one shell, which has jobs as one at a terminal has; return what each wrote."""
    script = "set -m\n" + "".join(f'{command}\necho "{MARK} $?"\n' for command in commands)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROTA_", "PYTHON", "XDG_"))}
    environment = kept | {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = subprocess.Popen(
        ["/bin/bash"], cwd=folder, env=environment | {"COLUMNS": "120"}, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    written, _ = shell.communicate(script, timeout=SECONDS_MAX)
    pieces = written.split(MARK)
    assert all(piece.startswith(" 0\n") for piece in pieces[1:]), written
    return [piece.removeprefix(" 0\n") for piece in pieces[:-1]]


def test_the_page_of_the_example_can_be_typed_and_everything_is_done_once_in_order(folder: Path) -> None:
    page = [(command, output) for command, output in read_page() if not command.startswith(PARTING)]

    written = type_lines(folder, [command for command, _ in page])

    for (command, said), wrote in zip(page, written, strict=True):
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert not said or doctest.OutputChecker().check_output(said, wrote, flags), f"{command} wrote:\n{wrote}"
    with Rota(f"sqlite:///{folder}/weblog.db") as rota:
        hits = rota.periods.list("hits", first="2026-10-30T00", last="2026-10-31T23")
        again = {
            (job, one["period"]): one["runs"]
            for job in ("hits", "hits_daily", "hits_monthly", "errors", "errors_daily", "export")
            for one in rota.periods.list(job, state="processed")
            if one["runs"] != 1
        }
    late = [
        ("hits", "2026-10-30T14"),
        ("hits_daily", "2026-10-30"),
        ("hits_monthly", "2026-10"),
        ("export", "2026-10-30"),
    ]
    assert again == dict.fromkeys(late, 2)
    assert [one["state"] for one in hits] == ["processed"] * 48
    with closing(sqlite3.connect(folder / "weblog.db")) as connection:
        assert connection.execute("select * from rota_violations").fetchall() == []
        caught_up = connection.execute(
            "select period from rota_run where job = 'hits' and state = 'succeeded' and period like '2026-10-31%'"
            " order by finished_at"
        ).fetchall()
    assert [name for (name,) in caught_up] == [f"2026-10-31T{hour:02}" for hour in range(24)]
