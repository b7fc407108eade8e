"""The pages of jobs: the list, one of them, and what is done from there."""

from __future__ import annotations

import json

import pytest

from rota.client.options import JOB_OPTIONS
from rota.web.pages import lists
from tests.web.pages.filling import send_all
from tests.web.pages.world import ALL_HOSTILE, HOSTILE


def names(page) -> list[str]:
    return [row.find("a", class_="name")[0].text for row in page.find("tbody")[0].find("tr")]


def shown(rota, name="load"):
    return {key: value for key, value in rota.jobs.show(name).items() if key not in {"revision", "updated_at"}}


def test_the_list_goes_on_and_keeps_its_filters(browser, rota, monkeypatch):
    monkeypatch.setattr(lists, "PAGE_THINGS", 2)
    for name in ("a1", "a2", "a3", "b1"):
        rota.jobs.add(name, shell="true", pool="web" if name != "a2" else "default")
    rota.jobs.pause("b1")

    seen = [names(browser.open("/jobs?search=a"))]
    browser.open(browser.page.find("a", rel="next")[0].attributes["href"])
    seen.append(names(browser.page))

    assert seen == [["a1", "a2"], ["a3"]]
    assert browser.page.find("input", name="search")[0].attributes["value"] == "a"
    assert names(browser.open("/jobs?pool=web&state=active")) == ["a1", "a3"]
    assert names(browser.open("/jobs?state=paused")) == ["b1"]


def test_a_job_is_shown_with_every_option_and_what_is_hostile_is_text(browser, rota):
    rota.jobs.add("up", shell="true")
    rota.jobs.add("load", shell=ALL_HOSTILE, after=["up"], variables={"X": ALL_HOSTILE}, stdin="\n" + ALL_HOSTILE)
    rota.jobs.add("report", shell="true", after=["load"])
    rota.schedules.add("nightly", "load", cron="30 2 * * *")
    rota.enqueue("load", {"text": ALL_HOSTILE})

    page = browser.open("/jobs/load")

    assert all(text in page.text for text in HOSTILE)
    links = {one.attributes["href"] for one in page.find("a", class_="name")}
    assert links >= {"/jobs/up", "/jobs/report", "/schedules/nightly", "/pools/default"}
    said = " ".join(page.text.split())
    assert "After a bad end it is not tried again. When its node dies it starts again elsewhere." in said
    (options,) = page.find("details", id="options")
    assert {one.text for one in options.find("dt")} == set(JOB_OPTIONS)
    assert all(text in browser.open("/jobs").text for text in HOSTILE[:1])
    fields = browser.open("/jobs/load/edit")
    assert fields.find("textarea", id="option-shell")[0].text.strip("\n") == ALL_HOSTILE


def test_a_page_that_is_sent_twice_makes_one_run(browser, rota):
    rota.jobs.add("load", shell="true")
    page = browser.open("/jobs/load")

    browser.send("/jobs/load/run", args='{"n": 1, "text": "<b>"}', priority="3")
    first = browser.answer.url.path
    browser.page = page
    browser.send("/jobs/load/run", args='{"n": 1, "text": "<b>"}', priority="3")

    assert browser.answer.url.path == first
    (run,) = rota.runs.list("load")
    run = rota.runs[run["id"]].show()
    assert (run["args"], run["priority"]) == ({"n": 1, "text": "<b>"}, 3)


def test_arguments_that_are_no_json_make_no_run(browser, rota):
    rota.jobs.add("load", shell="true")
    browser.open("/jobs/load")

    browser.send("/jobs/load/run", 422, args="{<b>")

    assert "it is JSON" in browser.page.find("p", class_="problem")[0].text
    assert list(rota.runs.list("load")) == []


def test_pause_resume_and_reset_do_as_the_verbs(browser, rota):
    rota.jobs.add("load", shell="true")
    browser.open("/jobs/load")

    browser.send("/jobs/load/do/pause")
    assert (browser.notice, shown(rota)["state"]) == ("job load is paused", "paused")
    browser.send("/jobs/load/do/resume")
    assert (browser.notice, shown(rota)["state"]) == ("job load goes on", "active")
    browser.send("/jobs/load/ask/reset")
    browser.send("/jobs/load/do/reset")
    assert browser.notice == "job load begins anew"


def test_deleting_is_asked_first_and_refused_while_there_are_schedules(browser, rota):
    rota.jobs.add("load", shell="true")
    rota.schedules.add("nightly", "load", cron="30 2 * * *")
    browser.open("/jobs/load")

    page = browser.send("/jobs/load/ask/delete")
    assert page.find("h1")[0].text == "Delete job load?"
    assert shown(rota)
    browser.send("/jobs/load/do/delete", 409)
    rota.schedules["nightly"].delete()
    browser.open("/jobs/load/ask/delete")
    browser.send("/jobs/load/do/delete")

    assert browser.notice == "job load was deleted"
    browser.open("/jobs/load", 404)


FULL = {
    "command": ["printf", "%s\n", "", " [a] "], "pool": "web", "timeout": 90, "retries": 3, "retry_delay": 1.5,
    "retry_on": ["exit:75", "timeout"], "priority": 4, "stdin": "\na\r\nb", "variables": {"A": "1", "B": "<b>"},
    "max_running": 2, "mutexes": ["m1", "m2"], "rate": "100/1h", "keep": {"failed": "90d"}, "after": ["up"],
    "prefer": ["web1", "zone=a"], "umask": "027", "memory_max": "512M", "lease": 30, "delivery": "at_most_once",
}  # fmt: skip


def test_a_form_that_is_sent_as_it_came_changes_nothing(browser, rota):
    rota.jobs.add("up", shell="true")
    rota.jobs.add("load", **FULL)
    before = rota.jobs.show("load")
    browser.open("/jobs/load/edit")

    send_all(browser, "/jobs/load/edit")

    assert browser.notice == "nothing was changed"
    assert rota.jobs.show("load") == before


def test_only_what_was_changed_is_sent_so_that_what_others_changed_stays(browser, rota):
    rota.jobs.add("up", shell="true")
    rota.jobs.add("load", **FULL)
    rota.jobs.add("same", **FULL)
    browser.open("/jobs/load/edit")
    rota.jobs.edit("load", retries=7)

    send_all(
        browser, "/jobs/load/edit",
        timeout="2m", command="echo\none two", variables='{"A": "2"}', mutexes="", delivery="", umask="22",
    )  # fmt: skip

    rota.jobs.edit(
        "same", retries=7, timeout="2m", command=["echo", "one two"], variables={"A": "2"}, mutexes=None, delivery=None,
        umask="22",
    )  # fmt: skip
    wanted = {key: value for key, value in shown(rota, "same").items() if key not in {"name", "created_at"}}
    assert {key: value for key, value in shown(rota).items() if key not in {"name", "created_at"}} == wanted


def test_what_all_options_are_is_sent_back_the_same_for_a_new_job(browser, rota):
    rota.jobs.add("up", shell="true")
    rota.jobs.add("same", **FULL)
    browser.open("/new/job")

    texts = {name: "\n".join(value) if isinstance(value, list) else value for name, value in FULL.items()}
    texts |= {name: json.dumps(FULL[name]) for name in ("command", "variables", "keep")}
    send_all(browser, "/new/job", name="load", **texts)

    assert browser.notice == "job load was added"
    kept = {"name", "created_at", "stdin"}
    assert {k: v for k, v in shown(rota).items() if k not in kept} == {
        k: v for k, v in shown(rota, "same").items() if k not in kept
    }


@pytest.mark.parametrize("path", ["/jobs/load/run", "/jobs/load/edit", "/jobs/load/do/pause", "/new/job"])
def test_without_the_token_nothing_is_done(http, rota, path):
    rota.jobs.add("load", shell="true")
    before = rota.jobs.show("load")

    answer = http.post(
        path,
        content="option.pool=web&was.pool=default&name=other&option.shell=true",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert answer.status_code == 403
    assert rota.jobs.show("load") == before
    assert [job["name"] for job in rota.jobs.list()] == ["load"]


@pytest.mark.parametrize("name", ["a/b", "a:b", "\u00fcber/gr\u00f6\u00dfe", "ask", "new"])
def test_a_job_is_found_whatever_its_name_holds(browser, rota, name):
    rota.jobs.add(name, shell="true")

    browser.open("/jobs")
    page = browser.open(browser.page.find("tbody")[0].find("a", class_="name")[0].attributes["href"])
    assert page.find("h1")[0].text == f"Job {name}"
    (pause,) = [one for one in page.find("form") if one.attributes["action"].endswith("/do/pause")]
    browser.send(pause.attributes["action"])

    assert browser.notice == f"job {name} is paused"
    assert rota.jobs.show(name)["state"] == "paused"
