"""The sweep kills what carries the mark of a dead guardian, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rota.execution import sweep


def test_a_number_that_was_given_to_another_process_since_the_first_look_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = str(tmp_path / "control" / "a"), str(tmp_path / "control" / "b")
    with subprocess.Popen(["sleep", "1000"], env={"ROTA_CONTROL": theirs}) as process:
        looks = iter([mine])
        look = sweep._mark_of
        monkeypatch.setattr(
            sweep, "_mark_of", lambda pid: next(looks, None) or look(pid) if pid == process.pid else None
        )

        try:
            assert sweep.sweep_marked(mine) == 0
            assert next(looks, None) is None, "it was looked at"
            assert process.poll() is None

            assert sweep.sweep_marked(theirs) == 1
            assert process.wait() == -9
        finally:
            process.kill()


# Becomes itself again and again, for a few seconds at most, so that a look finds it on its way into its new program.
RESTLESS = """
import os, sys
rounds = int(sys.argv[1])
if rounds:
    os.execv(sys.executable, [sys.executable, "-S", "-E", "-c", sys.argv[2], str(rounds - 1), sys.argv[2]])
"""


def test_a_process_that_is_just_becoming_another_program_is_found(tmp_path: Path) -> None:
    mark = str(tmp_path / "control" / "a")
    command = [sys.executable, "-S", "-E", "-c", RESTLESS, "1000", RESTLESS]
    for _ in range(20):
        with subprocess.Popen(command, env={"ROTA_CONTROL": mark}) as process:
            try:
                marks: set[str | None] = set()
                for _ in range(500):
                    marks.add(sweep._mark_of(process.pid))
                assert marks == {mark}
                assert sweep.sweep_marked(mark) == 1
                assert process.wait() == -9
            finally:
                process.kill()
