"""What holds of every page: what a browser may do with it, what is asked once for all, and how it refuses."""

from __future__ import annotations

import re
import threading

import pytest

from rota.web.pages.asked import Looks
from rota.web.pages.forms import is_ours
from rota.web.pages.registry import ACTS, PAGES


def test_a_page_runs_nothing_but_what_this_server_sends(browser):
    browser.open("/")

    policy = browser.answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert browser.answer.headers["x-content-type-options"] == "nosniff"
    assert browser.answer.headers["cache-control"] == "no-store"


def test_files_have_the_hash_of_their_content_in_their_address_and_are_kept_for_long(browser, http):
    page = browser.open("/")
    addresses = [one.attributes.get("href") or one.attributes["src"] for one in page.find("link") + page.find("script")]

    for address in addresses:
        answer = http.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        other = re.sub(r"/static/(.)", lambda found: "/static/" + ("0" if found[1] != "0" else "1"), address)
        assert http.get(other).status_code == 404
    assert len(addresses) == 3


@pytest.mark.parametrize("path", ["/nothing", "/runs/1/2/3/4", "/<script>alert(1)</script>", "/%7B%7B7*7%7D%7D"])
def test_an_unknown_address_is_a_page_for_a_browser_and_a_problem_for_a_program(browser, http, path):
    page = browser.open(path, 404)

    assert "there is nothing at" in page.find("p", class_="problem")[0].text
    assert http.get(path).headers["content-type"] == "application/problem+json"


def test_below_the_api_a_browser_gets_the_problem_too(http):
    answer = http.get("/api/v1/nothing", headers={"accept": "text/html"})

    assert answer.headers["content-type"] == "application/problem+json"


def test_another_method_is_told_which_one_is_known(http):
    answer = http.request("DELETE", "/", headers={"accept": "text/html"})

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("address", "here"), [("/runs?live=1", "/runs"), ("/runs?state=lost&live=1", "/runs?state=lost")]
)
def test_a_part_that_renews_itself_is_the_same_page(browser, address, here):
    page = browser.open(address)

    assert [one.attributes["value"] for one in page.find("input", name="back")] == [here]


def test_the_navigation_leads_to_pages_in_their_order(browser):
    links = browser.open("/").find("nav")[0].find("ul")[0].find("a")

    assert [link.text for link in links][:3] == ["Overview", "Board", "Runs"]
    for link in links:
        page = browser.open(link.attributes["href"])
        assert [one.text for one in page.find("a", aria_current="page")] == [link.text]


def test_keys_and_addresses_are_each_one_pages():
    keys = [one.key for one in PAGES if one.key is not None]

    assert len(set(keys)) == len(keys)
    assert len({one.path for one in PAGES}) == len(PAGES)
    assert len({one.path for one in ACTS}) == len(ACTS)


@pytest.mark.parametrize("address", ["/", "/runs?state=failed&after=x", "/jobs/a%2Fb", "/board#now", "/jobs/\u00fc"])
def test_an_address_of_ours_is_gone_back_to(address):
    assert is_ours(address)


@pytest.mark.parametrize(
    "address",
    ["", "//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/a\nb", "/\t/evil"],
)
def test_an_address_that_leads_elsewhere_is_not(address):
    assert not is_ours(address)


def test_what_many_look_at_is_asked_once():
    now, asked = [0.0], []
    looks = Looks(clock=lambda: now[0])
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        asked.append(1)
        begun.set()
        assert go_on.wait(60)
        return len(asked)

    found = []
    threads = [threading.Thread(target=lambda: found.append(looks.get("a", slow, 1.0))) for _ in range(5)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(60)

    assert found == [1] * 5
    assert looks.get("b", slow, 1.0) == 2
    now[0] = 0.9
    assert looks.get("a", slow, 1.0) == 1
    now[0] = 1.0
    assert looks.get("a", slow, 1.0) == 3
    assert looks._kept.keys() == {"a"}
    looks.forget()
    assert looks.get("a", slow, 1.0) == 4


def test_a_page_that_renews_itself_shows_what_another_viewer_has_just_got(http, rota, monkeypatch):
    monkeypatch.undo()  # things are kept here
    now = [100.0]
    http.app.state.site.looks = Looks(clock=lambda: now[0])

    def shown(address: str) -> bool:
        return "new-job" in http.get(address, headers={"accept": "text/html"}).text

    assert not shown("/runs?live=1")
    rota.jobs.add("new-job", shell="true")
    rota.enqueue("new-job")

    now[0] += 4.9
    assert not shown("/runs?live=1")
    now[0] += 0.1
    assert shown("/runs?live=1")

    rota.runs[1].cancel()
    now[0] += 0.9
    assert "cancelled by" not in http.get("/runs", headers={"accept": "text/html"}).text
    now[0] += 0.1
    assert "cancelled by" in http.get("/runs", headers={"accept": "text/html"}).text
