"""Forms for definitions: a field for each option that the command line has a flag for, with what the flag says of it.

Invariant: only what somebody changed on the page is sent to the verb. The page carries what stood there when it was
shown, so that what others changed meanwhile in other options stays. Nothing is checked here: the verb does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rota.client.options import JOB_OPTIONS, SCHEDULE_OPTIONS
from rota.errors import Invalid
from rota.model.durations import format_duration
from rota.model.schedule import TIMINGS
from rota.verbs.table import find_verb
from rota.web.pages.asked import Asked

GIVEN = "option."
WAS = "was."
_ALL = {"job": JOB_OPTIONS, "schedule": SCHEDULE_OPTIONS}
_LONG = frozenset({"shell", "stdin"})  # of which each may have several lines
_ONE_OR_MANY = frozenset({"sql"})  # one text of several lines, or a JSON list of them
_NOT_OPTIONS = frozenset({"if_exists"})


@dataclass(frozen=True, slots=True)
class Field:
    """One option: how it is asked for, and what stands there. ``kind`` is choice, text, long, lines or json."""

    name: str
    kind: str
    says: str
    choices: tuple[str, ...] = ()
    text: str = ""
    was: str = ""


def fields_for(
    asked: Asked,
    word: str,
    view: Mapping[str, Any] | None = None,
    *,
    first: Iterable[str] = (),
    without: Iterable[str] = (),
) -> list[Field]:
    """Return the fields of the options of a verb, with what ``view`` shows of them, or what was given already."""
    schemas = asked.describe(find_verb(word))
    names = [*schemas, *(name for name in _ALL.get(word.partition(".")[0], ()) if name not in schemas)]
    left_out = _NOT_OPTIONS | set(without)
    ahead = [name for name in first if name in names]
    found: list[Field] = []
    for name in [*ahead, *(name for name in names if name not in ahead)]:
        if name in left_out:
            continue
        schema = schemas.get(name, {})
        kind, choices = _kind_of(name, schema)
        was = _write(kind, schema, None if view is None else view.get(name))
        if kind == "choice" and was and was not in choices:
            choices = (was, *choices)  # what a hand has written into the row
        text = was
        if any(given == GIVEN + name for given, _ in asked.given):  # it comes again, as somebody has filled it in
            text, was = _plain(asked.text(GIVEN + name)), _plain(asked.text(WAS + name))
        found.append(Field(name, kind, str(schema.get("description", "")), choices, text, was))
    return found


def changes_of(asked: Asked, word: str) -> dict[str, Any]:
    """Return the options that somebody changed in a form, as the verb takes them; None gives one back its default.

    Raises:
        Invalid: a value that is a JSON document is none.
    """
    schemas = asked.describe(find_verb(word))
    found: dict[str, Any] = {}
    for given, value in asked.given:
        name = given.removeprefix(GIVEN)
        if name != given and (text := _plain(value)) != _plain(asked.text(WAS + name)):
            found[name] = _read(name, _kind_of(name, schemas.get(name, {}))[0], text)
    return found


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")  # a form sends the first of these for each end of a line


def _kind_of(name: str, schema: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    kind = schema.get("type")
    if name in _LONG or name in _ONE_OR_MANY:
        return "long", ()
    if name == "command" or name in TIMINGS or "anyOf" in schema:
        return "lines", ()
    if "enum" in schema:
        return "choice", tuple(str(one) for one in schema["enum"])
    if kind == "boolean":
        return "choice", ("true", "false")
    return ("json", ()) if kind == "object" else ("text", ())


def _write(kind: str, schema: Mapping[str, Any], value: Any) -> str:
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict) or kind == "json":
        return _plain(json.dumps(value, ensure_ascii=False))
    if isinstance(value, list):
        items = [_write_duration(schema, one) for one in cast("list[Any]", value)]
        text = "\n".join(str(one) for one in items)
        whole = _split(text) == items if kind == "lines" else len(items) == 1 and not text.lstrip().startswith("[")
        return text if whole else json.dumps(items, ensure_ascii=False)
    return _plain(str(_write_duration(schema, value)))


def _write_duration(schema: Mapping[str, Any], value: Any) -> Any:
    is_duration = isinstance(value, int | float) and "number" in schema.get("type", ())
    return format_duration(value) if is_duration else value


def _read(name: str, kind: str, text: str) -> Any:
    if not text.strip():
        return None
    starts = text.lstrip()[:1]
    if kind == "json" or (kind == "text" and starts == "{"):
        return read_document(name, text)
    if kind == "choice" and text in {"true", "false"}:
        return text == "true"
    if kind == "lines":
        items = _split(text)
        return items[0] if name in TIMINGS and len(items) == 1 else items
    if name in _ONE_OR_MANY:
        return read_document(name, text) if starts == "[" else [text]
    return text if kind == "long" else text.strip()


def _split(text: str) -> list[Any]:
    """Return the lines of a text, or the items of the JSON list that it is."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return cast("list[Any]", found)
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_document(name: str, text: str) -> Any:
    """Read a JSON document that somebody wrote into a field; None where it is empty.

    Raises:
        Invalid: it is none.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(name, text, f"it is JSON: {error}") from None
