"""Flags of lists that go on: how much, from where, and which of it; the same words for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rota.model.pages import Page


def page_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of a list in the order of names."""
    for flag in reversed(
        (
            click.option("--search", metavar="TEXT", help="Whose name holds this, whatever the case."),
            click.option("--limit", metavar="N", type=int, help="At most so many. [all]"),
            click.option("--after", metavar="NAME", help="The next page: what comes after this name."),
        )
    ):
        function = flag(function)
    return function


def tell_next(views: Any, word: str = "after", *, as_json: bool) -> None:
    """Say on standard error that a list goes on, and how to read on; not where a program reads it."""
    if isinstance(views, Page) and views.next is not None and not as_json:
        click.echo(f"there are more: --{word} {views.next}", err=True)
