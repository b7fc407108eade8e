"""A web server to be measured: one that counts what it asks the database.

Run with its settings as JSON; prints one JSON line when it serves and one when it ends.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any

from sqlalchemy import Engine, event

from rota import Rota
from rota.cli.parameters import describe, say_what_it_does
from rota.web.app import make_app
from rota.web.pages.asked import Asked
from rota.web.server import WebServer


class Counted:
    """Statements that were sent, and the seconds until they were answered."""

    def __init__(self) -> None:
        self.statements = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._began = threading.local()
        event.listen(Engine, "before_cursor_execute", self._before)
        event.listen(Engine, "after_cursor_execute", self._after)

    def _before(self, *_: Any) -> None:
        self._began.at = time.perf_counter()

    def _after(self, *_: Any) -> None:
        with self._lock:
            self.statements += 1
            self.seconds += time.perf_counter() - self._began.at


def main() -> int:
    given = json.loads(sys.argv[1])
    counted = Counted()
    if not given["keeps"]:
        Asked.kept_seconds = lambda _: 0.0
    server = WebServer(make_app(Rota(given["url"]), describe=describe, say=say_what_it_does), "127.0.0.1", 0)
    server.start()
    print(json.dumps({"url": server.url}), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    server.close()
    print(json.dumps({"statements": counted.statements, "seconds": counted.seconds}), flush=True)
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before there are threads
    sys.exit(main())
