"""What tests of pages begin with: a client, which sends forms as a browser does, and pages parsed strictly."""

from __future__ import annotations

import pytest

from rota.web.pages import asked
from tests.web.conftest import database_url, http, rota
from tests.web.pages.markup import Browser

__all__ = ["database_url", "http", "rota"]


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch):
    """What a test changes is seen at once."""
    monkeypatch.setattr(asked, "KEPT_SECONDS", 0.0)


@pytest.fixture
def browser(http):
    return Browser(http)
