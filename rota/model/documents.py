"""JSON that Rota keeps for others: arguments, results, checkpoints.

Invariant: the text that comes out is one that every supported database stores and every JSON reader reads back as the
same value: at most 1 MiB, 64 levels, no NaN, no lone surrogate, no NUL, no key twice; keys sorted, so that equal values
have equal text. Called at every door, and for each result before it is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from rota.errors import Invalid

DOCUMENT_BYTES_MAX = 1024 * 1024
DOCUMENT_DEPTH_MAX = 64
INTEGER_BITS_MAX = 4096  # well below what Python converts to text at all

EMPTY_ARGUMENTS = "{}"

# Tuples of types, since a job may run under Python 3.9, where types cannot be joined by |.
_LISTS = (list, tuple)
_CONTAINERS = (dict, list, tuple)


def encode_document(field: str, value: object) -> str:
    """Return ``value`` as compact JSON text.

    Raises:
        Invalid: it has no JSON form, or breaks one of the limits.
    """
    _check_value(field, value, value, 1)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:  # an int of more digits than Python prints, for one
        raise Invalid(field, value, f"it must be JSON; {error}") from None
    size = len(text.encode())
    if size > DOCUMENT_BYTES_MAX:
        raise Invalid(field, text, f"it must be at most {DOCUMENT_BYTES_MAX} bytes of JSON; it has {size}")
    return text


def decode_document(text: str) -> Any:
    """Read back what ``encode_document`` wrote."""
    return json.loads(text)


def check_document_text(field: str, text: object) -> str:
    """Return the JSON in ``text`` in the form ``encode_document`` gives it.

    Raises:
        Invalid: it is not JSON, or breaks one of the limits.
    """
    return encode_document(field, read_document(field, text))


def read_document(field: str, text: object) -> Any:
    """Return the value of the JSON in ``text``, which somebody typed or sent."""
    if not isinstance(text, str):
        raise Invalid(field, text, "it must be JSON text")
    if len(text) > DOCUMENT_BYTES_MAX:
        raise Invalid(field, text, f"it must be at most {DOCUMENT_BYTES_MAX} bytes of JSON; it has more")

    def refuse_constant(name: str) -> NoReturn:
        raise Invalid(field, text, f"it must be JSON, which has no {name}")

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise Invalid(field, text, f"the key {twice!r} is there twice")
        return found

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=build_object)
    except RecursionError:
        raise Invalid(field, text, f"it must not be nested deeper than {DOCUMENT_DEPTH_MAX} levels") from None
    except ValueError as error:
        raise Invalid(field, text, f"it must be JSON; {error}") from None


def encode_arguments(field: str, value: object) -> str:
    """Return the arguments of a job, a mapping, as JSON text; None is no arguments."""
    if value is None:
        return EMPTY_ARGUMENTS
    if not isinstance(value, Mapping):
        raise Invalid(field, value, 'arguments are a JSON object, such as {"day": "2026-11-20"}')
    return encode_document(field, dict(cast("Mapping[object, object]", value)))


def check_arguments_text(field: str, text: object) -> str:
    """Return the JSON object in ``text`` in the form ``encode_arguments`` gives it."""
    return encode_arguments(field, read_document(field, text))


def _check_value(field: str, whole: object, value: object, depth: int) -> None:
    if isinstance(value, _CONTAINERS) and depth > DOCUMENT_DEPTH_MAX:
        raise Invalid(field, whole, f"it must not be nested deeper than {DOCUMENT_DEPTH_MAX} levels")
    if isinstance(value, str):
        _check_text(field, whole, value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if value.bit_length() > INTEGER_BITS_MAX:  # the error must not show it either: Python refuses to print it
            raise Invalid(field, "a huge number", f"a whole number in it must be at most {INTEGER_BITS_MAX} bits long")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(field, whole, f"it must be JSON, which has no {value}")
    elif isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise Invalid(field, whole, f"the keys of a JSON object are text; {key!r} is not")
            _check_text(field, whole, key)
            _check_value(field, whole, item, depth + 1)
    elif isinstance(value, _LISTS):
        for item in cast("list[object]", value):
            _check_value(field, whole, item, depth + 1)
    else:
        raise Invalid(field, whole, f"it must be JSON, which has no {type(value).__name__}")


def _check_text(field: str, whole: object, text: str) -> None:
    if text.isascii():
        if "\0" in text:
            raise Invalid(field, whole, "text in it must not hold the character NUL, which PostgreSQL cannot keep")
        return
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Invalid(field, whole, "text in it must not hold NUL or half of a surrogate pair")
