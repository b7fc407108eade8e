"""The outcomes of the suite as they are published: rows of a table in Markdown.

``python -m faults.results FILE...`` prints the table of several outcomes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "database", "seed", "runs", "executions", "faults", "lost", "doubled", "overlapping", "other broken promises",
    "overlaps while all killers were stopped", "executed again", "ended well twice", "at most once, lost",
    "missed", "skipped",
    "recovery, worst", "limit", "first start, worst",
)  # fmt: skip


def row_of(found: Mapping[str, Any]) -> list[str]:
    counts = found["counts"]
    others = counts["false_success"] + counts["zombie"] + counts["violation"]
    figures = (
        found["seed"], counts["runs"], counts["executions"], found["faults"], counts["lost"], counts["doubled"],
        counts["overlapping"], others, counts.get("excused", 0), counts["executed_again"], counts["ended_well_twice"],
        counts.get("lost_by_choice", 0), counts.get("missed_by_rule", 0), counts.get("skipped_by_rule", 0),
        f"{found['recovery_seconds_max']:.1f} s", f"{found['recovery_seconds_limit']:g} s",
        f"{found['late_seconds_max']:.1f} s",
    )  # fmt: skip
    return [found["database"].partition(" (")[0], *map(str, figures)]


def table_of(outcomes: Sequence[Mapping[str, Any]]) -> str:
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *map(row_of, outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table_of([json.loads(Path(name).read_text()) for name in sys.argv[1:]]))
