"""``python -m docs.screenshots [--only NAME ...] [--world FOLDER]``: take the pictures again.

It wants a Chromium on this machine. ``--world`` keeps the company in a folder, and finds it there the next time: for
whoever changes how pages look.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from docs.screenshots import FOLDER, LOOKS, name_of, pictures_of, shown_pages
from docs.screenshots.world import NOW, found_company, reopen
from rota import Rota
from rota.cli.parameters import describe, say_what_it_does
from rota.store.database import Database
from rota.web.app import make_app
from rota.web.server import WebServer

HEIGHT_MAX = 2000  # of a picture; what is below is cut
COLORS = 64  # of a picture: pages have few, and this is a third of the bytes of all
SIZES = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}

# What fills a path: by the kind of thing, which is its first word. A page of another kind needs a word here.
NAMES = {
    "jobs": "payment-reconcile", "schedules": "invoices-nl", "periods": "traffic-daily", "backfills": "2",
    "nodes": "ams-2", "pools": "reports", "calendars": "bank-days", "users": "mila", "tokens": "grafana",
}  # fmt: skip
DEEDS = {"nodes": "forget", "backfills": "cancel", "users": "disable", "tokens": "revoke"}
# What is asked for at a path, where that says more than nothing.
QUERIES = {
    "/periods/{name}": "?period=2026-11-17",
    "/periods/{name}/act": "?do=reprocess&period=2026-11-17",
    "/schedules/{name}/slot": "?slot=2026-11-18T03:00",
    "/schedules/{name}/mark": "?slot=2026-11-18T03:00",
    "/schedules/{name}/edit": "?option.cron=30+3+*+*+mon-fri",
    "/new/schedule": "?name=invoices-be&option.job=invoices&option.cron=0+3+*+*+*&option.tz=Europe/Brussels",
    "/new/backfill": "?name=invoices-nl&from=2026-11-01&to=2026-11-11",
}


class Shown:
    """The addresses of pages, over what the company has."""

    def __init__(self, rota: Rota) -> None:
        failed = rota.runs.list(state="failed", limit=50)
        # One that was tried more than once has most to say.
        self._run = max(failed, key=lambda view: (view["attempt"], view["id"]))["id"]
        self._chosen = [view["id"] for view in failed[:4]]

    def address(self, path: str) -> str:
        """Return the address at which a page is shown."""
        kind = path.split("/")[1]
        if "{name}" in path and kind not in NAMES:
            sys.exit(f"{path} has no name to be shown with: add one of {kind} to NAMES in docs/screenshots/__main__.py")
        query = QUERIES.get(path, "")
        if path == "/runs/act":
            query = "?do=rerun" + "".join(f"&run={number}" for number in self._chosen)
        return path.format(name=NAMES.get(kind, ""), run=self._run, do=DEEDS.get(kind, "delete")) + query


@contextmanager
def serve(database: Database) -> Iterator[str]:
    """Serve the pages over a database, and give their address."""
    rota = Rota.over(database, actor="pictures")
    app = make_app(rota, describe=describe, say=say_what_it_does)
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def take(browser: Browser, url: str, look: str, paths: list[str], shown: Shown) -> None:
    """Take the pictures of these pages in one look; one that is no page, or wider than its screen, is told."""
    width, height = SIZES[look]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if look == "dark" else "light",
        reduced_motion="reduce",
        timezone_id="Europe/Amsterdam",
        locale="en-GB",
        is_mobile=look == "phone",
        has_touch=look == "phone",
        service_workers="block",
    )
    page = context.new_page()
    for path in paths:
        # What renews itself never is without requests, so it is waited for the page alone.
        answer = page.goto(url + shown.address(path), wait_until="load")
        status = answer.status if answer is not None else 0
        if status != 200:
            print(f"{name_of(path)}: {status} at {shown.address(path)}", file=sys.stderr)
        wide: int = page.evaluate("document.documentElement.scrollWidth")
        tall: int = page.evaluate("Math.ceil(document.body.getBoundingClientRect().height)")
        if wide > width:
            print(f"{name_of(path)}-{look} is {wide} wide, and its screen {width}", file=sys.stderr)
        clip: Any = {"x": 0, "y": 0, "width": width, "height": min(tall, HEIGHT_MAX)}
        data = page.screenshot(full_page=True, clip=clip, animations="disabled", caret="hide")
        keep(data, pictures_of(path)[look])
    context.close()


def keep(data: bytes, file: Path) -> None:
    """Write a picture with few colours."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    # Those that most of it has, as they are: a mean of two would make a state look like another. What is no grey counts
    # more, since there is less of it.
    found = cast("list[tuple[int, tuple[int, ...]]]", picture.getcolors(picture.width * picture.height) or [])
    found.sort(key=lambda one: -one[0] * (1 + (max(one[1]) - min(one[1])) // 8))
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, color in found[:COLORS] for part in color])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description="Take the pictures of all pages.")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="Of these pages: run, board-nodes.")
    parser.add_argument("--world", type=Path, metavar="FOLDER", help="Keep the company there, or find it there.")
    given = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("pictures need Chromium: install it, as by apt-get install chromium")
    paths = [path for path in shown_pages() if not given.only or name_of(path) in given.only]
    with tempfile.TemporaryDirectory(prefix="rota-pictures-") as temporary:
        folder: Path = given.world or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"a company as of {NOW:%Y-%m-%d %H:%M} UTC")
        database = reopen(folder) or found_company(folder).database
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        with serve(database) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=arguments)
            shown = Shown(Rota.over(database, actor="pictures"))
            for look in LOOKS:
                take(browser, url, look, paths, shown)
            browser.close()
    files = list(FOLDER.glob("*.png"))
    known = {file for path in shown_pages() for file in pictures_of(path).values()}
    for file in files:
        if file not in known:
            file.unlink()
    size = sum(file.stat().st_size for file in known if file.exists())
    print(f"{len(known)} pictures, {size / 2**20:.1f} MiB, in {FOLDER.name}/")


if __name__ == "__main__":
    main()
