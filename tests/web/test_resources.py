"""Each verb is found at one address, derived from the verb; what looks is a GET, and what acts is none."""

from __future__ import annotations

from rota.verbs.table import VERBS
from rota.web.resources import derive_resources

RESOURCES = derive_resources(VERBS.values())


def test_every_verb_has_an_address():
    assert {resource.verb.name for resource in RESOURCES} == set(VERBS)


def test_no_two_of_them_share_one():
    assert len({(resource.method, resource.path) for resource in RESOURCES}) == len(RESOURCES)


def test_only_what_viewers_may_is_a_get():
    for resource in RESOURCES:
        assert (resource.method == "GET") == (not resource.verb.acts)


def test_what_makes_one_is_a_post_to_the_collection_and_another_a_post_to_one():
    found = {(one.verb.name, one.method, one.path) for one in RESOURCES}

    assert ("job.add", "POST", "/api/v1/jobs") in found
    assert ("pool.create", "POST", "/api/v1/pools") in found
    assert ("pool.add", "POST", "/api/v1/pools/{name}/add") in found
    assert ("job.run", "POST", "/api/v1/runs") in found
    assert ("job.run", "POST", "/api/v1/jobs/{name}/run") in found


def test_a_name_with_a_slash_and_beyond_ascii_is_one_piece_of_the_path(http, rota):
    for name, encoded in (("a/b", "a%2Fb"), ("Überweisung", "%C3%9Cberweisung"), ("a/pause", "a%2fpause")):
        rota.jobs.add(name, shell="true")

        shown = http.get(f"/api/v1/jobs/{encoded}")
        paused = http.post(f"/api/v1/jobs/{encoded}/pause")

        assert (shown.status_code, shown.json()["name"]) == (200, name)
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")


def test_what_was_made_is_found_where_its_answer_says(http):
    made = http.post("/api/v1/jobs", json={"name": "a/b", "shell": "true"})
    run = http.post("/api/v1/runs", json={"job": "a/b", "args": {"n": 1}})

    assert (made.status_code, made.headers["location"]) == (201, "/api/v1/jobs/a%2Fb")
    assert http.get(made.headers["location"]).json()["name"] == "a/b"
    assert (run.status_code, run.headers["location"]) == (201, f"/api/v1/runs/{run.json()['id']}")
    assert http.get(run.headers["location"]).json()["args"] == {"n": 1}


def test_null_takes_a_value_away(http, rota):
    rota.jobs.add("load", shell="true", timeout="5m")

    edited = http.patch("/api/v1/jobs/load", json={"timeout": None})

    assert edited.json()["timeout"] is None
    assert rota.jobs.show("load")["timeout"] is None
