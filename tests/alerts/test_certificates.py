"""With TLS an alert goes to whom it is for, or it is not sent, and why is said. Servers and certificates are real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.alerts.channel import read_channel
from rota.alerts.refused import Unreachable
from rota.errors import Invalid
from tests.alerts.authority import Authority
from tests.alerts.receiver import receive, take_mail
from tests.alerts.test_sending import answers, tell

# What a server shows, and what is said of it.
UNTRUSTED = {
    "name": "certificate is not valid for 'hooks.example.com'",
    "unknown": "self-signed certificate",
    "ended": "certificate has expired",
}
SAID = "shows a certificate that is not trusted, and nothing was sent"
TAKES = pytest.mark.parametrize("tls", ["tls", "starttls"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the name of the servers lead to this machine."""
    return answers(monkeypatch, ["127.0.0.1"])


def webhook(port: int, **options: Any) -> Any:
    return read_channel("ops", {"webhook": f"https://hooks.example.com:{port}/", "private": True, **options})


def mailing(port: int, tls: str, **options: Any) -> Any:
    smtp = {"host": "hooks.example.com", "port": port, "tls": tls, "from": "rota@example.com", **options}
    return read_channel("mail", {"email": ["ann@example.com"]}, smtp)


def test_a_webhook_whose_certificate_an_own_authority_has_signed_gets_the_alert(
    authority: Authority, here: list[str]
) -> None:
    with receive(authority.context("good")) as receiver:
        assert tell(webhook(receiver.port, ca=authority.ca)) == f"hooks.example.com:{receiver.port} answered 204"

    assert len(receiver.got) == 1
    assert here == ["hooks.example.com"]  # what was judged was connected to, and the name in the certificate looked at


@pytest.mark.parametrize("shows", UNTRUSTED)
def test_a_webhook_whose_certificate_is_not_trusted_gets_nothing(authority: Authority, shows: str) -> None:
    with receive(authority.context(shows)) as receiver, pytest.raises(Unreachable, match=SAID) as told:
        tell(webhook(receiver.port, ca=authority.ca))

    assert UNTRUSTED[shows] in str(told.value).replace("self signed", "self-signed").replace("’", "'")
    assert receiver.got == []


def test_an_authority_that_the_settings_do_not_name_is_not_trusted(authority: Authority) -> None:
    with receive(authority.context("good")) as receiver, pytest.raises(Unreachable, match="not trusted"):
        tell(webhook(receiver.port))

    assert receiver.got == []


def test_an_answer_by_tls_that_leads_elsewhere_is_not_followed(authority: Authority) -> None:
    with receive(authority.context("good")) as receiver, receive() as other:
        receiver.answers = [(302, {"Location": other.url})]
        with pytest.raises(Unreachable, match="answered 302, and redirects are not followed"):
            tell(webhook(receiver.port, ca=authority.ca))

    assert (len(receiver.got), other.got) == (1, [])


@TAKES
def test_a_mail_server_whose_certificate_is_good_takes_the_mail(authority: Authority, tls: str) -> None:
    with take_mail(authority.context("good"), at_once=tls == "tls") as server:
        tell(mailing(server.port, tls, ca=authority.ca))

    assert len(server.mails) == 1


@TAKES
@pytest.mark.parametrize("shows", UNTRUSTED)
def test_a_mail_server_whose_certificate_is_not_trusted_gets_nothing(
    authority: Authority, tls: str, shows: str
) -> None:
    served = take_mail(authority.context(shows), at_once=tls == "tls")
    with served as server, pytest.raises(Unreachable, match=SAID) as told:
        tell(mailing(server.port, tls, ca=authority.ca))

    assert UNTRUSTED[shows] in str(told.value).replace("self signed", "self-signed")
    assert server.mails == []


@pytest.mark.parametrize("make", [lambda ca: webhook(443, ca=ca), lambda ca: mailing(465, "tls", ca=ca)])
def test_a_file_of_certificates_that_is_not_there_is_named(make: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"the certificates in .*none\.pem cannot be read: No such file"):
        tell(make(str(tmp_path / "none.pem")))
    with pytest.raises(Invalid, match="the path of a file of certificates"):
        make("own.pem")
