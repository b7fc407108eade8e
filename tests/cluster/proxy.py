"""TCP proxies in front of a database server: one counts the statements that clients send, one does harm."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

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


COMMITS = {"postgresql": b"COMMIT\0", "mysql": b"\x07\0\0\0\x03COMMIT"}
Place = Literal["before", "inside", "answer", "after"]


class TroubledProxy:
    """Passes everything on, until it is told to do harm. Nothing of it can be seen by the kernel at either end."""

    def __init__(self, kind: str, host: str, port: int) -> None:
        self.connections = 0
        self.cuts: Counter[Place] = Counter()
        self.places: list[Place] = []  # at which of the COMMITs to come, the first first, the connection is cut
        self.spares = 0  # so many COMMITs are left alone between two cuts
        self._spared = 0
        self._commit = COMMITS[kind]
        self._server = (host, port)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> int:
        """Take what all present connections send, and never pass anything on again; return how many that are."""
        before = len(self._silent)
        self._silent.update(end for pair in self._pairs for end in pair if end.fileno() >= 0)
        return (len(self._silent) - before) // 2

    def lead_to(self, host: str, port: int) -> None:
        """Lead to another server from now on, and cut what leads to the one before."""
        self._server = (host, port)
        for pair in self._pairs:
            _hang_up(*pair)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                cut: list[Place] = []  # where this connection is to be cut, once that has been decided
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, server, cut), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, cut: list[Place]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if client in self._silent:
                    continue
                place = self._place_of(data)
                if place in {"before", "inside"}:
                    if place == "inside":
                        server.sendall(data[: len(data) - 3])
                    break
                if place is not None:
                    cut.append(place)
                server.sendall(data)
        if client not in self._silent:
            _hang_up(client, server)

    def _answer(self, client: socket.socket, server: socket.socket, cut: list[Place]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if client in self._silent:
                    continue
                if cut != ["answer"]:
                    client.sendall(data)
                if cut:
                    break
        if client not in self._silent:
            _hang_up(client, server)

    def _place_of(self, data: bytes) -> Place | None:
        with self._lock:
            if self._commit not in data or not self.places:
                return None
            self._spared += 1
            if self._spared <= self.spares:
                return None
            self._spared = 0
            place = self.places.pop(0)
            self.cuts[place] += 1
            return place

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            _hang_up(*pair)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextlib.contextmanager
def troubled_proxy(kind: str, host: str, port: int) -> Iterator[TroubledProxy]:
    proxy = TroubledProxy(kind, host, port)
    try:
        yield proxy
    finally:
        proxy.close()
