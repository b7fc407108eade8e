"""Tokens: what a program shows to act over HTTP.

Invariant: the secret is nowhere: it is shown once, when it is made, and only its SHA-256 is kept, which is enough for
256 random bits. A token never may more than its user may now.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, literal, or_, select, update

from rota.errors import AlreadyExists, Invalid, NotFound
from rota.model.accounts import TOKEN_PREFIX, AccountState, Identity, Refusal, Source, read_scopes
from rota.model.roles import Role, least
from rota.store.audit import note_act
from rota.store.database import Database, now_of
from rota.store.jobs import adding
from rota.store.moves import write_fresh
from rota.store.shown import shown
from rota.store.tables import account, token
from rota.store.types import AnyRow, Number, db_now, db_now_plus

USED_SECONDS = 60.0  # between two notes of when it was used
_SHAPE = re.compile(rf"{TOKEN_PREFIX}([0-9a-f]{{10}})_[A-Za-z0-9_-]{{43}}", re.ASCII)

INSERT_TOKEN = insert(token).values(created_at=db_now())
LOCK_OWNER = select(account.c.id, account.c.role).where(account.c.name == bindparam("name")).with_for_update()
_SHOWN = select(*shown(token.c), account.c.name.label("user")).outerjoin(account, account.c.id == token.c.user_id)
FIND_TOKEN = _SHOWN.where(token.c.name == bindparam("name"))
LIST_TOKENS = _SHOWN.order_by(token.c.name)
# Served by the unique name.
REVOKE_TOKEN = (
    update(token)
    .where(token.c.name == bindparam("of_name"), token.c.revoked_at.is_(None))
    .values(revoked_at=db_now(), revoked_by=bindparam("actor"))
)
DELETE_TOKEN = delete(token).where(token.c.name == bindparam("of_name"))
_is_to_note = or_(token.c.last_used_at.is_(None), token.c.last_used_at < db_now_plus(literal(-USED_SECONDS, Number)))
# Whose a token is that somebody shows. Served by the unique public id.
IDENTIFY = (
    select(
        token.c.id,
        token.c.name,
        token.c.secret_hash,
        token.c.user_id,
        token.c.role,
        token.c.scopes,
        token.c.revoked_at,
        (token.c.expires_at <= db_now()).label("is_over"),
        or_(token.c.last_used_at.is_(None), token.c.last_used_at < db_now_plus(literal(-USED_SECONDS, Number))).label(
            "is_to_note"
        ),
        account.c.name.label("user"),
        account.c.role.label("user_role"),
        account.c.state.label("user_state"),
    )
    .outerjoin(account, account.c.id == token.c.user_id)
    .where(token.c.public_id == bindparam("public_id"))
)
# Once a minute, whichever of several web servers it was shown to. Served by the primary key.
NOTE_USED = update(token).where(token.c.id == bindparam("of_id"), _is_to_note).values(last_used_at=db_now())


def identify_token(database: Database, secret: object) -> Identity | Refusal:
    """Return who shows this token, or why they are not let in. Anything at all may be shown.

    Raises:
        DatabaseUnavailable: nobody answers; nothing is known of them.
    """
    shape = _SHAPE.fullmatch(secret) if isinstance(secret, str) and len(secret) <= 100 else None
    if shape is None:
        return _UNKNOWN
    row = database.read(lambda connection: connection.execute(IDENTIFY, {"public_id": shape[1]}).one_or_none())
    if row is None or not hmac.compare_digest(row.secret_hash, _hash(shape[0])):
        return _UNKNOWN
    if row.revoked_at is not None:
        return Refusal("revoked", f"token {row.name} was revoked")
    if row.is_over:
        return Refusal("expired", f"token {row.name} has expired")
    if row.user_id is not None and row.user_state != AccountState.ACTIVE.value:
        return Refusal("disabled", f"the user of token {row.name} may not log in")
    if row.is_to_note:
        database.write_or_leave_out(lambda connection: connection.execute(NOTE_USED, {"of_id": row.id}))
    role = Role(row.role) if row.user_id is None else least(Role(row.role), Role(row.user_role))
    name = row.user if row.user_id is not None else f"token {row.name}"
    return Identity(name, role, Source.TOKEN, read_scopes(row.scopes), via=row.name, shown=row.id)


_UNKNOWN = Refusal("unknown", "there is no such token")


def add_token(
    database: Database,
    name: str,
    *,
    user: str | None,
    role: Role | None,
    scopes: Sequence[str] | None,
    expires_seconds: float | None,
    actor: str,
) -> dict[str, Any]:
    """Add a token and return how it is shown, with ``secret``, which is nowhere else and is not to be had again.

    Without a role it has its user's, and that of a viewer where it is nobody's.

    Raises:
        AlreadyExists: the name is taken.
        NotFound: there is no such user.
        Invalid: the user may not do as much.
    """
    public_id = secrets.token_hex(5)
    secret = f"{TOKEN_PREFIX}{public_id}_{secrets.token_urlsafe(32)}"

    lasts = None if expires_seconds is None else timedelta(seconds=expires_seconds)

    def add(connection: Connection) -> dict[str, Any]:
        owner = connection.execute(LOCK_OWNER, {"name": user}).one_or_none() if user is not None else None
        if user is not None and owner is None:
            raise NotFound("user", user)
        wanted = role or (Role(owner.role) if owner is not None else Role.VIEWER)
        if owner is not None and not Role(owner.role).covers(wanted):
            raise Invalid(
                "role", wanted.value, f"user {user} is {owner.role}, and a token may not do more than its user"
            )
        values = {
            "name": name,
            "public_id": public_id,
            "secret_hash": _hash(secret),
            "user_id": owner.id if owner is not None else None,
            "role": wanted.value,
            "scopes": json.dumps(list(scopes)) if scopes is not None else None,
            "created_by": actor[:200],
            "expires_at": None if lasts is None else now_of(connection) + lasts,
        }
        connection.execute(INSERT_TOKEN, values)
        of_whom = f" of user {user}" if user is not None else ""
        what = f", for {', '.join(scopes)}" if scopes is not None else ""
        note_act(connection, actor, "token", name, "added", f"token {name}{of_whom} was added as {wanted.value}{what}")
        return _show(_find(connection, name)) | {"secret": secret}

    try:
        return adding(database, "token", name, add)
    except AlreadyExists:
        raise AlreadyExists("token", name, f"choose another name, or `rota token delete {name}` first") from None


def list_tokens(database: Database) -> list[dict[str, Any]]:
    """Return all tokens, in the order of their names; also those that are revoked or expired, for a month."""
    return [_show(row) for row in database.read(lambda connection: connection.execute(LIST_TOKENS).all())]


def revoke_token(database: Database, name: str, *, actor: str) -> dict[str, Any]:
    """Let nobody in by a token any more, and keep it in the list.

    Raises:
        NotFound: there is no such token.
    """

    def revoke(connection: Connection) -> dict[str, Any]:
        if connection.execute(REVOKE_TOKEN, {"of_name": name, "actor": actor[:200]}).rowcount:
            note_act(connection, actor, "token", name, "revoked", f"token {name} was revoked")
        return _show(_find(connection, name))

    return write_fresh(database, revoke)


def delete_token(database: Database, name: str, *, actor: str) -> None:
    """Delete a token.

    Raises:
        NotFound: there is no such token.
    """

    def remove(connection: Connection) -> None:
        if not connection.execute(DELETE_TOKEN, {"of_name": name}).rowcount:
            raise NotFound("token", name)
        note_act(connection, actor, "token", name, "deleted", f"token {name} was deleted")

    database.write(remove, repeatable=False)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _find(connection: Connection, name: str) -> AnyRow:
    row = connection.execute(FIND_TOKEN, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("token", name)
    return row


def _show(row: AnyRow) -> dict[str, Any]:
    scopes = read_scopes(row.scopes)
    return {
        "name": row.name,
        "begins": f"{TOKEN_PREFIX}{row.public_id}",
        "user": row.user,
        "role": row.role,
        "scopes": None if scopes is None else list(scopes),
        "created_at": row.created_at,
        "created_by": row.created_by,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
        "revoked_by": row.revoked_by,
    }
