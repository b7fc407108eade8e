"""How the board's time is cut into cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rota.errors import Invalid
from rota.model.board import NODE_ZOOMS, ZOOMS, check_zoom, choose_window, worst_of

NOW = datetime(2026, 11, 2, 12, 34, 56, 789, tzinfo=UTC)


@pytest.mark.parametrize("name", ZOOMS)
def test_now_is_shown_with_a_fifth_ahead_of_it(name: str) -> None:
    zoom = ZOOMS[name]
    window = choose_window(zoom, NOW, None)
    cell = window.cell_of(NOW)

    assert window.start_of(cell) <= NOW < window.start_of(cell + 1)
    assert 0.75 < cell / zoom.cell_count < 0.85
    assert window.end - window.start == zoom.span


@pytest.mark.parametrize("name", ZOOMS)
def test_cells_lie_on_one_grid_whoever_looks_when(name: str) -> None:
    zoom = ZOOMS[name]
    starts = {choose_window(zoom, NOW, NOW + timedelta(seconds=second)).start_seconds for second in range(0, 3600, 7)}

    assert all(start % zoom.cell_seconds == 0 for start in starts)


@pytest.mark.parametrize("zoom", [*ZOOMS.values(), *NODE_ZOOMS.values()], ids=lambda zoom: zoom.name)
def test_what_is_counted_by_hours_or_days_fits_into_cells(zoom: object) -> None:
    seconds = zoom.cell_seconds  # type: ignore[attr-defined]

    assert 3600 % seconds == 0 or seconds % 3600 == 0
    assert seconds < 86400 or seconds % 86400 == 0


@pytest.mark.parametrize("value", ["decade", "", None, 5, "HOUR"])
def test_a_zoom_that_there_is_not_is_refused_with_those_there_are(value: object) -> None:
    with pytest.raises(Invalid, match="hour, 6h, day, week, month, year"):
        check_zoom(value)


def test_the_worst_is_seen_first() -> None:
    assert worst_of({"succeeded", "lost", "failed"}) == "lost"
    assert worst_of({"succeeded", "waiting"}) == "waiting"
    assert worst_of({"released"}) == "released"
    assert worst_of(set()) is None
