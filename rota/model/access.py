"""Who is let in over HTTP: whether they have to say who they are, by which names a server is asked for, and which
proxies are believed. Called by the settings and the web.

Without a log-in whoever asks is the administrator. That holds where nobody but this machine can ask, and not as soon as
anything says that others do: another address, a name, TLS before it, a proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from rota.errors import ConfigError, Invalid

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = frozenset({"", "0.0.0.0", "::"})
# What says something else already, or what a browser sends by itself.
_TAKEN = frozenset(
    "authorization connection content-length content-type cookie forwarded host origin referer sec-fetch-site "
    "transfer-encoding user-agent x-forwarded-for x-forwarded-host x-real-ip".split()
)
_HEADER = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}", re.ASCII)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Proxy:
    """The reverse proxies before a server, which are believed: by their networks, never by what they say."""

    networks: tuple[Network, ...]
    header: str | None = None  # in which they name the user whom they have let in; None: they let nobody in

    def is_from(self, address: str | None) -> bool:
        """Tell whether a connection from ``address`` is one of theirs."""
        found = read_address(address)
        return found is not None and any(found in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in to a server."""

    names: frozenset[str] = LOCAL_NAMES
    demands_login: bool = False
    is_behind_tls: bool = False  # browsers send its cookies by TLS only
    has_open_metrics: bool = False  # what monitoring asks needs no token
    proxy: Proxy | None = None
    has_provider: bool = False  # an OpenID provider may say who somebody is

    def knows(self, name: str) -> bool:
        """Tell whether the server may be asked for by a name.

        By any address of its own too, once there is a log-in: whoever points a name of theirs here makes browsers ask
        for that name, and never for an address.
        """
        return name in self.names or (self.demands_login and read_address(name) is not None)


THIS_MACHINE = Access()


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only."""
    found = read_address(host.strip("[]"))
    return host == "localhost" or (found is not None and found.is_loopback)


def read_address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address as it is counted: one of IPv4 is the same however it is written. None: it is none."""
    try:
        found = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def choose_access(
    host: str,
    *,
    hostname: str = "",
    names: Iterable[str] = (),
    behind_tls: bool | None = None,
    trust_proxy: str | None = None,
    proxy_from: Sequence[Network] = (),
    open_metrics: bool = False,
    public_host: str | None = None,
    is_public_tls: bool = False,
) -> Access:
    """Choose who is let in to a server that listens on ``host``, of a machine that is called ``hostname``.

    ``public_host``, with or without TLS, is by what those come whom an OpenID provider has identified; None: there is
    no such provider.

    Raises:
        ConfigError: a header is to be believed, and nobody said from whom.
    """
    if trust_proxy is not None and not proxy_from:
        raise ConfigError(
            f"--trust-proxy {trust_proxy} is refused: anybody could send that header; "
            "name the addresses of the proxy with --proxy-from"
        )
    named = frozenset(names)
    if is_loopback(host) and not (named or behind_tls or proxy_from or public_host):
        return Access(LOCAL_NAMES | {host.strip("[]").lower()}, has_open_metrics=open_metrics)
    public_names = frozenset([public_host.strip("[]")] if public_host else ())
    own = {name.strip("[]").lower() for name in (host, hostname) if name not in WILDCARDS}
    return Access(
        LOCAL_NAMES | own | named | public_names,
        demands_login=True,
        is_behind_tls=(not is_loopback(host) or is_public_tls) if behind_tls is None else behind_tls,
        has_open_metrics=open_metrics,
        proxy=Proxy(tuple(proxy_from), trust_proxy) if proxy_from else None,
        has_provider=public_host is not None,
    )


def read_names(field: str, value: object) -> tuple[str, ...]:
    """Read the names by which a server is asked for.

    Raises:
        Invalid: one of them is no name of a host.
    """
    rule = "write names of hosts without scheme and port, for example rota.example.org"
    found = [name.lower().removesuffix(".") for name in _words(field, value, rule)]
    for name in found:
        if not _NAME.fullmatch(name) and read_address(name) is None:
            raise Invalid(field, name, rule)
    return tuple(dict.fromkeys(found))


def read_networks(field: str, value: object) -> tuple[Network, ...]:
    """Read the addresses of proxies: each an address, or a network such as 10.0.0.0/8.

    Raises:
        Invalid: one of them is none, or it is everybody's.
    """
    rule = "write addresses or networks, for example 10.1.2.3 or 10.1.2.0/24"
    found: list[Network] = []
    for text in _words(field, value, rule):
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise Invalid(field, text, f"{rule}: {error}") from None
        if network.prefixlen == 0:
            raise Invalid(field, text, "that is everybody, and anybody could say who they are")
        found.append(network)
    return tuple(found)


def read_header(field: str, value: object) -> str:
    """Read the name of a header in which a proxy names the user.

    Raises:
        Invalid: it is none, or one that has another meaning.
    """
    if not isinstance(value, str) or not _HEADER.fullmatch(found := value.strip().lower()):
        raise Invalid(field, value, "write the name of a header, for example X-Remote-User")
    if found in _TAKEN:
        raise Invalid(field, value, "that header says something else: choose another, for example X-Remote-User")
    return found


def _words(field: str, value: object, rule: str) -> list[str]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, list | tuple) or not value:
        raise Invalid(field, cast("object", value), rule)
    found = cast("Sequence[object]", value)
    if not all(isinstance(one, str) for one in found):
        raise Invalid(field, found, rule)
    return [str(one) for one in found]
