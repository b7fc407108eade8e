"""While somebody keeps the database locked: who acts is told to come back, soon, and who looks is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from sqlalchemy import select, update

from rota import Rota
from rota.errors import DatabaseUnavailable
from rota.model.access import choose_access
from rota.store.tables import session, token
from rota.store.types import db_now_plus
from rota.web.app import make_app
from rota.web.threads import Threads
from tests.store.trouble import locked
from tests.web.conftest import TestClient
from tests.web.test_log_in import HOST, log_in, send, token_of

PATIENCE_SECONDS = 0.1
LOCKS = tuple(f"update rota_{table} set id = id" for table in ("job", "run", "session", "token"))  # fmt: skip


@pytest.fixture
def http(database_url: str) -> Iterator[TestClient]:
    app = make_app(Rota(database_url, patience_seconds=PATIENCE_SECONDS), access=choose_access("0.0.0.0", names=[HOST]))
    with TestClient(app, base_url=f"https://{HOST}", raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.fixture
def browser(http: TestClient, rota: Rota) -> TestClient:
    rota.users.add("ann", role="operator", password="correct horse battery")
    assert log_in(http).status_code == 303
    return http


def read(rota: Rota, column: Any) -> Any:
    return rota.database.read(lambda connection: connection.execute(select(column)).scalar_one())


def test_what_acts_is_told_to_come_back_and_is_done_once_when_it_does(database_url, browser, rota):
    shown = {"Authorization": f"Bearer {rota.tokens.add('ci', role='operator')['secret']}"}
    rota.jobs.add("load", shell="true")
    run = rota.enqueue("load")
    csrf = token_of(browser.get("/"))

    with locked(database_url, *LOCKS):
        said = browser.post("/api/v1/jobs/load/pause", headers=shown)
        page = send(browser, "/runs/act", csrf=csrf, do="cancel", run=str(run.id))
    assert (said.status_code, said.json()["code"]) == (503, "database-unavailable")
    assert said.headers["content-type"] == "application/problem+json"
    assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert int(said.headers["retry-after"]) > 0
    assert int(page.headers["retry-after"]) > 0
    assert rota.audit(actor="token ci") == []

    assert browser.post("/api/v1/jobs/load/pause", headers=shown).status_code == 200
    assert send(browser, "/runs/act", csrf=csrf, do="cancel", run=str(run.id)).status_code == 303
    assert [act["did"] for act in rota.audit(actor="token ci")] == ["paused"]
    assert [act["did"] for act in rota.audit(actor="ann")].count("cancelled") == 1


def test_a_token_is_enough_to_look_where_it_cannot_be_noted_that_it_was_used(database_url, http, rota):
    shown = {"Authorization": f"Bearer {rota.tokens.add('scrape', role='viewer')['secret']}"}

    with locked(database_url, *LOCKS):
        assert http.get("/api/v1/jobs", headers=shown).status_code == 200
    assert read(rota, token.c.last_used_at) is None

    assert http.get("/api/v1/jobs", headers=shown).status_code == 200
    assert read(rota, token.c.last_used_at) is not None


def test_a_token_that_was_revoked_lets_nobody_in_whatever_is_locked(database_url, http, rota):
    shown = {"Authorization": f"Bearer {rota.tokens.add('scrape', role='viewer')['secret']}"}
    rota.tokens.revoke("scrape")

    with locked(database_url, *LOCKS):
        assert http.get("/api/v1/jobs", headers=shown).status_code == 401


def test_whoever_is_logged_in_looks_where_it_cannot_be_noted_that_they_were_seen(database_url, browser, rota):
    rota.database.write(
        lambda connection: connection.execute(update(session).values(seen_at=db_now_plus(-120))),
        repeatable=True,
    )
    before = read(rota, session.c.seen_at)

    with locked(database_url, *LOCKS):
        assert browser.get("/").status_code == 200
    assert read(rota, session.c.seen_at) == before

    assert browser.get("/").status_code == 200
    assert read(rota, session.c.seen_at) > before


def test_who_looks_does_not_wait_for_those_who_write_and_these_do_not_wait_in_line_for_ever():
    goes_on = threading.Event()
    begun: list[int] = []

    def write(number: int) -> Callable[[], bool]:
        def work() -> bool:
            begun.append(number)
            return goes_on.wait(60)

        return work

    async def ask() -> int:
        threads = Threads(5, in_line_seconds=0.1)
        late = 0

        async def act(number: int) -> None:
            nonlocal late
            try:
                await threads.run_writing(write(number))
            except DatabaseUnavailable:
                late += 1
                if late == 5:
                    assert await threads.run(lambda: "seen") == "seen"
                    goes_on.set()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(act, number)
        return late

    try:
        assert anyio.run(ask) == 5
    finally:
        goes_on.set()
    assert len(begun) == 3
