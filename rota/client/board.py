"""The board, as applications see it: jobs, or nodes, by time. ``rota.board``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rota.errors import Invalid
from rota.model.board import NODE_ZOOMS, ROWS_DEFAULT, ROWS_MAX, Window, check_zoom, worst_of
from rota.model.instants import check_zone, format_instant, parse_instant
from rota.model.names import NAME_LENGTH_MAX
from rota.model.values import check_whole
from rota.store import board as store
from rota.store.board import Cell, Line

if TYPE_CHECKING:
    from rota.client.rota import Rota

HOURS_MAX = 31 * 24


class Board:
    """What ended how, what is going on and what will come, by time.

    A board has ``rows`` by name, and ``all``, each with ``cells``: of those that hold something the number (``cell``),
    ``start``, ``counts`` by state, the ``worst`` of these, ``run`` (where it is a single one), and ``coming``, the
    first slot that is still ahead. ``cell_seconds`` and ``cell_count`` say how the time from ``start`` to ``end`` is
    cut. ``before`` and ``later`` count what is not finished and is for another time. ``next`` is what to give as
    ``after``.
    """

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def jobs(
        self,
        zoom: str = "day",
        *,
        start: str | datetime | None = None,
        search: str = "",
        troubled: bool = False,
        after: str = "",
        limit: int = ROWS_DEFAULT,
    ) -> dict[str, Any]:
        """Return the board of the jobs whose names contain ``search``: what each had by the slots it was for.

        ``zoom`` is hour, 6h, day, week, month or year; without ``start`` it reaches a fifth of that into the future.
        ``troubled``: only jobs of which something failed, was lost or was missed. Pages are of up to 200 jobs.

        Raises:
            Invalid: there is no such zoom, the moment cannot be read, or a number is out of its range.
        """
        board = store.read_job_board(
            self._rota.database,
            check_zoom(zoom),
            start=self._moment(start),
            part=_check_text("search", search),
            after=_check_text("after", after),
            limit=check_whole("limit", limit, 1, ROWS_MAX),
            is_troubled=troubled,
        )
        return _show(board)

    def nodes(
        self, zoom: str = "day", *, start: str | datetime | None = None, after: str = "", limit: int = ROWS_DEFAULT
    ) -> dict[str, Any]:
        """Return the board of the nodes: how the attempts on each ended, by when they did. No zoom is below a day.

        Raises:
            Invalid: there is no such zoom, the moment cannot be read, or a number is out of its range.
        """
        board = store.read_node_board(
            self._rota.database,
            check_zoom(zoom, NODE_ZOOMS),
            start=self._moment(start),
            after=_check_text("after", after),
            limit=check_whole("limit", limit, 1, ROWS_MAX),
        )
        return _show(board)

    def hours(self, hours: int = 24) -> dict[str, Any]:
        """Return how runs of all jobs ended in each of the last ``hours``, and how late they started.

        This hour is among them. Each has ``ended`` by state, and ``delay_seconds``: how long runs waited on average
        from when they might start to when they did, None where none has started. A run counts in the hour of its slot.

        Raises:
            Invalid: ``hours`` is not 1 to 744.
        """
        found = store.read_throughput(self._rota.database, check_whole("hours", hours, 1, HOURS_MAX))
        begins = [found.start + timedelta(hours=number) for number in range(hours)]
        return {
            "now": format_instant(found.now),
            "start": format_instant(found.start),
            "end": format_instant(found.end),
            "hours": [
                {
                    "hour": format_instant(hour),
                    "ended": found.ended.get(hour, {}),
                    "delay_seconds": _mean(*found.delays.get(hour, (0.0, 0))),
                }
                for hour in begins
            ],
            "delay_seconds": _mean(
                sum(seconds for seconds, _ in found.delays.values()), sum(number for _, number in found.delays.values())
            ),
        }

    def _moment(self, start: str | datetime | None) -> datetime | None:
        if start is None:
            return None
        return parse_instant("start", start, check_zone("tz", self._rota.default_zone))


def _mean(seconds: float, number: int) -> float | None:
    return round(max(0.0, seconds / number), 3) if number > 0 else None


def _check_text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > NAME_LENGTH_MAX or "\0" in value:
        raise Invalid(field, value, f"it is a text of at most {NAME_LENGTH_MAX} characters, as names are")
    return value


def _show(board: store.Board) -> dict[str, Any]:
    window = board.window
    return {
        "zoom": window.zoom.name,
        "cell_seconds": window.zoom.cell_seconds,
        "cell_count": window.zoom.cell_count,
        "start": format_instant(window.start),
        "end": format_instant(window.end),
        "now": format_instant(board.now),
        "all": _show_line(window, board.all),
        "rows": [_show_line(window, line) for line in board.lines],
        "next": board.next,
        "is_cut": board.is_cut,
    }


def _show_line(window: Window, line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "state": line.state,
        "before": line.before,
        "later": line.later,
        "cells": [_show_cell(window, number, cell) for number, cell in sorted(line.cells.items())],
    }


def _show_cell(window: Window, number: int, cell: Cell) -> dict[str, Any]:
    return {
        "cell": number,
        "start": format_instant(window.start_of(number)),
        "counts": cell.counts,
        "worst": worst_of(cell.counts),
        "run": cell.run_id,
        "coming": None if cell.coming_at is None else format_instant(cell.coming_at),
    }
