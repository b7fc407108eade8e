"""``rota web``: the HTTP door, by itself; and what `rota up` opens of it beside its node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import Door, through_door
from rota.errors import ConfigError

if TYPE_CHECKING:
    from rota.config import Config
    from rota.model.access import Access
    from rota.web.oidc import OpenIdProvider
    from rota.web.server import WebServer

PORT = 8300

log = logging.getLogger("rota.web")


def web_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the web is served."""
    for flag in reversed(
        (
            click.option("--host", metavar="H", default="127.0.0.1", show_default=True, help="Listen there."),
            click.option(
                "--port", metavar="N", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="And there."
            ),
        )
    ):
        function = flag(function)
    return function


def access_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Who is let in."""
    for flag in reversed(
        (
            click.option(
                "--name", "web_names", metavar="HOST", multiple=True, allow_from_autoenv=False,
                help="It is asked for by this name. Repeatable.",
            ),
            click.option(
                "--behind-tls/--without-tls", default=None, allow_from_autoenv=False,
                help="A proxy does TLS: cookies go no other way. [behind, unless for this machine]",
            ),
            click.option(
                "--proxy-from", metavar="CIDR", multiple=True, allow_from_autoenv=False,
                help="The proxy's address: X-Forwarded-For is believed from there. Repeatable.",
            ),
            click.option(
                "--trust-proxy", metavar="HEADER", allow_from_autoenv=False,
                help="The proxy names the user in this header. With --proxy-from.",
            ),
            click.option(
                "--open-metrics", is_flag=True, default=None, allow_from_autoenv=False,
                help="/metrics and /readyz want no token.",
            ),
        )
    ):  # fmt: skip
        function = flag(function)
    return function


def decide_access(door: Door, host: str, **flags: object) -> Access:
    """Decide who is let in, by ``flags`` and the settings, and check that where a login is demanded somebody can.

    Raises:
        ConfigError: nobody could.
        DatabaseUnavailable: a login is demanded, and nobody answers.
    """
    import socket

    from rota.model.access import choose_access
    from rota.store.accounts import can_anybody_log_in

    config = door.read_config(**flags)
    access = choose_access(
        host,
        hostname=socket.gethostname(),
        names=config.web_names,
        behind_tls=config.behind_tls,
        trust_proxy=config.trust_proxy,
        proxy_from=config.proxy_from,
        open_metrics=config.open_metrics,
        public_host=config.oidc.host if config.oidc is not None else None,
        is_public_tls=config.oidc is not None and config.oidc.is_behind_tls,
    )
    by_name = access.proxy is not None and access.proxy.header is not None
    if access.has_provider:
        return access
    if access.demands_login and not can_anybody_log_in(door.rota.database, by_name=by_name):
        raise ConfigError(
            "nobody could log in, and without a login others than this machine are not served: add a user first, "
            "`rota user add NAME --role admin`"
        )
    return access


def make_server(door: Door, host: str, port: int, access: Access) -> WebServer:
    """Take the address and make what serves it.

    Raises:
        ConfigError: the extra is not installed, or the address cannot be had.
    """
    from rota.client import Rota

    try:
        from rota.web.app import make_app
        from rota.web.server import WebServer
        from rota.web.threads import PATIENCE_SECONDS
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rota"):
            raise
        raise ConfigError(f"the web needs {error.name}, which is not installed: pip install 'rota[web]'") from error
    from rota.cli.parameters import describe, say_what_it_does

    log_in = make_provider(door.config)
    rota = Rota(door.database_url(), default_zone=door.config.zone, patience_seconds=PATIENCE_SECONDS)
    if access.demands_login and not access.is_behind_tls:
        log.warning("without TLS: passwords and what they let see can be read on the way")
    app = make_app(rota, access=access, describe=describe, say=say_what_it_does, provider=log_in)
    return WebServer(app, host, port)


def make_provider(config: Config) -> OpenIdProvider | None:
    """Make what asks the OpenID provider of the settings; None where they name none.

    Raises:
        ConfigError: the extra is not installed, or the client's secret cannot be read.
    """
    if config.oidc is None:
        return None
    from rota.engine.secrets import NodeSecrets, Unavailable

    try:
        from rota.web.oidc import OpenIdProvider
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rota"):
            raise
        rule = "is not installed: pip install 'rota[web,oidc]'"
        raise ConfigError(f"[oidc] of the settings needs {error.name}, which {rule}") from error
    source = config.oidc.secret
    try:
        secret = None if source is None else NodeSecrets((source,)).read((source.name,))[source.name]
    except Unavailable as error:
        raise ConfigError(f"oidc.client_secret: {error}") from None
    return OpenIdProvider(config.oidc, secret)


def serve_beside(door: Door, host: str, port: int, access: Access) -> WebServer | None:
    """Serve beside a node; None where that cannot be, which is told and keeps nobody from working."""
    try:
        server = make_server(door, host, port, access)
    except ConfigError as error:
        log.warning("no web here: %s", error)
        return None
    server.start()
    return server


@click.command()
@web_flags
@access_flags
@click.option("--log-file", metavar="FILE", allow_from_autoenv=False, help="Where its log goes. [standard error]")
@through_door
def web(door: Door, *, host: str, port: int, log_file: str | None, **access: Any) -> None:
    """Serve pages and the HTTP API: jobs, runs, schedules and all else that this command line does.

    Nobody logs in where only this machine asks. With another --host, or any of --name, --behind-tls and --proxy-from,
    nobody is served without a login or a token, and it starts only when there is a user or a token. TERM and INT end
    it, and requests under way may end.
    """
    from rota.cli.node import start_logs

    start_logs(door, log_file=log_file)
    make_server(door, host, port, decide_access(door, host, **access)).run()
