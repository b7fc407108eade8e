"""The guardian's ear towards its job: results, errors and questions, on a unix socket made for one attempt.

The path is in the job's ``ROTA_CONTROL``. One socket per attempt: what a process of an earlier attempt may still have
sent cannot reach the next one. The path is also the mark by which the sweep knows processes whose guardian died.
Requests are frames: ``result`` (the JSON text as blob), ``error`` (type, message, traceback), ``args`` (answered with
the arguments' JSON as blob). The answer is ``{"ok": true}`` or ``{"ok": false, "error": sentence}``. The last result
wins.
"""

from __future__ import annotations

import os
import select

from rota.execution.wire import CONTROL_BYTES_MAX, RESULT_BYTES_MAX, Channel, listen_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rota.execution.wire import Frame, Message

CONTROL_FOLDER = "c"
SOCKET_PATH_BYTES_MAX = 107
CLIENTS_MAX = 32  # connections a job may hold open at once
ERROR_TEXT_MAX = 65536


class Control:
    """Listens to one job, and keeps what it said."""

    def __init__(self, path: str, arguments: bytes, owner: int | None) -> None:
        self.path = path
        self.result: bytes | None = None
        self.error: tuple[str, str, str] | None = None
        self._arguments = arguments
        self._clients: dict[int, Channel] = {}
        self._listener = listen_at(path, CLIENTS_MAX, owner)

    def interests(self) -> list[tuple[int, int]]:
        """List the descriptors to wait for, with the events of ``poll``."""
        both = select.POLLIN | select.POLLOUT
        clients = [(number, both if c.wants_write else select.POLLIN) for number, c in self._clients.items()]
        # With every place taken, those who knock wait in the backlog.
        return clients if len(clients) == CLIENTS_MAX else [(self._listener.fileno(), select.POLLIN), *clients]

    def handle(self, fileno: int) -> None:
        """Take what has come on one of ``interests()``."""
        if fileno == self._listener.fileno():
            self._accept()
        elif fileno in self._clients:
            self._serve(self._clients[fileno])

    def drain(self) -> None:
        """Take what has come and was not looked at yet; for the end, when no writer is left."""
        self._accept()
        for client in list(self._clients.values()):
            self._serve(client)

    def _accept(self) -> None:
        while len(self._clients) < CLIENTS_MAX:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._clients[connection.fileno()] = Channel(connection, CONTROL_BYTES_MAX)

    def _serve(self, client: Channel) -> None:
        for frame in client.receive():
            answer, blob = self._answer(frame)
            client.send(answer, blob)
        client.flush()
        if client.lost:
            self._clients = {number: other for number, other in self._clients.items() if other is not client}
            client.close()

    def _answer(self, frame: Frame) -> tuple[Message, bytes]:
        message, blob = frame
        match message.get("op"):
            case "result" if len(blob) <= RESULT_BYTES_MAX:
                try:
                    blob.decode("utf-8")
                except UnicodeDecodeError:
                    return _refusal("the result is not UTF-8"), b""
                self.result = blob
                return {"ok": True}, b""
            case "result" | "too_large":
                size = message.get("bytes", len(blob))
                rule = f"{RESULT_BYTES_MAX} are the most; store it elsewhere and report where"
                return _refusal(f"the result has {size} bytes, and {rule}"), b""
            case "error":
                texts = [str(message.get(key, "")) for key in ("type", "message", "traceback")]
                # Of a long traceback the end tells most.
                self.error = (texts[0][:200], texts[1][:ERROR_TEXT_MAX], texts[2][-ERROR_TEXT_MAX:])
                return {"ok": True}, b""
            case "args":
                return {"ok": True}, self._arguments
            case other:
                return _refusal(f"the guardian does not know {other!r}; it knows result, error and args"), b""

    def close(self) -> None:
        """Stop listening and remove the socket."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._listener.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def _refusal(sentence: str) -> Message:
    return {"ok": False, "error": sentence}
