"""The benchmarks run, and count what they have measured. How fast it was is for ``make bench`` to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_every_figure_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ("--database", "sqlite", "--runs", "700", "--idle-seconds", "1", "--json", str(file))

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["sqlite"]
    assert {
        "fork and exit",
        "memory of a guardian",
        "enqueue in bulk",
        "no-op commands",
        "output seen, worst",
        "idle statements",
    } <= set(figures)
    assert all(figure["value"] > 0 for name, figure in figures.items() if name != "idle statements")


def test_claims_beside_a_long_history_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ("--database", "sqlite", "--history", "100", "--json", str(file))

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["sqlite"]
    assert {"claim: median beside them to that before", "end beside 100 ended runs, 99th percentile"} <= set(figures)


@pytest.mark.long
def test_every_page_is_measured_beside_a_crowd(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ("--database", "sqlite", "--crowd", "2000", "--crowd-jobs", "20", "--json", str(file))

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["sqlite"]
    assert {"/", "/board", "/runs?state=failed", "/api/v1/jobs", "100 viewers to one: statements"} <= set(figures)
    assert all(figure["value"] > 0 for figure in figures.values())
