"""What jobs wrote, on this side: to a pipe as the bytes they are, to a terminal with control characters made visible.

Invariant: nothing that a job wrote can make a terminal do anything, unless that was asked for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from rota.model.transcript import Part, lines

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


class OutputWriter:
    """Writes parts of output as somebody wants to see them."""

    def __init__(self, *, times: bool = False, search: str | None = None, raw: bool = False) -> None:
        self._times = times
        self._search = search.encode() if search else None
        self._shows_control = sys.stdout.isatty() and not raw
        self._ends_line = True

    def write(self, parts: Iterable[Part], started_at: str | None) -> None:
        """Write to standard output, at once."""
        sys.stdout.flush()
        for data in self.render(parts, started_at):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def render(self, parts: Iterable[Part], started_at: str | None) -> Iterator[bytes]:
        """Give what is to be written."""
        whole_lines = self._times or self._search is not None
        for part in lines(parts) if whole_lines else parts:
            if self._search is not None and self._search not in part.data:
                continue
            data = part.data
            if part.is_gap and not self._ends_line:
                data = b"\n" + data
            if self._times:
                data = f"{_moment(part, started_at)} {part.stream} ".encode() + data
            if whole_lines and not data.endswith(b"\n"):
                data += b"\n"
            self._ends_line = data.endswith(b"\n")
            yield _visible(data) if self._shows_control else data


def _moment(part: Part, started_at: str | None) -> str:
    if part.microseconds is None or started_at is None:
        return "-"
    start = datetime.fromisoformat(started_at)
    return (start + timedelta(microseconds=part.microseconds)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _visible(data: bytes) -> bytes:
    text = data.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text).encode()
