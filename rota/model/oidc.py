"""A log-in by OpenID Connect: what the settings say of the provider, and who somebody is by what it says of them.

Called by the settings and the web.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast

from rota.errors import Invalid
from rota.model.access import is_loopback
from rota.model.accounts import check_user
from rota.model.roles import Role, check_role
from rota.model.secret import SecretSource

SECRET_NAME = "OIDC_CLIENT_SECRET"
OIDC_KEYS = (
    "issuer", "client_id", "client_secret", "public_url", "user_claim", "groups_claim", "roles", "default_role",
    "scopes", "label",
)  # fmt: skip
SCOPES = ("openid", "profile", "email")
LABEL = "Log in with your organization"
CALLBACK = "/login/oidc/callback"
GROUPS_MAX = 1000  # that are looked at of somebody
_TEXT_LENGTH_MAX = 500
# https://host[:port][/path], and nothing with which one address could be taken for another.
_URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~%-]*)*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID provider, and what Rota makes of what it says. Holds where the secret is, and never the secret."""

    issuer: str
    client_id: str
    public_url: str  # of this server, without a slash at its end
    secret: SecretSource | None = None  # None: a public client
    user_claim: str | None = None  # None: preferred_username, or else an e-mail address that was verified
    groups_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=dict[str, Role], hash=False)  # by group
    default_role: Role | None = None  # of who is in none of them; None: they are refused
    scopes: tuple[str, ...] = SCOPES
    label: str = LABEL

    @property
    def redirect_url(self) -> str:
        """Where the provider sends browsers back to: never by what a request says."""
        return self.public_url + CALLBACK

    @property
    def host(self) -> str:
        """The name by which this server is asked for."""
        found = _URL.fullmatch(self.public_url)
        assert found is not None
        return found[2]

    @property
    def is_behind_tls(self) -> bool:
        """Whether browsers reach this server by TLS."""
        return self.public_url.startswith("https:")


def user_of(provider: Provider, claims: Mapping[str, Any]) -> str:
    """Return the name of whom the provider speaks of.

    An e-mail address counts only where the provider says that it has verified it: else anybody could write anybody's.

    Raises:
        Invalid: it names nobody, or what can be no user's name.
    """
    names = [provider.user_claim] if provider.user_claim is not None else ["preferred_username", "email"]
    for name in names:
        value = claims.get(name)
        if value in (None, ""):
            continue
        if name == "email" and claims.get("email_verified") is not True:
            raise Invalid("email", "(not shown)", "the provider does not say that it has verified it")
        return check_user(value)
    raise Invalid(" or ".join(names), None, "the provider does not say it: choose another user_claim, or other scopes")


def role_of(provider: Provider, claims: Mapping[str, Any]) -> Role | None:
    """Return the highest role that the groups of somebody have, or the default one; None: none."""
    said: object = claims.get(provider.groups_claim)
    groups = cast("list[object]", said)[:GROUPS_MAX] if isinstance(said, list) else [said]
    found = {provider.roles[one] for one in groups if isinstance(one, str) and one in provider.roles}
    return next((role for role in reversed(Role) if role in found), provider.default_role)


def read_provider(written: object) -> Provider:
    """Read the section ``[oidc]`` of the settings.

    Raises:
        Invalid: a value breaks its rule. What may be a secret is not shown.
    """
    if not isinstance(written, dict):
        raise Invalid("oidc", "(not shown)", "it is a section: [oidc] with issuer, client_id and public_url")
    facts = cast("dict[str, Any]", written)
    for key in facts:
        if key not in OIDC_KEYS:
            near = get_close_matches(key, OIDC_KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(OIDC_KEYS)}"
            raise Invalid(f"oidc.{key}", "(not shown)", f"there is no such setting; {hint}")
    default = facts.get("default_role")
    made = Provider(
        issuer=read_url("oidc.issuer", facts.get("issuer")),
        client_id=_text(facts, "client_id"),
        public_url=read_url("oidc.public_url", facts.get("public_url")).rstrip("/"),
        secret=_read_secret(facts.get("client_secret")),
        user_claim=_text(facts, "user_claim") if "user_claim" in facts else None,
        groups_claim=_text(facts, "groups_claim") if "groups_claim" in facts else "groups",
        roles=_read_roles(facts.get("roles", {})),
        default_role=None if default is None else check_role(default),
        scopes=_read_scopes(facts["scopes"]) if "scopes" in facts else SCOPES,
        label=_text(facts, "label") if "label" in facts else LABEL,
    )
    if _URL.fullmatch(made.public_url) is None or made.public_url.count("/") != 2:
        raise Invalid("oidc.public_url", made.public_url, "Rota is served at / of its name: leave the path out")
    if not made.roles and made.default_role is None:
        raise Invalid("oidc.roles", None, 'nobody could log in: write admin = ["group"] and so on, or a default_role')
    return made


def read_url(field: str, value: object) -> str:
    """Read the address of a provider, or of this server: by https, except on this machine.

    Raises:
        Invalid: it is none, or it could be read and changed on the way.
    """
    found = _URL.fullmatch(value) if isinstance(value, str) and len(value) <= _TEXT_LENGTH_MAX else None
    if found is None:
        raise Invalid(field, value, "write an address such as https://login.example.org, of small letters")
    if found[1] != "https" and not is_loopback(found[2]):
        raise Invalid(field, value, "write https: what goes there could be read and changed on the way")
    return found[0]


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key)
    if not isinstance(value, str) or not value.strip() or len(value) > _TEXT_LENGTH_MAX:
        raise Invalid(f"oidc.{key}", value, f"write a text of at most {_TEXT_LENGTH_MAX} characters")
    return value.strip()


def _read_secret(value: object) -> SecretSource | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not set(cast("dict[str, Any]", value)) <= {"file", "env"}:
        rule = 'write where it is, { file = "/path" } or { env = "VARIABLE" }, never the secret itself'
        raise Invalid("oidc.client_secret", "(not shown)", rule)
    place = cast("dict[str, Any]", value)
    return SecretSource.checked_place("oidc.client_secret", SECRET_NAME, file=place.get("file"), env=place.get("env"))


def _read_roles(value: object) -> dict[str, Role]:
    """Read ``roles``: for each role its groups. A group that has two gets the higher one."""
    rule = 'write the groups of each role: roles = { admin = ["ops"], viewer = ["staff"] }'
    if not isinstance(value, dict):
        raise Invalid("oidc.roles", value, rule)
    given = cast("dict[str, Any]", value)
    found: dict[str, Role] = {}
    for word in given:
        check_role(word)
    for role in Role:
        groups = given.get(role.value, [])
        if not isinstance(groups, list) or not all(isinstance(one, str) and one for one in cast("list[Any]", groups)):
            raise Invalid(f"oidc.roles.{role}", "(not shown)", rule)
        found |= dict.fromkeys(cast("list[str]", groups), role)
    return found


def _read_scopes(value: object) -> tuple[str, ...]:
    words = cast("list[Any]", value) if isinstance(value, list) else []
    if not words or not all(isinstance(one, str) and one and not set(one) & set(' "\\') for one in words):
        raise Invalid(
            "oidc.scopes", cast("object", value), 'write a list such as ["openid", "profile", "email", "groups"]'
        )
    return tuple(dict.fromkeys(["openid", *words]))
