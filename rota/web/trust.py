"""Who asks, and whether a request comes from where it may.

Where no login is demanded only this machine is served, and whoever asks is its administrator. A browser on this
machine is asked by any page on the internet to send requests here: so a request is refused whose ``Host`` is not one of
ours (a name that an attacker has pointed to 127.0.0.1), and one that acts and that a page of another site has caused.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from rota.errors import ConfigError
from rota.model.access import Access, is_loopback
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.store.database import Database
from rota.store.tokens import identify_token
from rota.web.problems import Refusal

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL = Identity("local@host", Role.ADMIN, Source.LOCAL)  # without logins: everybody on this machine


def identify(database: Database, headers: Mapping[str, str]) -> Identity:
    """Return who asks: whose token it is, or without one whoever is on this machine. It asks the database.

    Raises:
        Refusal: the token is none, or no longer.
    """
    if (given := headers.get("authorization")) is None:
        return LOCAL
    scheme, _, secret = given.partition(" ")
    if scheme.lower() != "bearer":
        detail = "Authorization is refused: write `Bearer TOKEN`, of a token that `rota token add` has shown"
        raise Refusal(401, "unauthorized", detail, field="Authorization")
    found = identify_token(database, secret.strip())
    if isinstance(found, Identity):
        return found
    raise Refusal(401, "unauthorized", found.text, field="Authorization")


def check_address(host: str, access: Access) -> None:
    """Check that it is safe to listen on an address.

    Raises:
        ConfigError: others than this machine would reach it, and nobody would have to say who they are.
    """
    if not is_loopback(host) and not access.demands_login:
        raise ConfigError(f"host {host!r} is refused: others than this machine would reach it without a login")


def is_ours(host_header: str, access: Access) -> bool:
    """Tell whether a ``Host`` header names this server."""
    try:
        name = urlsplit(f"//{host_header}").hostname
    except ValueError:
        return False
    return name is not None and access.knows(name.lower())


def is_cross_site(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request that acts was caused by a page that this server has not sent.

    Programs send neither header and are no browsers. A browser sends ``Sec-Fetch-Site``, or at least ``Origin``.
    """
    if method in SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return True
    return parts.netloc.lower() != headers.get("host", "").lower() or parts.scheme not in {"http", "https"}
