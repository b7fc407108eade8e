"""Where the runs of a job go: one node of its pool or all of them, rather this one or not that one.

A *selector* is the name of a node, or a label ``K=V`` of nodes. Every door reads what a user typed through these
checks, and a row goes through them again before it acts.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import cast

from rota.errors import Invalid
from rota.model.names import check_name

LABELS_MAX = 50
SELECTORS_MAX = 50
PATTERNS_MAX = 50
MEMBERS_MAX = 1000

NO_LABELS: Mapping[str, str] = MappingProxyType({})

_LABEL_NAME = re.compile(r"[^\W_][\w./-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w.:/+-]{1,100}")
_LABEL_RULE = (
    "a label is K=V: a name of 1 to 63 letters, digits and . _ / -, the first a letter or digit, and a value of 1 to "
    "100 letters, digits and . _ / - : +; such as gpu=yes"
)
_PATTERN = re.compile(r"[\w._:/*?-]{1,200}")


class RunsOn(StrEnum):
    """How many nodes of its pool a slot of a job is for."""

    ANY = "any"
    ALL = "all"


class RetryNode(StrEnum):
    """Where an attempt after a bad one goes."""

    ANY = "any"
    OTHER = "other"  # another node first, if there is one


def check_label(field: str, name: object, value: object) -> tuple[str, str]:
    """Return a label, its name and its value.

    Raises:
        Invalid: it is no label.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise Invalid(field, f"{name}={value}", _LABEL_RULE)
    if not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
        raise Invalid(field, f"{name}={value}", _LABEL_RULE)
    return name, value


def read_label(field: str, text: object) -> tuple[str, str]:
    """Read a label as it is typed, ``K=V``.

    Raises:
        Invalid: it is no label.
    """
    name, equals, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not equals:
        raise Invalid(field, text, _LABEL_RULE)
    return check_label(field, name.strip(), value.strip())


def check_labels(field: str, value: object) -> dict[str, str]:
    """Return labels, sorted by name, from a mapping or a list of ``K=V``.

    Raises:
        Invalid: one is no label, or a name comes twice.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        pairs = [check_label(field, name, text) for name, text in cast("Mapping[object, object]", value).items()]
    elif isinstance(value, list | tuple):
        pairs = [read_label(field, text) for text in cast("list[object]", value)]
    else:
        raise Invalid(field, value, "labels are a mapping of names to values, or a list of K=V")
    found: dict[str, str] = {}
    for name, text in pairs:
        if found.setdefault(name, text) != text:
            raise Invalid(field, f"{name}={text}", f"a node has one value for each label; {name} is {found[name]} too")
    if len(found) > LABELS_MAX:
        raise Invalid(field, f"{len(found)} labels", f"there are at most {LABELS_MAX}")
    return dict(sorted(found.items()))


def check_selectors(field: str, value: object) -> tuple[str, ...]:
    """Return selectors, each once: names of nodes, and labels ``K=V``.

    Raises:
        Invalid: one is neither.
    """
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid(field, value, "it is a list of names of nodes and labels K=V")
    found: list[str] = []
    for one in cast("list[object]", given):
        if isinstance(one, str) and "=" in one:
            selector = "=".join(read_label(field, one))
        else:
            selector = check_name(field, one)
        if selector not in found:
            found.append(selector)
    if len(found) > SELECTORS_MAX:
        raise Invalid(field, f"{len(found)} of them", f"there are at most {SELECTORS_MAX}")
    return tuple(found)


def check_patterns(field: str, value: object) -> tuple[str, ...]:
    """Return patterns for names of nodes, with ``*`` and ``?``.

    Raises:
        Invalid: one is no pattern.
    """
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid(field, value, "it is a list of patterns such as web*")
    found: list[str] = []
    for one in cast("list[object]", given):
        if not isinstance(one, str) or not _PATTERN.fullmatch(one):
            raise Invalid(field, one, "a pattern is a name of nodes in which * and ? stand for others: web*, db-?")
        if one not in found:
            found.append(one)
    if len(found) > PATTERNS_MAX:
        raise Invalid(field, f"{len(found)} of them", f"there are at most {PATTERNS_MAX}")
    return tuple(found)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a node's name matches a pattern; upper and lower case count."""
    return fnmatch.fnmatchcase(name, pattern)


@dataclass(frozen=True, slots=True)
class PoolRule:
    """Which nodes serve a pool besides those that say so themselves: each that any part of it names."""

    pool: str
    members: tuple[str, ...] = ()  # names
    patterns: tuple[str, ...] = ()  # of names
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # nodes that have all of them

    @classmethod
    def checked(cls, pool: object, members: object = None, patterns: object = None, labels: object = None) -> PoolRule:
        """Check what a user typed, or what stands in a row.

        Raises:
            Invalid: a part breaks its rule.
        """
        given = [members] if isinstance(members, str) else members
        if given is not None and not isinstance(given, list | tuple):
            raise Invalid("members", members, "it is a list of names of nodes")
        names = tuple(dict.fromkeys(check_name("members", name) for name in cast("list[object]", given or ())))
        if len(names) > MEMBERS_MAX:
            raise Invalid(
                "members", f"{len(names)} of them", f"there are at most {MEMBERS_MAX}; use a label or pattern"
            )
        return cls(check_name("pool", pool), names, check_patterns("nodes", patterns), check_labels("labels", labels))

    @property
    def is_empty(self) -> bool:
        """Whether it names nobody."""
        return not (self.members or self.patterns or self.labels)

    def why_takes(self, name: str, labels: Mapping[str, str]) -> str | None:
        """Say by what it names the node of that name with these labels; None: it does not."""
        if name in self.members:
            return "member"
        if (pattern := next((one for one in self.patterns if matches(one, name)), None)) is not None:
            return f"nodes {pattern}"
        if self.labels and all(labels.get(label) == value for label, value in self.labels.items()):
            return "label " + ", ".join(f"{label}={value}" for label, value in self.labels.items())
        return None


def pools_served(
    own: Iterable[str], name: str, labels: Mapping[str, str], rules: Iterable[PoolRule]
) -> tuple[str, ...]:
    """Return the pools of a node: those it names itself, then those whose rules name it."""
    ruled = (rule.pool for rule in rules if rule.why_takes(name, labels) is not None)
    return tuple(dict.fromkeys([*own, *ruled]))


def selectors_of(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return all selectors that a node answers to."""
    return (name, *(f"{label}={value}" for label, value in sorted(labels.items())))
