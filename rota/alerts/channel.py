"""Channels: where alerts go, as the settings of a node define it.

Invariant: what is secret of a channel (an address, a password) is kept apart from the rest, as a secret of the node's:
shown nowhere, and kept out of all that the sending of an alert says.

    [alerts.ops]
    webhook = { env = "OPS_WEBHOOK" }     # or the URL itself, or { file = "/path" }
    secret = { file = "/run/secrets/ops" }
    link = "https://rota.example.com"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from rota.alerts.address import check_literal, read_url
from rota.errors import Invalid
from rota.model.alerts import check_channel, variable_of_channel
from rota.model.secret import SecretSource

RECIPIENTS_MAX = 50
TLS = {"starttls": 587, "tls": 465, "none": 25}  # how mail is sent, with the usual port
SMTP_KEYS = ("host", "port", "tls", "user", "password", "from", "ca")
_KEYS = {"webhook": ("secret", "private", "link", "ca"), "email": ("link",), "apprise": ("link",)}
CHANNEL_KEYS = (*_KEYS, "secret", "private", "link", "ca")
_SHORTEST = 4  # characters of a secret: what is shorter cannot be kept out of what is said

_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Channel:
    """Where alerts of one name go. Made by ``read_channel``."""

    name: str
    facts: Mapping[str, Any]  # what may be shown: ``kind``, and what that needs
    hidden: tuple[SecretSource, ...]  # each named by a variable: see ``variable_of_part``

    @property
    def variable(self) -> str:
        """What holds its facts, in the process that sends; also the name by which a node offers it."""
        return variable_of_channel(self.name)

    def __str__(self) -> str:
        kept = ", ".join(f"{source.name.rpartition('__')[2]} in {source}" for source in self.hidden)
        shown = [f"{key} {value}" for key, value in self.facts.items() if key != "kind" and value]
        return ", ".join([str(self.facts["kind"]), *shown, *([kept] if kept else [])])


def variable_of_part(channel: str, key: str) -> str:
    """Name the variable that holds a secret of a channel."""
    return f"{variable_of_channel(channel)}__{key}"


def read_channel(name: object, written: object, smtp: object = None) -> Channel:
    """Read a channel from its section, with the section of the mail server.

    Raises:
        Invalid: a value breaks its rule. What may be secret is not shown.
    """
    known = check_channel("alerts", name)
    field = f"alerts.{known}"
    if not isinstance(written, Mapping):
        raise Invalid(
            field, f"({type(written).__name__})", f"it is a section: [{field}] with webhook, email or apprise"
        )
    section = cast("Mapping[str, Any]", written)
    kinds = [kind for kind in _KEYS if kind in section]
    if len(kinds) != 1:
        raise Invalid(field, " and ".join(kinds) or "(none)", "it has exactly one of webhook, email and apprise")
    kind = kinds[0]
    _refuse_unknown(field, section, (kind, *_KEYS[kind]))
    facts: dict[str, Any] = {"kind": kind, "link": _read_link(f"{field}.link", section.get("link"))}
    hidden: list[SecretSource] = []
    match kind:
        case "webhook":
            facts["private"] = _read_flag(f"{field}.private", section.get("private", False))
            facts["ca"] = _read_file(f"{field}.ca", section.get("ca"))
            hidden.append(_read_hidden(known, field, "webhook", section["webhook"]))
            if (url := hidden[0].text) is not None:
                check_literal(f"{field}.webhook", read_url(f"{field}.webhook", url), private=facts["private"])
            if "secret" in section:
                hidden.append(_read_hidden(known, field, "secret", section["secret"]))
        case "email":
            facts["to"] = _read_recipients(f"{field}.email", section["email"])
            more, hidden = _read_smtp(known, smtp)
            facts |= more
        case _:
            hidden.append(_read_hidden(known, field, "apprise", section["apprise"]))
    return Channel(known, facts, tuple(hidden))


def _read_smtp(channel: str, written: object) -> tuple[dict[str, Any], list[SecretSource]]:
    if not isinstance(written, Mapping) or "host" not in written:
        raise Invalid("smtp", "(nothing)", "e-mail needs a section [smtp] with host and from")
    section = cast("Mapping[str, Any]", written)
    _refuse_unknown("smtp", section, SMTP_KEYS)
    tls = section.get("tls", "starttls")
    if tls not in TLS:
        raise Invalid("smtp.tls", tls, f"choose from {', '.join(TLS)}")
    port = section.get("port", TLS[tls])
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise Invalid("smtp.port", port, "it is a whole number from 1 to 65535")
    host, user = section["host"], section.get("user")
    if not isinstance(host, str) or not re.fullmatch(r"[^\s/@]{1,255}", host):
        raise Invalid("smtp.host", host, "it is the name of a server")
    if user is not None and (not isinstance(user, str) or not user.isprintable()):
        raise Invalid("smtp.user", f"({type(user).__name__})", "it is a name")
    if (user is None) != ("password" not in section):
        raise Invalid("smtp.user", user, "user and password go together")
    if user is not None and tls == "none":
        raise Invalid("smtp.tls", tls, "a password is sent to a server with TLS only: choose starttls or tls")
    facts = {
        "host": host,
        "port": port,
        "tls": tls,
        "user": user,
        "from": _read_mailbox("smtp.from", section.get("from")),
        "ca": _read_file("smtp.ca", section.get("ca")),
    }
    if "password" not in section:
        return facts, []
    return facts, [_read_hidden(channel, "smtp", "password", section["password"])]


def _read_hidden(channel: str, field: str, key: str, value: object) -> SecretSource:
    """Read where something secret is, or the thing itself."""
    name, where = variable_of_part(channel, key), f"{field}.{key}"
    if isinstance(value, str):
        if len(value.strip()) < _SHORTEST or "\0" in value:
            raise Invalid(where, "(text)", f"it has at least {_SHORTEST} characters")
        return SecretSource(name, text=value.strip())
    if not isinstance(value, Mapping):
        rule = 'write it as text, or where it is: { file = "/path" } or { env = "VARIABLE" }'
        raise Invalid(where, f"({type(value).__name__})", rule)
    source = cast("Mapping[str, Any]", value)
    _refuse_unknown(where, source, ("file", "env"))
    return SecretSource.checked_place(where, name, file=source.get("file"), env=source.get("env"))


def _read_recipients(field: str, value: object) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        raise Invalid(field, f"({type(value).__name__})", "it is a list of addresses")
    found = [_read_mailbox(field, one) for one in cast("list[object]", given)]
    if len(found) > RECIPIENTS_MAX:
        raise Invalid(field, f"{len(found)} addresses", f"there are at most {RECIPIENTS_MAX}")
    return list(dict.fromkeys(found))


def _read_mailbox(field: str, value: object) -> str:
    if not isinstance(value, str) or not _MAILBOX.fullmatch(value):
        raise Invalid(field, value, "it is an address such as ops@example.com, without a name beside it")
    return value


def _read_link(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(field, value, "it is where people find Rota's pages, such as https://rota.example.com")
    read_url(field, value)
    return value.rstrip("/")


def _read_file(field: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.startswith("/") or "\0" in value):
        raise Invalid(field, value, "it is the path of a file of certificates, from / on")
    return value


def _read_flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(field, value, "it is true or false")
    return value


def _refuse_unknown(field: str, written: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in written:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise Invalid(f"{field}.{key}", "(not shown)", f"there is no such setting; {hint}")


def facts_text(channel: Channel) -> str:
    """Write what may be shown of a channel for the process that sends."""
    return json.dumps(dict(channel.facts), ensure_ascii=False)
