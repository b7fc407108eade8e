"""The verbs about who may do what, and who asked for what with SQL: users, tokens, commands. Each is for admins."""

from __future__ import annotations

from typing import Any

from rota.client import Rota
from rota.verbs.verb import Role, View, verb


@verb("user.add", Role.ADMIN)
def user_add(rota: Rota, name: str, *, role: str, password: Any = None) -> View:
    return rota.users.add(name, role=role, password=password)


@verb("user.list", Role.ADMIN, acts=False)
def user_list(rota: Rota) -> View:
    return rota.users.list()


@verb("user.edit", Role.ADMIN)
def user_edit(rota: Rota, name: str, *, role: str | None = None, disable: bool = False, enable: bool = False) -> View:
    return rota.users.edit(name, role=role, disable=disable, enable=enable)


@verb("user.passwd", Role.ADMIN)
def user_passwd(rota: Rota, name: str, *, password: Any) -> View:
    return rota.users.passwd(name, password)


@verb("user.delete", Role.ADMIN)
def user_delete(rota: Rota, name: str) -> View:
    rota.users.delete(name)
    return {"name": name, "deleted": True}


@verb("user.sessions", Role.ADMIN, acts=False)
def user_sessions(rota: Rota, *, user: str | None = None) -> View:
    return rota.users.sessions(user)


@verb("user.end-sessions", Role.ADMIN)
def user_end_sessions(rota: Rota, name: str) -> View:
    return rota.users.end_sessions(name)


@verb("token.add", Role.ADMIN)
def token_add(
    rota: Rota, name: str, *, role: str | None = None, user: str | None = None, scopes: Any = None, expires: Any = None
) -> View:
    return rota.tokens.add(name, role=role, user=user, scopes=scopes, expires=expires)


@verb("token.list", Role.ADMIN, acts=False)
def token_list(rota: Rota) -> View:
    return rota.tokens.list()


@verb("token.revoke", Role.ADMIN)
def token_revoke(rota: Rota, name: str) -> View:
    return rota.tokens.revoke(name)


@verb("token.delete", Role.ADMIN)
def token_delete(rota: Rota, name: str) -> View:
    rota.tokens.delete(name)
    return {"name": name, "deleted": True}


@verb("command.list", Role.ADMIN, acts=False)
def command_list(
    rota: Rota,
    *,
    state: str | None = None,
    verb: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> View:
    return rota.commands.list(limit, state=state, verb=verb, since=since, until=until, before=before)


@verb("command.show", Role.ADMIN, acts=False)
def command_show(rota: Rota, command: str) -> View:
    return rota.commands.show(command)
