"""The pages about what is imported: the Python API with its signatures, and the errors."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import rota
from docs.generate.markdown import fence, one_line, prose
from rota import errors

SIGNATURE_WIDTH = 100


def write_python() -> Iterator[str]:
    yield "# Python"
    yield "Everything is imported from `rota`: `from rota import Rota, current_run`."
    for name in rota.__all__:
        member = getattr(rota, name)
        if inspect.isclass(member) and issubclass(member, errors.RotaError):
            continue
        if inspect.isclass(member):
            yield f"## {name}"
            yield fence("text", f"{name}{format_signature(member)}")
            yield doc(member)
            yield from _write_members(member, member.__name__.lower())
        elif callable(member):
            yield f"## {name}"
            yield fence("text", f"{name}{format_signature(member)}")
            yield doc(member)
    for variable, path in PYTHON_PARTS.items():
        module, _, name = path.partition(":")
        part = getattr(importlib.import_module(module), name)
        yield f"## {variable}"
        yield doc(part)
        yield from _write_members(part, variable)
    yield "## Errors"
    yield (
        "Each is described under its code in [errors](errors.md): "
        + ", ".join(
            f"[`{kind.__name__}`](errors.md#{kind.code})" for kind in error_classes() if kind.__name__ in rota.__all__
        )
        + "."
    )


# What is reached through a Rota rather than imported.
PYTHON_PARTS = {
    "rota.jobs": "rota.client.jobs:Jobs",
    "rota.schedules": "rota.client.schedules:Schedules",
    "rota.schedules[key]": "rota.client.schedules:ScheduleHandle",
    "rota.runs": "rota.client.runs:Runs",
    "rota.runs[id]": "rota.client.runs:RunHandle",
}


def _write_members(owner: type[Any], called: str) -> Iterator[str]:
    for name, member in vars(owner).items():
        if name.startswith("_") or not inspect.getdoc(member):
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
