"""The files of what a warm parent has imported, and of its interpreter: whether they are still what was read."""

from __future__ import annotations

import os
import sys
import time

LOOK_SECONDS_MAX = 1.0
LOOK_SHARE = 0.02  # of the time may go into looking


class ImportedFiles:
    """The files of the imported modules, as they were when they were read."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, ...] | None] = {}
        self._look_at = 0.0

    def remember(self, began_ns: int) -> None:
        """Note how the files of new modules look, what was noted before stays. One that was written since then may have
        been read before: it counts as changed."""
        self._seen.setdefault(sys.executable, _look_at(sys.executable))
        library = os.path.dirname(os.__file__) + "/"
        for module in list(sys.modules.values()):
            path = getattr(module, "__dict__", {}).get("__file__")
            if not isinstance(path, str) or path in self._seen:
                continue
            if not path.startswith(library) or "-packages/" in path:
                seen = _look_at(path)
                is_doubtful = seen is not None and began_ns <= seen[0] <= time.time_ns()
                self._seen[path] = () if is_doubtful else seen

    def find_changed(self) -> str | None:
        """Name a file that is not what was imported; None when there is none, as far as was looked lately."""
        now = time.monotonic()
        if now < self._look_at:
            return None
        for path, seen in self._seen.items():
            if _look_at(path) != seen:
                return path
        took = time.monotonic() - now
        self._look_at = now + min(LOOK_SECONDS_MAX, took / LOOK_SHARE)
        return None


def _look_at(path: str) -> tuple[int, ...] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_dev
