"""The board: jobs, or nodes, by time. Each cell is a link to what it is made of, and says it in words too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup, escape

from rota.model.board import NODE_ZOOMS, ROWS_DEFAULT, ZOOMS, Zoom
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, page
from rota.web.pages.writing import address, clock, instant, mark, piece, read_moment

ROW_HEIGHT = 18
WIDTH = 1000  # of all cells together, about: with the names beside them they fit a screen of 1280
# How far the marks above the board lie apart, and how they are written.
# fmt: off
TICKS = {
    "hour":  (600,       "%H:%M"),
    "6h":    (3600,      "%H:%M"),
    "day":   (3 * 3600,  "%H:%M"),
    "week":  (86400,     "%a %d"),
    "month": (3 * 86400, "%m-%d"),
    "year":  (28 * 86400, "%m-%d"),
}
# fmt: on


class Drawn(NamedTuple):
    """One cell."""

    x: int
    kind: str
    mark: str
    said: str
    href: str


@dataclass(frozen=True, slots=True)
class Column:
    """One stretch of time, of which there is a cell in each row: written once for all of them."""

    x: int
    start: datetime
    shown: str
    words: str  # of the query string that asks for it


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where things stand on the board."""

    board: Any
    cell_width: int
    columns: list[Column]

    @property
    def start(self) -> datetime:
        return _moment(self.board["start"])

    @property
    def width(self) -> int:
        return self.cell_width * self.board["cell_count"]

    @property
    def now_x(self) -> int | None:
        """Where now is; None when it is not shown."""
        seconds = (_moment(self.board["now"]) - self.start).total_seconds()
        x = round(seconds / self.board["cell_seconds"] * self.cell_width)
        return x if 0 <= x <= self.width else None

    @property
    def ahead_x(self) -> int:
        """Where what is still to come begins."""
        if self.now_x is not None:
            return self.now_x
        return self.width if _moment(self.board["now"]) > self.start else 0

    def ticks(self) -> list[tuple[int, str]]:
        """Return the marks above the board."""
        apart, form = TICKS[self.board["zoom"]]
        cell_seconds = self.board["cell_seconds"]
        first = int(self.start.timestamp())
        found: list[tuple[int, str]] = []
        for number in range(self.board["cell_count"]):
            seconds = first + number * cell_seconds
            if seconds // apart != (seconds - cell_seconds) // apart:
                at = self.start + timedelta(seconds=number * cell_seconds)
                found.append((number * self.cell_width, at.strftime(form)))
        return found


@page("/board", "board.html", title="Board", key="b", place=20, live=10)
def show_job_board(asked: Asked) -> Context:
    zoom = asked.word("zoom") or "day"
    wanted: dict[str, Any] = {"zoom": zoom, "limit": ROWS_DEFAULT}
    for name in ("start", "search", "after"):
        if asked.word(name):
            wanted[name] = asked.word(name)
    if asked.word("troubled"):
        wanted["troubled"] = True
    board = asked.look("board.jobs", None, wanted)
    drawing = _draw(board)
    cell_span = timedelta(seconds=board["cell_seconds"])

    def link(name: str, cell: Any, column: Column) -> str:
        if cell["run"] is not None:
            return f"/runs/{cell['run']}"
        if not cell["counts"]:
            return f"/jobs/{name}"
        return f"/runs?job={name}&{column.words}"

    def zoom_in(_: str, __: Any, column: Column) -> str:
        names = list(ZOOMS)
        finer = names[max(0, names.index(board["zoom"]) - 1)]
        middle = column.start + cell_span / 2
        return address("/board", zoom=finer, start=instant(middle - ZOOMS[finer].span / 2))

    return _context(asked, "/board", board, drawing, ZOOMS) | {
        "rows": [_row(drawing, row, f"/jobs/{piece(row['name'])}", link) for row in board["rows"]],
        "all": _row(drawing, board["all"], "", zoom_in),
        "search": asked.word("search"),
        "troubled": bool(asked.word("troubled")),
        "of": "jobs",
    }


@page("/board/nodes", "board.html", live=10)
def show_node_board(asked: Asked) -> Context:
    zoom = asked.word("zoom") or "day"
    wanted: dict[str, Any] = {"zoom": zoom, "limit": ROWS_DEFAULT}
    for name in ("start", "after"):
        if asked.word(name):
            wanted[name] = asked.word(name)
    board = asked.look("board.nodes", None, wanted)
    drawing = _draw(board)

    def link(name: str, _: Any, __: Column) -> str:
        return f"/nodes/{name}"

    def zoom_in(_: str, __: Any, column: Column) -> str:
        names = list(NODE_ZOOMS)
        finer = names[max(0, names.index(board["zoom"]) - 1)]
        return address("/board/nodes", zoom=finer, start=instant(column.start))

    return _context(asked, "/board/nodes", board, drawing, NODE_ZOOMS) | {
        "rows": [_row(drawing, row, f"/nodes/{piece(row['name'])}", link) for row in board["rows"]],
        "all": _row(drawing, board["all"], "", zoom_in),
        "search": "",
        "troubled": False,
        "of": "nodes",
    }


def _moment(text: str) -> datetime:
    moment = read_moment(text)
    assert moment is not None
    return moment


def _draw(board: Any) -> Drawing:
    width = max(4, WIDTH // board["cell_count"])
    start, span = _moment(board["start"]), timedelta(seconds=board["cell_seconds"])
    columns: list[Column] = []
    for number in range(board["cell_count"]):
        begin = start + number * span
        words = urlencode({"from": instant(begin), "to": instant(begin + span)})
        columns.append(Column(number * width, begin, clock(begin)[:16], words))
    return Drawing(board, width, columns)


Link = Callable[[str, Any, Column], str]  # of the name of a row, as a piece of an address, and one of its cells


def _row(drawing: Drawing, row: Any, href: str, link: Link) -> dict[str, Any]:
    name, quoted = row["name"] or "all", piece(row["name"])
    return {
        "name": row["name"],
        "state": row["state"],
        "href": href,
        "before": _counted(row["before"]),
        "later": _counted(row["later"]),
        "cells": _write_cells(
            drawing.cell_width,
            [_cell(drawing.columns[int(cell["cell"])], name, quoted, cell, link) for cell in row["cells"]],
        ),
    }


def _cell(column: Column, name: str, quoted: str, cell: Any, link: Link) -> Drawn:
    kind = cell["worst"] or "coming"
    said = f"{name}, {column.shown}: {_counted(cell['counts']) or 'nothing yet'}"
    if cell["coming"] is not None:
        said += f", due {clock(cell['coming'])}"
    return Drawn(column.x, kind, mark(kind), said, link(quoted, cell, column))


def _write_cells(width: int, cells: list[Drawn]) -> Markup:
    """Write the cells of a row: here, since a template takes three times as long for the thousands of a page."""
    return Markup("").join(
        Markup(  # whatever is no number is escaped
            f'<a href="{escape(one.href)}"><title>{escape(one.said)}</title>'
            f'<rect class="cell {escape(one.kind)}" x="{one.x}" y="1" width="{width - 1}" height="{ROW_HEIGHT - 2}"/>'
            f'<text class="{escape(one.kind)}" x="{one.x + width // 2}" y="13">{escape(one.mark)}</text></a>'
        )
        for one in cells
    )


def _counted(counts: Any) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number)


def _context(asked: Asked, path: str, board: Any, drawing: Drawing, zooms: Any) -> Context:
    kept = {"search": asked.word("search"), "troubled": bool(asked.word("troubled"))}
    span = timedelta(seconds=board["cell_seconds"] * board["cell_count"])
    start = drawing.start

    def at(moment: datetime | None, zoom: str = board["zoom"]) -> str:
        return address(path, zoom=zoom, start=None if moment is None else instant(moment), **kept)

    def zoomed(zoom: Zoom) -> str:
        return at(start + span / 2 - zoom.span / 2 if asked.word("start") else None, zoom.name)

    following = None
    if board["next"] is not None:
        begins = instant(start) if asked.word("start") else None
        following = address(path, zoom=board["zoom"], start=begins, after=board["next"], **kept)
    return {
        "board": board,
        "drawing": drawing,
        "height": ROW_HEIGHT,
        "zooms": [(zoom.name, zoomed(zoom)) for zoom in zooms.values()],
        "earlier": at(start - span),
        "later": at(start + span),
        "at_now": at(None),
        "start": asked.word("start"),
        "first": address(path, zoom=board["zoom"], start=asked.word("start"), **kept) if asked.word("after") else None,
        "following": following,
    }
