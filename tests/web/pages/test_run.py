"""The page of a run: what it shows, what it wrote, and what can be done from there."""

from __future__ import annotations

import pytest

from rota.web.pages.writing import said
from tests.web.pages.world import ALL_HOSTILE, HOSTILE, OUTPUT, claim_all, end, fail_with_everything, report


@pytest.fixture
def load(rota):
    rota.jobs.add("load", shell="true")
    return rota


def test_what_a_job_says_stands_there_as_text_and_does_nothing(browser, rota):
    number = fail_with_everything(rota)

    page = browser.open(f"/runs/{number}")

    for text in HOSTILE:
        assert text in page.text
    assert page.find("p", class_="problem")[0].text == f"<b>Error: {ALL_HOSTILE}"
    assert "<script>alert(1)</script>" in page.find("pre", class_="document")[0].text
    (output,) = page.find("pre", class_="output")
    assert output.text.count(ALL_HOSTILE) == 2
    assert "link" in output.text
    assert "untold" not in output.text
    assert "\u2400end" in output.text
    assert [one.text for one in output.find("span", class_="f1")] == ["red", "red"]


def test_the_output_is_found_again_by_line_by_stream_and_as_it_is(browser, http, rota):
    number = fail_with_everything(rota)

    found = browser.open(f"/runs/{number}/output?search=RED&stream=stdout")
    one_stream = browser.open(f"/runs/{number}/output?stream=stderr")
    file = http.get(f"/runs/{number}/output/download?stream=stdout")

    (row,) = found.find("table", class_="found")[0].find("tr")
    assert [cell.text for cell in row.find("td")] == ["2", "red link \u2400end"]
    assert one_stream.find("pre", class_="output")[0].text.count(ALL_HOSTILE) == 1
    assert file.content == OUTPUT
    assert file.headers["content-type"] == "text/plain; charset=utf-8"
    assert file.headers["content-disposition"] == f'attachment; filename="run-{number}-attempt-1-stdout.txt"'
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["content-security-policy"].startswith("default-src 'none'")


def test_of_much_output_the_head_and_the_tail_are_shown(browser, load):
    number = load.enqueue("load").id
    (claim,) = claim_all(load)
    lines = b"".join(b"line %06d\n" % line for line in range(50_000))
    end(load, claim, output=lines)

    page = browser.open(f"/runs/{number}")
    everything = browser.open(f"/runs/{number}/output")

    text = page.find("pre", class_="output")[0].text
    assert len(text) < 200_000
    assert text.startswith("line 000000\n")
    assert text.endswith("line 049999\n")
    assert "are not shown here: download" in text
    assert everything.find("pre", class_="output")[0].text == lines.decode()


def test_what_is_new_is_put_after_what_is_there(browser, load):
    number = load.enqueue("load").id
    (claim,) = claim_all(load)
    report(load, claim, ("stdout", 0, b"one \x1b[1;3"), ("stderr", 0, b"ouch \xe2\x82"))

    page = browser.open(f"/runs/{number}")
    first = page.find("pre", class_="output")[0]
    report(load, claim, ("stdout", 9, b"1mtwo\n"), ("stderr", 7, b"\xac\n"))
    second = browser.open(first.attributes["data-tail"]).find("pre", class_="output")[0]
    nothing = browser.open(second.attributes["data-tail"]).find("pre", class_="output")[0]
    report(load, claim, ("stdout", 15, b"three"))
    third = browser.open(nothing.attributes["data-tail"]).find("pre", class_="output")[0]
    end(load, claim)
    last = browser.open(third.attributes["data-tail"])

    assert page.find("div", id="live", data_live="2")
    assert (first.text, nothing.text, last.find("pre", class_="output")[0].text) == ("one ouch ", "", "")
    assert second.text == "two\n\u20ac\n"
    assert third.find("span", class_="f1")[0].text == "three"
    assert last.find("p", id="tail-state")[0].text == "That was all."
    assert "data-tail" not in last.find("pre", class_="output")[0].attributes
    assert not browser.open(f"/runs/{number}").find("div", data_live="2")


def test_a_part_that_renews_itself_leaves_the_output_out_and_sends_back_to_the_page(browser, load):
    number = load.enqueue("load").id
    (claim,) = claim_all(load)
    report(load, claim, ("stdout", 0, b"secret of the tail"))

    page = browser.open(f"/runs/{number}?live=1")

    assert "secret of the tail" not in page.text
    assert page.find("div", id="live")


def test_a_failed_run_is_read_and_rerun(browser, load):
    number = load.enqueue("load").id
    end(load, claim_all(load)[0], "exited", exit_code=3)

    browser.open(f"/runs/{number}")
    page = browser.send(f"/runs/{number}/rerun")

    assert browser.notice == f"run {number}: it will be done again"
    assert page.find("p", class_="verdict")[0].find("span", class_="state")[0].text.strip().endswith("ready")
    assert load.runs[number].state == "ready"
    assert browser.open(f"/runs/{number}").find("p", class_="notice") == []


def test_what_is_dangerous_is_asked_first(browser, load):
    number = load.enqueue("load").id
    claim_all(load)

    browser.open(f"/runs/{number}")
    browser.send("/runs/act", choose="Cancel…")

    assert browser.page.find("h1")[0].text == "Cancel 1 run?"
    assert load.runs[number].show()["cancel_asked_at"] is None
    browser.send("/runs/act")
    assert browser.notice == "Cancel: done to 1 run."
    assert load.runs[number].show()["cancel_asked_by"] == "local@host"


def test_frozen_is_thawed(browser, load):
    number = load.enqueue("load").id
    claim_all(load)
    browser.open(f"/runs/{number}")

    browser.send(f"/runs/{number}/freeze")
    assert "frozen, asked for by local@host" in browser.page.text
    browser.send(f"/runs/{number}/thaw")

    assert load.runs[number].show()["freeze_asked_at"] is None


def test_what_a_verb_refuses_is_a_page_with_its_sentence(browser, load):
    number = load.enqueue("load").id
    end(load, claim_all(load)[0])
    browser.open(f"/runs/{number}")
    load.runs[number].rerun()

    page = browser.send(f"/runs/{number}/rerun", 409)

    assert f"run {number}" in page.find("p", class_="problem")[0].text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/runs/4711", 404),
        ("/runs/0", 404),
        ("/runs/99999999999999999999", 404),
        ("/runs/%3Cscript%3E", 404),
        ("/runs/4711/output", 404),
        ("/runs/4711/output/new", 404),
        ("/runs/4711/output/download", 404),
        ("/runs?since=yesterday", 422),
        ("/runs?before=x", 422),
        ("/runs?from=2026-01-01", 422),
        ("/runs?state=odd", 422),
        ("/runs?job=nobody", 404),
        ("/runs/act?do=cancel", 422),
        ("/runs/act?do=explode&run=1", 422),
        ("/runs/act?do=cancel&run=1;2", 422),
    ],
)
def test_what_there_is_not_or_cannot_be_read_is_a_page(browser, address, status):
    page = browser.open(address, status)

    assert page.find("p", class_="problem")[0].text


def test_the_attempt_and_the_stream_that_there_are_not(browser, load):
    number = load.enqueue("load").id

    assert "attempts are counted from 1" in browser.open(f"/runs/{number}?attempt=0", 422).text
    assert "attempts are counted from 1" in browser.open(f"/runs/{number}?attempt={'0' * 9 + '1' * 5000}", 422).text
    assert "stream 'x' is refused" in browser.open(f"/runs/{number}?stream=x", 422).text
    browser.open(f"/runs/{number}?attempt=2", 404)


@pytest.mark.parametrize("token", [None, "", "x" * 43])
def test_a_form_without_the_token_of_its_page_does_nothing(browser, http, load, token):
    number = load.enqueue("load").id
    browser.open(f"/runs/{number}")
    form = "back=%2F" + (f"&csrf={token}" if token is not None else "")
    headers = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}

    for path in (f"/runs/{number}/skip", "/runs/act"):
        answer = http.post(path, content=f"{form}&do=skip&run={number}", headers=headers)
        assert answer.status_code == 403
        assert "load the page again" in answer.text

    assert load.runs[number].state == "ready"


def test_a_token_is_nothing_without_the_cookie(browser, http, load):
    number = load.enqueue("load").id
    token = browser.open(f"/runs/act?do=skip&run={number}").find("input", name="csrf")[0].attributes["value"]
    http.cookies.clear()
    headers = {"content-type": "application/x-www-form-urlencoded"}

    answer = http.post("/runs/act", content=f"csrf={token}&do=skip&run={number}", headers=headers)

    assert answer.status_code == 403


def test_a_page_of_another_site_may_not_send_forms_here(browser, http, load):
    number = load.enqueue("load").id
    token = browser.open(f"/runs/act?do=skip&run={number}").find("input", name="csrf")[0].attributes["value"]
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": "https://evil.example"}

    answer = http.post("/runs/act", content=f"csrf={token}&do=skip&run={number}", headers=headers)

    assert answer.status_code == 403
    assert load.runs[number].state == "ready"


def test_a_form_goes_back_to_this_server_only(browser, load):
    number = load.enqueue("load").id
    browser.open(f"/runs/act?do=skip&run={number}&back=//evil.example")

    assert [one.attributes["value"] for one in browser.page.find("input", name="back")] == ["/runs"]
    browser.send("/runs/act", 422, back="https://evil.example/")
    assert browser.answer.url == "http://localhost:8300/runs/act"


def test_a_run_begins_with_its_reason_told_once_and_with_what_it_wrote(browser, load):
    number = load.enqueue("load").id
    end(load, claim_all(load)[0], "exited", exit_code=3, output=b"it broke\n")

    page = browser.open(f"/runs/{number}")

    (told, *more) = load.why.run(number)["because"]
    text = page.text[page.text.index("Run 1 of load") :]
    headings = [one.text for one in page.find("h2")]
    assert text.count(told) == 1
    assert [one.text for one in page.find("ul", class_="because")[0].find("li")] == [said(line) for line in more]
    assert text.index(told) < text.index("it broke") < text.index("Asked for")
    assert headings[:2] == ["Output of attempt 1", "Facts"]
