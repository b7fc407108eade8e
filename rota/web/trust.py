"""Who asks, and whether a request comes from where it may.

Without a login only this machine is served, and whoever asks is its administrator. A browser on this machine is asked
by any page on the internet to send requests here: so a request is refused whose ``Host`` is not one of ours (a name
that an attacker has pointed to 127.0.0.1), and one that acts and that a page of another site has caused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from rota.errors import ConfigError
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


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str) -> None:
    """Check that it is safe to listen on an address.

    Raises:
        ConfigError: others than this machine would reach it, and there is no login.
    """
    if not is_loopback(host):
        raise ConfigError(
            f"host {host!r} is refused: others than this machine would reach it, and there is no login; leave --host "
            "out, and reach it from elsewhere by a tunnel: ssh -L 8300:127.0.0.1:8300 HOST"
        )


def names_of(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """Return the names by which a server that listens on ``host`` is asked for, without ports."""
    return frozenset({"localhost", "127.0.0.1", "::1", host.strip("[]").lower(), *(name.lower() for name in more)})


def is_ours(host_header: str, names: frozenset[str]) -> bool:
    """Tell whether a ``Host`` header names this server."""
    try:
        name = urlsplit(f"//{host_header}").hostname
    except ValueError:
        return False
    return name is not None and name.lower() in names


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
