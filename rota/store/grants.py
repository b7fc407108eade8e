"""Who may do what in the database, as a script: four kinds of users, and what each of them needs.

Invariant: every table says what a node does with it and whether those who only look may read it, so that a new one is
granted to nobody before somebody has decided. Nothing is run here: whoever may grant reads the script, and runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Dialect

from rota.errors import Invalid
from rota.store.database import Database
from rota.store.functions import CALLED
from rota.store.tables import metadata
from rota.store.views import VIEWS
from rota.store.violations import VIEW as VIOLATIONS_VIEW

USER_BYTES_MAX = 63  # of a name in PostgreSQL; what is longer there is cut off
MIGRATION_TABLE = "rota_migration"
_COMMAND = "rota_command"
_ASKED = "verb, target, params"  # the other columns say who asked, and what became of it


@dataclass(frozen=True, slots=True)
class Rights:
    """What is done with one table. ``is_readable`` by those who only look: not where secrets are."""

    node: str
    is_readable: bool


_WORKED_ON = Rights("select, insert, update, delete", is_readable=True)
_SECRET = Rights("select, insert, update, delete", is_readable=False)  # hashes, and who tried to log in
RIGHTS: Mapping[str, Rights] = {
    "rota_schema": Rights("select, update", is_readable=True),
    "rota_pool": _WORKED_ON,
    "rota_node": _WORKED_ON,
    "rota_job": _WORKED_ON,
    "rota_dependency": _WORKED_ON,
    "rota_calendar": _WORKED_ON,
    "rota_schedule": _WORKED_ON,
    "rota_backfill": _WORKED_ON,
    "rota_backfill_part": _WORKED_ON,
    "rota_run": _WORKED_ON,
    "rota_period": _WORKED_ON,
    "rota_lock": _WORKED_ON,
    "rota_permit": _WORKED_ON,
    "rota_attempt": _WORKED_ON,
    "rota_output": _WORKED_ON,
    "rota_tally": _WORKED_ON,
    "rota_job_rollup": _WORKED_ON,
    "rota_node_rollup": _WORKED_ON,
    "rota_command": _WORKED_ON,
    "rota_user": _SECRET,
    "rota_token": _SECRET,
    "rota_session": _SECRET,
    "rota_login_failure": _SECRET,
    "rota_finding": _WORKED_ON,
    "rota_alert": _WORKED_ON,
    "rota_event": _WORKED_ON,
    "rota_audit": _WORKED_ON,
}

_HEAD = """\
-- What users of the database may do, for the schema of this version of Rota. Run it as somebody who may grant, in the
-- database of Rota, as often as you like, and again after an upgrade, which may bring tables. The users must exist:
--     {create}
-- An owner comes first, then `rota db upgrade` as that owner, then the others, whose tables must be there."""
_CREATE = {
    "postgresql": "create role NAME login password '...';",
    "mysql": "create user 'NAME'@'%' identified by '...';",
}
_SQLITE = """\
-- SQLite has no users: whoever may write the file, and the folder that it is in, may do everything, and whoever may
-- read it sees everything. Let a group have them:
--     chgrp GROUP FOLDER FOLDER/*.db* && chmod 2770 FOLDER && chmod 660 FOLDER/*.db*"""


@dataclass(frozen=True, slots=True)
class Users:
    """The names of those to whom something is granted."""

    owners: Sequence[str] = ()
    nodes: Sequence[str] = ()
    submitters: Sequence[str] = ()
    readers: Sequence[str] = ()


def grants_sql(database: Database, users: Users) -> str:
    """Return the script for the kind of database that the URL names; nothing is sent.

    Raises:
        Invalid: a name cannot be a user's, or none is given.
    """
    named = {"owner": users.owners, "node": users.nodes, "submit": users.submitters, "read": users.readers}
    if not any(named.values()):
        raise Invalid("owner", None, "name at least one user: an owner, a node, one who submits, or one who reads")
    seen: set[str] = set()
    for field, names in named.items():
        for name in names:
            _check_user(field, name)
            if name in seen:
                raise Invalid(field, name, "one user is one kind of user: it is named twice")
            seen.add(name)
    kind = database.dialect.name
    if kind == "sqlite":
        return _SQLITE
    write = _write_postgresql if kind == "postgresql" else _write_mysql
    lines = write(database.engine.dialect, users, database.url.database or "")
    return "\n".join([_HEAD.format(create=_CREATE[kind]), *lines])


def _check_user(field: str, name: str) -> None:
    # Dollars around a name end a quoted part of the script, as a line's end does a comment.
    if not name.isprintable() or not 1 <= len(name.encode()) <= USER_BYTES_MAX or "$" in name:
        rule = f"the name of a user has 1 to {USER_BYTES_MAX} bytes of printable characters, and no $ here"
        raise Invalid(field, name, rule)


def _readable() -> list[str]:
    return [name for name, rights in RIGHTS.items() if rights.is_readable]


def _views() -> list[str]:
    return [*(view.name for view in VIEWS), VIOLATIONS_VIEW]


def _by_rights() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, rights in RIGHTS.items():
        found.setdefault(rights.node, []).append(name)
    return found


def _title(what: str, name: str) -> str:
    return f"\n-- {what}: {name}"


_OWNER = "Makes and upgrades the schema"
_NODE = "Works: everything that a worker and a scheduler do"
_SUBMIT = "Asks for something, and reads what is answered"
_READ = "Reads"


def _write_postgresql(dialect: Dialect, users: Users, _: str) -> Iterator[str]:
    quoted = dialect.identifier_preparer.quote_identifier
    numbered = [f"{name}_id_seq" for name in RIGHTS if metadata.tables[name].autoincrement_column is not None]

    def begin(what: str, name: str, on_schema: str = "usage") -> Iterator[str]:
        yield _title(what, name)
        grant = f"format('grant {on_schema} on schema %I to %I', current_schema(), {_literal(name)})"
        yield f"do $do$ begin execute {grant}; end $do$;"

    def revoke(to: str) -> Iterator[str]:
        # What it could do before, as with an older script, it can do no more.
        yield f"revoke all on {', '.join([*RIGHTS, *_views(), *numbered])} from {to};"

    yield "begin;"
    for name in users.owners:
        yield from begin(_OWNER, name, "usage, create")
        yield from (f"alter table if exists {one} owner to {quoted(name)};" for one in (*RIGHTS, MIGRATION_TABLE))
        yield from (f"alter view if exists {one} owner to {quoted(name)};" for one in _views())
        yield (
            "do $do$ declare one regprocedure; begin\n"
            "for one in select p.oid from pg_proc p where p.pronamespace = current_schema()::regnamespace"
            " and p.proname like 'rota\\_%' loop\n"
            f"execute format('alter function %s owner to %I', one, {_literal(name)});\nend loop; end $do$;"
        )
    for name in users.nodes:
        to = quoted(name)
        yield from begin(_NODE, name)
        yield from revoke(to)
        yield from (f"grant {rights} on {', '.join(tables)} to {to};" for rights, tables in _by_rights().items())
        yield f"grant usage on sequence {', '.join(numbered)} to {to};"
        yield f"grant select on {', '.join(_views())} to {to};"
        yield f"grant execute on function {', '.join(CALLED)} to {to};"
        yield f"-- To tell who keeps a transaction open for long: grant pg_read_all_stats to {to};"
    for name in users.submitters:
        to = quoted(name)
        yield from begin(_SUBMIT, name)
        yield from revoke(to)
        yield f"grant select, insert ({_ASKED}) on {_COMMAND} to {to};"
        yield f"grant usage on sequence {_COMMAND}_id_seq to {to};"
        yield f"grant execute on function {', '.join(CALLED)} to {to};"
    for name in users.readers:
        to = quoted(name)
        yield from begin(_READ, name)
        yield from revoke(to)
        yield f"grant select on {', '.join([*_readable(), *_views()])} to {to};"
    yield "\ncommit;"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write_mysql(dialect: Dialect, users: Users, database: str) -> Iterator[str]:
    schema = dialect.identifier_preparer.quote_identifier(database)

    def on_each(rights: str, names: Iterable[str], to: str) -> Iterator[str]:
        yield from (f"grant {rights} on {schema}.{name} to {to};" for name in names)

    for name in users.owners:
        rights = "select, insert, update, delete, create, drop, alter, index, references, create view, show view"
        yield _title(_OWNER, name)
        yield f"grant {rights} on {schema}.* to {_account(name)};"
    for name in users.nodes:
        yield _title(_NODE, name)
        for rights, tables in _by_rights().items():
            yield from on_each(rights, tables, _account(name))
        yield from on_each("select", _views(), _account(name))
        yield f"-- To tell who keeps a transaction open for long: grant process on *.* to {_account(name)};"
    for name in users.submitters:
        yield _title(_SUBMIT, name)
        yield from on_each(f"select, insert ({_ASKED})", [_COMMAND], _account(name))
    for name in users.readers:
        yield _title(_READ, name)
        yield from on_each("select", [*_readable(), *_views()], _account(name))


def _account(name: str) -> str:
    """Write NAME or NAME@HOST as MySQL does; by itself it may come from any host."""
    user, at, host = name.rpartition("@")
    user, host = (user, host) if at else (name, "%")
    return "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host))
