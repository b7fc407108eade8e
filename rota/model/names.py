"""What a name may look like: of a job, schedule, pool, node, key.

Every door calls this before a name reaches the store, so that a name can be typed in a shell, put in a URL and compared
exactly on every database.
"""

from __future__ import annotations

import unicodedata

from rota.errors import Invalid

NAME_LENGTH_MAX = 200
NAME_MARKS = frozenset("._:/-")

_RULE = f"1 to {NAME_LENGTH_MAX} characters: letters, digits and . _ : / -"


def check_name(field: str, value: object) -> str:
    """Return ``value`` if it is a name.

    Raises:
        Invalid: it is empty, too long, or holds a character that names do not have.
    """
    if not isinstance(value, str):
        raise Invalid(field, value, f"a name is text of {_RULE}")
    if not value:
        raise Invalid(field, value, f"a name has {_RULE}; it is empty")
    if len(value) > NAME_LENGTH_MAX:
        raise Invalid(field, value, f"a name has {_RULE}; this one has {len(value)}")
    for character in value:
        if not _belongs_to_a_name(character):
            raise Invalid(field, value, f"a name has {_RULE}; not {_describe(character)}")
    return value


def check_pool(value: object) -> str:
    """Return ``value`` if it can name a pool."""
    return check_name("pool", value)


def _belongs_to_a_name(character: str) -> bool:
    # str.isalnum() would also let in fractions, circled digits and other characters that merely have a number.
    category = unicodedata.category(character)
    return category[0] == "L" or category == "Nd" or character in NAME_MARKS


def _describe(character: str) -> str:
    if character == " ":
        return "a space"
    return f"{character!r}" if character.isprintable() else f"the character U+{ord(character):04X}"
