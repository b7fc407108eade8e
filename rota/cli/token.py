"""``rota token``: what programs show to act over HTTP."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.cli.screen import Columns, short_time
from rota.cli.user import ROLES

COLUMNS: Columns = {
    "name": "name",
    "begins": "begins",
    "user": "user",
    "role": "role",
    "scopes": lambda view: "all" if view["scopes"] is None else ", ".join(view["scopes"]),
    "expires": lambda view: short_time(view["expires_at"]) or "never",
    "last used": lambda view: short_time(view["last_used_at"]),
    "revoked": lambda view: f"{short_time(view['revoked_at'])}, by {view['revoked_by']}" if view["revoked_at"] else "",
}


@click.group()
def token() -> None:
    """What programs show to act over HTTP."""


@token.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="What it may do; its user's role, or viewer where it is nobody's.")
@click.option("--user", metavar="NAME", help="Whose it is: it may never more than they may. Else a service's.")
@click.option(
    "--scope", "scopes", metavar="VERBS", multiple=True, help="Only these verbs: job.*, run.list; repeatable."
)
@click.option("--expires", metavar="D", help="After so long it lets nobody in: 90d. Without, it does for ever.")
@through_door
def add(
    door: Door, *, name: str, role: str | None, user: str | None, scopes: tuple[str, ...], expires: str | None
) -> None:
    """Add a token and show it: it is shown this once, and kept nowhere."""
    view = door.rota.tokens.add(name, role=role, user=user, scopes=list(scopes) or None, expires=expires)
    door.screen.tell(view["secret"], view)
    if not door.screen.as_json:
        click.echo(f"token {name} is {view['role']}; it is not shown again", err=True)


@token.command("list")
@through_door
def list_(door: Door) -> None:
    """List all tokens, revoked and expired ones for a month."""
    door.screen.show_list(door.rota.tokens.list(), COLUMNS, nothing="no tokens yet; add one with `rota token add`")


@token.command()
@click.argument("name")
@through_door
def revoke(door: Door, *, name: str) -> None:
    """Let nobody in by a token any more; it stays in the list for a month."""
    door.screen.tell(f"token {name} is revoked", door.rota.tokens.revoke(name))


@token.command()
@click.argument("name")
@through_door
def delete(door: Door, *, name: str) -> None:
    """Delete a token; its name is free again."""
    door.rota.tokens.delete(name)
    door.screen.tell(f"token {name} is deleted", {"name": name, "deleted": True})
