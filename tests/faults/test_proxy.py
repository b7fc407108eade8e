"""The proxy of the fault suite passes on what it should, and loses what it is told to lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from faults.proxy import Mode, Proxy

WAIT_SECONDS = 30.0


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of a server that says everything twice."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                connection.sendall(data + data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    made = Proxy("127.0.0.1", listener.getsockname()[:2])
    yield made
    made.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def client_of(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_SECONDS)


def read(client: socket.socket, count: int) -> bytes:
    """Read so many bytes, or until the other side ends."""
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def test_it_passes_everything_on_in_both_directions(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        client.sendall(b"abc")

        assert read(client, 6) == b"abcabc"


def test_what_is_held_back_arrives_once_that_is_over(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        client.sendall(b"a")
        assert read(client, 2) == b"aa"
        proxy.set(Mode.HOLD)
        client.sendall(b"b")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(WAIT_SECONDS)

        proxy.set(Mode.PASS)

        assert read(client, 2) == b"bb"


def test_what_is_swallowed_never_arrives_and_a_new_connection_works(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        client.sendall(b"a")
        assert read(client, 2) == b"aa"
        proxy.set(Mode.SWALLOW)
        client.sendall(b"b")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)

        proxy.set(Mode.PASS)

        client.sendall(b"c")
        with pytest.raises(TimeoutError):
            client.recv(1)
        with client_of(proxy) as another:
            another.sendall(b"d")
            assert read(another, 2) == b"dd"


def test_a_connection_is_cut_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.set(Mode.CUT, 5)
    with client_of(proxy) as client:
        client.sendall(b"ab")  # 2 there, and 3 of 4 back

        with pytest.raises(ConnectionResetError):
            read(client, 5)


@pytest.mark.parametrize("how", ["reset", "refuse"])
def test_an_open_connection_is_reset(proxy: Proxy, how: str) -> None:
    with client_of(proxy) as client:
        client.sendall(b"a")
        assert read(client, 2) == b"aa"

        if how == "reset":
            proxy.reset_all()
        else:
            proxy.set(Mode.REFUSE)

        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_refused_connection_is_reset_and_the_next_one_works_once_that_is_over(proxy: Proxy) -> None:
    proxy.set(Mode.REFUSE)
    with pytest.raises(ConnectionResetError), client_of(proxy) as client:
        client.recv(1)

    proxy.set(Mode.PASS)

    with client_of(proxy) as client:
        client.sendall(b"a")
        assert read(client, 2) == b"aa"
