"""The pages about what is imported: the Python API with its signatures, and the errors."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import rota
from docs.generate.markdown import fence, one_line, prose, read_comments, table
from rota import errors

SIGNATURE_WIDTH = 100


# What is reached through something else rather than imported, by how it is written.
PARTS = {
    "rota.jobs": "rota.client.jobs:Jobs",
    "rota.schedules": "rota.client.schedules:Schedules",
    "rota.schedules[key]": "rota.client.schedules:ScheduleHandle",
    "rota.backfills": "rota.client.backfills:Backfills",
    "rota.backfills[id]": "rota.client.backfills:BackfillHandle",
    "rota.periods": "rota.client.periods:Periods",
    "rota.calendars": "rota.client.calendars:Calendars",
    "rota.runs": "rota.client.runs:Runs",
    "rota.nodes": "rota.client.facts:Nodes",
    "rota.pools": "rota.client.facts:Pools",
    "rota.why": "rota.client.facts:Why",
    "CurrentRun": "rota.execution.context:CurrentRun",
    "CurrentPeriod": "rota.execution.context:CurrentPeriod",
    "job": "rota.client.declared:DeclaredJob",
}
# How a value of an imported class is written, and whether users make one.
VALUES = {
    "Rota": ("rota", True),
    "Dispatch": ("dispatch", True),
    "RunHandle": ("run", False),
    "GroupHandle": ("group", False),
    "Claim": ("claim", False),
}
# Public for other modules, and of no use outside.
INTERNAL = {"Rota.check_request", "Rota.database", "Rota.warner", "Schedules.check", "DeclaredJob.split"}


def write_python() -> Iterator[str]:
    yield "# Python"
    yield "Everything is imported from `rota`: `from rota import Rota, current_run`."
    classes = [*VALUES, *(name for name in sorted(rota.__all__) if name not in VALUES and not _is_told_elsewhere(name))]
    for name in classes:
        member = getattr(rota, name)
        called, is_made = VALUES.get(name, (name, True))
        yield f"## {name}"
        if is_made:
            yield fence("text", f"{name}{format_signature(member)}")
        yield doc(member)
        if name in VALUES:
            yield from _write_members(member, called)
    for called, path in PARTS.items():
        module, _, name = path.partition(":")
        part = getattr(importlib.import_module(module), name)
        yield f"## {called}"
        yield doc(part)
        if dataclasses.is_dataclass(part):
            yield _table_of_fields(part)
        yield from _write_members(part, called)
    yield "## Errors"
    told = [f"[`{kind.__name__}`](errors.md#{kind.code})" for kind in error_classes() if kind.__name__ in rota.__all__]
    yield f"Each is described under its code in [errors](errors.md): {', '.join(told)}. All are `RotaError`s."


def _is_told_elsewhere(name: str) -> bool:
    member = getattr(rota, name)
    return name.startswith("_") or (inspect.isclass(member) and issubclass(member, errors.RotaError))


def _table_of_fields(kind: type[Any]) -> str:
    notes = read_comments(sys.modules[kind.__module__])
    source, first = inspect.getsourcelines(kind)
    rows: list[tuple[str, str, str]] = []
    for node in ast.parse("".join(source)).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign):
            name, written = ast.unparse(node.target), ast.unparse(node.annotation)
            rows.append((f"`{name}`", f"`{written}`".replace("|", "\\|"), notes.get(first + node.lineno - 1, "")))
    return table(("field", "type", "meaning"), rows)


def _write_members(owner: type[Any], called: str) -> Iterator[str]:
    for name, member in vars(owner).items():
        if name.startswith("_") or not inspect.getdoc(member) or f"{owner.__name__}.{name}" in INTERNAL:
            continue
        if isinstance(member, property):
            yield f"### {called}.{name}"
            yield doc(member)
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            yield f"### {called}.{name}()"
            yield fence("text", f"{called}.{name}{format_signature(getattr(owner, name), bound=True)}")
            yield doc(member)


class _Bare:
    """An annotation that prints as it was written, not as a quoted string."""

    def __init__(self, text: object) -> None:
        self.text = text if isinstance(text, str) else inspect.formatannotation(text)

    def __repr__(self) -> str:
        return self.text


def format_signature(function: Callable[..., Any], *, bound: bool = False) -> str:
    """Write a signature as it stands in the source; long ones take a line for each parameter."""
    signature = inspect.signature(function)
    parameters = [
        each if each.annotation is each.empty else each.replace(annotation=_Bare(each.annotation))
        for each in signature.parameters.values()
        if not (bound and each.name == "self")
    ]
    answer = signature.return_annotation
    kept = signature.replace(
        parameters=parameters, return_annotation=answer if answer is signature.empty else _Bare(answer)
    )
    text = str(kept).replace(" -> None", "")
    if len(text) <= SIGNATURE_WIDTH:
        return text
    answer_text = text[text.rindex(")") :] if ") -> " in text else ")"
    pieces: list[str] = []
    starred = False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not starred and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            pieces.append("*")
            starred = True
        pieces.append(str(each))
    return "(\n" + "".join(f"    {piece},\n" for piece in pieces) + answer_text


def doc(member: object) -> str:
    """Return a docstring as Markdown: its code marks, and the errors it lists."""
    text = (inspect.getdoc(member) or "").replace("``", "`")
    before, raises, after = text.partition("\nRaises:\n")
    if not raises:
        return text
    listed = [f"- `{name}`: {why}" for name, _, why in (line.strip().partition(": ") for line in _joined(after))]
    return before.rstrip() + "\n\nRaises\n\n" + "\n".join(listed)


def _joined(text: str) -> list[str]:
    """Join what a docstring wrapped: a line that is indented further belongs to the one before."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("     ") and lines:
            lines[-1] += " " + line.strip()
        elif line.strip():
            lines.append(line)
    return lines


def write_errors() -> Iterator[str]:
    yield "# Errors"
    yield prose("""
        All are `RotaError`s. The code is stable: with `--json` it is in `error.code` on standard error. The exit
        status is that of the command line.
    """)
    for kind in error_classes():
        yield f"## {kind.code}"
        family = kind.__mro__[1].__name__
        yield f"`{kind.__name__}`, a `{family}`; exit status {kind.exit_status}. {one_line(inspect.getdoc(kind))}"


def error_classes() -> list[type[errors.RotaError]]:
    """Return every error that Rota raises, in the order of the source."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RotaError)]
    return [kind for kind in found if kind is not errors.RotaError]
