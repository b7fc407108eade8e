"""The truth outside of the database: a file to which every job appends what happened, with the machine's own clock.

Each line is one ``write`` with O_APPEND, so that lines of many processes never mix. It is not synced: processes die in
these tests, the machine does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# For jobs in shell. The first field of /proc/uptime is CLOCK_BOOTTIME, in hundredths of a second.
NOTE = (
    "note() { read now rest < /proc/uptime; "
    'echo "$1 $ROTA_RUN_ID $ROTA_ATTEMPT $ROTA_FENCE ${2:-$$} $now" >> "$LEDGER"; }\n'
)


@dataclass(frozen=True, slots=True)
class Entry:
    what: str  # start, end, and whatever else a test has its jobs say
    run_id: int
    attempt: int
    fence: int
    pid: int
    at: float  # CLOCK_BOOTTIME


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def entries(self, what: str | None = None, *, run_id: int | None = None, attempt: int | None = None) -> list[Entry]:
        found: list[Entry] = []
        for line in self.path.read_text().splitlines():
            word, *numbers, at = line.split()
            entry = Entry(word, *map(int, numbers), float(at))
            if what in (None, word) and run_id in (None, entry.run_id) and attempt in (None, entry.attempt):
                found.append(entry)
        return found
