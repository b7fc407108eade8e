"""The forecast: how full each pool will be, hour by hour, as a heat map of days and hours.

Invariant: it is bounded: so many days, and so many schedules, looked at once a minute for all viewers, and while nobody
waits; and it says when that is not all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rota.errors import Invalid
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, page

DAYS_SHOWN_MAX = 31
DAYS_DEFAULT = 7
SCHEDULES_MAX = 2000
KEPT_SECONDS = 60.0
TOLD_MAX = 20
HOURS = 24
_LEVELS = (0.1, 0.25, 0.5, 0.8)  # of the slots of a pool, where the next colour begins


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour: how many runs start, and how full the fullest pool is: a level from 1 to 5, 0 for nothing."""

    level: str
    runs: int
    said: str


@page("/forecast", "forecast.html", title="Forecast", key="w", place=100, live=2)
def show_forecast(asked: Asked) -> Context:
    days = _days_of(asked)
    wanted: dict[str, Any] = {"days": days, "schedules": SCHEDULES_MAX}
    wanted |= {"job": asked.word("job")} if asked.word("job") else {}
    view = asked.look_later("forecast", wanted, KEPT_SECONDS)
    pool = asked.word("pool")
    return {
        "view": view,
        "days": days,
        "given": {"job": asked.word("job"), "pool": pool},
        "rows": [] if view is None else _rows_of(view["hours"], pool),
        "hours": range(HOURS),
        "most": TOLD_MAX,
        "schedules_max": SCHEDULES_MAX,
    }


def _days_of(asked: Asked) -> int:
    word = asked.word("days") or str(DAYS_DEFAULT)
    if not (word.isascii() and word.isdigit() and len(word) < 4 and 1 <= int(word) <= DAYS_SHOWN_MAX):
        raise Invalid("days", word, f"it is a whole number from 1 to {DAYS_SHOWN_MAX}")
    return int(word)


def _rows_of(hours: list[dict[str, Any]], pool: str) -> list[tuple[str, list[Cell | None]]]:
    """Return the days, each with a cell for every hour of it; None for what is not looked at."""
    rows: list[tuple[str, list[Cell | None]]] = []
    for day, of_day in groupby(hours, key=lambda hour: str(hour["hour"])[:10]):
        cells: list[Cell | None] = [None] * HOURS
        for hour in of_day:
            cells[int(str(hour["hour"])[11:13])] = _cell_of(hour, pool)
        rows.append((day, cells))
    return rows


def _cell_of(hour: Mapping[str, Any], pool: str) -> Cell:
    pools = [one for one in hour["pools"] if not pool or one["pool"] == pool]
    runs = sum(one["runs"] for one in pools)
    if not runs:
        return Cell("l0", 0, "no runs")
    unserved = [one["pool"] for one in pools if one["occupancy"] is None and one["runs"]]
    fullest = max(
        (one for one in pools if one["occupancy"] is not None), key=lambda one: one["occupancy"], default=None
    )
    said = f"{runs:,} {'run' if runs == 1 else 'runs'}"
    if fullest is not None:
        said += f"; {fullest['pool']} is {fullest['occupancy']:.0%} full, {fullest['peak']} at once"
    if unserved:
        return Cell("unserved", runs, f"{said}; no node serves {', '.join(unserved)}")
    assert fullest is not None
    return Cell(f"l{1 + sum(fullest['occupancy'] >= level for level in _LEVELS)}", runs, said)
