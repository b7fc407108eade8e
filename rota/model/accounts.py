"""Accounts and tokens: what their names, passwords and scopes may look like, and what whoever shows one may do.

The rules of passwords are those of NIST SP 800-63B: length counts and no mixture of characters is asked for, every
character is accepted and counts as one, and the text is normalized (NFKC) before it is hashed, since keyboards write
the same letter in more than one way. Called by the doors and the store.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Protocol, cast

from rota.errors import Invalid
from rota.model.actor import Actor
from rota.model.names import check_name
from rota.model.roles import Role
from rota.model.verb_words import VERB_WORDS

PASSWORD_LENGTH_MIN = 12
PASSWORD_LENGTH_MAX = 1000
SCOPES_MAX = 100
TOKEN_PREFIX = "rota_"


class AccountState(StrEnum):
    """Whether a user may log in."""

    ACTIVE = "active"
    DISABLED = "disabled"


class Source(StrEnum):
    """Who has said that somebody is who they say."""

    PASSWORD = "password"
    TOKEN = "token"
    OIDC = "oidc"
    PROXY = "proxy"
    LOCAL = "local"  # nobody: they are on this machine


class VerbLike(Protocol):
    """What is asked for: a verb."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> Role: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was recognized, and what they may do."""

    name: str  # of the user; of a service's token ``token NAME``, which no user's name can be
    role: Role
    source: Source
    scopes: tuple[str, ...] | None = None  # None: all that the role may
    via: str | None = None  # the name of the token that was shown
    shown: int | None = None  # the number of the session or token by which they were let in

    def may(self, verb: VerbLike) -> bool:
        """Tell whether they may use a verb: by their role, and by the scopes where there are some."""
        is_within = self.scopes is None or any(fnmatchcase(verb.name, one) for one in self.scopes)
        return self.role.covers(verb.role) and is_within

    def acting(self, door: str, address: str | None = None) -> Actor:
        """Return who acts when they ask for something through ``door``: for ``Rota.over(database, actor=...)``."""
        return Actor(self.name, door=door, address=address, via=self.via)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's log-in that is in force."""

    identity: Identity
    csrf: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SessionRules:
    """How long a log-in lasts: in all, and without a request."""

    lasts_seconds: float = 12 * 3600.0
    idle_seconds: float = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody was not recognized. The text may be shown to them: it says nothing of which users there are."""

    code: str  # wrong, too-many, expired, unknown
    text: str
    retry_after_seconds: float | None = None


def check_user(value: object) -> str:
    """Return ``value`` if it can name a user: a name, in which there may be an ``@``.

    Raises:
        Invalid: it is none.
    """
    if isinstance(value, str) and "@" in value:
        try:
            check_name("user", value.replace("@", "."))
        except Invalid as error:
            raise Invalid("user", value, error.rule) from None
        return value
    return check_name("user", value)


def check_password(value: object) -> str:
    """Return a password as it is hashed, if it may be one.

    Raises:
        Invalid: it is too short or too long. The error does not hold it.
    """
    rule = f"it has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters, whichever they are"
    if not isinstance(value, str):
        raise Invalid("password", f"({type(value).__name__})", rule)
    if not PASSWORD_LENGTH_MIN <= len(value) <= PASSWORD_LENGTH_MAX:
        raise Invalid("password", f"({len(value)} characters)", rule)
    if (found := normalize_password(value)) is None:
        raise Invalid("password", "(not shown)", "it holds half of a surrogate pair, which is no character")
    return found


def normalize_password(value: object) -> str | None:
    """Return what is hashed of a password that was typed; None: it cannot be anybody's."""
    if not isinstance(value, str) or len(value) > PASSWORD_LENGTH_MAX:
        return None
    found = unicodedata.normalize("NFKC", value)
    try:
        found.encode()
    except UnicodeEncodeError:
        return None
    return found


def check_scopes(value: object) -> tuple[str, ...] | None:
    """Return the scopes of a token, sorted; None for None: all that its role may.

    Raises:
        Invalid: one of them matches no verb.
    """
    if value is None:
        return None
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid("scopes", given, 'it is a list of patterns of verbs, such as "job.*" or "run.list"')
    scopes = cast("Sequence[object]", given)
    if not 1 <= len(scopes) <= SCOPES_MAX:
        raise Invalid(
            "scopes", f"{len(scopes)} scopes", f"there are 1 to {SCOPES_MAX}; none are given by leaving them out"
        )
    found: set[str] = set()
    for scope in scopes:
        # Sets of characters and the like are not for this: a scope is to be understood at a glance.
        is_plain = isinstance(scope, str) and len(scope) <= 100 and not set(scope) & set("?[]")
        if not is_plain or not any(fnmatchcase(word, str(scope)) for word in VERB_WORDS):
            raise Invalid("scopes", scope, "it matches no verb: write one, such as run.list, or several, such as job.*")
        found.add(str(scope))
    return tuple(sorted(found))


def read_scopes(text: str | None) -> tuple[str, ...] | None:
    """Read what a row holds. What nobody could have stored through a door lets nothing through."""
    if text is None:
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, list):
        return ()
    return tuple(one for one in cast("list[object]", found) if isinstance(one, str))
