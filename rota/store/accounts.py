"""Users: who may log in over HTTP, and what each may do then.

Invariant: whatever a user could do before, they can do no more once they may not: what ends an account, its role or its
password ends its sessions in the same transaction, and its tokens are never more than it is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, exists, insert, null, or_, select, update

from rota.errors import AlreadyExists, NotFound
from rota.model.accounts import AccountState
from rota.model.roles import Role
from rota.store.audit import note_act
from rota.store.database import Database
from rota.store.jobs import adding
from rota.store.moves import write_fresh
from rota.store.shown import shown
from rota.store.tables import account, session, token
from rota.store.types import AnyRow, db_now

_given_hash = bindparam("given_hash", type_=account.c.password_hash.type)
INSERT_USER = insert(account).values(
    password_hash=_given_hash,
    password_at=case((_given_hash.is_not(None), db_now()), else_=null()),
    created_at=db_now(),
)
# Served by the unique name.
FIND_USER = select(*shown(account.c)).where(account.c.name == bindparam("name"))
LOCK_USER = FIND_USER.with_for_update()
LIST_USERS = select(*shown(account.c)).order_by(account.c.name)
CHANGE_USER = (
    update(account)
    .where(account.c.id == bindparam("of_id"))
    .values(role=bindparam("new_role"), state=bindparam("new_state"))
)
SET_PASSWORD = (
    update(account)
    .where(account.c.id == bindparam("of_id"))
    .values(password_hash=bindparam("new_hash"), password_at=db_now())
)
# Of each request that a proxy has let in. Served by the unique name.
READ_ROLE = select(account.c.role).where(
    account.c.name == bindparam("name"), account.c.state == AccountState.ACTIVE.value
)
_active = account.c.state == AccountState.ACTIVE.value
# Once, when a server starts. There are few users and tokens.
FIND_ANYBODY = select(
    exists().where(_active).label("is_user"),
    exists().where(_active, account.c.password_hash.is_not(None)).label("has_password"),
    exists(
        select(token.c.id)
        .outerjoin(account, account.c.id == token.c.user_id)
        .where(
            token.c.revoked_at.is_(None),
            or_(token.c.expires_at.is_(None), token.c.expires_at > db_now()),
            or_(token.c.user_id.is_(None), _active),
        )
    ).label("is_token"),
)
DELETE_USER = delete(account).where(account.c.id == bindparam("of_id"))
# Served by rota_token_user.
DELETE_TOKENS = delete(token).where(token.c.user_id == bindparam("of_id"))
# Served by rota_session_user.
END_SESSIONS = delete(session).where(session.c.user_name == bindparam("name"))


def add_user(database: Database, name: str, role: Role, *, password_hash: str | None, actor: str) -> dict[str, Any]:
    """Add a user and return how they are shown. Without a hash they have no password to log in by.

    Raises:
        AlreadyExists: the name is taken.
    """

    def add(connection: Connection) -> dict[str, Any]:
        values = {"name": name, "role": role.value, "created_by": actor[:200], "given_hash": password_hash}
        connection.execute(INSERT_USER, values)
        note_act(connection, actor, "user", name, "added", f"user {name} was added as {role.value}")
        return _show(_find(connection, name))

    try:
        return adding(database, "user", name, add)
    except AlreadyExists:
        hint = f"`rota user edit {name}` changes their role, `rota user passwd {name}` their password"
        raise AlreadyExists("user", name, hint) from None


def list_users(database: Database) -> list[dict[str, Any]]:
    """Return all users, in the order of their names."""
    return [_show(row) for row in database.read(lambda connection: connection.execute(LIST_USERS).all())]


def read_role(database: Database, name: str) -> Role | None:
    """Return what a user may do, by a name that ``check_user`` lets through; None: nobody of that name may log in."""
    role = database.read(lambda connection: connection.execute(READ_ROLE, {"name": name}).scalar_one_or_none())
    return None if role is None else Role(role)


def can_anybody_log_in(database: Database, *, by_name: bool) -> bool:
    """Tell whether there is a token that lets in, or a user with a password; ``by_name``: or any user at all."""
    row = database.read(lambda connection: connection.execute(FIND_ANYBODY).one())
    return bool(row.is_token or row.has_password or (by_name and row.is_user))


def edit_user(
    database: Database, name: str, *, role: Role | None = None, state: AccountState | None = None, actor: str
) -> dict[str, Any]:
    """Change what a user may do, or whether they may log in. Their sessions end with what they could do before.

    Raises:
        NotFound: there is no such user.
    """

    def edit(connection: Connection) -> dict[str, Any]:
        row = _find(connection, name, lock=True)
        new_role, new_state = (role or Role(row.role)).value, (state or AccountState(row.state)).value
        changes = [
            f"{what} {old} -> {new}"
            for what, old, new in (("role", row.role, new_role), ("state", row.state, new_state))
            if old != new
        ]
        if changes:
            connection.execute(CHANGE_USER, {"of_id": row.id, "new_role": new_role, "new_state": new_state})
            connection.execute(END_SESSIONS, {"name": name})
            note_act(connection, actor, "user", name, "edited", f"user {name} was edited: {', '.join(changes)}")
        return _show(_find(connection, name))

    return write_fresh(database, edit)


def set_password(database: Database, name: str, password_hash: str, *, actor: str) -> dict[str, Any]:
    """Give a user another password; their sessions end.

    Raises:
        NotFound: there is no such user.
    """

    def change(connection: Connection) -> dict[str, Any]:
        row = _find(connection, name, lock=True)
        if row.password_hash != password_hash:  # else the answer to the COMMIT was lost, and it is done
            connection.execute(SET_PASSWORD, {"of_id": row.id, "new_hash": password_hash})
            connection.execute(END_SESSIONS, {"name": name})
            note_act(connection, actor, "user", name, "password-set", f"the password of user {name} was set")
        return _show(_find(connection, name))

    return write_fresh(database, change)


def delete_user(database: Database, name: str, *, actor: str) -> None:
    """Delete a user with their tokens and sessions.

    Raises:
        NotFound: there is no such user.
    """

    def remove(connection: Connection) -> None:
        row = _find(connection, name, lock=True)
        count = connection.execute(DELETE_TOKENS, {"of_id": row.id}).rowcount
        connection.execute(END_SESSIONS, {"name": name})
        connection.execute(DELETE_USER, {"of_id": row.id})
        tokens = f", with {count} token{'s' if count > 1 else ''}" if count else ""
        note_act(connection, actor, "user", name, "deleted", f"user {name} was deleted{tokens}")

    database.write(remove, repeatable=False)


def _find(connection: Connection, name: str, *, lock: bool = False) -> AnyRow:
    row = connection.execute(LOCK_USER if lock else FIND_USER, {"name": name}).one_or_none()
    if row is None:
        raise NotFound("user", name)
    return row


def _show(row: AnyRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "role": row.role,
        "state": row.state,
        "has_password": row.password_hash is not None,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "password_at": row.password_at,
        "last_login_at": row.last_login_at,
    }
