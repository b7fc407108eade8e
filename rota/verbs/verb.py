"""What a verb is: a word of the command line, on a target, with parameters that are plain values.

A verb is a function of a ``Rota``, its target where it has one, and keyword parameters; what it returns can be written
as JSON. It holds no rule: those are the client's and the model's. The words of parameters are the command line's flags
with underscores, and so is their meaning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, TypeVar

from rota.client import Rota
from rota.errors import Invalid

View = Any  # what can be written as JSON

F = TypeVar("F", bound=Callable[..., View])


class Role(StrEnum):
    """Who may use a verb."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. ``target`` says what it is about, as a word; None: it has none."""

    name: str
    role: Role
    target: str | None
    is_target_optional: bool
    parameters: frozenset[str]  # the words that it knows
    takes_others: bool  # and those of a definition, which the client checks
    act: Callable[..., View]

    def run(self, rota: Rota, target: str | None, parameters: Mapping[str, Any]) -> View:
        """Do it.

        Raises:
            Invalid: the target is missing or there is none, a parameter is unknown, missing, or breaks its rule.
            RotaError: as the client's function.
        """
        positional: list[Any] = []
        if self.target is None and target is not None:
            raise Invalid("target", target, f"{self.name} has no target")
        if self.target is not None and target is None and not self.is_target_optional:
            raise Invalid("target", None, f"{self.name} is about a {self.target}: name it")
        if self.target is not None:
            positional.append(target)
        for name in parameters:
            if name not in self.parameters and not self.takes_others:
                near = get_close_matches(name, self.parameters, n=1)
                known = f"it has {', '.join(sorted(self.parameters))}" if self.parameters else "it has none"
                hint = f"did you mean {near[0]}?" if near else known
                raise Invalid(name, parameters[name], f"{self.name} has no such parameter; {hint}")
        given = {_as_argument(name): value for name, value in parameters.items()}
        missing = [
            name
            for name, one in inspect.signature(self.act).parameters.items()
            if one.kind is one.KEYWORD_ONLY and one.default is one.empty and name not in given
        ]
        if missing:
            raise Invalid(_as_word(missing[0]), None, f"{self.name} wants it")
        return self.act(rota, *positional, **given)


VERBS: dict[str, Verb] = {}


def verb(name: str, role: Role) -> Callable[[F], F]:
    """Make the function below the verb ``name``: its second parameter is the target, its keywords the parameters."""

    def add(act: F) -> F:
        parameters = list(inspect.signature(act).parameters.values())
        positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
        assert name not in VERBS
        assert len(positional) <= 1
        VERBS[name] = Verb(
            name=name,
            role=role,
            target=_as_word(positional[0].name) if positional else None,
            is_target_optional=bool(positional) and positional[0].default is not inspect.Parameter.empty,
            parameters=frozenset(_as_word(one.name) for one in parameters if one.kind is one.KEYWORD_ONLY),
            takes_others=any(one.kind is one.VAR_KEYWORD for one in parameters),
            act=act,
        )
        return act

    return add


def _as_argument(word: str) -> str:
    return f"{word}_" if word in {"from", "in"} else word


def _as_word(argument: str) -> str:
    return argument.removesuffix("_")
