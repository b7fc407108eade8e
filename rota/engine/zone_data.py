"""Which version of the zone data this process computes slots with, as far as anybody can tell."""

from __future__ import annotations

import re
import zoneinfo
from importlib import import_module
from pathlib import Path

_VERSION = re.compile(r"\d{4}[a-z]{1,2}", re.ASCII)
_READ_MAX = 200  # characters: the version stands in the first line


def zone_data_version() -> str | None:
    """Return the version, such as 2026a; None where the data does not say.

    ``zoneinfo`` takes the first folder of its path that has a zone, and the package ``tzdata`` where none has.
    """
    for folder in map(Path, zoneinfo.TZPATH):
        if (folder / "Etc" / "UTC").is_file() or (folder / "UTC").is_file():
            return _version_of(folder)
    try:
        return _version_in(str(import_module("tzdata").IANA_VERSION))
    except (ImportError, AttributeError):
        return None


def _version_of(folder: Path) -> str | None:
    # Linux has the source beside the zones, its first line "# version 2026a"; macOS and the BSDs have the other.
    for name in ("tzdata.zi", "+VERSION"):
        try:
            with (folder / name).open(encoding="ascii", errors="replace") as file:
                version = _version_in(file.read(_READ_MAX).partition("\n")[0])
        except OSError:
            continue
        if version is not None:
            return version
    return None


def _version_in(line: str) -> str | None:
    found = _VERSION.search(line)
    return found[0] if found is not None else None
