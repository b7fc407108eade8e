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
from typing import Any, TypeVar, get_args, get_type_hints

from rota.client import Rota
from rota.errors import Invalid
from rota.model.roles import Role
from rota.model.verb_words import VERB_WORDS

__all__ = ["VERBS", "Role", "Verb", "View", "verb"]

View = Any  # what can be written as JSON

F = TypeVar("F", bound=Callable[..., View])


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. ``target`` says what it is about, as a word; None: it has none."""

    name: str
    role: Role
    target: str | None
    is_target_optional: bool
    parameters: frozenset[str]  # the words that it knows
    wanted: tuple[str, ...]  # those of them without which it does nothing
    kinds: Mapping[str, type[bool | int | str]]  # of those that are of one kind only; None is not given
    takes_others: bool  # and those of a definition, which the client checks
    acts: bool  # it may change something; the others only look
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
            if name not in self.parameters and (not self.takes_others or name in _NO_OPTIONS):
                near = get_close_matches(name, self.parameters, n=1)
                known = f"it has {', '.join(sorted(self.parameters))}" if self.parameters else "it has none"
                hint = f"did you mean {near[0]}?" if near else known
                raise Invalid(name, parameters[name], f"{self.name} has no such parameter; {hint}")
            if name in self.kinds:
                _check_kind(name, parameters[name], self.kinds[name])
        parameters = {name: value for name, value in parameters.items() if value is not None or name not in self.kinds}
        for name in self.wanted:
            if name not in parameters:
                raise Invalid(name, None, f"{self.name} wants it")
        given = {_as_argument(name): value for name, value in parameters.items()}
        return self.act(rota, *positional, **given)


VERBS: dict[str, Verb] = {}
_NO_OPTIONS = frozenset({"self", "rota", "name", "key"})  # of a definition: Python has these for what it is about


def verb(name: str, role: Role, *, acts: bool | None = None) -> Callable[[F], F]:
    """Make the function below the verb ``name``: its second parameter is the target, its keywords the parameters.

    Unless told, what is for more than a viewer acts.
    """

    def add(act: F) -> F:
        parameters = list(inspect.signature(act).parameters.values())
        positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][1:]
        keywords = {_as_word(one.name): one for one in parameters if one.kind is one.KEYWORD_ONLY}
        hints = get_type_hints(act)
        assert name not in VERBS
        assert name in VERB_WORDS, f"{name} is missing in rota.model.verb_words"
        assert len(positional) <= 1
        VERBS[name] = Verb(
            name=name,
            role=role,
            target=_as_word(positional[0].name) if positional else None,
            is_target_optional=bool(positional) and positional[0].default is not inspect.Parameter.empty,
            parameters=frozenset(keywords),
            wanted=tuple(word for word, one in keywords.items() if one.default is one.empty),
            kinds={word: kind for word, one in keywords.items() if (kind := _kind_of(hints[one.name])) is not None},
            takes_others=any(one.kind is one.VAR_KEYWORD for one in parameters),
            acts=role is not Role.VIEWER if acts is None else acts,
            act=act,
        )
        return act

    return add


def _as_argument(word: str) -> str:
    return f"{word}_" if word in {"from", "in"} else word


def _as_word(argument: str) -> str:
    return argument.removesuffix("_")


_RULES: dict[type, str] = {bool: "it is true or false", int: "it is a whole number", str: "it is text"}


def _kind_of(hint: Any) -> type[bool | int | str] | None:
    for kind in (bool, int, str):
        if hint is kind or kind in get_args(hint):
            return kind
    return None


def _check_kind(name: str, value: Any, kind: type) -> None:
    if value is None:
        return
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Invalid(name, value, _RULES[kind])
