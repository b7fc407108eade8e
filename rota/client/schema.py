"""The schema, for doors: bring it up to date, check it, print it as SQL. Called before there is a ``Rota`` to ask."""

from __future__ import annotations

from collections.abc import Sequence

from rota.store import migrate
from rota.store.database import Database


def upgrade(url: str) -> tuple[int | None, int]:
    """Bring the schema up to date and return (version before, version after); safe on several hosts at once.

    Raises:
        DatabaseVersion: the schema is newer than this program knows.
    """
    database = Database(url)
    try:
        return migrate.upgrade(database)
    finally:
        database.close()


def check(url: str) -> tuple[int, str]:
    """Return the schema's version and the server's, when this program can work with both.

    Raises:
        DatabaseVersion: there is no schema, or it is too old or too new for this program.
    """
    database = Database(url)
    try:
        server = database.server_version()
        return migrate.check_schema(database), server
    finally:
        database.close()


def sql(url: str) -> str:
    """Return the statements that make the whole schema, for those who apply them by hand; nothing is connected."""
    database = Database(url)
    try:
        return migrate.upgrade_sql(database)
    finally:
        database.close()


def grants(
    url: str,
    owners: Sequence[str] = (),
    nodes: Sequence[str] = (),
    submitters: Sequence[str] = (),
    readers: Sequence[str] = (),
) -> str:
    """Return the statements that grant users of the database what they need; nothing is connected.

    Raises:
        Invalid: a name cannot be a user's, or none is given.
    """
    from rota.store.grants import Users, grants_sql

    database = Database(url)
    try:
        return grants_sql(database, Users(owners, nodes, submitters, readers))
    finally:
        database.close()
