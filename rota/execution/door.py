"""The door of a guardian whose worker is gone: a socket by which another worker of this machine takes it over.

Invariant: a guardian has a door only while it has no worker, and lets one worker in. Who comes second finds the
connection closed. The folder is the worker's own, so that only its user can knock.
"""

from __future__ import annotations

import os
import socket

from rota.execution.wire import listen_at

DOOR_FOLDER = "d"


class Door:
    """Waits for a worker."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = f"{folder}/{DOOR_FOLDER}/{name}"
        self._listener = listen_at(self._path, 1)

    def fileno(self) -> int:
        return self._listener.fileno()

    def let_in(self) -> socket.socket | None:
        """Return the connection to the worker that knocked, if it still is there."""
        try:
            return self._listener.accept()[0]
        except OSError:
            return None

    def close(self) -> None:
        """Have no door any more; whoever waits before it is sent away."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        self._listener.close()


def knock(folder: str) -> list[socket.socket]:
    """Connect to every guardian of this folder that has a door. Doors of the dead are removed."""
    connections: list[socket.socket] = []
    for name in sorted(os.listdir(f"{folder}/{DOOR_FOLDER}")):
        path = f"{folder}/{DOOR_FOLDER}/{name}"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            if isinstance(error, ConnectionRefusedError) and not name.startswith("."):
                _remove(path)
            continue
        connections.append(connection)
    return connections


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
