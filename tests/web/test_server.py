"""The server as a process: beside a node and by itself, told to stop, and refused where it may not be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rota import Rota
from rota.client import schema
from rota.web import server
from rota.web.app import make_app
from rota.web.server import listen

SECONDS_MAX = 30  # a hang guard
SERVING = re.compile(r"serving at (http://\S+)")


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path}/rota.db"
    schema.upgrade(made)
    return made


@contextmanager
def running(url: str, tmp_path: Path, *words: str, **environ: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    log = tmp_path / "log"
    state = tempfile.mkdtemp(prefix="rota-web-")  # sockets are in it: no long path
    environment = {**os.environ, "ROTA_DB": url, "ROTA_STATE_DIR": state, **environ}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "rota", *words], stderr=file, stdout=file, env=environment)
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(state, ignore_errors=True)


def wait_for(log: Path, pattern: re.Pattern[str], process: subprocess.Popen) -> str:
    ends = time.monotonic() + SECONDS_MAX
    while (found := pattern.search(log.read_text())) is None:
        assert time.monotonic() < ends, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return found[1] if found.groups() else found[0]


def test_who_does_not_say_all_of_a_request_is_let_go_and_who_listens_is_not(url, monkeypatch):
    monkeypatch.setattr(server, "CLIENT_SECONDS_MAX", 0.1)
    beginnings = [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: lo",
        b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: application/json\r\n\r\n{",
    ]
    with Rota(url) as rota, ExitStack() as stack:
        serving = server.WebServer(make_app(rota), "127.0.0.1", 0)
        stack.callback(serving.close)
        serving.start()
        stack.callback(serving.stop)

        def connect(said: bytes) -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", urlsplit(serving.url).port)))
            made.settimeout(SECONDS_MAX)
            made.sendall(said)
            return made

        listener = connect(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = listener.recv(65536)
        silent = [connect(said) for said in beginnings]

        assert heard.startswith(b"HTTP/1.1 200")
        for client in silent:
            while client.recv(65536):  # until it is let go, or this times out
                pass
        # Whoever came before them all, and listens, is there.
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert listener.recv(65536) != b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_serves_until_it_is_told_to_stop_also_while_somebody_looks_on(url, tmp_path, number):
    with running(url, tmp_path, "web", ROTA_WEB_PORT="0") as (process, log):
        base = wait_for(log, SERVING, process)
        with urllib.request.urlopen(f"{base}/healthz", timeout=SECONDS_MAX) as answer:
            assert json.load(answer)["status"] == "alive"
        looking = urllib.request.urlopen(f"{base}/api/v1/events", timeout=SECONDS_MAX)
        assert looking.readline() == b"retry: 2000\n"

        process.send_signal(number)

        assert process.wait(SECONDS_MAX) == 0
        looking.close()


def test_events_come_over_the_wire_and_go_on_where_they_were(url, tmp_path):
    rota = Rota(url)
    with running(url, tmp_path, "web", "--port", "0") as (process, log):
        base = wait_for(log, SERVING, process)
        looking = urllib.request.urlopen(f"{base}/api/v1/events", timeout=SECONDS_MAX)
        looking.readline()
        rota.jobs.add("load", shell="true")
        told = _read_event(looking)
        looking.close()

        again = urllib.request.Request(f"{base}/api/v1/events", headers={"Last-Event-ID": "0"})
        with urllib.request.urlopen(again, timeout=SECONDS_MAX) as looking:
            assert _read_event(looking) == told
    rota.close()
    assert told["job"] == "load"


def _read_event(stream) -> dict:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line
    return json.loads(line.removeprefix(b"data: "))


def test_up_serves_beside_its_node(url, tmp_path):
    with running(url, tmp_path, "up", "--port", "0") as (process, log):
        base = wait_for(log, SERVING, process)
        wait_for(log, re.compile("pools default"), process)
        with urllib.request.urlopen(f"{base}/api/v1/nodes", timeout=SECONDS_MAX) as answer:
            assert len(json.load(answer)["items"]) == 1

        process.send_signal(signal.SIGTERM)

        assert process.wait(SECONDS_MAX) == 0


def test_up_goes_on_where_it_cannot_serve(url, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running(url, tmp_path, "up", "--port", port) as (process, log):
            wait_for(log, re.compile("no web here: .* cannot be had: .*; choose another with --port"), process)
            wait_for(log, re.compile("pools default"), process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 0


@pytest.mark.parametrize("command", ["web", "up"])
def test_an_address_that_others_reach_is_refused_until_somebody_can_log_in(url, tmp_path, command):
    with running(url, tmp_path, command, "--host", "0.0.0.0", "--port", "0") as (process, log):
        assert process.wait(SECONDS_MAX) == 2
        assert "`rota user add NAME --role admin`" in log.read_text()
    with Rota(url) as rota:
        rota.users.add("ann", role="admin", password="correct horse battery")
    with running(url, tmp_path, command, "--host", "0.0.0.0", "--port", "0") as (process, log):
        base = wait_for(log, SERVING, process).replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(f"{base}/healthz", timeout=SECONDS_MAX) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{base}/api/v1/jobs", timeout=SECONDS_MAX)


def test_a_proxy_is_believed_only_when_it_is_said_where_it_is(url, tmp_path):
    with running(url, tmp_path, "web", "--trust-proxy", "X-Remote-User", "--port", "0") as (process, log):
        assert process.wait(SECONDS_MAX) == 2
        assert "name the addresses of the proxy with --proxy-from" in log.read_text()


def test_without_the_extra_it_says_what_to_install(url, tmp_path):
    without = tmp_path / "without"
    without.mkdir()
    (without / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')\n")
    with running(url, tmp_path, "web", PYTHONPATH=str(without)) as (process, log):
        assert process.wait(SECONDS_MAX) == 2
        assert "pip install 'rota[web]'" in log.read_text()
    with running(url, tmp_path, "up", PYTHONPATH=str(without)) as (process, log):
        wait_for(log, re.compile(r"no web here: the web needs fastapi"), process)


def test_answers_are_sent_at_once():
    """Asyncio lets small packets wait where a socket does not name its protocol: 40 ms for each answer."""
    with closing(listen("127.0.0.1", 0)) as taken:
        assert taken.proto == socket.IPPROTO_TCP


OIDC = """
[oidc]
issuer = "https://login.example.org"
client_id = "rota"
client_secret = { file = "%s" }
public_url = "https://rota.example.org"
roles = { admin = ["ops"] }
"""


@pytest.mark.parametrize("missing", ["authlib", "httpx2", "joserfc"])
def test_without_the_extra_a_log_in_by_openid_is_refused_at_the_start_with_how_to_install_it(url, tmp_path, missing):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    file = tmp_path / "rota.toml"
    file.write_text(OIDC % secret)
    program = f"import sys; sys.modules['{missing}'] = None; from rota.cli.main import main; main()"
    environment = {**os.environ, "ROTA_DB": url, "ROTA_CONFIG": str(file)}

    words = [sys.executable, "-c", program, "web", "--port", "0"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)

    assert ended.returncode == 2
    assert f"[oidc] of the settings needs {missing}" in ended.stderr
    assert "pip install 'rota[web,oidc]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_with_a_provider_of_openid_it_starts_without_a_user_and_its_secret_is_shown_nowhere(url, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    file = tmp_path / "rota.toml"
    file.write_text(OIDC % secret)
    with running(url, tmp_path, "web", ROTA_WEB_PORT="0", ROTA_CONFIG=str(file)) as (process, log):
        base = wait_for(log, SERVING, process)
        with urllib.request.urlopen(f"{base}/login", timeout=SECONDS_MAX) as answer:
            text = answer.read().decode()
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{base}/api/v1/jobs", timeout=SECONDS_MAX)
    shown = subprocess.run(
        [sys.executable, "-m", "rota", "config", "show"],
        env={**os.environ, "ROTA_DB": url, "ROTA_CONFIG": str(file)}, capture_output=True, text=True,
        timeout=SECONDS_MAX, check=True,
    ).stdout  # fmt: skip

    assert "Log in with your organization" in text
    assert error.value.code == 401
    assert "https://login.example.org" in shown
    assert not [one for one in (text, log.read_text(), shown) if "hunter2" in one]


def test_a_secret_that_cannot_be_read_is_told_at_the_start(url, tmp_path):
    file = tmp_path / "rota.toml"
    file.write_text(OIDC % (tmp_path / "none"))
    environment = {**os.environ, "ROTA_DB": url, "ROTA_CONFIG": str(file)}

    words = [sys.executable, "-m", "rota", "web", "--port", "0"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)

    assert ended.returncode == 2
    assert "oidc.client_secret: " in ended.stderr
    assert "No such file" in ended.stderr
