"""``python -m benchmarks --database postgresql``: the figures of one database, as a table and as JSON.

The server is a fresh one whose durability is left at its defaults. What was written is counted afterwards, so that a
figure cannot come from work that was not done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.dependants import measure_dependants
from benchmarks.figures import Figure, measure_all
from benchmarks.history import measure_history
from benchmarks.pages import measure_crowded
from benchmarks.periods import measure_periods
from benchmarks.schedules import measure_schedules
from tests.servers import KINDS, STARTERS, Unavailable, find


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--database", choices=[*KINDS, "all"], default="postgresql")
    parser.add_argument("--runs", type=int, default=20_000, help="no-op jobs to drain")
    parser.add_argument("--slots", type=int, default=32, help="runs at once")
    parser.add_argument("--idle-seconds", type=float, default=120.0, help="how long an idle worker is watched")
    parser.add_argument("--schedules", type=int, default=0, help="measure with so many schedules instead")
    parser.add_argument("--due", type=int, default=100, help="how many of the schedules are due each second")
    parser.add_argument("--history", type=int, default=0, help="measure beside so many ended runs instead")
    parser.add_argument("--dependants", type=int, default=0, help="measure with so many jobs after one instead")
    parser.add_argument("--periods", type=int, default=0, help="measure with so many years of hours instead")
    parser.add_argument("--crowd", type=int, default=0, help="measure pages beside so many ended runs instead")
    parser.add_argument("--crowd-jobs", type=int, default=100_000, help="and so many jobs with a schedule each")
    parser.add_argument("--machine", action=argparse.BooleanOptionalAction, default=True, help="the machine too")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go as JSON")
    given = parser.parse_args()
    kinds = [kind for kind in KINDS if can_be_had(kind)] if given.database == "all" else [given.database]
    written: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    }
    console = Console()
    for kind in kinds:
        with STARTERS[kind](durable=True) as server:
            console.print(f"{kind}: {server.origin}, durability at its defaults, {given.slots} slots")
            figures = measure(
                server.create_empty_database(), given, console, machine=given.machine and kind == kinds[0]
            )
        console.print(table_of(kind, figures))
        written[kind] = {figure.name: figure.as_dict() for figure in figures}
    given.json.write_text(json.dumps(written, indent=2) + "\n")
    console.print(f"written to {given.json}")
    return 0


def measure(url: str, given: argparse.Namespace, console: Console, *, machine: bool) -> list[Figure]:
    def say(text: str) -> None:
        console.print(f"  {text} …", style="dim")

    if given.schedules:
        seconds = max(given.idle_seconds, 60.0)
        return measure_schedules(url, schedules=given.schedules, per_second=given.due, seconds=seconds, say=say)
    if given.dependants:
        return measure_dependants(url, dependants=given.dependants, say=say)
    if given.periods:
        return measure_periods(url, years=given.periods, say=say)
    if given.crowd:
        return measure_crowded(url, runs=given.crowd, jobs=given.crowd_jobs, say=say)
    if given.history:
        return measure_history(url, runs=given.history, say=say)
    return measure_all(
        url, runs=given.runs, slots=given.slots, idle_seconds=given.idle_seconds, machine=machine, say=say
    )


def can_be_had(kind: str) -> bool:
    try:
        find(kind)
    except Unavailable as reason:
        print(f"not measured: {reason}", file=sys.stderr)
        return False
    return True


def table_of(kind: str, figures: list[Figure]) -> Table:
    table = Table(title=f"Rota on {kind}", title_justify="left")
    table.add_column("measured")
    table.add_column("figure", justify="right")
    table.add_column("unit")
    table.add_column("how", overflow="fold")
    for figure in figures:
        table.add_row(figure.name, figure.shown, figure.unit, figure.how)
    return table


if __name__ == "__main__":
    sys.exit(main())
