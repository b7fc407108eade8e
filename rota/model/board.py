"""The board: jobs, or nodes, by time. How far one look reaches, and how it is cut into cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rota.errors import Invalid
from rota.model.states import RunState

ROWS_MAX = 200
ROWS_DEFAULT = 50
AHEAD_SHARE = 0.2  # of what is shown lies ahead, unless a moment is asked for
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Zoom:
    """How much time is shown, in cells of which length."""

    name: str
    cell_seconds: int
    cell_count: int

    @property
    def counts_runs(self) -> bool:
        """Whether its cells are shorter than what is counted: runs are looked at one by one, if they are few."""
        return self.cell_seconds < 900

    @property
    def span(self) -> timedelta:
        return timedelta(seconds=self.cell_seconds * self.cell_count)


ZOOMS: Mapping[str, Zoom] = {
    zoom.name: zoom
    for zoom in (
        Zoom("hour", 60, 60),
        Zoom("6h", 300, 72),
        Zoom("day", 900, 96),
        Zoom("week", 2 * 3600, 84),
        Zoom("month", 8 * 3600, 93),
        Zoom("year", 7 * 86400, 53),
    )
}
NODE_ZOOMS: Mapping[str, Zoom] = {
    "day": Zoom("day", 3600, 24),
    **{name: ZOOMS[name] for name in ("week", "month", "year")},
}


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is shown: cells of one length, [start, end)."""

    zoom: Zoom
    start: datetime

    @property
    def end(self) -> datetime:
        return self.start + self.zoom.span

    @property
    def start_seconds(self) -> int:
        """Seconds since 1970."""
        return int((self.start - _EPOCH).total_seconds())

    def cell_of(self, moment: datetime) -> int:
        """Return the number of the cell in which a moment lies; one below zero, or too high, when it is not shown."""
        return int((moment - self.start).total_seconds() // self.zoom.cell_seconds)

    def start_of(self, cell: int) -> datetime:
        return self.start + timedelta(seconds=cell * self.zoom.cell_seconds)


def choose_window(zoom: Zoom, now: datetime, start: datetime | None) -> Window:
    """Return the window that begins with the cell of ``start``; without one, most of it is past and now is in it."""
    if start is None:
        start = now + zoom.span * AHEAD_SHARE - zoom.span + timedelta(seconds=zoom.cell_seconds)
    # Cells lie on a grid that is the same for everybody, so that what is counted fits into them.
    seconds = int((start - _EPOCH).total_seconds())
    return Window(zoom, _EPOCH + timedelta(seconds=seconds - seconds % zoom.cell_seconds))


def check_zoom(value: object, zooms: Mapping[str, Zoom] = ZOOMS) -> Zoom:
    """Return the zoom of a name.

    Raises:
        Invalid: there is none.
    """
    if not isinstance(value, str) or value not in zooms:
        raise Invalid("zoom", value, f"it is one of {', '.join(zooms)}")
    return zooms[value]


# Of what a cell holds, the worst is seen first.
WORST_FIRST = (
    RunState.LOST,
    RunState.FAILED,
    RunState.MISSED,
    RunState.RUNNING,
    RunState.CANCELLED,
    RunState.SKIPPED,
    RunState.READY,
    RunState.WAITING,
    RunState.SUCCEEDED,
)


def worst_of(states: Collection[str]) -> str | None:
    """Return which of these states is seen first; of those of attempts that no run has, any."""
    return next((state.value for state in WORST_FIRST if state.value in states), min(states, default=None))
