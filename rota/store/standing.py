"""Who of those that were let in still may be there: for what goes on after the request that began it.

Called by the feed of events, once in a while for all that look on together.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, or_, select

from rota.model.accounts import AccountState, Identity, SessionRules, Source
from rota.store.database import Database
from rota.store.log_ins import RULES
from rota.store.tables import account, session, token
from rota.store.types import Number, db_now, db_now_plus

_active = account.c.state == AccountState.ACTIVE.value
# Served by the primary key.
FIND_SESSIONS = (
    select(session.c.id)
    .outerjoin(account, account.c.id == session.c.user_id)
    .where(
        session.c.id.in_(bindparam("ids", expanding=True)),
        session.c.expires_at > db_now(),
        session.c.seen_at > db_now_plus(bindparam("minus_idle_seconds", type_=Number)),
        or_(session.c.user_id.is_(None), _active),
    )
)
# Served by the primary key.
FIND_TOKENS = (
    select(token.c.id)
    .outerjoin(account, account.c.id == token.c.user_id)
    .where(
        token.c.id.in_(bindparam("ids", expanding=True)),
        token.c.revoked_at.is_(None),
        or_(token.c.expires_at.is_(None), token.c.expires_at > db_now()),
        or_(token.c.user_id.is_(None), _active),
    )
)
# Served by the unique name.
FIND_USERS = select(account.c.name).where(account.c.name.in_(bindparam("names", expanding=True)), _active)


def find_standing(database: Database, identities: Iterable[Identity], *, rules: SessionRules = RULES) -> set[Identity]:
    """Return those that would be let in now as they were: by a session or token that is in force, or as a user whom a
    proxy names and who may log in. Whoever is on this machine always is.

    Raises:
        DatabaseUnavailable: nobody answers; nothing is known of them.
    """
    asked = set(identities)
    sessions = {one.shown for one in asked if one.source in {Source.PASSWORD, Source.OIDC}}
    tokens = {one.shown for one in asked if one.source is Source.TOKEN}
    names = {one.name for one in asked if one.source is Source.PROXY}

    def read(connection: Connection) -> set[tuple[Source, object]]:
        found: set[tuple[Source, object]] = {(Source.LOCAL, None)}
        if sessions:
            given = {"ids": list(sessions), "minus_idle_seconds": -rules.idle_seconds}
            found |= {
                (source, number)
                for number in connection.execute(FIND_SESSIONS, given).scalars()
                for source in (Source.PASSWORD, Source.OIDC)
            }
        if tokens:
            given = {"ids": list(tokens)}
            found |= {(Source.TOKEN, number) for number in connection.execute(FIND_TOKENS, given).scalars()}
        if names:
            found |= {(Source.PROXY, name) for name in connection.execute(FIND_USERS, {"names": list(names)}).scalars()}
        return found

    if not (sessions or tokens or names):
        return asked
    found = database.read(read)
    return {one for one in asked if (one.source, _holds(one)) in found}


def _holds(one: Identity) -> object:
    match one.source:
        case Source.LOCAL:
            return None
        case Source.PROXY:
            return one.name
        case _:
            return one.shown
