"""What an attempt wrote, as a page shows it: its head and tail, all of it, what is new, or the lines with a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from markupsafe import Markup

from rota.client.runs import STREAMS, Output
from rota.model.transcript import Part, lines
from rota.web.pages.ansi import Style, Writer, read_style
from rota.web.pages.asked import Asked
from rota.web.problems import Refusal

HEAD_BYTES = 32 * 1024
TAIL_BYTES = 128 * 1024
ALL_BYTES = 8 * 2**20
FOUND_MAX = 1000  # lines


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of what was written on one stream, as markup."""

    stream: str
    text: Markup
    is_gap: bool = False


@dataclass(slots=True)
class Shown:
    """What is shown of an attempt's output. ``seen`` and ``styles``, by stream, are where it goes on, and how."""

    attempt: int
    pieces: list[Piece]
    rest: list[Piece] = field(default_factory=list[Piece])  # the tail, where something is left out between
    bytes_total: int = 0
    bytes_left_out: int = 0
    seen: dict[str, int] = field(default_factory=dict[str, int])
    styles: dict[str, str] = field(default_factory=dict[str, str])


def read_output(asked: Asked, run: str, attempt: int | None, seen: Mapping[str, int] | None = None) -> Output:
    """Read what an attempt wrote. It may be too much to be kept for others, and too odd for JSON.

    Raises:
        Refusal: whoever asks may not.
        RotaError: there is no such run or attempt.
    """
    if not asked.may("run.logs"):
        raise Refusal(403, "forbidden", "what a run wrote is for viewers")
    return asked.rota.runs[run].read_output(attempt, seen)


def show_ends(found: Output, stream: str | None, *, is_live: bool) -> Shown:
    """Show the head and the tail of what was written."""
    return _show(found, stream, HEAD_BYTES, TAIL_BYTES, is_live=is_live)


def show_all(found: Output, stream: str | None, *, is_live: bool) -> Shown:
    """Show all that was written, up to what a browser can bear."""
    return _show(found, stream, ALL_BYTES // 2, ALL_BYTES // 2, is_live=is_live)


def show_new(found: Output, stream: str | None, styles: Mapping[str, str], *, is_live: bool) -> Shown:
    """Show what is new, of text in these styles."""
    return _show(found, stream, ALL_BYTES // 2, ALL_BYTES // 2, is_live=is_live, styles=styles)


def find_lines(found: Output, stream: str | None, wanted: str) -> list[tuple[int, Piece]]:
    """Return the lines that hold a text, whatever the case, with their numbers; at most ``FOUND_MAX``."""
    folded = wanted.casefold()
    chosen = _chosen(found.parts, stream)
    holding = (
        (number, line)
        for number, line in enumerate(lines(chosen), 1)
        if not line.is_gap and folded in line.data.decode("utf-8", "replace").casefold()
    )
    return [
        (number, Piece(line.stream, Writer().write(line.data.rstrip(b"\r\n"), is_last=True)))
        for number, line in islice(holding, FOUND_MAX)
    ]


def _chosen(parts: Iterable[Part], stream: str | None) -> list[Part]:
    return [part for part in parts if stream in (None, part.stream)]


def _show(
    found: Output,
    stream: str | None,
    head_bytes: int,
    tail_bytes: int,
    *,
    is_live: bool,
    styles: Mapping[str, str] | None = None,
) -> Shown:
    parts = _merge(_chosen(found.parts, stream))
    total = sum(len(part.data) for part in parts)
    shown = Shown(found.attempt, [], bytes_total=total)
    writers = {name: Writer(read_style((styles or {}).get(name, ""))) for name in STREAMS}
    if total <= head_bytes + tail_bytes:
        shown.pieces = _write(parts, writers, is_live=is_live)
    else:
        head, tail = _take(parts, head_bytes), _take_last(parts, tail_bytes)
        shown.bytes_left_out = total - sum(len(part.data) for part in (*head, *tail))
        shown.pieces = _write(head, {name: Writer() for name in STREAMS}, is_live=False)
        shown.rest = _write(tail, writers, is_live=is_live)
    shown.seen = {name: max(0, found.seen.get(name, 0) - writers[name].held) for name in STREAMS}
    shown.styles = {name: writers[name].style.numbers for name in STREAMS}
    return shown


def _merge(parts: list[Part]) -> list[Part]:
    """Put together what came one after the other on one stream, in time that does not grow with its square."""
    merged: list[tuple[Part, list[bytes]]] = []
    for part in parts:
        if merged and not part.is_gap and not merged[-1][0].is_gap and merged[-1][0].stream == part.stream:
            merged[-1][1].append(part.data)
        else:
            merged.append((part, [part.data]))
    return [Part(first.stream, b"".join(data), first.microseconds, first.is_gap) for first, data in merged]


def _take(parts: list[Part], count: int) -> list[Part]:
    taken: list[Part] = []
    for part in parts:
        if count <= 0:
            break
        taken.append(Part(part.stream, part.data[:count], part.microseconds, part.is_gap))
        count -= len(part.data)
    return taken


def _take_last(parts: list[Part], count: int) -> list[Part]:
    taken: list[Part] = []
    for part in reversed(parts):
        if count <= 0:
            break
        data = part.data[-count:]
        if len(data) < len(part.data):  # from the beginning of a line, if one begins there
            data = data[data.find(b"\n") + 1 :] or data
        taken.append(Part(part.stream, data, part.microseconds, part.is_gap))
        count -= len(part.data)
    return taken[::-1]


def _write(parts: list[Part], writers: dict[str, Writer], *, is_live: bool) -> list[Piece]:
    last = {part.stream: number for number, part in enumerate(parts)}
    pieces: list[Piece] = []
    for number, part in enumerate(parts):
        if part.is_gap:
            writers[part.stream] = Writer(Style())
            text = Writer().write(part.data, is_last=True)
        else:
            is_last = not is_live and last[part.stream] == number
            text = writers[part.stream].write(part.data, is_last=is_last)
        if text:
            pieces.append(Piece(part.stream, text, part.is_gap))
    return pieces
