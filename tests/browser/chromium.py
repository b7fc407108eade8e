"""Where the browser is: the distribution's Chromium, as people have it. Nothing is downloaded for it."""

from __future__ import annotations

import shutil

PROGRAMS = ("chromium", "chromium-browser")
MISSING = f"there is no {' and no '.join(PROGRAMS)} on this machine: install the distribution's package chromium"


def find() -> str | None:
    """Return the program; None when there is none on this machine."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)
