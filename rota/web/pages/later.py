"""Views that take too long for a page to wait for: it gets what was found last, while one thread looks anew.

Invariant: there is one such thread at most, and it ends when nothing is wanted any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rota.errors import RotaError

log = logging.getLogger("rota.web")

GRACE_SECONDS = 0.2  # for which a page waits that has nothing to show yet: most looks are over by then
OLD_SECONDS = 600.0  # what was found earlier is shown to nobody
FOUND_MAX = 20


@dataclass(frozen=True, slots=True)
class _Found:
    at: float
    view: Any = None
    error: RotaError | None = None


class Later:
    """What was found, and what is still to be looked at."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._has_found = threading.Condition(self._lock)
        self._found: dict[str, _Found] = {}
        self._wanted: dict[str, Callable[[], Any]] = {}
        self._thread: threading.Thread | None = None

    def get(self, key: str, look: Callable[[], Any], seconds: float) -> Any | None:
        """Return what ``look`` has returned lately; None: nothing yet, and it is being asked.

        It is asked again when its answer is older than ``seconds``.

        Raises:
            RotaError: as ``look``, once.
        """
        with self._lock:
            now = self._clock()
            found = self._found.get(key)
            if found is None or now >= found.at + seconds:
                self._wanted.setdefault(key, look)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._look, name="later", daemon=True)
                    self._thread.start()
            if found is None or now >= found.at + OLD_SECONDS:
                self._has_found.wait_for(lambda: key not in self._wanted, GRACE_SECONDS)
                found = self._found.get(key)
            if found is None or now >= found.at + OLD_SECONDS:
                return None
            if found.error is not None:
                del self._found[key]
                raise found.error
            return found.view

    def wait(self) -> None:
        """Wait until all that is wanted was looked at."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _look(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                key, look = next(iter(self._wanted.items()))
            found: _Found | None = None
            try:
                found = _Found(self._clock(), look())
            except RotaError as error:
                found = _Found(self._clock(), error=error)
            except Exception:  # of a defect others do not suffer
                log.exception("what a page was to show could not be found out: %s", key)
            with self._lock:
                del self._wanted[key]
                self._found.pop(key, None)  # to the end, as the newest
                if found is not None:
                    self._found[key] = found
                if len(self._found) > FOUND_MAX:
                    del self._found[next(iter(self._found))]
                self._has_found.notify_all()
