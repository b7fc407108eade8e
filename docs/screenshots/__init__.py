"""Pictures of every page, in light, in dark and on a phone: ``python -m docs.screenshots`` takes them again.

Invariant: the pages are those that the program knows, so that none can be forgotten; and they are shown over a company
whose days are simulated (``world``), so that a picture changes when the page does. Called by ``make screenshots``.
"""

from __future__ import annotations

import re
from pathlib import Path

import rota.web.pages
from rota.web.pages.registry import PAGES

FOLDER = Path(__file__).parent
LOOKS = ("light", "dark", "phone")
# No pages for people: a file, and what a page of a run fetches while the run goes on.
NOT_SHOWN = {"/runs/{run}/output/download", "/runs/{run}/output/new"}

assert rota.web.pages  # which registers them


def shown_pages() -> list[str]:
    """Return the paths of all pages that have pictures."""
    return [one.path for one in PAGES if one.path not in NOT_SHOWN]


def name_of(path: str) -> str:
    """Return by what the pictures of a page begin: ``/runs/{run}/output`` is ``run-output``, ``/runs`` is ``runs``."""
    one_of_many = re.sub(r"s?/\{\w+\}", "", path)
    return one_of_many.strip("/").replace("/", "-") or "overview"


def pictures_of(path: str) -> dict[str, Path]:
    """Return the files of a page, by how it looks in each."""
    return {look: FOLDER / f"{name_of(path)}-{look}.png" for look in LOOKS}
