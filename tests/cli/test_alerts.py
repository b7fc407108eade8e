"""Alerts at the command line: what jobs say, and trying a channel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rota.config import read_config
from rota.errors import ConfigError
from tests.alerts.receiver import Receiver, receive

SECRET = "whsec-of-ops-4711"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as found:
        yield found


@pytest.fixture
def file(tmp_path: Path, receiver: Receiver) -> Path:
    path = tmp_path / "rota.toml"
    path.write_text(f'[alerts.ops]\nwebhook = "{receiver.url}"\nprivate = true\nsecret = "{SECRET}"\n')
    return path


def test_a_channel_is_tried_from_this_machine(rota: Callable[..., Any], file: Path, receiver: Receiver) -> None:
    result = rota("alert", "test", "ops", "--config", str(file))

    told = json.loads(receiver.got[0].body)
    assert result.exit_code == 0
    assert result.stdout == f"channel ops: 127.0.0.1:{receiver.port} answered 204\n"
    assert (told["kind"], told["reason"]["text"]) == ("test", "this is a test of channel ops: nothing has happened")
    assert receiver.got[0].headers["Rota-Signature"].startswith("v1=")


def test_a_channel_that_does_not_take_it_fails(rota: Callable[..., Any], file: Path, receiver: Receiver) -> None:
    receiver.answers = [(500, {})]

    result = rota("alert", "test", "ops", "--config", str(file))

    assert result.exit_code == 1
    assert f"nothing was sent to channel ops: 127.0.0.1:{receiver.port} answered 500" in result.stderr
    assert SECRET not in result.stderr


def test_a_channel_that_this_machine_does_not_have_is_not_found(rota: Callable[..., Any], file: Path) -> None:
    result = rota("alert", "test", "boss", "--config", str(file))

    assert result.exit_code == 1
    assert "define it as [alerts.boss] in the settings of this machine; they have ops" in result.stderr


def test_the_settings_show_a_channel_without_its_secrets(rota: Callable[..., Any], file: Path) -> None:
    result = rota("config", "show", "--json", "--config", str(file))

    shown = {view["setting"]: view["value"] for view in json.loads(result.stdout)}
    assert shown["alerts.ops"] == "webhook, private True, webhook in the settings, secret in the settings"
    assert SECRET not in result.stdout
    assert "by=rota" not in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alerts = 3", "alerts is a section for each channel"),
        ('[alerts.ops]\nwebhook = "http://10.0.0.1/"', r"10\.0\.0\.1 is private"),
        ('[alerts.ops]\nwebhok = "http://10.0.0.1/"', "exactly one of webhook, email and apprise"),
        ('[alerts.ops]\nemail = ["ann@example.com"]', r"needs a section \[smtp\]"),
        ("".join(f'[alerts.c{n}]\nwebhook = "https://example.com/"\n' for n in range(21)), "21 channels"),
    ],
)
def test_what_is_no_channel_is_an_error_of_the_settings(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rota.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=said):
        read_config(path, {})


def test_a_job_says_who_is_told_of_what_and_how_often(rota: Callable[..., Any]) -> None:
    flags = ("--alert", "ops", "--alert", "boss", "--alert-on", "failure,lost", "--alert-quiet", "1h")
    rota("job", "add", "load", "--shell", "true", *flags)
    view = json.loads(rota("job", "show", "load", "--json").stdout)
    rota("job", "edit", "load", "--alert", "none")
    edited = json.loads(rota("job", "show", "load", "--json").stdout)

    assert (view["alert"], view["alert_on"], view["alert_quiet"]) == (["boss", "ops"], ["failure", "lost"], 3600.0)
    assert (edited["alert"], edited["alert_on"]) == ([], ["failure", "lost"])


def test_a_job_that_does_not_say_it_has_the_channels_of_the_settings(rota: Callable[..., Any]) -> None:
    environ = {"ROTA_ALERT_DEFAULT": "ops"}
    rota("job", "add", "one", "--shell", "true", environ=environ)
    rota("job", "add", "none", "--shell", "true", "--alert", "none", environ=environ)

    alerts = {view["name"]: view["alert"] for view in json.loads(rota("job", "list", "--json").stdout)}

    assert alerts == {"one": ["ops"], "none": []}


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (("--alert", "ops-team"), "alert"),
        (("--alert", ""), "alert"),
        (("--alert-on", "fail"), "alert_on"),
        (("--alert-quiet", "soon"), "alert_quiet"),
        (("--secret", "ROTA_ALERT_ops"), "secrets"),
    ],
)
def test_what_cannot_be_told_is_refused(rota: Callable[..., Any], flags: tuple[str, ...], field: str) -> None:
    result = rota("job", "add", "load", "--shell", "true", "--json", *flags)

    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["field"] == field


def test_nobody_is_told_of_a_job_that_sends_alerts(rota: Callable[..., Any]) -> None:
    words = ("--call", "rota.alerts.sending:send", "--secret", "ROTA_ALERT_ops")
    added = rota("job", "add", "rota:alert:ops", *words)
    edited = rota("job", "edit", "rota:alert:ops", "--pool", "outside")
    refused = rota("job", "edit", "rota:alert:ops", "--alert", "ops")

    assert (added.exit_code, edited.exit_code, refused.exit_code) == (0, 0, 2)
    assert "nothing is told of a job that sends alerts" in refused.stderr
