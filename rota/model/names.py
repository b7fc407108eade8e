"""What a name may look like: of a job, schedule, pool, node, key.

Every door calls this before a name reaches the store, so that a name can be typed in a shell, put in a URL and compared
exactly on every database.
"""

from __future__ import annotations

import re
import unicodedata

from rota.errors import Invalid

NAME_LENGTH_MAX = 200
NAME_MARKS = frozenset("._:/-")

ENV_DEFAULT = "default"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+!-]{0,99}", re.ASCII)
NAME_RULE = f"1 to {NAME_LENGTH_MAX} characters: letters, digits and . _ : / -"


def check_name(field: str, value: object) -> str:
    """Return ``value`` if it is a name.

    Raises:
        Invalid: it is empty, too long, or holds a character that names do not have.
    """
    if not isinstance(value, str):
        raise Invalid(field, value, f"a name is text of {NAME_RULE}")
    if not value:
        raise Invalid(field, value, f"a name has {NAME_RULE}; it is empty")
    if len(value) > NAME_LENGTH_MAX:
        raise Invalid(field, value, f"a name has {NAME_RULE}; this one has {len(value)}")
    if value in {
        ".",
        "..",
    }:  # no address leads there, not even a quoted one: https://url.spec.whatwg.org/#dot-path-segment
        raise Invalid(field, value, f"a name is more than the step {value!r} of a path")
    for character in value:
        if not belongs_to_a_name(character):
            raise Invalid(field, value, f"a name has {NAME_RULE}; not {_describe(character)}")
    return value


def check_pool(value: object) -> str:
    """Return ``value`` if it can name a pool."""
    return check_name("pool", value)


def check_version(field: str, value: object) -> str:
    """Return ``value`` if it is the version of an environment."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        rule = 'a version is text such as "1.2": 1 to 100 letters, digits and . _ + ! -, a letter or digit first'
        raise Invalid(field, value, rule)
    return value


def check_env(field: str, value: object) -> str:
    """Return ``value`` if it asks for an environment: ``NAME``, or ``NAME==VERSION``.

    Raises:
        Invalid: it is neither, too long, or the name of what a job runs in that asks for none.
    """
    if not isinstance(value, str):
        raise Invalid(field, value, "an environment is NAME or NAME==VERSION")
    name, equals, version = value.partition("==")
    try:
        check_name(field, name)
        if equals:
            check_version(field, version)
    except Invalid as error:
        raise Invalid(field, value, error.rule) from None
    if len(value) > NAME_LENGTH_MAX:
        raise Invalid(field, value, f"name and version have at most {NAME_LENGTH_MAX} characters together")
    if name == ENV_DEFAULT:
        rule = f"{ENV_DEFAULT} is the worker's own, which a job gets that asks for none: leave it out, or name another"
        raise Invalid(field, value, rule)
    return value


def belongs_to_a_name(character: str) -> bool:
    """Tell whether a name may hold this character."""
    # str.isalnum() would also let in fractions, circled digits and other characters that merely have a number.
    category = unicodedata.category(character)
    return category[0] == "L" or category == "Nd" or character in NAME_MARKS


def _describe(character: str) -> str:
    if character == " ":
        return "a space"
    return f"{character!r}" if character.isprintable() else f"the character U+{ord(character):04X}"
