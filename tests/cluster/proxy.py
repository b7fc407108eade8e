"""A TCP proxy in front of a database server that counts what the clients ask: statements, as the protocol has them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

PG_STARTUP = 196608  # version 3.0; what comes before it, such as the question for TLS, has another number
PG_ASKS = b"QEF"  # a simple query, the execution of a prepared one, a function call
MYSQL_QUIT = 1


class CountingProxy:
    """Counts the statements of all connections made through ``port``."""

    def __init__(self, kind: str, host: str, port: int) -> None:
        self.statements = 0
        self.connections = 0
        self._server = (host, port)
        self._count: Callable[[bytearray, dict[str, int]], int] = _count_pg if kind == "postgresql" else _count_mysql
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self.connections += 1
                for source, sink, counts in ((client, server, True), (server, client, False)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass_on, args=(source, sink, counts), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        unread, state = bytearray(), dict[str, int]()
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counts:
                    unread += data
                    self.statements += self._count(unread, state)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _count_pg(unread: bytearray, state: dict[str, int]) -> int:
    asked = 0
    while True:
        head = 5 if state else 4  # before the start-up message there is no letter
        if len(unread) < head:
            return asked
        size = int.from_bytes(unread[head - 4 : head]) + head - 4
        if len(unread) < size:
            return asked
        if not state:
            if int.from_bytes(unread[4:8]) == PG_STARTUP:
                state["started"] = 1
        elif unread[0] in PG_ASKS:
            asked += 1
        del unread[:size]


def _count_mysql(unread: bytearray, state: dict[str, int]) -> int:
    del state
    asked = 0
    while len(unread) >= 4:
        size = int.from_bytes(unread[:3], "little") + 4
        if len(unread) < size:
            break
        # A command begins a sequence; the answer to the server's greeting does not.
        asked += unread[3] == 0 and unread[4] != MYSQL_QUIT
        del unread[:size]
    return asked


@contextlib.contextmanager
def counting_proxy(kind: str, host: str, port: int) -> Iterator[CountingProxy]:
    proxy = CountingProxy(kind, host, port)
    try:
        yield proxy
    finally:
        proxy.close()
