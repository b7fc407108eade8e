"""The network that the fault suite makes for its hosts, where this user may: a pulled cable is silent."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import warnings

import pytest

from faults.network import network, why_not

# Says one letter for each that it is told, and each time what came of it.
CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
for line in sys.stdin:
    connection.settimeout(float(line))
    try:
        connection.sendall(b"x")
        print(connection.recv(1).decode(), flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""


def test_what_is_sent_while_the_cable_is_out_is_not_answered_and_arrives_once_it_is_back() -> None:
    if reason := why_not():
        warnings.warn(f"NOT TESTED with network namespaces: {reason}", stacklevel=1)
        pytest.skip(reason)
    with network() as cables:
        namespace = cables.add("h1")
        listener = socket.create_server((cables.address, 0))

        def echo() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                while data := connection.recv(1):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        address = map(str, listener.getsockname())
        command = ["ip", "netns", "exec", namespace, sys.executable, "-I", "-S", "-c", CLIENT, *address]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert client.stdin is not None
        assert client.stdout is not None

        def ask(seconds: float) -> str:
            print(seconds, file=client.stdin, flush=True)
            return client.stdout.readline().strip()

        try:
            assert ask(30) == "x"
            cables.unplug("h1")
            assert ask(0.3) == "silence"
            cables.plug("h1")
            assert ask(30) == "x"
        finally:
            client.kill()
            client.communicate()
            listener.close()
