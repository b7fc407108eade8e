"""An alert reaches those who are to be told, is signed, and goes nowhere else."""

from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rota.alerts.address import literal_address, read_url, why_refused
from rota.alerts.channel import Channel, read_channel
from rota.alerts.refused import Refused, Unreachable
from rota.alerts.sending import deliver, send
from rota.alerts.webhook import RETRY_AFTER_SECONDS_MAX, post, read_retry_after
from rota.engine.secrets import NodeSecrets
from rota.errors import Invalid
from rota.model.outcomes import Retry
from tests.alerts.receiver import MailServer, Receiver, receive, take_mail

ALERT: dict[str, Any] = {
    "id": "7-1-failed-1795384953123456",
    "kind": "failure",
    "job": "löschen",
    "schedule": "each",
    "run": 7,
    "slot": "2026-11-20T07:00:00.000000Z",
    "state": "failed",
    "reason": {"code": "exit_code", "text": "it ended with exit code 3"},
    "attempt": 1,
    "node": "a",
    "at": "2026-11-20T07:00:01.000000Z",
    "held": 0,
}
SECRET = "whsec-of-ops-4711"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as found:
        yield found


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with take_mail() as found:
        yield found


def tell(channel: Channel, **changes: Any) -> str:
    """Send the alert as a run does, with what a node gives its process."""
    return deliver(channel.name, ALERT | changes, NodeSecrets(channels=[channel]).read([channel.variable]))


def webhook(receiver: Receiver, **options: Any) -> Channel:
    return read_channel("ops", {"webhook": receiver.url, "private": True, **options})


def mailing(server: MailServer) -> Channel:
    smtp = {"host": "127.0.0.1", "port": server.port, "tls": "none", "from": "rota@example.com"}
    return read_channel("mail", {"email": ["ann@example.com", "bob@example.com"]}, smtp)


# -- webhooks


def test_a_webhook_gets_the_alert_signed(receiver: Receiver) -> None:
    said = tell(webhook(receiver, secret=SECRET, link="https://rota.example.com/"))

    (request,) = receiver.got
    told = json.loads(request.body)
    assert said == f"127.0.0.1:{receiver.port} answered 204"
    assert told == ALERT | {"version": 1, "url": "https://rota.example.com/runs/7"}
    assert request.path == "/told?by=rota"
    assert request.headers["Rota-Id"] == ALERT["id"]
    signed = f"{request.headers['Rota-Id']}.{request.headers['Rota-Timestamp']}.".encode() + request.body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert request.headers["Rota-Signature"] == f"v1={expected}"


def test_a_webhook_without_a_secret_is_not_signed(receiver: Receiver) -> None:
    tell(webhook(receiver))

    assert "Rota-Signature" not in receiver.got[0].headers


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_what_a_receiver_refuses_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {})]

    with pytest.raises(Unreachable, match=f"answered {status}"):
        tell(webhook(receiver))


def test_a_receiver_that_is_gone_is_not_asked_again(receiver: Receiver) -> None:
    receiver.answers = [(410, {})]

    with pytest.raises(Refused, match="410"):
        tell(webhook(receiver))


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receive() as other:
        receiver.answers = [(307, {"Location": other.url})]

        with pytest.raises(Unreachable, match="answered 307, and redirects are not followed"):
            tell(webhook(receiver))

        assert (len(receiver.got), other.got) == (1, [])


def test_a_receiver_may_say_when_to_try_again(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.answers = [(503, {"Retry-After": "120"})]
    channel = webhook(receiver)
    for name, value in NodeSecrets(channels=[channel]).read([channel.variable]).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(Retry) as wish:
        send("ops", ALERT)

    assert wish.value.after_seconds == 120.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        ("0", 1.0),
        ("86400", RETRY_AFTER_SECONDS_MAX),
        ("-3", None),
        ("soon", None),
        ("9" * 400, None),
        (format_datetime(datetime.now(UTC) + timedelta(days=3), usegmt=True), RETRY_AFTER_SECONDS_MAX),
        (format_datetime(datetime.now(UTC) - timedelta(days=3), usegmt=True), 1.0),
    ],
    ids=["none", "seconds", "at once", "a day", "below zero", "a word", "many digits", "a date to come", "a past date"],
)
def test_the_moment_of_the_next_try_is_within_bounds(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value) == seconds


def test_nobody_who_listens_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(Unreachable, match=r"cannot be reached: Connection refused"):
        tell(read_channel("ops", {"webhook": f"http://127.0.0.1:{port}/", "private": True}))


# -- addresses

NOT_PUBLIC = {
    "127.0.0.1": "loopback",
    "127.1": "loopback",
    "2130706433": "loopback",
    "0x7f000001": "loopback",
    "0177.0.0.01": "loopback",
    "0": "unspecified",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "not public",
    "169.254.169.254": "link-local",
    "0xa9fea9fe": "link-local",
    "224.0.0.1": "multicast",
    "240.0.0.1": "private",
    "255.255.255.255": "private",
    "::1": "loopback",
    "::": "unspecified",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "link-local",
    "::127.0.0.1": "loopback",
    "64:ff9b::10.0.0.1": "private",
    "2002:7f00:1::": "loopback",
    "fd00::1": "private",
    "fe80::1": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "192.0.0.192": "not public",  # where a cloud gives out credentials
    "64:ff9b:1:0a00:0:100:808:808": "not public",  # 10.0.0.1 or 8.8.8.8, as its gateway reads it
    "3fff::1": "not public",
}


@pytest.mark.parametrize(("host", "why"), NOT_PUBLIC.items())
def test_an_address_that_is_not_public_is_refused_where_it_is_written(host: str, why: str) -> None:
    url = f"http://[{host}]/" if ":" in host else f"http://{host}/"

    with pytest.raises(Invalid, match=rf"is {why}: to send there all the same, give private = true"):
        read_channel("ops", {"webhook": url})
    read_channel("ops", {"webhook": url, "private": True})


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "hooks.example.com"])
def test_a_public_address_is_not_refused(host: str) -> None:
    address = literal_address(host)

    assert address is None or why_refused(address) is None


def answers(monkeypatch: pytest.MonkeyPatch, *replies: list[str]) -> list[str]:
    """Stand in for the name server: one reply after the other; return the list of what it was asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_words: Any, **_options: Any) -> list[Any]:
        found = replies[min(len(asked), len(replies) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("found", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"]])
def test_a_name_that_leads_to_a_private_address_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, found: list[str]
) -> None:
    answers(monkeypatch, found)
    channel = read_channel("ops", {"webhook": f"http://hooks.example.com:{receiver.port}/"})

    with pytest.raises(Refused, match=r"hooks\.example\.com is at 127\.0\.0\.1, which is loopback: nothing was sent"):
        tell(channel)

    assert receiver.got == []


def test_what_is_connected_to_is_the_address_that_was_judged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    channel = read_channel("ops", {"webhook": f"http://hooks.example.com:{receiver.port}/", "private": True})

    tell(channel)

    assert asked == ["hooks.example.com"]
    assert receiver.got[0].headers["Host"] == f"hooks.example.com:{receiver.port}"


def test_an_address_in_a_variable_is_judged_when_it_is_sent_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_WEBHOOK", receiver.url)

    with pytest.raises(Refused, match="which is loopback"):
        tell(read_channel("ops", {"webhook": {"env": "OPS_WEBHOOK"}}))

    assert receiver.got == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "https://",
        "https://user:pass@example.com/",
        "https://example.com\r\nX: y/",
        "https://exam ple.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com\\@10.0.0.1/",
        "https://[::1/",
        "https://example.com/é",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_of_a_webhook_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_url("alerts.ops.webhook", url)

    assert url not in str(refused.value)
    assert "pass" not in str(refused.value)


# -- mail


def test_a_mail_goes_to_all_with_what_happened(mail_server: MailServer) -> None:
    said = tell(mailing(mail_server))

    ((to, data),) = mail_server.mails
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert said == f"127.0.0.1:{mail_server.port} took it"
    assert to == ["ann@example.com", "bob@example.com"]
    assert message["Subject"] == "Rota: run 7 of löschen failed"
    assert message["From"] == "rota@example.com"
    assert message["Message-ID"] == "<rota.7.1.failed.1795384953123456@example.com>"
    text = message.get_content().replace("\r\n", "\n")
    assert text.startswith("it ended with exit code 3\n")
    assert "job: löschen\n" in text


def test_no_header_can_be_put_into_a_mail(mail_server: MailServer) -> None:
    tell(mailing(mail_server), job="x\r\nBcc: eve@example.com\r\n\r\nhello", id="7\r\nX-Evil: 1")

    ((to, data),) = mail_server.mails
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert to == ["ann@example.com", "bob@example.com"]
    assert (message["Bcc"], message["X-Evil"]) == (None, None)
    assert message["Subject"] == "Rota: run 7 of x Bcc: eve@example.com hello failed"


@pytest.mark.parametrize(
    ("word", "answer", "error"),
    [("DATA", b"554 no\r\n", Refused), ("DATA", b"451 later\r\n", Unreachable), ("RCPT", b"550 who\r\n", Refused)],
)
def test_a_mail_server_that_refuses_for_good_is_not_asked_again(
    mail_server: MailServer, word: str, answer: bytes, error: type[Exception]
) -> None:
    mail_server.refuses[word] = answer

    with pytest.raises(error, match=answer[:3].decode()):
        tell(mailing(mail_server))


def test_a_mail_server_without_tls_gets_nothing_where_tls_is_asked_for(mail_server: MailServer) -> None:
    smtp = {"host": "127.0.0.1", "port": mail_server.port, "from": "rota@example.com"}

    with pytest.raises(Refused, match="STARTTLS"):
        tell(read_channel("mail", {"email": "ann@example.com"}, smtp))

    assert mail_server.mails == []


# -- apprise


def test_without_apprise_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)

    with pytest.raises(Refused, match=r"pip install 'rota\[apprise\]'"):
        tell(read_channel("chat", {"apprise": "slack://token-of-ours/"}))


def test_apprise_tells_a_service(receiver: Receiver) -> None:
    pytest.importorskip("apprise")

    tell(read_channel("chat", {"apprise": f"json://127.0.0.1:{receiver.port}/told"}))

    told = json.loads(receiver.got[0].body)
    assert told["title"] == "Rota: run 7 of löschen failed"
    assert "it ended with exit code 3" in told["message"]


def test_a_service_that_apprise_does_not_know_is_refused_and_not_shown() -> None:
    pytest.importorskip("apprise")

    with pytest.raises(Refused, match="apprise does not know URL 1 of 1") as refused:
        tell(read_channel("chat", {"apprise": "nosuch://secret-token/"}))

    assert "secret-token" not in str(refused.value)


# -- the settings of a channel


@pytest.mark.parametrize(
    ("name", "section", "field"),
    [
        ("ops-team", {"webhook": "https://example.com"}, "alerts"),
        ("ops", "https://example.com", "alerts.ops"),
        ("ops", {}, "alerts.ops"),
        ("ops", {"webhook": "https://example.com", "email": "a@b.c"}, "alerts.ops"),
        ("ops", {"webhook": "https://example.com", "secrets": "x"}, "alerts.ops.secrets"),
        ("ops", {"webhook": "https://example.com", "secret": "x"}, "alerts.ops.secret"),
        ("ops", {"webhook": {"file": "relative"}}, "alerts.ops.webhook.file"),
        ("ops", {"webhook": {"env": "A", "file": "/b"}}, "alerts.ops.webhook"),
        ("ops", {"webhook": "https://example.com", "private": "no"}, "alerts.ops.private"),
        ("ops", {"webhook": "https://example.com", "link": "javascript:x"}, "alerts.ops.link"),
        ("ops", {"email": "Ann <ann@example.com>"}, "alerts.ops.email"),
        ("ops", {"email": "ann@example.com\nBcc: eve@example.com"}, "alerts.ops.email"),
        ("ops", {"email": "ann@example.com"}, "smtp"),
    ],
)
def test_what_is_no_channel_is_refused(name: str, section: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_channel(name, section)

    assert refused.value.field == field


def test_a_password_is_sent_with_tls_only() -> None:
    smtp = {"host": "h", "tls": "none", "user": "rota", "password": "pass-word", "from": "rota@example.com"}

    with pytest.raises(Invalid, match="TLS only") as refused:
        read_channel("mail", {"email": "ann@example.com"}, smtp)

    assert "pass-word" not in str(refused.value)


def test_a_channel_shows_nothing_that_is_secret(receiver: Receiver) -> None:
    channel = webhook(receiver, secret=SECRET)

    shown = f"{channel} {channel!r} {channel.facts}"

    assert SECRET not in shown
    assert "told?by=rota" not in shown
    assert str(channel) == "webhook, private True, webhook in the settings, secret in the settings"


def test_a_node_offers_a_channel_while_all_of_it_can_be_read(tmp_path: Any) -> None:
    path = tmp_path / "secret"
    channel = read_channel("ops", {"webhook": "https://example.com/x", "secret": {"file": str(path)}})
    without = NodeSecrets(channels=[channel]).offered()
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)

    secrets = NodeSecrets(channels=[channel])

    assert (without, secrets.offered()) == ((), ("ROTA_ALERT_ops",))
    assert secrets.read(["ROTA_ALERT_ops"])["ROTA_ALERT_ops__secret"] == SECRET


def test_an_answer_that_drips_in_is_waited_for_no_longer_than_any_other() -> None:
    drops = 100  # after which it is an answer like another

    def drip(server: socket.socket) -> None:
        taken, _ = server.accept()
        with taken, contextlib.suppress(OSError):
            taken.sendall(b"HTTP/1.1 204 No Content\r\nX: ")
            for _ in range(drops):
                taken.sendall(b"a")
                time.sleep(0.05)  # less than any wait for it
            taken.sendall(b"\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(Unreachable, match=r"not within 0\.5 s"):
            post(url, b"{}", alert_id="7", secret=None, private=True, timeout=0.5)
        dripping.join()
