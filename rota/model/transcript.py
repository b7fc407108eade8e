"""What a job wrote, put in order: two streams, in pieces, with the moments at which their bytes came. Pure.

Invariant: no byte is shown twice, and where some were left out a line says how many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rota.model.run import Piece


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of one stream that came in one moment."""

    stream: str
    data: bytes
    microseconds: int | None  # from the start of the attempt; None: nobody knows
    is_gap: bool = False  # not written by the job: says that some of it was left out


def arrange(pieces: Iterable[Piece], seen: dict[str, int] | None = None) -> list[Part]:
    """Cut pieces at their marks and put the parts in the order in which they came.

    ``seen`` says up to which position each stream was shown before; it is moved on. Of what came in the same moment, or
    when nobody knows, standard output goes first.
    """
    seen = {} if seen is None else seen
    parts: list[Part] = []
    for piece in sorted(pieces, key=lambda piece: (piece.stream != "stdout", piece.position)):
        at = seen.get(piece.stream, 0)
        end = piece.position + len(piece.data)
        if end <= at:
            continue
        cut = list(_cut(piece, max(at, piece.position)))
        if piece.position > at:
            text = f"[... {piece.position - at} bytes of {piece.stream} left out ...]\n"
            parts.append(Part(piece.stream, text.encode(), cut[0].microseconds, is_gap=True))
        parts += cut
        seen[piece.stream] = end
    # Stable, so that what has no moment stays where it was.
    return sorted(parts, key=lambda part: part.microseconds or 0)


def _cut(piece: Piece, start: int) -> Iterator[Part]:
    end = piece.position + len(piece.data)
    known = [(position, at) for position, at in piece.marks if position < end]
    before = [at for position, at in known if position <= start]
    bounds: list[tuple[int, int | None]] = [(start, before[-1] if before else None)]
    bounds += [(position, at) for position, at in known if position > start]
    for (first, at), (last, _) in zip(bounds, [*bounds[1:], (end, None)], strict=True):
        if last > first:
            yield Part(piece.stream, piece.data[first - piece.position : last - piece.position], at)


def join(parts: Sequence[Part]) -> bytes:
    """Write parts one after the other; what was left out gets a line of its own."""
    text = bytearray()
    for part in parts:
        if part.is_gap and text and not text.endswith(b"\n"):
            text += b"\n"
        text += part.data
    return bytes(text)


def lines(parts: Iterable[Part]) -> Iterator[Part]:
    """Put parts together to whole lines, each with the moment of its beginning; the last may lack its end."""
    open_lines: dict[str, Part] = {}
    for part in parts:
        if part.is_gap:
            yield part
            continue
        for data in _split(part.data):
            begun = open_lines.pop(part.stream, None)
            line = Part(part.stream, (begun.data if begun else b"") + data, (begun or part).microseconds)
            if data.endswith(b"\n"):
                yield line
            else:
                open_lines[part.stream] = line
    yield from open_lines.values()


def _split(data: bytes) -> list[bytes]:
    # bytes.splitlines also cuts at a carriage return, by which progress bars write over themselves.
    pieces = data.split(b"\n")
    return [piece + b"\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
