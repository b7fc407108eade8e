"""A TCP proxy between one host and the database, which behaves as badly as it is told.

Each host has one. What is on its way when a fault begins is subject to it too: what was held back arrives late, as
after a partition, and what was swallowed never does, as behind a router that forgot the connection.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from enum import StrEnum

CHUNK_BYTES = 65536
LOOK_SECONDS = 0.05


class Mode(StrEnum):
    PASS = "pass"
    DELAY = "delay"  # everything comes so many seconds late, in each direction
    HOLD = "hold"  # nothing comes until it is over, and then all of it
    SWALLOW = "swallow"  # nothing comes, not afterwards either; nobody is told
    CUT = "cut"  # each connection is reset after so many more bytes, in either direction
    REFUSE = "refuse"  # every connection is reset, open ones and new ones


class Proxy:
    """Passes on what comes to ``port`` of ``host``, in the present mode."""

    def __init__(self, host: str, server: tuple[str, int]) -> None:
        self._server = server
        self._mode, self._amount = Mode.PASS, 0.0
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def seconds_late(self) -> float:
        return self._amount if self._mode is Mode.DELAY else 0.0

    def set(self, mode: Mode, amount: float = 0.0) -> None:
        """Behave like that from now on. ``amount``: seconds of delay, or bytes until the cut."""
        with self._lock:
            self._mode, self._amount = mode, amount
            pairs = list(self._pairs)
        for pair in pairs:
            if mode is Mode.REFUSE:
                pair.reset()
            elif mode is Mode.CUT:
                pair.bytes_left = int(amount)

    def reset_all(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()

    def close(self) -> None:
        self.is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        if self._mode is Mode.REFUSE:
            _reset(client)
            return
        while self._mode in (Mode.HOLD, Mode.SWALLOW) and not self.is_closed:
            time.sleep(LOOK_SECONDS)
        try:
            server = socket.create_connection(self._server, timeout=5)
            server.settimeout(None)
        except OSError:
            _reset(client)
            return
        pair = _Pair(self, client, server)
        with self._lock:
            pair.bytes_left = int(self._amount) if self._mode is Mode.CUT else None
            self._pairs.add(pair)
        pair.start()

    def forget(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)


class _Pair:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self.bytes_left: int | None = None
        self._has_swallowed = False
        self._is_reset = False
        self._open = 2

    def start(self) -> None:
        for source, sink in ((self._client, self._server), (self._server, self._client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def reset(self) -> None:
        self._is_reset = True
        for each in (self._client, self._server):
            _reset(each)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                # Sleeping here delays what comes behind it too: enough for a protocol of questions and answers.
                if late := self._proxy.seconds_late:
                    time.sleep(late)
                while self._proxy.mode is Mode.HOLD and not self._proxy.is_closed:
                    time.sleep(LOOK_SECONDS)
                if self._proxy.mode is Mode.SWALLOW:
                    self._has_swallowed = True
                if self._has_swallowed:
                    continue  # for ever: what follows would make no sense without it
                if self.bytes_left is not None and self._proxy.mode is Mode.CUT:
                    sink.sendall(data[: self.bytes_left])
                    self.bytes_left -= min(self.bytes_left, len(data))
                    if not self.bytes_left:
                        self.reset()
                        break
                    continue
                sink.sendall(data)
        if not self._is_reset:  # else a polite end might overtake it
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        self._open -= 1
        if not self._open:
            self._proxy.forget(self)
            for each in (self._client, self._server):
                each.close()


def _reset(connection: socket.socket) -> None:
    """Close so that the other side is told at once, and loses what it has not read."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes whoever reads
    connection.close()
