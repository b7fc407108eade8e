"""Markdown, and the comments of a module as text. Called by all pages."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterable
from enum import StrEnum
from types import ModuleType


def fence(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text.strip()}\n```"


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    heads = list(headings)
    lines = [heads, ["---"] * len(heads), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read_comments(module: ModuleType) -> dict[int, str]:
    """Return the comments of a module by line."""
    source = io.StringIO(inspect.getsource(module))
    return {
        token.start[0]: token.string.removeprefix("#").strip().replace("``", "`")
        for token in tokenize.generate_tokens(source.readline)
        if token.type == tokenize.COMMENT
    }


def notes_above(notes: dict[int, str], line: int) -> str:
    """Return the comment that stands on the lines right above ``line``."""
    said: list[str] = []
    while (line := line - 1) in notes:
        said.insert(0, notes[line])
    return " ".join(said)


def expect_keys(meanings: dict[str, str], wanted: Iterable[str]) -> None:
    """Refuse a table of sentences that does not say one about each thing there is."""
    difference = set(meanings) ^ set(wanted)
    assert not difference, f"said without being there, or the other way round: {sorted(difference)}"


def one_line(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


def table_of_enum(module: ModuleType, kind: type[StrEnum]) -> str:
    notes = read_comments(module)
    source, first = inspect.getsourcelines(kind)
    meanings: dict[str, str] = {}
    for node in ast.walk(ast.parse("".join(source))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            meanings[node.targets[0].id] = notes.get(first + node.lineno - 1, "")
    return table(("value", "meaning"), [(f"`{member.value}`", meanings[member.name]) for member in kind])


def prose(text: str) -> str:
    """Return a paragraph in one line."""
    return " ".join(text.split())
