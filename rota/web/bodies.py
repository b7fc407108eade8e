"""What a request brings: a JSON object in its body, words in its query string. Read with limits, and strictly.

Invariant: nothing here is guessed. What two programs could read differently (a name that comes twice, bytes that are no
UTF-8, NaN) is refused, so that a proxy that checks and Rota that acts see the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, cast
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect

from rota.verbs.verb import Verb
from rota.web.problems import Refusal

BODY_BYTES_MAX = 2 * 2**20
DEPTH_MAX = 100
QUERY_BYTES_MAX = 16_384
QUERY_WORDS_MAX = 100
_SURROGATE = re.compile(r"[\ud800-\udfff]")


async def read_object(headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> dict[str, Any]:
    """Read a body that is a JSON object; no body at all is an empty one.

    Raises:
        Refusal: it is too large (413), of another kind (415), or no JSON object (400).
    """
    body = await read_bytes(headers, stream)
    check_kind(headers, is_empty=not body)
    return parse_object(body) if body else {}


async def read_bytes(headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> bytes:
    """Read a body to its end.

    Raises:
        Refusal: it is too large (413), or its sender has gone before it was whole (400).
    """
    length = headers.get("content-length")
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async for chunk in stream:
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise _too_large()
    except ClientDisconnect:  # nobody hears it, and it is no error of the server
        raise _unreadable("the body has ended before it was whole") from None
    return bytes(body)


def check_kind(headers: Mapping[str, str], *, is_empty: bool) -> None:
    """Check what kind of body a request says it has. A form, which any page may send, is none that acts.

    Raises:
        Refusal: it is not JSON in UTF-8, or compressed.
    """
    kind, _, rest = headers.get("content-type", "").partition(";")
    if is_empty and not kind:
        return
    if kind.strip().lower() != "application/json":
        raise Refusal(415, "not-json", "send application/json: an object with the parameters", value=kind.strip())
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", rest, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in {"utf-8", "utf8"}:
        raise Refusal(415, "not-json", "JSON is in UTF-8", value=charset[1])
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "not-json", "send it uncompressed", value=headers["content-encoding"])


def parse_object(body: bytes) -> dict[str, Any]:
    """Read the text of a JSON object.

    Raises:
        Refusal: it is none, in another encoding than UTF-8, or says one thing twice.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _unreadable(f"the body is not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise _unreadable("the body begins with a byte order mark; leave it out")
    try:
        given = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_whole, parse_float=_finite)
    except RecursionError:
        raise _unreadable("the body is nested too deeply") from None
    except ValueError as error:
        raise _unreadable(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise _unreadable("the body is a JSON object with the parameters")
    _check_texts(given, 0)
    return cast("dict[str, Any]", given)


def read_query(verb: Verb, query: bytes) -> dict[str, Any]:
    """Read a query string as parameters of a verb: each as often as it may come, in the kind that the verb wants.

    Raises:
        Refusal: it cannot be read; what is unknown or breaks a rule is refused by the verb.
    """
    found: dict[str, list[str]] = {}
    for name, value in split_query(query):
        found.setdefault(name, []).append(value)
    return {name: _read_word(verb, name, values) for name, values in found.items()}


def split_query(query: bytes) -> list[tuple[str, str]]:
    """Split a query string into names and values.

    Raises:
        Refusal: it is too long, or not UTF-8.
    """
    return split_pairs(query, "query string", QUERY_BYTES_MAX, QUERY_WORDS_MAX)


def split_pairs(text: bytes, kind: str, bytes_max: int, pairs_max: int) -> list[tuple[str, str]]:
    """Split what is encoded as a query string is, or a form.

    Raises:
        Refusal: it is too long, or not UTF-8.
    """
    if len(text) > bytes_max:
        raise _unreadable(f"the {kind} is longer than {bytes_max} bytes")
    pieces = [piece for piece in text.split(b"&") if piece]
    if len(pieces) > pairs_max:
        raise _unreadable(f"the {kind} has more than {pairs_max} parameters")
    found: list[tuple[str, str]] = []
    for piece in pieces:
        name, _, value = piece.partition(b"=")
        found.append((read_encoded(name.replace(b"+", b" ")), read_encoded(value.replace(b"+", b" "))))
    return found


def read_encoded(piece: bytes | str) -> str:
    """Read a percent-encoded piece of an address.

    Raises:
        Refusal: it is not UTF-8, or holds a NUL, which no database takes as text.
    """
    try:
        text = unquote_to_bytes(piece).decode()
    except UnicodeDecodeError:
        raise _unreadable("the address is not UTF-8, percent-encoded") from None
    if "\0" in text:
        raise _unreadable("the address holds a NUL")
    return text


def _read_word(verb: Verb, name: str, values: list[str]) -> Any:
    kind = verb.kinds.get(name)
    if kind is None:
        return values[0] if len(values) == 1 else values
    if len(values) > 1:
        raise _unreadable(f"{name} comes {len(values)} times; give it once", field=name)
    (value,) = values
    if kind is bool and value.lower() in {"true", "false", "1", "0", ""}:
        return value.lower() in {"true", "1", ""}
    if kind is int and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
        return int(value)
    return value  # which the verb refuses where it wants another kind


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # In one pass: counting each name among all of them takes minutes for a body of the size that is allowed.
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice!r} comes twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number has more than 20 digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


def _check_texts(value: Any, depth: int) -> None:
    """Refuse what no database keeps as text, wherever it stands."""
    if depth > DEPTH_MAX:
        raise _unreadable(f"the body is nested more than {DEPTH_MAX} deep")
    if isinstance(value, str):
        if "\0" in value:
            raise _unreadable("a text holds a NUL")
        if _SURROGATE.search(value):
            raise _unreadable("a text holds half of a surrogate pair")
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            _check_texts(name, depth + 1)
            _check_texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            _check_texts(inner, depth + 1)


def _too_large() -> Refusal:
    return Refusal(413, "too-large", f"a body has at most {BODY_BYTES_MAX // 2**20} MiB")


def _unreadable(detail: str, **facts: Any) -> Refusal:
    return Refusal(400, "unreadable", detail, **facts)
