"""What tests of pages begin with: a client, which sends forms as a browser does, and pages parsed strictly."""

from __future__ import annotations

import pytest

from rota.web.pages import asked, later
from tests.web.conftest import database_url, http, rota
from tests.web.pages.markup import Browser

__all__ = ["database_url", "http", "rota"]


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch):
    """What a test changes is seen at once, and nothing is left for later."""
    monkeypatch.setattr(asked.Asked, "kept_seconds", lambda _: 0.0)
    monkeypatch.setattr(later.Later, "get", lambda _, __, look, ___: look())


@pytest.fixture
def browser(http):
    return Browser(http)
