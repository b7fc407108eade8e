"""What takes too long to be waited for."""

from __future__ import annotations

import threading

import pytest

from rota.errors import NotFound
from rota.web.pages import later as later_module
from rota.web.pages.later import FOUND_MAX, OLD_SECONDS, Later

GET = Later.get  # nothing is left for later in other tests of pages


@pytest.fixture(autouse=True)
def _later(monkeypatch, _nothing_is_kept):
    monkeypatch.setattr(Later, "get", GET)
    monkeypatch.setattr(later_module, "GRACE_SECONDS", 60.0)  # what is quick is there at once


class Slow:
    """Something that ends when it may."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        self.begun = 0

    def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        assert self.go_on.acquire(timeout=60)
        return number


def test_nobody_waits_and_what_was_found_last_is_shown_while_it_is_looked_at_anew(monkeypatch):
    monkeypatch.setattr(later_module, "GRACE_SECONDS", 0.0)
    now, slow = [0.0], Slow()
    later = Later(clock=lambda: now[0])

    assert [later.get("a", slow, 60.0) for _ in range(3)] == [None] * 3
    slow.go_on.release()
    later.wait()
    assert later.get("a", slow, 60.0) == 1
    now[0] = 59.9
    assert later.get("a", slow, 60.0) == 1
    later.wait()
    assert slow.begun == 1

    now[0] = 60.0
    assert later.get("a", slow, 60.0) == 1
    slow.go_on.release()
    later.wait()
    assert later.get("a", slow, 60.0) == 2
    now[0] += OLD_SECONDS
    assert later.get("a", slow, 60.0) is None
    slow.go_on.release()
    later.wait()


def test_what_is_found_at_once_is_shown_at_once():
    now = [0.0]
    later = Later(clock=lambda: now[0])

    assert later.get("a", lambda: "there", 60.0) == "there"
    now[0] = OLD_SECONDS
    assert later.get("a", lambda: "anew", 60.0) == "anew"


def test_what_is_refused_is_told_once_and_asked_again():
    def refuse():
        raise NotFound("job", "x")

    later = Later()
    with pytest.raises(NotFound):
        later.get("a", refuse, 60.0)
    assert later.get("a", lambda: "there", 60.0) == "there"
    assert later.get("a", refuse, 60.0) == "there"


def test_a_defect_is_logged_and_ends_nothing(caplog):
    later = Later()
    assert later.get("a", lambda: 1 / 0, 60.0) is None
    assert "ZeroDivisionError" in caplog.text
    assert later.get("b", lambda: "there", 60.0) == "there"


def test_what_is_kept_is_bounded():
    later = Later()
    for number in range(FOUND_MAX + 5):
        later.get(str(number), lambda: 1, 60.0)
    later.wait()
    assert len(later._found) == FOUND_MAX
    assert later._wanted == {}


def test_the_forecast_is_shown_when_it_is_there(http, rota, monkeypatch):
    rota.jobs.add("load", shell="true")
    rota.schedules.add("hourly", "load", cron="0 * * * *")
    ask = {"headers": {"accept": "text/html"}}

    for path in ("/forecast", "/"):
        with monkeypatch.context() as early:
            early.setattr(Later, "get", lambda *_: None)
            assert "being worked out" in http.get(path, **ask).text
        assert "being worked out" not in http.get(path, **ask).text
    assert "1 schedules" in http.get("/forecast", **ask).text
    assert http.get("/forecast?job=nobody", **ask).status_code == 404
