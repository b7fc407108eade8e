"""``rota config``: the settings in force."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.config import mask_password


@click.group()
def config() -> None:
    """The settings in force, and where each comes from."""


@config.command()
@through_door
def show(door: Door) -> None:
    """Show each setting, its value and its origin: default, file, variable or flag. Passwords are masked."""
    views = [
        {"setting": key, "value": resolved.text, "origin": resolved.origin}
        for key, resolved in door.config.resolved.items()
    ]
    for view in views:
        if (view["setting"], view["origin"]) == ("database", "default"):
            view["value"] = mask_password(door.database_url())
    door.screen.show_list(views, {"setting": "setting", "value": "value", "origin": "origin"}, nothing="nothing is set")
