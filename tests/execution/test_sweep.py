"""The sweep kills what carries the mark of a dead guardian, and nothing else."""

from __future__ import annotations

import subprocess
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
