"""The server: one event loop that serves the application, in this thread or beside a node in a thread of its own.

The address is taken before anything else begins, so that whoever starts learns at once that it is taken.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Generator
from typing import Any

import uvicorn
from fastapi import FastAPI

from rota.errors import ConfigError
from rota.web.trust import check_address

log = logging.getLogger("rota.web")

CONNECTIONS_MAX = 1000  # of clients; more are told to come back
CLIENT_SECONDS_MAX = 60.0  # for all of a request
TICKS_PER_SECOND = 10  # of uvicorn
BACKLOG = 2048  # connections that wait to be taken
GRACE_SECONDS = 5  # for requests under way when it is told to stop
JOIN_SECONDS_MAX = 10.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # Connections whose client is to say something, since when, and what request that is of.
        self._waited_for: dict[Any, tuple[Any, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Look after connections, once a second."""
        if counter % TICKS_PER_SECOND == 0:
            self._let_silent_go()
        return await super().on_tick(counter)

    def _let_silent_go(self) -> None:
        """Close connections whose client has not said all of a request for long; uvicorn would wait for ever.

        A thousand of them would keep everybody else out, and they need no log-in.
        """
        now = time.monotonic()
        before, self._waited_for = self._waited_for, {}
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            cycle = connection.cycle  # of its newest request; None until there is one
            if cycle is None or cycle.more_body or cycle.response_complete:
                of, since = before.get(connection, (cycle, now))
                self._waited_for[connection] = (cycle, since if of is cycle else now)
                if of is cycle and now - since >= CLIENT_SECONDS_MAX:
                    connection.transport.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Let signals end it, where it may have them: to have been told to stop is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and let those under way end."""
        # Whoever looks on at events would never end by themselves.
        app: Any = self.config.app
        app.state.feed.end()
        await super().shutdown(sockets)


class WebServer:
    """Serves ``app`` at an address that it takes when it is made."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Take the address.

        Raises:
            ConfigError: it is not this machine's alone and nobody would have to log in, or it cannot be had.
        """
        check_address(host, app.state.access)
        self._socket = listen(host, port)
        self.url = shown_url(host, self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                log_level=logging.WARNING,
                server_header=False,
                proxy_headers=False,  # who asks is never told by a header that anybody can send
                ws="none",
                limit_concurrency=CONNECTIONS_MAX,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until a signal says to stop; requests under way may end."""
        log.info("serving at %s", self.url)
        self._server.run([self._socket])

    def start(self) -> None:
        """Serve in a thread of its own until ``stop``."""
        log.info("serving at %s", self.url)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what ``start`` began."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join(JOIN_SECONDS_MAX)

    def close(self) -> None:
        """Give the address back."""
        self._socket.close()

    def _serve(self) -> None:
        try:
            self._server.run([self._socket])
        except Exception:
            log.exception("the web server has ended; what this node does otherwise goes on")


def listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named for asyncio, which switches delays off only where it is: else an answer takes 40 ms.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host.strip("[]"), port))
        taken.listen(BACKLOG)  # whoever reads that it serves may ask at once
    except (OSError, OverflowError) as error:
        taken.close()
        raise ConfigError(f"{shown_url(host, port)} cannot be had: {error}; choose another with --port") from error
    return taken


def shown_url(host: str, port: int) -> str:
    """Write the address of this server for people."""
    return f"http://[{host.strip('[]')}]:{port}" if ":" in host else f"http://{host}:{port}"
