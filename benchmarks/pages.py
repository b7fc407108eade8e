"""How long every page and every API list takes beside a long ledger, over HTTP, and what many viewers cost.

The addresses are derived from the routes, so that a new one is measured too. They are asked for in turns, so that none
finds the database warm from its own last look; what pages keep for a moment for all viewers is switched off for that.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
from sqlalchemy import func, insert, select

from benchmarks.crowd import fill, name_of
from benchmarks.figures import Figure, read_line
from rota import Rota
from rota.store.database import Database
from rota.store.migrate import upgrade
from rota.store.periods import look_at_periods
from rota.store.tables import command, run
from rota.store.types import db_now
from rota.verbs.table import VERBS
from rota.web.pages.registry import PAGES
from rota.web.resources import derive_resources

ROUNDS = 100
MEDIAN_MAX_MS, P99_MAX_MS = 300.0, 1000.0
VIEWERS = 100
VIEWER_SECONDS = 60.0
# What a viewer has open; each renews itself.
OPEN = ("/", "/board", "/runs")
# What fills the pieces of a path: a name of each kind of thing, which ``prepare`` makes.
NAMES = {
    "jobs": name_of(7), "schedules": name_of(7), "runs": "17", "periods": "sales", "backfills": "1",
    "nodes": "node-3", "pools": "etl", "calendars": "quiet", "users": "ann", "tokens": "grafana", "commands": "1",
}  # fmt: skip
DOES = {"nodes": "forget", "backfills": "cancel"}
SAID = {  # pages that want words; and what looks at all schedules unless it is told otherwise
    "/api/v1/forecast": "?schedules=100",
    "/runs/act": "?do=rerun&all=1&state=failed",
    "/periods/{name}/act": "?do=reprocess&period=2020-01",
    "/schedules/{name}/slot": "?slot=2026-01-01T00:00",
    "/schedules/{name}/mark": "?slot=2026-01-01T00:00",
    "/api/v1/periods/{job}/why": "?period=2020-01",
    "/new/schedule": f"?name=new&option.job={name_of(7)}&option.cron=0+4+*+*+*",
    "/new/backfill": f"?name={name_of(7)}&from=2026-01-01&to=2026-01-05",
}
# Lists as people ask for them, beside the plain ones.
ALSO = [
    *(f"/board?zoom={zoom}" for zoom in ("hour", "6h", "week", "month", "year")),
    "/board?troubled=1", "/board?zoom=month&troubled=1", "/board?search=777", f"/board?after={name_of(99_000)}",
    "/board/nodes?zoom=month",
    "/runs?state=failed", "/runs?state=lost&state=missed", "/runs?state=running", "/runs?before=2000000",
    f"/runs?job={name_of(7)}", f"/runs?job={name_of(3)}&state=failed", f"/runs?schedule={name_of(7)}",
    "/jobs?search=777", "/jobs?search=no-such-job", "/jobs?state=paused", f"/jobs?after={name_of(99_000)}",
    "/schedules?search=777", "/schedules?state=paused", f"/schedules?job={name_of(7)}",
    "/api/v1/runs?state=failed&limit=500", "/api/v1/runs?limit=500", f"/api/v1/runs?job={name_of(3)}&limit=500",
    "/api/v1/jobs?limit=500", "/api/v1/jobs?search=777", "/api/v1/schedules?limit=500",
    "/api/v1/schedules?search=777",
]  # fmt: skip


def measure_crowded(url: str, *, runs: int, jobs: int, say: Callable[[str], None]) -> list[Figure]:
    """Fill the empty database at ``url`` with so much, and measure."""
    database = Database(url)
    try:
        upgrade(database)
        fill(database, jobs=jobs, runs=runs, say=say)
        prepare(url)
        counted = database.read(lambda connection: connection.execute(select(func.count(run.c.id))).scalar_one())
        assert counted >= runs
    finally:
        database.close()
    return [*measure_pages(url, say=say), *measure_viewers(url, say=say)]


def prepare(url: str) -> None:
    """Add one of each kind of thing that a page shows."""
    with Rota(url) as rota:
        rota.pools.create("etl")
        rota.calendars.add("quiet", weekdays=["sun"])
        rota.jobs.add("sales", shell="true", period="month", period_start="2020-01")
        look_at_periods(rota.database)  # as a node does
        rota.backfills.start(name_of(7), "2026-01-01", "2026-01-05")
        rota.users.add("ann", role="viewer")
        rota.tokens.add("grafana", user="ann")
        ask = insert(command).values(
            verb="job.pause", target="sales", state="done", requested_by="ann", created_at=db_now()
        )
        rota.database.write(lambda connection: connection.execute(ask), repeatable=False)


def measure_pages(url: str, *, say: Callable[[str], None]) -> list[Figure]:
    """Measure each address: a row with its median, whose note has the 99th percentile."""
    addresses = find_addresses()
    say(f"{len(addresses)} addresses, {ROUNDS} times each")
    taken: dict[str, list[float]] = {address: [] for address in addresses}
    with serving(url, keeps=False) as (base, _), httpx.Client(base_url=base, timeout=120.0) as http:
        for address in addresses:
            answer = http.get(address, headers=_accept(address))
            assert answer.status_code == 200, f"{address}: {answer.status_code} {answer.text[:300]}"
        for number in range(ROUNDS):
            random.Random(number).shuffle(addresses)
            for address in addresses:
                began = time.perf_counter()
                http.get(address, headers=_accept(address)).raise_for_status()
                taken[address].append((time.perf_counter() - began) * 1000)
    figures: list[Figure] = []
    for address, found in sorted(taken.items()):
        median, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
        is_slow = median > MEDIAN_MAX_MS or p99 > P99_MAX_MS
        figures.append(Figure(address, median, "ms", f"99th percentile {p99:,.0f} ms{', TOO SLOW' if is_slow else ''}"))
    return figures


def measure_viewers(url: str, *, say: Callable[[str], None]) -> list[Figure]:
    """Measure what one viewer, and many, cost the database."""
    counted: dict[int, dict[str, Any]] = {}
    for viewers in (1, VIEWERS):
        say(f"{viewers} viewers for {VIEWER_SECONDS:g} s")
        with serving(url, keeps=True) as (base, ended):
            answers = _look_on(base, viewers)
        counted[viewers] = {**ended, "answers": answers}
    figures: list[Figure] = []
    for viewers, cost in counted.items():
        how = f"{cost['answers']:,} pages were answered in {VIEWER_SECONDS:g} s; events were followed"
        name = f"{viewers} viewer{'s' if viewers > 1 else ''}"
        figures.append(Figure(f"{name}: statements", cost["statements"], "", how))
        figures.append(Figure(f"{name}: time of the database", cost["seconds"], "s", how))
    for word in ("statements", "seconds"):
        ratio = counted[VIEWERS][word] / counted[1][word]
        figures.append(Figure(f"{VIEWERS} viewers to one: {word}", ratio, "", "the two above"))
    return figures


def _look_on(base: str, viewers: int) -> int:
    """Have so many look at the open pages as a browser does, and follow events; return how many pages they got."""
    live = {page.path: page.live for page in PAGES if page.path in OPEN}
    until = time.monotonic() + VIEWER_SECONDS
    got = [0] * viewers

    def view(number: int) -> None:
        with httpx.Client(base_url=base, timeout=60.0, headers={"accept": "text/html"}) as http:
            due = {address: time.monotonic() + random.Random(number).random() * each for address, each in live.items()}
            while (now := time.monotonic()) < until:
                address = min(due, key=due.__getitem__)
                if due[address] > now:
                    time.sleep(min(due[address], until) - now)
                    continue
                http.get(address, params={"live": "1"}).raise_for_status()
                got[number] += 1
                due[address] = time.monotonic() + live[address]

    def follow() -> None:
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.Client(base_url=base, timeout=2.0) as http,
            http.stream("GET", "/api/v1/events") as stream,
        ):
            for _ in stream.iter_raw():
                if time.monotonic() > until:
                    return

    threads = [threading.Thread(target=view, args=(number,)) for number in range(viewers)]
    threads += [threading.Thread(target=follow, daemon=True) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads[:viewers]:
        thread.join()
    return sum(got)


def find_addresses() -> list[str]:
    """Return what is asked for: every page, whatever of the API looks, and lists with filters."""
    pages = [_fill_in(page.path) + SAID.get(page.path, "") for page in PAGES]
    resources = [
        _fill_in(resource.path) + SAID.get(resource.path, "")
        for resource in derive_resources(VERBS.values())
        if resource.method == "GET"
    ]
    return [*pages, *resources, *ALSO, "/metrics"]


def _fill_in(path: str) -> str:
    kind = path.removeprefix("/api/v1").split("/")[1]
    name = NAMES.get(kind, "")
    pieces = dict.fromkeys(("name", "run", "job", "key", "backfill", "user", "token", "command"), name)
    return path.format(**pieces, do=DOES.get(kind, "delete"), deed="rerun")


def _accept(address: str) -> dict[str, str]:
    return {"accept": "application/json" if address.startswith("/api/") else "text/html"}


@contextlib.contextmanager
def serving(url: str, *, keeps: bool) -> Generator[tuple[str, dict[str, Any]]]:
    """Serve the database; yield the address, and what will hold the server's last words."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.page_server", json.dumps({"url": url, "keeps": keeps})],
        stdout=subprocess.PIPE,
        text=True,
    )
    ended: dict[str, Any] = {}
    try:
        yield read_line(process)["url"], ended
        process.send_signal(signal.SIGTERM)
        ended |= read_line(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
