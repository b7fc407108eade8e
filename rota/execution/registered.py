"""What installed applications register: entry points of a group, each read in a process of its own.

Invariant: whatever an application does when it is imported (raise, exit, crash, print, hang) stays in that process: the
worker lives, and hears of it. Nothing is remembered, so that asking again sees what was installed meanwhile. Called
when a worker reads its settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import invalidate_caches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

GROUP = "rota.environments"
READ_SECONDS_MAX = 30.0
READ_AT_ONCE = 8
FACTS = ("name", "version", "interpreter", "python_path", "variables")

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from rota.execution.registered import main
main(*sys.argv[1:])
"""


@dataclass(frozen=True, slots=True)
class Registered:
    """What one entry point says, unchecked; or why it says nothing."""

    entry_point: str  # name and value, as the application wrote them
    facts: Mapping[str, Any]
    fault: str | None = None


def read_registered(*, without: Collection[str] = ()) -> list[Registered]:
    """Read all entry points of ``rota.environments``, in the order of their names; ``without`` these variables."""
    invalidate_caches()
    found = sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value))
    if not found:
        return []
    with ThreadPoolExecutor(READ_AT_ONCE) as readers:  # so that several that hang take no longer than one
        return list(readers.map(partial(_read, without=without), found))


def _read(entry_point: EntryPoint, *, without: Collection[str]) -> Registered:
    label = f"{entry_point.name} = {entry_point.value}"
    # The application's own code: Rota's settings, the password of the database among them, are none of its business.
    hidden = {name for name in os.environ if name.startswith("ROTA_")}.union(without)
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), entry_point.name, entry_point.value]
    try:
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=READ_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Registered(label, {}, f"it has not told anything within {READ_SECONDS_MAX:g} s")
    except OSError as error:
        return Registered(label, {}, f"no process could be made to read it: {error.strerror}")
    try:
        facts = json.loads(done.stdout)
    except (ValueError, RecursionError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Registered(label, {}, said[-1] if said else f"its process ended with {done.returncode} and said nothing")
    if not isinstance(facts, dict):
        return Registered(label, {}, "what it says is not an object")
    defaults = {"name": entry_point.name, "version": entry_point.dist.version if entry_point.dist else None}
    return Registered(label, defaults | cast("dict[str, Any]", facts))


def main(name: str, value: str) -> None:
    """Print as JSON what the class behind an entry point says. Run in a process of its own."""
    to_worker = os.dup(1)
    os.dup2(2, 1)  # what the application prints at import is no answer
    found = EntryPoint(name, value, GROUP).load()
    described = found() if isinstance(found, type) else found
    facts = {fact: getattr(described, fact) for fact in FACTS if getattr(described, fact, None) is not None}
    with open(to_worker, "wb") as answer:
        answer.write(json.dumps(facts, default=_as_text).encode())
    os._exit(0)  # whatever threads it has started


def _as_text(value: object) -> object:
    """Write what JSON does not know: paths as text, other sequences and mappings as lists and objects."""
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Iterable):
        return list(cast("Iterable[Any]", value))
    raise TypeError(f"{type(value).__name__} is no text, list or mapping")
