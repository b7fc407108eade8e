"""The pages of nodes and pools."""

from __future__ import annotations

import pytest

from rota.store.nodes import register_node
from tests.web.pages.filling import send_all
from tests.web.pages.world import ALL_HOSTILE, HOSTILE, NODE, claim_all, end

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def alpha(rota):
    register_node(
        rota.database, NODE, host=ALL_HOSTILE, pid=1, pid_started=1, pools=["default"], slots=8, version="0.1",
        lease_seconds=60.0, wanted="alpha", labels={"zone": ALL_HOSTILE}, environments=["py311"],
    )  # fmt: skip
    return rota


def test_a_node_is_shown_with_what_it_has_and_runs(browser, alpha):
    page = browser.open("/nodes/alpha")
    assert all(text in page.text for text in HOSTILE)
    assert "py311" in page.text
    assert all(text in browser.open("/nodes").text for text in HOSTILE)

    alpha.jobs.add("load", shell="true")
    number = alpha.enqueue("load").id
    (claim,) = claim_all(alpha)

    assert f"/runs/{number}" in {
        one.attributes["href"] for one in browser.open("/nodes/alpha").find("a", class_="name")
    }
    end(alpha, claim)


def test_drain_and_resume_do_as_the_verbs(browser, alpha):
    browser.open("/nodes/alpha")

    browser.send("/nodes/alpha/do/drain")
    assert alpha.nodes.show("alpha")["drain_asked_at"] is not None
    assert browser.page.find("span", class_="draining")
    browser.send("/nodes/alpha/do/resume")

    assert alpha.nodes.show("alpha")["drain_asked_at"] is None


def test_a_node_that_is_there_is_not_forgotten(browser, alpha):
    browser.open("/nodes/alpha/ask/forget")

    browser.send("/nodes/alpha/do/forget", 409)

    assert alpha.nodes.show("alpha")


def test_a_pool_is_created_edited_paused_and_deleted(browser, alpha):
    browser.open("/new/pool")
    send_all(browser, "/new/pool", name="web", nodes="web*\napp*", labels='{"zone": "a+b"}')
    assert browser.notice == "pool web was created"
    pool = alpha.pools.show("web")
    assert (pool["members"], sorted(pool["patterns"]), pool["labels"]) == ([], ["app*", "web*"], {"zone": "a+b"})

    browser.open("/pools/web/edit")
    send_all(browser, "/pools/web/edit")
    assert browser.notice == "nothing was changed"
    browser.open("/pools/web/edit")
    send_all(browser, "/pools/web/edit", nodes="")
    assert (alpha.pools.show("web")["patterns"], alpha.pools.show("web")["labels"]) == ([], {"zone": "a+b"})
    browser.send("/pools/web/add", node="beta")
    assert alpha.pools.show("web")["members"] == ["beta"]
    browser.send("/pools/web/do/pause")
    assert alpha.pools.show("web")["state"] == "paused"
    browser.send("/pools/web/do/resume")
    assert "web" in browser.open("/pools?search=we").find("table")[0].text
    browser.open("/pools/web/ask/delete")
    browser.send("/pools/web/do/delete")

    assert "web" not in [pool["name"] for pool in alpha.pools.list()]


@pytest.mark.parametrize(
    "path", ["/nodes/alpha/do/drain", "/pools/default/do/pause", "/pools/default/add", "/new/pool"]
)
def test_without_the_token_nothing_is_done(http, alpha, path):
    before = (alpha.pools.list(), alpha.nodes.show("alpha")["drain_asked_at"])

    assert http.post(path, content="node=beta&name=web&option.nodes=a*", headers=FORM).status_code == 403

    assert (alpha.pools.list(), alpha.nodes.show("alpha")["drain_asked_at"]) == before
