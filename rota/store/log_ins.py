"""Log-ins: the attempts, of which not too many are looked at, and the sessions that come of those that succeed.

Invariant: an attempt counts as failed before its password is looked at, one attempt after the other in the whole
cluster, so that however many come at once on however many nodes, no more are looked at than the limits let through. It
counts no more once it has succeeded. Passwords are looked at outside of any transaction: that takes time by design. A
little long for its statements, which are read together.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

from sqlalchemy import Connection, Delete, bindparam, delete, desc, insert, literal, or_, select, update

from rota import crash
from rota.errors import Invalid
from rota.model.accounts import (
    AccountState,
    Identity,
    Refusal,
    Session,
    SessionRules,
    Source,
    check_user,
    normalize_password,
)
from rota.model.actor import Actor, Door
from rota.model.attempts import MEMORY_SECONDS, Failure, network_of, waits_until
from rota.model.roles import Role
from rota.store.audit import note_act
from rota.store.database import Database, now_of
from rota.store.passwords import hash_password, is_outdated, is_password
from rota.store.shown import shown
from rota.store.tables import account, login_failure, session, token
from rota.store.turns import LOG_INS, take_turn
from rota.store.types import AnyRow, Number, db_now, db_now_plus

SEEN_SECONDS = 60.0  # between two notes of when somebody was last seen
FAILURES_MAX = 1000  # that are read of a name or an address; the limits let far fewer through
TOKENS_KEPT_SECONDS = 30 * 86400.0  # after they have expired or were revoked
REMOVED_MAX = 500
SESSIONS_MAX = 1000  # that are listed
RULES = SessionRules()

_KEY = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_WRONG = Refusal("wrong", "the name or the password is wrong")
_DISABLED = Refusal("disabled", "you may not log in here: ask an administrator of Rota")
_OVER = Refusal("expired", "nobody is logged in: log in again")
SOMEBODY = "(somebody)"  # who has typed a name that no user has: it may be a password

_lately = login_failure.c.at > db_now_plus(literal(-MEMORY_SECONDS, Number))


def _failures(*where: Any) -> Any:
    columns = (login_failure.c.id, login_failure.c.at, login_failure.c.name_hash, login_failure.c.address)
    return select(*columns).where(*where, _lately).order_by(desc(login_failure.c.at)).limit(FAILURES_MAX)


# Served by rota_login_failure_name and rota_login_failure_address.
READ_FAILURES_OF_NAME = _failures(login_failure.c.name_hash == bindparam("name_hash"))
READ_FAILURES_OF_ADDRESS = _failures(login_failure.c.address == bindparam("address"))
INSERT_FAILURE = insert(login_failure).values(at=db_now())
# Served by rota_login_failure_name.
FORGET_FAILURES = delete(login_failure).where(
    login_failure.c.name_hash == bindparam("of_name_hash"), login_failure.c.address == bindparam("of_address")
)
# Served by the unique name.
READ_USER = select(account.c.id, account.c.name, account.c.role, account.c.state, account.c.password_hash).where(
    account.c.name == bindparam("name")
)
LOCK_USER = READ_USER.with_for_update()
NOTE_LOGIN = (
    update(account)
    .where(account.c.id == bindparam("of_id"))
    .values(last_login_at=db_now(), password_hash=bindparam("new_hash"))
)
INSERT_SESSION = insert(session).values(
    created_at=db_now(), seen_at=db_now(), expires_at=db_now_plus(bindparam("lasts_seconds", type_=Number))
)
# Served by the unique key.
FIND_SESSION = (
    select(
        session.c.id,
        session.c.csrf,
        session.c.user_id,
        session.c.user_name,
        session.c.role,
        session.c.source,
        session.c.created_at,
        session.c.expires_at,
        account.c.role.label("user_role"),
        account.c.state.label("user_state"),
        (session.c.seen_at < db_now_plus(literal(-SEEN_SECONDS, Number))).label("is_to_note"),
    )
    .outerjoin(account, account.c.id == session.c.user_id)
    .where(
        session.c.key_hash == bindparam("key_hash"),
        session.c.expires_at > db_now(),
        session.c.seen_at > db_now_plus(bindparam("minus_idle_seconds", type_=Number)),
    )
)
NOTE_SEEN = (
    update(session)
    .where(session.c.id == bindparam("of_id"), session.c.seen_at < db_now_plus(literal(-SEEN_SECONDS, Number)))
    .values(seen_at=db_now())
)
READ_KEY = select(session.c.id, session.c.user_name).where(session.c.key_hash == bindparam("key_hash"))
END_SESSION = delete(session).where(session.c.key_hash == bindparam("of_key_hash"))
# Served by rota_session_user.
END_SESSIONS = delete(session).where(session.c.user_name == bindparam("name"))

# Served by rota_session_user.
_LIST_SESSIONS = (
    select(
        *shown(
            (
                session.c.user_name,
                session.c.user_id,
                session.c.role,
                session.c.source,
                session.c.created_at,
                session.c.seen_at,
                session.c.expires_at,
                session.c.address,
                session.c.user_agent,
            )
        ),
        account.c.role.label("user_role"),
    )
    .outerjoin(account, account.c.id == session.c.user_id)
    .where(
        session.c.expires_at > db_now(),
        session.c.seen_at > db_now_plus(bindparam("minus_idle_seconds", type_=Number)),
    )
    .order_by(session.c.user_name, desc(session.c.id))
    .limit(SESSIONS_MAX)
)
LIST_SESSIONS = {False: _LIST_SESSIONS, True: _LIST_SESSIONS.where(session.c.user_name == bindparam("name"))}

# Served by rota_session_expires.
FIND_OVER = (
    select(session.c.id).where(session.c.expires_at < db_now()).order_by(session.c.expires_at).limit(REMOVED_MAX)
)
REMOVE_SESSIONS = delete(session).where(session.c.id.in_(bindparam("ids", expanding=True)))
# The oldest. Served by the primary key.
FIND_OLD_FAILURES = (
    select(login_failure.c.id, (login_failure.c.at < db_now_plus(literal(-MEMORY_SECONDS, Number))).label("is_old"))
    .order_by(login_failure.c.id)
    .limit(REMOVED_MAX)
)
REMOVE_FAILURES = delete(login_failure).where(login_failure.c.id.in_(bindparam("ids", expanding=True)))
# There are few tokens.
_is_long_ago = db_now_plus(literal(-TOKENS_KEPT_SECONDS, Number))
FIND_OLD_TOKENS = (
    select(token.c.id)
    .where(or_(token.c.expires_at < _is_long_ago, token.c.revoked_at < _is_long_ago))
    .order_by(token.c.id)
    .limit(REMOVED_MAX)
)
REMOVE_TOKENS = delete(token).where(token.c.id.in_(bindparam("ids", expanding=True)))


def log_in(
    database: Database,
    name: object,
    password: object,
    *,
    address: str | None = None,
    user_agent: str | None = None,
    door: Door = Door.PAGE,
    rules: SessionRules = RULES,
) -> str | Refusal:
    """Return the key of a new session, for a cookie, or why nobody is let in: which is the same for who is not there.

    Anything at all may be given as name and password. After too many failures nothing is looked at for a while; see
    ``rota.model.attempts``. A log-in that succeeds forgets the failures of this user from this address.

    Raises:
        DatabaseUnavailable: nobody answers, and nobody is let in.
    """
    known_name = _known_name(name)
    typed = name if isinstance(name, str) else repr(type(name))
    of_whom = {"name_hash": _hash(typed), "address": network_of(address)}
    # Without a lock first: whoever is to wait is told so without having others wait for it.
    waits = database.read(lambda connection: _seconds_to_wait(connection, of_whom))
    if waits is not None:
        return _too_many(waits)
    waits, row = database.write(lambda connection: _begin(connection, of_whom, known_name), repeatable=True)
    if waits is not None:
        return _too_many(waits)
    kept = row.password_hash if row is not None and row.state == AccountState.ACTIVE.value else None
    normalized = normalize_password(password)
    is_right = is_password(normalized, kept)
    actor = Actor(row.name if row is not None else SOMEBODY, door=door, address=address)
    if row is None or kept is None or normalized is None or not is_right:
        database.write(lambda connection: _note_refused(connection, actor), repeatable=False)
        return _WRONG
    new_hash = hash_password(normalized) if is_outdated(kept) else kept
    key = secrets.token_urlsafe(32)
    values = {
        "key_hash": _hash(key),
        "csrf": secrets.token_urlsafe(32),
        "user_id": row.id,
        "user_name": row.name,
        "role": row.role,
        "source": Source.PASSWORD.value,
        "address": actor.address,
        "user_agent": _shorten(user_agent),
        "lasts_seconds": rules.lasts_seconds,
    }

    def succeed(connection: Connection) -> bool:
        if connection.execute(READ_KEY, {"key_hash": values["key_hash"]}).first() is not None:
            return True  # the answer to the COMMIT was lost
        now = connection.execute(LOCK_USER, {"name": row.name}).one_or_none()
        if now is None or (now.id, now.state, now.password_hash) != (row.id, AccountState.ACTIVE.value, kept):
            _note_refused(connection, actor)  # it was changed while we looked
            return False
        connection.execute(NOTE_LOGIN, {"of_id": row.id, "new_hash": new_hash})
        connection.execute(INSERT_SESSION, values)
        forgotten = {"of_name_hash": of_whom["name_hash"], "of_address": of_whom["address"]}
        connection.execute(FORGET_FAILURES, forgotten)
        note_act(connection, actor, "user", row.name, "logged-in", f"user {row.name} logged in by password")
        crash.at("session.written")
        return True

    is_in = database.write(succeed, repeatable=True)
    crash.at("session.committed")
    return key if is_in else _WRONG


def open_session(
    database: Database,
    name: str,
    *,
    role: Role,
    source: Source,
    address: str | None = None,
    user_agent: str | None = None,
    door: Door = Door.PAGE,
    rules: SessionRules = RULES,
) -> str | Refusal:
    """Return the key of a new session of somebody whom another system has identified, and who needs no row here; or
    that they are not let in: a user of that name is here, and disabled.

    Raises:
        Invalid: that can be no user's name.
    """
    check_user(name)
    key = secrets.token_urlsafe(32)
    actor = Actor(name, door=door, address=address)
    values = {
        "key_hash": _hash(key),
        "csrf": secrets.token_urlsafe(32),
        "user_id": None,
        "user_name": name,
        "role": role.value,
        "source": source.value,
        "address": actor.address,
        "user_agent": _shorten(user_agent),
        "lasts_seconds": rules.lasts_seconds,
    }

    def begin(connection: Connection) -> bool:
        if connection.execute(READ_KEY, {"key_hash": values["key_hash"]}).first() is not None:
            return True  # the answer to the COMMIT was lost
        # Locked, so that whoever is disabled at this moment has either no session or one that ends with it.
        row = connection.execute(LOCK_USER, {"name": name}).one_or_none()
        if row is not None and row.state != AccountState.ACTIVE.value:
            note_act(
                connection, actor, "user", name, "log-in-refused", f"a log-in of user {name} was refused: disabled"
            )
            return False
        connection.execute(INSERT_SESSION, values)
        note_act(connection, actor, "user", name, "logged-in", f"user {name} logged in by {source.value}")
        return True

    return key if database.write(begin, repeatable=True) else _DISABLED


def note_refused(
    database: Database, name: str, why: str, *, address: str | None = None, door: Door = Door.PAGE
) -> None:
    """Write that somebody whom another system has identified was not let in.

    Raises:
        Invalid: that can be no user's name.
    """
    actor = Actor(check_user(name), door=door, address=address)
    text = f"a log-in of {name} was refused: {why}"
    database.write(lambda c: note_act(c, actor, "user", name, "log-in-refused", text), repeatable=False)


def find_session(database: Database, key: object, *, rules: SessionRules = RULES) -> Session | Refusal:
    """Return who is logged in by a key, or that nobody is. Anything at all may be given as a key.

    Once a minute at most it is written that they were seen. Where that cannot be at once the next request writes it: a
    database that is not written for longer than a session may be idle ends it, as if nobody had come.

    Raises:
        DatabaseUnavailable: nobody answers; nothing is known of them.
    """
    if not _is_key(key):
        return _OVER
    given = {"key_hash": _hash(str(key)), "minus_idle_seconds": -rules.idle_seconds}
    row = database.read(lambda connection: connection.execute(FIND_SESSION, given).one_or_none())
    if row is None or (row.user_id is not None and row.user_state != AccountState.ACTIVE.value):
        return _OVER
    if row.is_to_note:
        database.write_or_leave_out(lambda connection: connection.execute(NOTE_SEEN, {"of_id": row.id}))
    role = Role(row.role if row.user_id is None else row.user_role)
    identity = Identity(row.user_name, role, Source(row.source), shown=row.id)
    return Session(identity, row.csrf, row.created_at, row.expires_at)


def list_sessions(database: Database, name: str | None = None, *, rules: SessionRules = RULES) -> list[dict[str, Any]]:
    """Return the sessions in force, by user and the latest first, at most 1000; or those of one user."""
    given = {"name": name, "minus_idle_seconds": -rules.idle_seconds}
    rows = database.read(lambda connection: connection.execute(LIST_SESSIONS[name is not None], given).all())
    return [
        {
            "user": row.user_name,
            "role": row.role if row.user_id is None else row.user_role,
            "source": row.source,
            "created_at": row.created_at,
            "seen_at": row.seen_at,
            "expires_at": row.expires_at,
            "address": row.address,
            "user_agent": row.user_agent,
        }
        for row in rows
    ]


def end_session(database: Database, key: object, *, address: str | None = None, door: Door = Door.PAGE) -> bool:
    """Log out; False: nobody was logged in by this key."""
    if not _is_key(key):
        return False
    key_hash = _hash(str(key))

    def end(connection: Connection) -> bool:
        row = connection.execute(READ_KEY, {"key_hash": key_hash}).one_or_none()
        if row is None or not connection.execute(END_SESSION, {"of_key_hash": key_hash}).rowcount:
            return False
        actor = Actor(row.user_name, door=door, address=address)
        note_act(connection, actor, "user", row.user_name, "logged-out", f"user {row.user_name} logged out")
        return True

    return database.write(end, repeatable=True)


def end_sessions(database: Database, name: str, *, actor: str) -> int:
    """End all sessions of a user; return how many there were."""

    def end(connection: Connection) -> int:
        count = connection.execute(END_SESSIONS, {"name": name}).rowcount
        if count:
            note_act(connection, actor, "user", name, "sessions-ended", f"{count} sessions of user {name} were ended")
        return count

    return database.write(end, repeatable=True)


def remove_log_ins(database: Database) -> int:
    """Remove sessions and failed log-ins that are over, up to 500 of each, and tokens that are over for a month.

    Raises:
        DatabaseUnavailable: calling again is safe.
    """

    def find(connection: Connection) -> list[tuple[Delete, list[int]]]:
        tokens = list(connection.execute(FIND_OLD_TOKENS).scalars())
        over = list(connection.execute(FIND_OVER).scalars())
        failures = [row.id for row in connection.execute(FIND_OLD_FAILURES) if row.is_old]
        return [(REMOVE_TOKENS, tokens), (REMOVE_SESSIONS, over), (REMOVE_FAILURES, failures)]

    found = [(statement, ids) for statement, ids in database.read(find) if ids]
    if not found:
        return 0
    return database.write(
        lambda connection: sum(connection.execute(statement, {"ids": ids}).rowcount for statement, ids in found),
        repeatable=True,
    )


def _begin(connection: Connection, of_whom: dict[str, str], name: str | None) -> tuple[float | None, AnyRow]:
    """Count an attempt as failed, unless it is to wait, and return the row of the user."""
    take_turn(connection, LOG_INS)
    waits = _seconds_to_wait(connection, of_whom)
    if waits is not None:
        return waits, None
    connection.execute(INSERT_FAILURE, of_whom)
    return None, connection.execute(READ_USER, {"name": name or ""}).one_or_none()


def _seconds_to_wait(connection: Connection, of_whom: dict[str, str]) -> float | None:
    now = now_of(connection)
    of_name = connection.execute(READ_FAILURES_OF_NAME, {"name_hash": of_whom["name_hash"]}).all()
    of_address = connection.execute(READ_FAILURES_OF_ADDRESS, {"address": of_whom["address"]}).all()
    found = {row.id: Failure(row.at, row.name_hash, row.address) for row in (*of_name, *of_address)}
    until = waits_until(list(found.values()), of_whom["name_hash"], of_whom["address"], now)
    return None if until is None else (until - now).total_seconds()


def _too_many(seconds: float) -> Refusal:
    wait = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{max(1, round(seconds))} seconds"
    return Refusal("too-many", f"there were too many attempts: try again in {wait}", retry_after_seconds=seconds)


def _note_refused(connection: Connection, actor: Actor) -> None:
    note_act(connection, actor, "user", actor, "log-in-refused", "a log-in was refused: wrong name or password")


def _known_name(name: object) -> str | None:
    try:
        return check_user(name)
    except Invalid:
        return None


def _is_key(key: object) -> bool:
    return isinstance(key, str) and len(key) == 43 and _KEY.fullmatch(key) is not None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _shorten(user_agent: str | None) -> str | None:
    if not user_agent:
        return None
    return "".join(sign for sign in user_agent[:1000] if sign.isprintable()).encode("utf-8", "replace").decode()[:200]
