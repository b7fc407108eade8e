"""The gate: who asks, found once for each request, before any route.

Invariant: where a log-in is demanded, a route is reached by somebody who was recognized, or it is one of the few in
``is_open``. A new route is closed without anybody thinking of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from starlette.requests import Request

from rota.client import Rota
from rota.errors import Invalid
from rota.model.access import Access, read_address
from rota.model.accounts import Identity, Session, Source, check_user
from rota.model.oidc import CALLBACK
from rota.store.accounts import read_role
from rota.store.log_ins import find_session
from rota.web import trust
from rota.web.problems import Refusal
from rota.web.threads import Threads

SESSION_COOKIE = "rota_session"
# Lax: a link in a mail or a chat leads to its page rather than to the log-in. What acts is no link: it is a POST, for
# which browsers leave the cookie out when another site sends it, and it wants a token besides.
SAME_SITE = "lax"
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, from where."""

    identity: Identity | None  # None: nobody has to be anybody here
    address: str | None
    csrf: str | None = None  # the secret of their session, if they come by one


NOBODY = Visitor(None, None)


class Gate:
    """Finds out who asks."""

    def __init__(self, rota: Rota, access: Access, threads: Threads) -> None:
        self._rota = rota  # whose database is looked for when it is first asked
        self.access = access
        self._threads = threads

    async def admit(self, request: Request) -> Visitor:
        """Return who asks.

        Raises:
            Refusal: nobody who is known (401); or they came through a proxy that nobody has told of (403).
            DatabaseUnavailable: nobody answers, and nobody is let in.
        """
        address = self._address_of(request)
        if self._is_open(request.url.path):
            return Visitor(None, address)
        if not self.access.demands_login:
            return Visitor(await self._identify_here(request), address)
        return await self._threads.run(functools.partial(self._recognize, request, address))

    def _is_open(self, path: str) -> bool:
        if path in {"/metrics", "/readyz"}:
            return self.access.has_open_metrics
        if path in {"/login/oidc", CALLBACK}:
            return self.access.has_provider
        return path in {"/healthz", "/login"} or path.startswith("/static/")

    async def _identify_here(self, request: Request) -> Identity:
        # A proxy makes everybody's requests come from this machine. Most of them say so.
        if any(name in request.headers for name in FORWARDED):
            detail = "a proxy has sent this, and nobody is asked who they are here: start with --name or --proxy-from"
            raise Refusal(403, "proxied", detail)
        if "authorization" not in request.headers:
            return trust.identify(self._rota.database, request.headers)
        return await self._threads.run(functools.partial(trust.identify, self._rota.database, request.headers))

    def _recognize(self, request: Request, address: str | None) -> Visitor:
        proxy = self.access.proxy
        if proxy is not None and proxy.header is not None and (named := request.headers.getlist(proxy.header)):
            return Visitor(self._believe(request, proxy.header, named), address)
        if "authorization" in request.headers:
            return Visitor(trust.identify(self._rota.database, request.headers), address)
        if (key := request.cookies.get(SESSION_COOKIE)) is None:
            raise Refusal(401, "unauthorized", "log in, or show a token: Authorization: Bearer TOKEN")
        found = find_session(self._rota.database, key)
        if not isinstance(found, Session):
            raise Refusal(401, "session-over", "your log-in is over: log in again")
        return Visitor(found.identity, address, found.csrf)

    def _believe(self, request: Request, header: str, named: list[str]) -> Identity:
        """Return the user whom the proxy names. What others say is refused, so that nobody thinks it was believed."""
        assert self.access.proxy is not None
        if not self.access.proxy.is_from(_peer_of(request)):
            raise Refusal(401, "unauthorized", f"{header} is for the proxy to say, and this is none: leave it out")
        if len(named) != 1:
            raise Refusal(401, "unauthorized", f"{header} comes more than once: the proxy has to take out what it gets")
        try:
            name = check_user(named[0])
        except Invalid:
            raise Refusal(401, "unauthorized", f"{header} holds what can be no user's name") from None
        role = read_role(self._rota.database, name)
        if role is None:
            detail = f"the proxy has let in {name}, who is no user here, or may not log in: `rota user add {name}`"
            raise Refusal(401, "unauthorized", detail)
        return Identity(name, role, Source.PROXY)

    def _address_of(self, request: Request) -> str | None:
        """Return where a request comes from: what the proxy has seen is the last that it wrote there."""
        peer = _peer_of(request)
        if self.access.proxy is None or not self.access.proxy.is_from(peer):
            return peer
        said = request.headers.getlist("x-forwarded-for")
        found = read_address(said[-1].rpartition(",")[2].strip()) if said else None
        return str(found) if found is not None else peer


def visitor_of(request: Request) -> Visitor:
    """Return who asks, as the gate has found; nobody, where the request was refused before."""
    found = getattr(request.state, "visitor", NOBODY)
    assert isinstance(found, Visitor)
    return found


def identity_of(request: Request) -> Identity:
    """Return who asks, where a route is closed to nobody.

    Raises:
        Refusal: nobody has said who they are.
    """
    identity = visitor_of(request).identity
    if identity is None:
        raise Refusal(401, "unauthorized", "log in, or show a token: Authorization: Bearer TOKEN")
    return identity


def _peer_of(request: Request) -> str | None:
    return request.client.host if request.client is not None else None
