"""What tests of the HTTP door begin with: an emptied database, and a client of the application over it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from rota import Rota
from tests.store.reused import database_url

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which package of requests it would rather use
    from starlette.testclient import TestClient

from rota.cli.parameters import describe, say_what_it_does
from rota.web.app import make_app

__all__ = ["database_url"]

BASE = "http://localhost:8300"


@pytest.fixture
def rota(database_url: str) -> Iterator[Rota]:
    made = Rota(database_url, actor="maker")
    yield made
    made.close()


@pytest.fixture
def http(database_url: str) -> Iterator[TestClient]:
    app = make_app(Rota(database_url), describe=describe, say=say_what_it_does)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        yield client
