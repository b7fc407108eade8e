"""The words by which a job chooses what bad ends are retried: ``retry_on`` and ``no_retry_on``.

A word is the name of an exception, as the ledger shows it (``OSError``, ``requests.exceptions.Timeout``), and stands
for the classes below it too; ``exit:75`` or ``signal:SIGKILL``; or a kind of end: ``exit``, ``signal``, ``exception``,
``timeout``, ``start_error``, ``bad_result``, ``no_result``. All doors parse here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from signal import Signals
from typing import cast

from rota.errors import Invalid
from rota.model.run import End

WORDS_MAX = 100
WORDS_SAID_MAX = 5
KINDS = ("exit", "signal", "exception", "timeout", "start_error", "bad_result", "no_result")

_EXCEPTION = re.compile(r"[^\W\d]\w*(?:\.(?:[^\W\d]\w*|<locals>))*")
_RULE = (
    "it names an exception (OSError, package.module.Error), exit:75, signal:SIGKILL, or one of exit, signal, "
    "exception, timeout, start_error, bad_result, no_result"
)
# Only kinds that a guardian or a claim tells otherwise than by its own word.
_KIND_WORDS = {"timeout": "timeout", "not_started": "start_error", "bad_result": "bad_result", "no_result": "no_result"}


def check_words(field: str, value: object) -> tuple[str, ...]:
    """Return the words of ``value``, a list or a single one, as they are kept: sorted, each once.

    Raises:
        Invalid: one of them names no end.
    """
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid(field, value, "it is a list of words")
    words = {_check_word(field, word) for word in cast("Sequence[object]", given)}
    if len(words) > WORDS_MAX:
        raise Invalid(field, f"{len(words)} words", f"there are at most {WORDS_MAX}")
    return tuple(sorted(words))


def _check_word(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise Invalid(field, value, _RULE)
    word = value.strip()
    kind, colon, which = word.partition(":")
    if colon:
        if kind == "exit" and re.fullmatch(r"[0-9]{1,4}", which) and 1 <= int(which) <= 255:
            return f"exit:{int(which)}"
        if kind == "signal" and (name := _read_signal(which)) is not None:
            return f"signal:{name}"
        raise Invalid(field, value, "exit codes are exit:1 to exit:255, and signals are written as in signal:SIGKILL")
    if word in KINDS:
        return word
    # Python's own exceptions have no module in front, and begin with a capital: what does not is a slip of the pen.
    if not _EXCEPTION.fullmatch(word) or ("." not in word and not word[0].isupper()):
        raise Invalid(field, value, _RULE)
    return word


def _read_signal(text: str) -> str | None:
    try:
        return name_signal(Signals(int(text)) if text.isdigit() else Signals[f"SIG{text.upper().removeprefix('SIG')}"])
    except (KeyError, ValueError):
        return None


def name_signal(number: int | None) -> str:
    """Name a signal, as SIGKILL; one without a name is its number."""
    try:
        return Signals(number or 0).name
    except ValueError:
        return str(number)


def words_of(end: End) -> frozenset[str]:
    """Return every word that names ``end``."""
    if end.kind == "exception" or (end.kind == "exited" and end.error_type):
        names = (end.error_type, *end.error_bases) if end.error_type else ()
        return frozenset({"exception", *names})
    if end.kind == "exited":
        return frozenset({"exit", f"exit:{end.exit_code}"})
    if end.kind == "signalled":
        return frozenset({"signal", f"signal:{name_signal(end.signal)}"})
    return frozenset({_KIND_WORDS[end.kind]} if end.kind in _KIND_WORDS else ())


def say_words(words: Sequence[str]) -> str:
    """List words in a sentence; of many, the first ones."""
    more = len(words) - WORDS_SAID_MAX
    return ", ".join(words[:WORDS_SAID_MAX]) + (f" and {more} more" if more > 0 else "")
