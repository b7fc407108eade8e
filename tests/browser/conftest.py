"""What tests in a browser begin with: a server over an emptied database, and a visitor whose every step is watched.

A test takes ``visit``, which opens the browser of somebody, with or without JavaScript, at a server of its own. When
it ends, nothing may have gone wrong in any of them: see ``Watch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rota import Rota
from rota.cli.parameters import describe, say_what_it_does
from rota.model.access import THIS_MACHINE, Access
from rota.web.app import make_app
from rota.web.pages import asked
from rota.web.server import WebServer
from tests.browser.chromium import MISSING, find
from tests.browser.watch import Watch
from tests.web.conftest import database_url, rota

__all__ = ["database_url", "rota"]

SECONDS_MAX = 30  # a hang guard
Visit = Callable[..., Page]
expect.set_options(timeout=SECONDS_MAX * 1000)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for the tests of this folder.

    It ends with them rather than with all tests: Playwright keeps an event loop of its own in this thread until then,
    beside which tests of other folders could have none.
    """
    if (program := find()) is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextmanager
def serving(url: str, access: Access) -> Iterator[str]:
    """Serve a database as ``rota web`` does, on a free port; yields the address."""
    server = WebServer(make_app(Rota(url), access=access, describe=describe, say=say_what_it_does), "127.0.0.1", 0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
        server.close()


@pytest.fixture
def visit(chromium: Browser, database_url: str, rota: Rota, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visit]:
    """Open the browser of somebody at the address of a server: ``visit("/runs")`` returns the page.

    ``script=False`` is a browser without JavaScript; with ``clock=True`` the test moves the time of the page, by
    ``page.clock``. ``refused`` are the statuses that the server is to answer to what the visitor does. ``access`` says
    who is let in; visitors with the same access share a server.
    """
    monkeypatch.setattr(asked, "KEPT_SECONDS", 0.0)  # what a test changes is seen at once
    servers: dict[Access, str] = {}
    watched: list[Watch] = []
    with ExitStack() as stack:

        def open_page(
            path: str,
            *,
            script: bool = True,
            clock: bool = False,
            refused: tuple[int, ...] = (),
            access: Access = THIS_MACHINE,
            **options: Any,
        ) -> Page:
            if access not in servers:
                servers[access] = stack.enter_context(serving(database_url, access))
            context = chromium.new_context(base_url=servers[access], java_script_enabled=script, **options)
            stack.callback(context.close)
            context.set_default_timeout(SECONDS_MAX * 1000)
            if clock:
                context.clock.install()
            watched.append(Watch(context, servers[access], refused))
            page = context.new_page()
            page.goto(path)
            return page

        yield open_page
        for one in watched:
            one.look_at_pages()
    assert not [wrong for one in watched for wrong in one.wrong]
