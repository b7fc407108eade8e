"""What follows from the schema and is made anew by each upgrade, rather than migrated: views, functions, triggers.

Imported by an upgrade only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Dialect, text
from sqlalchemy.exc import DBAPIError

from rota.store import violations
from rota.store.functions import create_functions
from rota.store.guards import create_guards, drop_guards
from rota.store.views import VIEWS

_OTHER_COLUMNS = "42P16"  # invalid_table_definition: of a view that is to be replaced by one with other columns
_READ_GRANTS = (
    "select format('grant %s on %s to %s', privilege_type, table_name,"
    " case grantee when 'PUBLIC' then 'public' else quote_ident(grantee) end)"
    " from information_schema.role_table_grants"
    " where table_schema = current_schema() and table_name = :view and grantee <> current_user"
)


@dataclass(frozen=True, slots=True)
class _View:
    name: str
    drop: str
    create: str


def _views(dialect: Dialect) -> Iterator[_View]:
    # That of the violations is the last of all: where there is none, an upgrade was cut off.
    for view in VIEWS:
        yield _View(view.name, view.drop, view.create(dialect))
    yield _View(violations.VIEW, violations.DROP_VIEW, violations.CREATE_VIEW)


def derived_sql(dialect: Dialect) -> Iterator[str]:
    """Give the statements that make it all anew."""
    if dialect.name == "postgresql":
        yield from create_functions()
    for view in _views(dialect):
        yield from (view.drop, view.create)
    if dialect.name == "sqlite":
        yield from drop_guards()
        yield from create_guards()


def make_derived(connection: Connection) -> None:
    """Make it all anew. What was granted on it stays."""
    dialect = connection.dialect
    if dialect.name != "postgresql":
        for statement in derived_sql(dialect):
            _send(connection, statement)
        return
    for statement in create_functions():
        _send(connection, statement)
    for view in _views(dialect):
        _replace_view(connection, view)


def _send(connection: Connection, statement: str) -> None:
    # As it stands: the text holds signs that would be a parameter's.
    is_formatted = connection.dialect.paramstyle in {"format", "pyformat"}
    connection.exec_driver_sql(statement.replace("%", "%%") if is_formatted else statement)


def _replace_view(connection: Connection, view: _View) -> None:
    """Make a view anew on PostgreSQL: in place, since who may read it is lost with it and others may build on it.

    Where its columns have got another type that is refused; then those who could read it can read the new one.
    """
    try:
        with connection.begin_nested():
            _send(connection, view.create.replace("create view", "create or replace view", 1))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _OTHER_COLUMNS:
            raise
        grants = connection.execute(text(_READ_GRANTS), {"view": view.name}).scalars().all()
        for statement in (view.drop, view.create, *grants):
            _send(connection, statement)
