"""The birth of a Python job from a warm parent, as its guardian sees it.

The guardian asks over the parent's socket; the parent forks, and answers with the pid and a pidfd that it opened before
it could reap. The new process waits at a *gate*, a socket whose other end the guardian holds, until it is let through.

Invariants: the job does not run before its guardian holds its pidfd and has looked at the clock; whatever goes wrong
before that, the job has certainly not been started, and may be started another way. Guardians use this, so imports stay
few; and warm parents, under any Python that jobs may have.
"""

from __future__ import annotations

import os
import socket

from rota.execution.wire import SOCKET_PATH_BYTES_MAX, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rota.execution.spawn import Birth
    from rota.execution.wire import Message

ANSWER_SECONDS_MAX = 5.0  # of a parent that is stopped, or has a thousand forks ahead; then the job starts cold
STATUS_SECONDS_MAX = 5.0  # after the job's process has ended, for its exit status
BACKLOG = 4096
OPEN = b"!"
MARK = "ROTA_CONTROL"
# What stands for it in the environment block of a parent, until a job's own is written over it.
PLACEHOLDER = "-" * SOCKET_PATH_BYTES_MAX

_STREAMS = ("stdin", "stdout", "stderr")
_OUR_OWN = {*_STREAMS, "step", "argv", "secrets"}


class WarmEnd:
    """How a job ended, as its parent tells."""

    __slots__ = (
        "cpu_seconds", "is_clear", "leftovers", "memory_bytes_max", "read_bytes", "status", "written_bytes",
    )  # fmt: skip

    def __init__(self, message: Message) -> None:
        self.status: int = message["status"]
        self.cpu_seconds: float = message["cpu_seconds"]
        self.memory_bytes_max: int = message["memory_bytes_max"]
        self.read_bytes: int | None = message["read_bytes"]
        self.written_bytes: int | None = message["written_bytes"]
        self.leftovers: int = message["leftovers"]
        self.is_clear: bool = message["is_clear"]


class WarmBirth:
    """One request to a warm parent, and what it has answered so far."""

    def __init__(self, path: str, target: str, birth: Birth, gate: int, secrets: int = -1) -> None:
        """Ask the parent that listens at ``path``. Takes over ``gate``, the job's end of it, and ``secrets``.

        That is a file in memory: the parent hands it on to the job's process without having read it.

        Raises:
            OSError: nobody listens there.
        """
        self.pid = 0
        self.pidfd = -1
        self.refusal: str | None = None  # why it does not fork
        self.end: WarmEnd | None = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(path)
            streams = tuple(os.dup(getattr(birth, name)) for name in _STREAMS)
        except OSError:
            connection.close()
            for descriptor in (gate, secrets):
                if descriptor >= 0:
                    os.close(descriptor)
            raise
        fields = {name: getattr(birth, name) for name in birth.__slots__ if name not in _OUR_OWN}
        self._parent = Channel(connection)
        request = {"op": "fork", "target": target, "birth": fields, "has_secrets": secrets >= 0}
        given = (*streams, gate) if secrets < 0 else (*streams, gate, secrets)
        self._parent.send(request, descriptors=given)

    def fileno(self) -> int:
        return self._parent.fileno()

    @property
    def wants_write(self) -> bool:
        return self._parent.wants_write

    @property
    def lost(self) -> bool:
        """Whether the parent is gone, or as good as gone."""
        return self._parent.lost

    def hear(self) -> None:
        """Take what the parent says."""
        self._parent.flush()
        for message, _ in self._parent.receive():
            if message["op"] == "forked":
                self.pid = message["pid"]
                self.pidfd = self._parent.descriptors.pop(0)
            elif message["op"] == "refused":
                self.refusal = message["why"]
            elif message["op"] == "ended":
                self.end = WarmEnd(message)
        if self._parent.lost and not self.pid and self.refusal is None:
            self.refusal = "the warm parent died before it had forked"

    def close(self) -> None:
        """Part from the parent. It kills a job of ours that still lives."""
        self._parent.close()
