"""What a command shows: a table, one thing with its facts, or JSON.

Called by every command. Texts come from jobs, databases and other people's files, so control characters never reach the
terminal as such: what a job writes into its error message must not move the cursor of whoever reads it.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

View = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Any], Any]]  # heading: the key, or a function of the row

PIPE_WIDTH = 10_000  # nothing is folded or cut for a program that reads it

TEXTS = frozenset({"reason", "result", "what", "what it shows", "note", "text", "runs", "problem", "value"})

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

STYLES = {
    "succeeded": "green", "running": "cyan", "ready": "yellow", "waiting": "dim", "failed": "red", "lost": "bold red",
    "missed": "magenta", "skipped": "blue", "cancelled": "dim", "alive": "green", "draining": "yellow", "gone": "dim",
    "active": "green", "paused": "yellow",
}  # fmt: skip


class Screen:
    """Standard output, for people or for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show_list(self, views: Sequence[View], columns: Columns, *, nothing: str) -> None:
        """Show a table with a line for each view, or the list as JSON; ``nothing`` is said of an empty one."""
        if self.as_json:
            print_json(list(views))
        elif views:
            print_table(make_table(views, columns))
        else:
            click.echo(nothing)

    def show_one(self, view: View, *, leave_out: Sequence[str] = ()) -> None:
        """Show one thing, a fact a line; facts that are not there are left out."""
        if self.as_json:
            print_json(view)
            return
        facts = {
            name: value for name, value in view.items() if name not in leave_out and value not in (None, "", [], {})
        }
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            lines = write_fact(name, value).splitlines() or [""]
            click.echo(f"{name:<{width}}  " + f"\n{'':<{width}}  ".join(lines))

    def tell(self, sentence: str, view: View) -> None:
        """Say what was done, or show what there is now as JSON."""
        if self.as_json:
            print_json(view)
        else:
            click.echo(clean(sentence))


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal, or as wide as it takes where a program reads it."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(file=io.StringIO(), width=PIPE_WIDTH)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def make_table(views: Sequence[View], columns: Columns, title: str | None = None, *, one_line: bool = False) -> Table:
    """Lay out a table; states carry their colour. ``one_line`` cuts what is too long instead of folding it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in columns:
        # Where there is no room for all, texts give way, not names and times.
        table.add_column(heading, overflow="fold", no_wrap=heading not in TEXTS)
    for view in views:
        cells: list[Text] = []
        for heading, source in columns.items():
            value = write_value(view.get(source) if isinstance(source, str) else source(view))
            style = STYLES.get(value, "") if heading == "state" else ""
            cut = Text(" ".join(value.split()), style=style, no_wrap=one_line or None)
            cut.overflow = "ellipsis" if one_line else None
            cells.append(cut)
        table.add_row(*cells)
    return table


def write_fact(name: str, value: object) -> str:
    """Write a fact that has a name: when something happened to the second, a slot exactly, so that it can be copied."""
    written = write_value(value)
    if not _INSTANT.fullmatch(written):
        return written
    return f"{written[:19]}Z" if name.endswith(("_at", "_by")) else written.replace(".000000Z", "Z")


def write_value(value: object) -> str:
    """Write a fact as a person reads it."""
    match value:
        case None:
            return ""
        case str():
            return clean(value)
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case _:
            return clean(json.dumps(value, ensure_ascii=False))


def clean(text: str) -> str:
    """Show control characters instead of sending them; line ends and tabs stay."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text)


def short_time(value: object) -> str:
    """Cut an instant of the JSON form to the second."""
    return value[:19].replace("T", " ") if isinstance(value, str) else ""
