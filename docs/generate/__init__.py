"""The reference, written from the code: ``python -m docs.generate`` writes what ``render_pages`` returns.

Invariant: a page holds nothing that the code does not say, save one sentence for each thing that has no place for one
there; those sentences are kept in tables, and one too many or too few is an error. Called by ``make docs``, and by the
test that fails when a page is out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from docs.generate.commands import write_commands, write_definitions, write_environment, write_settings
from docs.generate.crash import write_crash_points
from docs.generate.protocol import write_protocol
from docs.generate.python import write_errors, write_python
from docs.generate.schema import write_states, write_tables, write_transitions, write_views, write_violations

FOLDER = Path(__file__).parent.parent
NOTE = "<!-- Written by `make docs` from the code. Changes made here are lost. -->\n\n"

PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "reference/commands.md": write_commands,
    "reference/settings.md": write_settings,
    "reference/definitions.md": write_definitions,
    "reference/states.md": write_states,
    "reference/errors.md": write_errors,
    "reference/environment.md": write_environment,
    "reference/python.md": write_python,
    "reference/tables.md": write_tables,
    "reference/views.md": write_views,
    "reference/violations.md": write_violations,
    "internals/states.md": write_transitions,
    "internals/crash-points.md": write_crash_points,
    "internals/protocol.md": write_protocol,
}


def render_pages() -> dict[str, str]:
    """Return the text of every generated page by its path below ``docs``."""
    return {name: render_page(name) for name in PAGES}


def render_page(name: str) -> str:
    """Return the text of one generated page."""
    return NOTE + "\n\n".join(block.strip("\n") for block in PAGES[name]()) + "\n"


def write_pages() -> None:
    """Write all pages, and remove those below ``reference`` that are written no more."""
    pages = render_pages()
    for name, text in pages.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")
    for path in (FOLDER / "reference").glob("*.md"):
        if f"reference/{path.name}" not in pages:
            path.unlink()
    print(f"wrote {len(pages)} pages below {FOLDER.name}/")
