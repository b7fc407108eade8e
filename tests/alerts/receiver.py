"""Those who are told: a web server and a mail server on this machine, which keep what they get."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A web server's address, what it got, and what it answers: one after the other, the last one for ever."""

    port: int = 0
    got: list[Request] = field(default_factory=list[Request])
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(204, {})])
    arrived: threading.Condition = field(default_factory=threading.Condition)
    goes_on: threading.Event = field(default_factory=threading.Event)  # cleared: nobody is answered

    def __post_init__(self) -> None:
        self.goes_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/told?by=rota"

    def wait(self, count: int, seconds: float = 30.0) -> list[Request]:
        """Wait until there were so many requests."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.got) >= count, seconds), f"{len(self.got)} of {count} came"
            return list(self.got)


@contextlib.contextmanager
def receive(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with receiver.arrived:
                answers = receiver.answers
                status, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                receiver.got.append(Request(self.path, dict(self.headers), body))
                receiver.arrived.notify_all()
            receiver.goes_on.wait(60)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_said: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.goes_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class MailServer:
    port: int = 0
    mails: list[tuple[list[str], bytes]] = field(default_factory=list[tuple[list[str], bytes]])
    refuses: dict[str, bytes] = field(default_factory=dict[str, bytes])  # a command, and what it is answered


@contextlib.contextmanager
def take_mail(tls: ssl.SSLContext | None = None, *, at_once: bool = False) -> Iterator[MailServer]:
    """The few words of SMTP that one mail takes; with ``tls`` from the start, or when it is asked for."""
    kept = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            told: list[str] = []
            is_offered = tls is not None and not at_once
            while line := self.rfile.readline():
                word = line.split(maxsplit=1)[0].upper().decode() if line.strip() else ""
                if word in kept.refuses:
                    self.wfile.write(kept.refuses[word])
                elif word == "EHLO" and is_offered:
                    self.wfile.write(b"250-here\r\n250 STARTTLS\r\n")
                elif word == "STARTTLS" and tls is not None and is_offered:
                    self.wfile.write(b"220 go on\r\n")
                    try:
                        self.connection = tls.wrap_socket(self.connection, server_side=True)
                    except OSError:
                        return  # whom it is not good enough for
                    self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                    is_offered = False
                elif word == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    data = b""
                    while (row := self.rfile.readline()) != b".\r\n":
                        data += row
                    kept.mails.append((told, data))
                    self.wfile.write(b"250 taken\r\n")
                elif word == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    if word == "RCPT":
                        told.append(line.decode().partition("<")[2].partition(">")[0])
                    self.wfile.write(b"250 yes\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    if tls is not None and at_once:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
