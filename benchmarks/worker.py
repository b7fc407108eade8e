"""A worker process to be measured: a node that counts its statements and says so when it leaves.

Run with its settings as JSON; prints one JSON line when it is ready and one when it ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from rota.engine.node import Node, RunUntil
from rota.engine.settings import NodeSettings


def main() -> int:
    given = json.loads(sys.argv[1])
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    event.listen(Engine, "before_cursor_execute", count)
    settings = NodeSettings(
        given["url"],
        Path(given["folder"]),
        slots=given["slots"],
        pools=tuple(given["pools"]),
        reuse=given["reuse"],
        lease_seconds=given["lease"],
        drain_timeout_seconds=5.0,
    )

    def say_ready(_name: str) -> None:
        print(json.dumps({"ready": True}), flush=True)

    node = Node(settings, run_until=RunUntil(given["run_until"]), on_ready=say_ready)
    node.install_signal_handlers()
    status = node.run()
    print(json.dumps({"statements": statements}), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
