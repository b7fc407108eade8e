"""Crash points: the table and the places agree, and who is to die there does."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rota.crash import POINTS, at
from rota.engine.settings import NodeSettings
from rota.engine.stand_in import program

ROOT = Path(__file__).parents[1]
PASS_BY_THRICE = "\n".join(
    ["from rota import crash", "for n in range(3):", "    print(n, flush=True); crash.at('claim.committed')"]
)


def pass_by(**variables: str) -> tuple[int, str]:
    """Have a process get to a point three times; return its status, and how often it got there."""
    environment = {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", PASS_BY_THRICE], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.replace("\n", "") or done.stderr


def test_the_table_names_each_place_in_the_code_and_no_other() -> None:
    found: Counter[str] = Counter()
    for path in (ROOT / "rota").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "crash.at":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: the name is not written out"
                found[str(name.value)] += 1

    assert set(found) == set(POINTS)
    assert [name for name, count in found.items() if count > 1] == [], "one place for each name"


def test_a_process_dies_where_it_is_told_to() -> None:
    assert pass_by() == (0, "012")
    assert pass_by(ROTA_CRASH_AT="fire.moved") == (0, "012")
    assert pass_by(ROTA_CRASH_AT="claim.committed") == (-signal.SIGKILL, "0")
    assert pass_by(ROTA_CRASH_AT="claim.committed@2") == (-signal.SIGKILL, "01")
    assert pass_by(ROTA_CRASH_AT="claim.committed@4") == (0, "012")


def test_it_leaves_a_note_after_which_nobody_dies_any_more(tmp_path: Path) -> None:
    note = tmp_path / "note"
    variables = {"ROTA_CRASH_AT": "claim.committed", "ROTA_CRASH_NOTE": str(note)}

    assert pass_by(**variables) == (-signal.SIGKILL, "0")
    name, pid = note.read_text().split()
    assert (name, int(pid) > 1) == ("claim.committed", True)
    assert pass_by(**variables) == (0, "012")
    assert note.read_text() == f"{name} {pid}\n"


@pytest.mark.parametrize("text", ["claim", "claim.comitted", "claim.committed@", "claim.committed@0", "@2"])
def test_a_place_that_does_not_exist_is_refused(text: str) -> None:
    status, told = pass_by(ROTA_CRASH_AT=text)

    assert status == 1
    assert f"ValueError: ROTA_CRASH_AT={text} names no place to die at" in told


def test_a_call_with_a_name_that_is_not_in_the_table_fails_where_somebody_is_to_die() -> None:
    words = [sys.executable, "-c", "from rota import crash; crash.at('claim.comitted')"]
    told = subprocess.run(
        words, env={"PYTHONPATH": str(ROOT), "ROTA_CRASH_AT": "fire.moved"}, capture_output=True, check=False
    )

    assert b"'claim.comitted' is not in the table" in told.stderr
    at("claim.comitted")  # costs no look at the table otherwise


def test_nobody_is_told_anything_where_nobody_is_to_die(tmp_path: Path) -> None:
    assert not [name for name in os.environ if name.startswith("ROTA_CRASH")]
    settings = NodeSettings(database_url="sqlite:////tmp/none.db", state_dir=tmp_path)

    assert not [name for name in program(settings, tmp_path).environment if name.startswith("ROTA_CRASH")]
