"""``rota web``: the HTTP door, by itself; and what `rota up` opens of it beside its node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rota.cli.door import Door, through_door
from rota.errors import ConfigError

if TYPE_CHECKING:
    from rota.web.server import WebServer

PORT = 8300

log = logging.getLogger("rota.web")


def web_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the web is served."""
    for flag in reversed(
        (
            click.option(
                "--host", metavar="H", default="127.0.0.1", show_default=True, help="Listen there; this machine only."
            ),
            click.option(
                "--port", metavar="N", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="And there."
            ),
        )
    ):
        function = flag(function)
    return function


def make_server(door: Door, host: str, port: int) -> WebServer:
    """Take the address and make what serves it.

    Raises:
        ConfigError: the extra is not installed, or the address cannot be had.
    """
    from rota.client import Rota

    try:
        from rota.web.app import make_app
        from rota.web.server import WebServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rota"):
            raise
        raise ConfigError(f"the web needs {error.name}, which is not installed: pip install 'rota[web]'") from error
    from rota.cli.parameters import describe, say_what_it_does

    rota = Rota(door.database_url(), default_zone=door.config.zone)
    app = make_app(rota, names=[host], describe=describe, say=say_what_it_does)
    return WebServer(app, host, port)


def serve_beside(door: Door, host: str, port: int) -> WebServer | None:
    """Serve beside a node; None where that cannot be, which is told and keeps nobody from working."""
    try:
        server = make_server(door, host, port)
    except ConfigError as error:
        log.warning("no web here: %s", error)
        return None
    server.start()
    return server


@click.command()
@web_flags
@click.option("--log-file", metavar="FILE", allow_from_autoenv=False, help="Where its log goes. [standard error]")
@through_door
def web(door: Door, *, host: str, port: int, log_file: str | None) -> None:
    """Serve pages, and the HTTP API: jobs, runs, schedules and all else that this command line does.

    Only this machine reaches it, since there is no login yet: another --host is refused. TERM and INT end it, and
    requests under way may end.
    """
    from rota.cli.node import start_logs

    start_logs(door, log_file=log_file)
    make_server(door, host, port).run()
