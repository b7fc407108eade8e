"""Sending one alert: what the runs of a channel's job do, and ``rota alert test``.

Invariant: the id of an alert is the same however often it is sent, so that a receiver can tell that it has it already.
Nothing that is said of how it went holds a secret of the channel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from rota.alerts.channel import variable_of_part
from rota.alerts.mail import Server, send_mail
from rota.alerts.refused import Refused, Unreachable
from rota.alerts.services import notify
from rota.alerts.webhook import post
from rota.errors import Invalid
from rota.model.alerts import title_of, variable_of_channel
from rota.model.outcomes import Retry

VERSION = 1  # of what is sent
_LINES = ("job", "schedule", "run", "slot", "state", "attempt", "node", "at", "held", "url")


def send(channel: str, alert: dict[str, Any]) -> dict[str, str]:
    """Send an alert from a run of the channel's job, whose process has the channel's settings.

    Raises:
        Retry: it may be better later.
        Refused: it would not.
    """
    try:
        return {"sent": deliver(channel, alert, os.environ)}
    except Unreachable as error:
        raise Retry(str(error), after=error.after_seconds) from None


def deliver(channel: str, alert: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """Send an alert to a channel whose settings are in ``variables``, and say how it was taken.

    Raises:
        Refused: it would be refused again.
        Unreachable: it may be better later.
    """
    text = variables.get(variable_of_channel(channel))
    if text is None:
        raise Refused(f"this process was not given the settings of channel {channel}: it is for runs that Rota makes")
    facts = cast("dict[str, Any]", json.loads(text))

    def hidden(key: str) -> str | None:
        return variables.get(variable_of_part(channel, key))

    told = make_message(alert, facts.get("link"))
    alert_id = str(told.get("id"))
    match facts["kind"]:
        case "webhook":
            body = json.dumps(told, ensure_ascii=False).encode()
            try:
                return post(
                    hidden("webhook") or "",
                    body,
                    alert_id=alert_id,
                    secret=hidden("secret"),
                    private=bool(facts.get("private")),
                    ca=facts.get("ca"),
                )
            except Invalid as error:  # what a file or a variable holds was not looked at before
                raise Refused(str(error)) from None
        case "email":
            names = {"host": facts["host"], "port": facts["port"], "tls": facts["tls"], "user": facts["user"]}
            server = Server(**names, password=hidden("password"), sender=facts["from"], ca=facts.get("ca"))
            return send_mail(server, facts["to"], title_of(told), make_text(told), alert_id)
        case "apprise":
            return notify((hidden("apprise") or "").split(), title_of(told), make_text(told))
        case kind:
            raise Refused(f"this program knows no channel of kind {kind}: upgrade the worker")


def make_message(alert: Mapping[str, Any], link: str | None) -> dict[str, Any]:
    """Make what is sent of an alert."""
    told = {"version": VERSION, **alert}
    if link is not None:
        run, job = alert.get("run"), alert.get("job")
        told["url"] = f"{link}/runs/{run}" if run is not None else f"{link}/jobs/{quote(str(job), safe='')}"
    return told


def make_text(told: Mapping[str, Any]) -> str:
    """Write an alert for people."""
    reason: Any = told.get("reason")
    said = str(cast("dict[str, Any]", reason).get("text", "")) if isinstance(reason, dict) else ""
    lines = [f"{name}: {told[name]}" for name in _LINES if told.get(name) not in (None, 0)]
    return "\n".join([said, "", *lines]) + "\n"
