"""``rota db``: the schema of the database."""

from __future__ import annotations

import click

from rota.cli.door import Door, through_door
from rota.config import mask_password


@click.group()
def db() -> None:
    """The schema: upgrade, check, or print as SQL; and who may do what with it."""


@db.command()
@through_door
def upgrade(door: Door) -> None:
    """Make the schema, or bring it up to date. Safe to run again, and on several hosts at once."""
    from rota.client import schema

    url = door.database_url()
    before, after = schema.upgrade(url)
    was = "had none" if before is None else f"had {before}"
    door.screen.tell(
        f"{mask_password(url)}: schema {after} ({was})",
        {"database": mask_password(url), "version_before": before, "version": after},
    )


@db.command()
@through_door
def check(door: Door) -> None:
    """Say whether this program can work with the database."""
    from rota.client import schema

    url = door.database_url()
    version, server = schema.check(url)
    door.screen.tell(
        f"{mask_password(url)}: schema {version}, server {server}: good",
        {"database": mask_password(url), "version": version, "server_version": server},
    )


@db.command()
@through_door
def sql(door: Door) -> None:
    """Print the statements that make the schema, for the kind of database that the URL names."""
    from rota.client import schema

    text = schema.sql(door.database_url())
    door.screen.tell(text, {"sql": text})


@db.command()
@click.option("--owner", "owners", metavar="NAME", multiple=True, help="Makes and upgrades the schema.")
@click.option("--node", "nodes", metavar="NAME", multiple=True, help="Does what a worker does.")
@click.option("--submit", "submitters", metavar="NAME", multiple=True, help="Asks for something, and no more.")
@click.option("--read", "readers", metavar="NAME", multiple=True, help="Reads what there is, save secrets.")
@through_door
def grants(
    door: Door, owners: tuple[str, ...], nodes: tuple[str, ...], submitters: tuple[str, ...], readers: tuple[str, ...]
) -> None:
    """Print the statements that grant users of the database what they need, for its kind. Runs nothing."""
    from rota.client import schema

    text = schema.grants(door.database_url(), owners, nodes, submitters, readers)
    door.screen.tell(text, {"sql": text})
