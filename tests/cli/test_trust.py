"""Users, tokens and the audit, as they are typed: above all that no secret is where others see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rota import Rota
from rota.cli import user
from rota.model.accounts import Identity, Refusal
from rota.store.log_ins import log_in
from rota.store.tokens import identify_token

PASSWORD = "correct horse battery"


def may_log_in(url: str, password: str) -> bool:
    with Rota(url) as rota:
        return not isinstance(log_in(rota.database, "ann", password), Refusal)


@pytest.fixture
def terminal(monkeypatch):
    """What is given on standard input is typed at a terminal."""
    monkeypatch.setattr(user, "has_terminal", lambda: True)


@pytest.mark.parametrize("command", [["user", "add", "ann", "--role", "admin"], ["user", "passwd", "ann"]])
def test_without_a_terminal_a_command_says_how_a_password_is_given(rota, command):
    result = rota(*command, stdin=f"{PASSWORD}\n{PASSWORD}\n")

    assert result.exit_code == 2
    assert "there is no terminal to ask on: `--password-file -` reads it from standard input" in result.stderr
    assert rota("user", "list", "--json").stdout == "[]\n"


@pytest.mark.usefixtures("terminal")
def test_a_password_is_asked_for_twice_and_not_shown(rota, url):
    result = rota("user", "add", "ann", "--role", "admin", stdin=f"{PASSWORD}\n{PASSWORD}\n")

    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output
    assert may_log_in(url, PASSWORD)


@pytest.mark.usefixtures("terminal")
def test_a_password_that_is_typed_otherwise_the_second_time_is_asked_for_again(rota, url):
    typed = f"{PASSWORD}\nanother one now\n{PASSWORD}\n{PASSWORD}\n"

    assert rota("user", "add", "ann", "--role", "admin", stdin=typed).exit_code == 0
    assert may_log_in(url, PASSWORD)


def test_a_password_is_read_from_a_file_or_standard_input(rota, url, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\r\n")

    assert rota("user", "add", "ann", "--role", "admin", "--password-file", str(file)).exit_code == 0
    assert may_log_in(url, PASSWORD)
    assert rota("user", "passwd", "ann", "--password-file", "-", stdin="  one with spaces  \n").exit_code == 0
    assert may_log_in(url, "  one with spaces  ")


def test_a_file_that_holds_no_password_is_refused_and_what_it_holds_is_not_shown(rota, tmp_path: Path):
    for content in (b"short", b"one line too\nmany of them", b"\xff" * 20, b"", b"x" * 1001):
        file = tmp_path / "password"
        file.write_bytes(content)
        result = rota("user", "add", "ann", "--role", "admin", "--password-file", str(file), "--json")
        assert result.exit_code == 2
        assert json.loads(result.stderr)["error"]["field"] in {"password", "password_file"}
        assert not content or content.decode("latin-1").splitlines()[0] not in result.output + result.stderr
    assert rota("user", "add", "ann", "--role", "admin", "--password-file", "/nowhere").exit_code == 2
    assert rota("user", "list", "--json").stdout.strip() == "[]"


def test_a_token_is_all_that_standard_output_says(rota, url):
    result = rota("token", "add", "ci", "--role", "operator", "--scope", "job.*", "--expires", "90d")

    with Rota(url) as opened:
        found = identify_token(opened.database, result.stdout.strip())
    assert isinstance(found, Identity)
    assert (found.name, found.role, found.scopes) == ("token ci", "operator", ("job.*",))
    assert "not shown again" in result.stderr
    assert result.stdout.strip() not in rota("token", "list").stdout
    assert "rota_" in rota("token", "list").stdout
    refused = rota("token", "add", "other", "--scope", "jobs.*")
    assert refused.exit_code == 2
    assert "it matches no verb" in refused.stderr


def test_the_audit_is_shown_with_who_and_how(rota):
    rota("job", "add", "report", "--shell", "true")
    rota("job", "pause", "report")
    rota("token", "add", "ci")

    shown = json.loads(rota("audit", "--kind", "job", "--json").stdout)
    assert [(view["subject"], view["did"], view["door"]) for view in shown] == [
        ("report", "paused", "cli"),
        ("report", "added", "cli"),
    ]
    (older,) = json.loads(rota("audit", "--kind", "job", "--before", str(shown[0]["id"]), "--json").stdout)
    assert older == shown[1]
    assert json.loads(rota("audit", "--since", "2998-01-01", "--json").stdout) == []
    assert "token ci was added as viewer" in rota("audit", "--door", "cli").stdout
    for wrong in (["--door", "window"], ["--limit", "0"], ["--limit", "1001"], ["--since", "soon"]):
        assert rota("audit", *wrong).exit_code == 2
