"""How values are written on pages, and the templates that do so.

Invariant: all that a template is given is escaped, and a name that it is not given is an error. Only ``ansi`` makes
markup, out of escaped pieces.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rota.model.states import RunState

FOLDER = Path(__file__).parent.parent / "templates"
# A shape for each state, besides its colour, for those who do not see that.
# fmt: off
MARKS = {
    RunState.WAITING.value:   "…",
    RunState.READY.value:     "○",
    RunState.RUNNING.value:   "▶",
    RunState.SUCCEEDED.value: "✓",
    RunState.FAILED.value:    "✕",
    RunState.LOST.value:      "?",
    RunState.MISSED.value:    "!",
    RunState.SKIPPED.value:   "»",
    RunState.CANCELLED.value: "■",
    "coming":                 "·",
    "claimed":                "○",
    "released":               "↩",
    "alive":                  "✓",
    "draining":               "▽",
    "gone":                   "–",
    "silent":                 "✕",
    "active":                 "✓",
    "disabled":               "–",
    "paused":                 "‖",
    "ok":                     "✓",
    "warning":                "!",
    "critical":               "✕",
    "unknown":                "?",
    "open":                   "○",
    "in_progress":            "▶",
    "final_run":              "▶",
    "processed":              "✓",
    "noop":                   "=",
    "ended":                  "✓",
}
# fmt: on
_INSTANT = re.compile(r"\b(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?Z\b")
_PARTS = re.compile(r"[^-_./:]*[-_./:]+|[^-_./:]+")  # of a name, each with the signs that end it
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def make_templates() -> Environment:
    """Make the environment in which all templates are rendered."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters.update(
        ago=ago, clock=clock, day=day, duration=duration, instant=instant, json=write_json, number=number,
        parted=parted, piece=piece,
        said=said, size=size,
    )  # fmt: skip
    known: dict[str, Any] = {"address": address, "mark": mark}
    made.globals |= known
    return made


def read_moment(value: str | datetime) -> datetime | None:
    """Return the moment that a view tells; None where a hand has written something else into the table."""
    if isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def instant(value: str | datetime) -> str:
    """Write a moment for programs, to the second, in UTC."""
    moment = read_moment(value)
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def clock(value: str | datetime) -> str:
    """Write a moment for people, to the second, in UTC."""
    moment = read_moment(value)
    return str(value) if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def said(text: str | None) -> str:
    """Write a sentence of the store as pages do: the moments in it to the second, as everywhere else."""
    return _INSTANT.sub(r"\1 \2", text or "")


def parted(name: str | int) -> Markup:
    """Write a name so that it breaks between its parts. Each piece is escaped."""
    return Markup("<wbr>").join(_PARTS.findall(str(name)))  # join escapes them


def day(value: str | datetime) -> str:
    """Write the day of a moment, in UTC."""
    return clock(value)[:10]


def ago(value: str | datetime, now: str | datetime) -> str:
    """Say how long ago a moment was, or how far ahead it is."""
    moment, reference = read_moment(value), read_moment(now)
    if moment is None or reference is None:
        return ""
    seconds = (reference - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    said = _roughly(abs(seconds))
    return f"{said} ago" if seconds > 0 else f"in {said}"


def _roughly(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def duration(seconds: float | None) -> str:
    """Write how long something took, in the two units that say most."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (length, unit), (smaller, small) in zip(_UNITS, (*_UNITS[1:], (1, "s")), strict=True):
        if whole >= length:
            rest = whole % length // smaller
            return f"{whole // length} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def size(count: float | None) -> str:
    """Write a number of bytes."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def number(value: float) -> str:
    """Write a number with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def write_json(value: Any) -> str:
    """Write a document for people."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str).encode("utf-8", "backslashreplace").decode()


def piece(name: str | int) -> str:
    """Write a name as one piece of an address."""
    return quote(str(name), safe="")


def address(path: str, **words: Any) -> str:
    """Write an address with a query string; what is None, empty or False is left out. ``from_`` is from."""
    pairs = [
        (name.removesuffix("_"), "1" if one is True else str(one))
        for name, value in words.items()
        for one in (cast("list[Any]", value) if isinstance(value, list) else (value,))
        if one is not None and one is not False and one != ""
    ]
    return path + ("?" + urlencode(pairs) if pairs else "")


def mark(state: str | None) -> str:
    """Return the shape of a state."""
    return MARKS.get(state or "", "•")
