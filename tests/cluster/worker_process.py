"""A worker in a process of its own, to be stopped and killed: ``python -m tests.cluster.worker_process FILE``.

FILE is a JSON object: the values of ``NodeSettings``, and beside them ``until`` (stopped, idle), ``log`` (a path),
``log_level``, ``alerts`` (sections of channels) and ``statements`` (a path, to which the statements sent to SQLite are
appended). HUP reads it again. The name that the node goes by is printed once it works.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from rota.alerts.channel import read_channel
from rota.engine.node import Node, RunUntil
from rota.engine.secrets import NodeSecrets
from rota.engine.settings import NodeSettings
from rota.errors import ConfigError
from rota.model.environment import Environment, Environments
from rota.model.secret import SecretSource
from rota.verbs.answering import answer_commands
from tests.returning import switch_returning_off


def read_values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    for name in ("pools", "import_dirs"):
        if name in values:
            values[name] = tuple(values[name])
    if "environments" in values:
        values["environments"] = Environments(Environment.checked(**facts) for facts in values["environments"])
    if "secrets" in values or "alerts" in values:
        channels = [read_channel(name, section) for name, section in values.pop("alerts", {}).items()]
        sources = [SecretSource.checked(**facts) for facts in values.get("secrets", ())]
        values["secrets"] = NodeSecrets(sources, channels=channels)
    return values | {"state_dir": Path(values["state_dir"])}


def settings_of(values: dict[str, Any]) -> NodeSettings:
    ours = {"until", "log", "log_level", "statements"}
    return NodeSettings(**{name: value for name, value in values.items() if name not in ours})


def count_statements(path: str) -> None:
    """Append the first words of each statement that SQLite is given, BEGIN and COMMIT included, data_version not."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def trace(statement: str) -> None:
        if "data_version" not in statement:
            os.write(fd, b"%s\n" % " ".join(statement.split()[:3]).encode())

    event.listen(Engine, "connect", lambda connection, _: connection.set_trace_callback(trace))


def main(path: Path) -> int:
    switch_returning_off()
    values = read_values(path)
    if "statements" in values and values["database_url"].startswith("sqlite"):
        count_statements(values["statements"])
    handler = logging.FileHandler(values["log"])
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=values.get("log_level", "INFO"), handlers=[handler])
    node = Node(
        settings_of(values),
        run_until=RunUntil(values.get("until", "stopped")),
        reload=lambda: settings_of(read_values(path)),
        reopen_logs=handler.close,  # the next line opens it again, under its own name
        on_ready=lambda name: print(name, flush=True),
        answer=lambda database, node: answer_commands(database, node=node),
    )
    node.install_signal_handlers()
    return node.run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
