"""``rota alert``: trying where alerts go, from this machine."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from rota.cli.door import Door, through_door


@click.group()
def alert() -> None:
    """Where alerts go: the channels of this machine's settings."""


@alert.command()
@click.argument("channel")
@through_door
def test(door: Door, *, channel: str) -> None:
    """Send a test to a channel now, from this machine, and say how it was taken."""
    from rota.alerts.refused import Refused, Unreachable
    from rota.alerts.sending import deliver
    from rota.engine.secrets import NodeSecrets, Unavailable
    from rota.errors import Conflict, NotFound
    from rota.model.alerts import check_channel, variable_of_channel
    from rota.model.instants import format_instant

    check_channel("channel", channel)
    channels = {one.name: one for one in door.config.alerts}
    if channel not in channels:
        known = f"they have {', '.join(sorted(channels))}" if channels else "they have none"
        raise NotFound("channel", channel, f"define it as [alerts.{channel}] in the settings of this machine; {known}")
    now = datetime.now(UTC)
    message = {
        "id": f"test-{int(now.timestamp() * 1_000_000)}",
        "kind": "test",
        "job": "rota:alert:test",
        **dict.fromkeys(("schedule", "run", "slot", "state", "attempt", "node")),
        "reason": {"code": "test", "text": f"this is a test of channel {channel}: nothing has happened"},
        "at": format_instant(now),
        "held": 0,
    }
    try:
        variables = NodeSecrets(channels=[channels[channel]]).read([variable_of_channel(channel)])
        said = deliver(channel, message, variables)
    except (Unavailable, Refused, Unreachable) as error:
        raise Conflict(f"nothing was sent to channel {channel}: {error}") from None
    door.screen.tell(f"channel {channel}: {said}", {"channel": channel, "id": message["id"], "sent": said})
