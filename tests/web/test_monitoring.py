"""What monitoring asks: cheap, and told also when the database is away."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rota import Rota
from rota.errors import DatabaseUnavailable
from rota.store import figures
from rota.web import monitoring
from rota.web.monitoring import KEPT_SECONDS, Monitoring


def read(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_database(http, rota):
    rota.jobs.add("load", shell="true")
    for _ in range(3):
        rota.enqueue("load")
    rota.enqueue("load", delay="1h")
    rota.runs[1].cancel()

    answer = http.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    found = read(answer.text)
    assert found["rota_database_up",] == 1
    assert found["rota_runs", "ready"] == 2
    assert found["rota_runs", "waiting"] == 1
    assert found["rota_recent_runs", "cancelled"] == 1
    assert found["rota_runs_made_total",] == 4
    assert ("rota_last_round_seconds",) not in found  # no node was ever here


def test_requests_are_counted_by_route_and_not_by_address(http, rota):
    for name in ("a", "b", "c"):
        http.get(f"/api/v1/jobs/{name}")
    http.request("BREW", "/api/v1/jobs")

    found = read(http.get("/metrics").text)

    assert found["rota_web_requests_total", "GET", "/api/v1/jobs/{name}", "404"] == 3
    assert not [key for key in found if "BREW" in key]


def test_many_scrapes_cost_no_more_than_one(rota, monkeypatch):
    reads = 0
    now = 100.0

    def counted(database):
        nonlocal reads
        reads += 1
        return figures.read_figures(database)

    monkeypatch.setattr(monitoring, "read_figures", counted)
    made = Monitoring(rota, clock=lambda: now)
    for _ in range(50):
        made.write()
    assert reads == 1

    now += KEPT_SECONDS
    made.write()
    assert reads == 2


def test_it_is_told_when_the_database_is_away(rota, monkeypatch):
    def refuse(_: object) -> None:
        raise DatabaseUnavailable("nobody answers")

    monkeypatch.setattr(monitoring, "read_figures", refuse)

    found = read(Monitoring(rota).write().decode())

    assert found["rota_database_up",] == 0
    assert ("rota_runs", "ready") not in found


def test_ready_tells_the_age_of_the_last_good_round(http, rota: Rota):
    from rota.model.run import NodeIdentity
    from rota.store.nodes import register_node

    assert http.get("/readyz").json() == {"status": "ready", "last_round_seconds": None}
    assert http.get("/readyz?max_age=1h").status_code == 503

    register_node(
        rota.database, NodeIdentity("", "holder", "boot"), host="n", pid=1, pid_started=1, pools=["default"], slots=1,
        version="0.1", lease_seconds=60.0, wanted="n",
    )  # fmt: skip

    ready = http.get("/readyz?max_age=1h")
    assert ready.status_code == 200
    assert 0 <= ready.json()["last_round_seconds"] < 3600
    assert http.get("/readyz?max_age=x").status_code == 422
    assert read(http.get("/metrics").text)["rota_nodes", "alive"] == 1


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_they_are_looked_at_only(http, path):
    assert http.post(path, json={}).status_code == 405
