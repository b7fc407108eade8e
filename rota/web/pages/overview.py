"""The overview: what somebody who is woken up wants to know first.

First whether anything stands still, then what is late and what failed, then what runs; the nodes, the day behind and
the day ahead come after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, page
from rota.web.pages.writing import address, clock, duration, read_moment

SHOWN_MAX = 8  # of what is late, failed or running
NODES_MAX = 50
HOURS = 24
# The next of so many schedules are looked at, once a minute for all viewers: with 100,000 of them it takes as long.
SCHEDULES_AHEAD = 100
AHEAD_KEPT_SECONDS = 60.0
BAR_WIDTH, BAR_HEIGHT = 22, 80
GOOD = ("succeeded", "skipped", "cancelled")
BAD = ("missed", "failed", "lost")
_WORST = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour: parts from below, each with its class, place and height; what it says, and where it leads."""

    x: int
    parts: list[tuple[str, int, int]]
    said: str
    href: str
    label: str


@page("/", "overview.html", title="Overview", key="o", place=10, live=3)
def show_overview(asked: Asked) -> Context:
    status = asked.look("status")
    behind = asked.look("board.hours", None, {"hours": HOURS})
    ahead = asked.look_later("forecast", {"days": 1, "schedules": SCHEDULES_AHEAD}, AHEAD_KEPT_SECONDS)
    severities = {found["severity"] for found in status["findings"]}
    return {
        "status": status,
        "now": status["now"],
        "verdict": next((one for one in _WORST if one in severities), "ok"),
        "shown_max": SHOWN_MAX,
        "nodes": status["nodes"][:NODES_MAX],
        "nodes_left": max(0, len(status["nodes"]) - NODES_MAX),
        "behind": behind,
        "bars_behind": _bars_behind(behind["hours"]),
        "ended": {state: sum(hour["ended"].get(state, 0) for hour in behind["hours"]) for state in (*GOOD, *BAD)},
        "ahead": ahead,
        "bars_ahead": [] if ahead is None else _bars_ahead(ahead["hours"]),
        "bar_width": BAR_WIDTH,
        "bar_height": BAR_HEIGHT,
    }


def _bars_behind(hours: list[Any]) -> list[Bar]:
    most = max((sum(hour["ended"].values()) for hour in hours), default=0)
    bars: list[Bar] = []
    for number, hour in enumerate(hours):
        parts: list[tuple[str, int, int]] = []
        below = BAR_HEIGHT
        for state in (*BAD, *GOOD):
            if count := hour["ended"].get(state, 0):
                height = max(2 if state in BAD else 1, round(count / most * (BAR_HEIGHT - 6)))
                below -= height
                parts.append((state, max(0, below), height))
        counted = ", ".join(f"{count:,} {state}" for state, count in hour["ended"].items() if count) or "nothing ended"
        late = "" if hour["delay_seconds"] is None else f"; started {duration(hour['delay_seconds'])} late on average"
        href = address("/board", zoom="hour", start=hour["hour"])
        bars.append(Bar(number * BAR_WIDTH, parts, f"{clock(hour['hour'])[:16]}: {counted}{late}", href, _label(hour)))
    return bars


def _bars_ahead(hours: list[Any]) -> list[Bar]:
    most = max((hour["runs"] for hour in hours), default=0)
    bars: list[Bar] = []
    for number, hour in enumerate(hours):
        height = max(1, round(hour["runs"] / most * (BAR_HEIGHT - 6))) if hour["runs"] else 0
        full = max((pool["occupancy"] or 0.0 for pool in hour["pools"]), default=0.0)
        said = f"{clock(hour['hour'])[:16]}: {hour['runs']:,} runs" + (f", fullest pool {full:.0%}" if full else "")
        kind = "full" if full >= 1 else "planned"
        href = address("/board", zoom="hour", start=hour["hour"])
        parts = [(kind, BAR_HEIGHT - height, height)] if height else []
        bars.append(Bar(number * BAR_WIDTH, parts, said, href, _label(hour)))
    return bars


def _label(hour: Any) -> str:
    moment = read_moment(hour["hour"])
    return f"{moment:%H}" if moment is not None and moment.hour % 3 == 0 else ""
