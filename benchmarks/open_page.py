"""``python -m benchmarks.open_page --minutes 60``: what pages cost that stay open on a busy system.

A worker runs one job after the other, each of some pages is open in a browser of its own, and the memory of server and
browsers is looked at each minute. Nobody else looks into the browsers: what does so keeps all that they fetch.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import psutil

from benchmarks.figures import JOB, read_line, worker
from benchmarks.pages import OPEN, serving
from rota import Rota
from rota.store.database import Database
from rota.store.migrate import upgrade
from tests.servers import KINDS, STARTERS

RUNS_PER_SECOND = 2
SAMPLE_SECONDS = 60.0
MB = 1_000_000
BROWSER = shutil.which("chromium") or "chromium"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_page", description=__doc__)
    parser.add_argument("--database", choices=KINDS, default="postgresql")
    parser.add_argument("--minutes", type=int, default=60)
    given = parser.parse_args()
    with STARTERS[given.database]() as server:
        url = server.create_empty_database()
        database = Database(url)
        upgrade(database)
        database.close()
        with Rota(url) as rota:
            rota.jobs.add(JOB, command=["/bin/true"])
            rota.schedules.add("each-minute", JOB, cron="* * * * *")
        with (
            worker(url, slots=4, reuse=1000, run_until="stopped") as process,
            busy(url),
            serving(url, keeps=True) as (base, ended),
            ExitStack() as stack,
        ):
            read_line(process)
            browsers = {path: stack.enter_context(browser(base + path)) for path in OPEN}
            samples = watch(browsers, given.minutes)
    for name, values in samples.items():
        # The first quarter, in which caches fill, says nothing; the least of many samples is what cannot be let go.
        quarter = max(1, len(values) // 4)
        early, late = min(values[quarter : 2 * quarter] or values), min(values[-quarter:])
        mean = statistics.mean(values)
        print(f"{name:16} least of the second quarter {early:7.1f} MB, of the last {late:7.1f} MB; mean {mean:7.1f} MB")
    print(f"statements: {ended['statements']:,}, {ended['statements'] / given.minutes:,.0f} a minute")
    return 0


def watch(browsers: dict[str, subprocess.Popen[bytes]], minutes: int) -> dict[str, list[float]]:
    """Return what the server and each browser took, in MB, minute by minute."""
    samples: dict[str, list[float]] = {name: [] for name in ("server", *browsers)}
    for number in range(minutes):
        time.sleep(SAMPLE_SECONDS)
        children = psutil.Process().children(recursive=True)
        samples["server"].append(sum(_own(one) for one in children if "benchmarks.page_server" in _command(one)))
        for path, process in browsers.items():
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            samples[path].append(sum(_own(one) for one in tree))
        print(number + 1, {name: round(values[-1], 1) for name, values in samples.items()}, flush=True)
    return samples


def _own(process: psutil.Process) -> float:
    try:
        return process.memory_full_info().uss / MB
    except psutil.Error:
        return 0.0


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def browser(url: str) -> Generator[subprocess.Popen[bytes]]:
    """Have a page open in a browser of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [BROWSER, *FLAGS, f"--user-data-dir={folder}", url]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


@contextmanager
def busy(url: str) -> Generator[None]:
    """Have runs asked for all the time."""
    is_over = threading.Event()

    def ask() -> None:
        with Rota(url) as rota:
            while not is_over.wait(1 / RUNS_PER_SECOND):
                rota.enqueue(JOB)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
