"""Users and tokens, as applications see them: ``rota.users`` and ``rota.tokens``.

Checks are ``rota.model.accounts``'s; rows are ``rota.store.accounts``'s and ``rota.store.tokens``'s. These objects
refuse nobody: whoever reaches the database may do all of it. What roles may do is asked where somebody comes in over
HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rota.errors import Invalid
from rota.model.accounts import AccountState, check_password, check_scopes, check_user
from rota.model.durations import parse_duration
from rota.model.names import check_name
from rota.model.roles import check_role
from rota.store import accounts, log_ins, tokens
from rota.store.passwords import hash_password

if TYPE_CHECKING:
    from rota.client.rota import Rota

EXPIRES_SECONDS_MIN = 60.0


class Users:
    """All users: who may log in over HTTP, and what each may do then."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def add(self, name: str, *, role: str, password: str | None = None) -> dict[str, Any]:
        """Add a user as viewer, operator or admin, and return how they are shown.

        A password has 12 to 1000 characters. Without one nobody logs in by a password.

        Raises:
            Invalid: a value breaks its rule; the error does not hold the password.
            AlreadyExists: the name is taken.
            NotSupported: passwords need the package argon2-cffi.
        """
        check_user(name)
        given = check_role(role)
        kept = None if password is None else hash_password(check_password(password))
        return accounts.add_user(self._rota.database, name, given, password_hash=kept, actor=self._rota.actor)

    def list(self) -> list[dict[str, Any]]:
        """Return all users, in the order of their names."""
        return accounts.list_users(self._rota.database)

    def edit(
        self, name: str, *, role: str | None = None, disable: bool = False, enable: bool = False
    ) -> dict[str, Any]:
        """Change the role of a user, or whether they may log in. Their sessions end in the same transaction.

        Raises:
            Invalid: there is no such role, or nothing to change.
            NotFound: there is no such user.
        """
        if disable and enable:
            raise Invalid("enable", enable, "give either disable or enable, not both")
        if role is None and not disable and not enable:
            raise Invalid("user", name, "say what to change: role, disable or enable")
        state = AccountState.DISABLED if disable else AccountState.ACTIVE if enable else None
        given = None if role is None else check_role(role)
        return accounts.edit_user(
            self._rota.database, check_user(name), role=given, state=state, actor=self._rota.actor
        )

    def passwd(self, name: str, password: str) -> dict[str, Any]:
        """Give a user another password. Their sessions end in the same transaction; their tokens stay.

        Raises:
            Invalid: it is too short or too long; the error does not hold it.
            NotFound: there is no such user.
            NotSupported: passwords need the package argon2-cffi.
        """
        kept = hash_password(check_password(password))
        return accounts.set_password(self._rota.database, check_user(name), kept, actor=self._rota.actor)

    def delete(self, name: str) -> None:
        """Delete a user with their tokens and sessions.

        Raises:
            NotFound: there is no such user.
        """
        accounts.delete_user(self._rota.database, check_user(name), actor=self._rota.actor)

    def sessions(self, user: str | None = None) -> list[dict[str, Any]]:
        """Return who is logged in, by name and the latest first: at most 1000 sessions, or those of one user.

        Each has ``user``, ``role``, ``source`` (password or oidc), ``created_at``, ``seen_at``, ``expires_at``,
        ``address`` and ``user_agent``. Who came from an OpenID provider need be no user here.

        Raises:
            Invalid: that can be no user's name.
        """
        return log_ins.list_sessions(self._rota.database, None if user is None else check_user(user))

    def end_sessions(self, name: str) -> dict[str, Any]:
        """End all sessions of somebody, who may log in again; return their ``name`` and how many ``ended``.

        Raises:
            Invalid: that can be no user's name.
        """
        ended = log_ins.end_sessions(self._rota.database, check_user(name), actor=self._rota.actor)
        return {"name": name, "ended": ended}


class Tokens:
    """All tokens: what programs show to act over HTTP."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def add(
        self,
        name: str,
        *,
        role: str | None = None,
        user: str | None = None,
        scopes: Sequence[str] | str | None = None,
        expires: str | float | timedelta | None = None,
    ) -> dict[str, Any]:
        """Add a token and return how it is shown, with ``secret``: it is not to be had again.

        It may what ``role`` may (its user's unless told, a viewer's where it is nobody's), of that only the verbs that
        ``scopes`` match, such as ``["job.*", "run.list"]``, and only for ``expires``, a duration.

        Raises:
            Invalid: a value breaks its rule, or its user may not do as much.
            NotFound: there is no such user.
            AlreadyExists: the name is taken.
        """
        return tokens.add_token(
            self._rota.database,
            check_name("token", name),
            user=None if user is None else check_user(user),
            role=None if role is None else check_role(role),
            scopes=check_scopes(scopes),
            expires_seconds=None if expires is None else _check_expires(expires),
            actor=self._rota.actor,
        )

    def list(self) -> list[dict[str, Any]]:
        """Return all tokens, in the order of their names; revoked and expired ones too, for a month."""
        return tokens.list_tokens(self._rota.database)

    def revoke(self, name: str) -> dict[str, Any]:
        """Let nobody in by a token any more; it stays in the list for a month.

        Raises:
            NotFound: there is no such token.
        """
        return tokens.revoke_token(self._rota.database, check_name("token", name), actor=self._rota.actor)

    def delete(self, name: str) -> None:
        """Delete a token; its name is free again.

        Raises:
            NotFound: there is no such token.
        """
        tokens.delete_token(self._rota.database, check_name("token", name), actor=self._rota.actor)


def _check_expires(value: str | float | timedelta) -> float:
    return parse_duration("expires", value, minimum=EXPIRES_SECONDS_MIN)
