"""Where a webhook may go: to public addresses only, unless its channel says otherwise.

Invariant: what is connected to is an address that was judged, never a name that is looked up once more, so that no
answer of a name server can change between the judgement and the connection. A host that is written as numbers is judged
as the system would read it, however oddly: decimal, octal, hexadecimal, with fewer parts.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from rota.alerts.refused import Refused, Unreachable
from rota.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS = {"https": 443, "http": 80}
# Prefixes by which an address of the sixth version stands for one of the fourth, behind a gateway.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not public by the registries of IANA, which not every Python that we run on knows. The first holds the address by
# which a cloud gives out credentials (192.0.0.192); what stands where in one of the second only its gateway knows.
_NOT_PUBLIC = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("3fff::/20"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart."""

    scheme: str
    host: str  # as it was written, in ASCII
    port: int
    path: str  # with the query

    @property
    def host_header(self) -> str:
        """The host as a request names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def read_url(field: str, url: str) -> Target:
    """Take a URL apart.

    Raises:
        Invalid: it is none that a webhook can have. It is not shown: it may hold a secret.
    """
    hidden = "(a URL)"
    if any(ord(character) <= 32 or ord(character) == 127 for character in url) or "\\" in url:
        raise Invalid(field, hidden, "it holds no space, no control character and no backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid(field, hidden, "it is no URL, such as https://hooks.example.com/rota") from None
    if parts.scheme not in PORTS:
        raise Invalid(field, hidden, "it begins with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise Invalid(field, hidden, "it names no user: a receiver knows Rota by the signature, for which give secret")
    if not parts.hostname:
        raise Invalid(field, hidden, "it names no host")
    if port == 0:
        raise Invalid(field, hidden, "there is no port 0")
    try:
        host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    except UnicodeError:
        raise Invalid(field, hidden, "its host is no name") from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise Invalid(field, hidden, "its path is written with %, as in %C3%A9")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def literal_address(host: str) -> Address | None:
    """Return the address that a host is, however it is written; None: it is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # also 0x7f.1, 017700000001 and 2130706433
    except OSError:
        return None


def why_refused(address: Address) -> str | None:
    """Say why an address is not public; None: it is."""
    if any(address in network for network in _NOT_PUBLIC):
        return "not public"
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := _inner(address)) is not None:
            return why_refused(inner)
        if address.is_site_local:
            return "private"
    for name in ("unspecified", "loopback", "link_local", "multicast", "private", "reserved"):
        if getattr(address, f"is_{name}"):
            return name.replace("_", "-")
    return None if address.is_global else "not public"


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the address of the fourth version that this one stands for."""
    if (found := address.ipv4_mapped or address.sixtofour) is not None:
        return found
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0 < int(address) >> 16:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def check_literal(field: str, target: Target, *, private: bool) -> None:
    """Refuse a host that is written as an address and not public.

    Raises:
        Invalid: it is one.
    """
    address = literal_address(target.host)
    if not private and address is not None and (why := why_refused(address)) is not None:
        raise Invalid(field, target.host, f"{address} is {why}: to send there all the same, give private = true")


def resolve(target: Target, *, private: bool) -> list[tuple[int, str]]:
    """Return the addresses to connect to, in the order in which they are tried, as (family, address).

    Raises:
        Refused: one of them is not public, and the channel does not allow it.
        Unreachable: the name is not known now.
    """
    literal = literal_address(target.host)
    if literal is not None:
        found = [str(literal)]
    else:
        try:
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"the address of {target.host} cannot be found: {error}") from None
        found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    judged: list[tuple[int, str]] = []
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not private and (why := why_refused(address)) is not None:
            raise Refused(
                f"{target.host} is at {address}, which is {why}: nothing was sent; to send there all the same, give "
                "the channel private = true"
            )
        judged.append((socket.AF_INET if address.version == 4 else socket.AF_INET6, text))
    return judged
