"""Where each verb is found over HTTP: derived from the verb itself, so that a new one is there by itself.

    X.list                       GET     /api/v1/Xs
    X.show                       GET     /api/v1/Xs/{target}
    X.create, X.add, X.start     POST    /api/v1/Xs             the target stands in the body
    X.edit                       PATCH   /api/v1/Xs/{target}
    X.delete                     DELETE  /api/v1/Xs/{target}
    why.X                        GET     /api/v1/Xs/{target}/why
    what only looks              GET     /api/v1/Xs/{target}/word, or /api/v1/word without a target
    what acts                    POST    /api/v1/Xs/{target}/word

Invariant: a GET is a verb that only looks, and nothing else is; what acts is never a GET.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rota.verbs.verb import Verb

ROOT = "/api/v1"
MAKING = ("create", "add", "start")  # the first of these that a thing has makes one; another one is done to one
# What cannot be derived: a run is made by its job, and may be asked for where runs are.
ALSO = {"job.run": ("POST", "/runs", "job")}


@dataclass(frozen=True, slots=True)
class Resource:
    """One way to a verb. ``names_target`` is the word in the body that names the target; None: it is in the path."""

    verb: Verb
    method: str
    path: str
    names_target: str | None = None

    @property
    def lists(self) -> bool:
        """Whether it answers with pages of a list."""
        return self.method == "GET" and self.verb.name.endswith(".list")

    @property
    def makes(self) -> str | None:
        """The collection in which an answer is found again that has an id or a name."""
        if self.verb.name == "job.run":
            return f"{ROOT}/runs"
        return self.path if self.names_target is not None else None


def derive_resources(verbs: Iterable[Verb]) -> list[Resource]:
    """Return all ways to ``verbs``, sorted by path and method."""
    listed = list(verbs)
    names = {verb.name for verb in listed}
    found = [resource for verb in listed for resource in _derive(verb, names)]
    return sorted(found, key=lambda one: (one.path, one.method))


def _derive(verb: Verb, names: set[str]) -> Iterator[Resource]:
    thing, _, word = verb.name.partition(".")
    looks = not verb.acts
    if verb.name in ALSO:
        method, path, target = ALSO[verb.name]
        yield Resource(verb, method, f"{ROOT}{path}", target)
    if not word:  # status
        yield Resource(verb, "GET" if looks else "POST", f"{ROOT}/{thing}")
        return
    if thing == "why":
        thing, word = word, "why"
    many = f"{ROOT}/{thing if thing == 'board' else f'{thing}s'}"
    one = f"{many}/{{{verb.target}}}" if verb.target is not None else many
    if word == next((making for making in MAKING if f"{thing}.{making}" in names), None):
        yield Resource(verb, "POST", many, verb.target)
    elif word in ("list", "show"):
        yield Resource(verb, "GET", one)
    elif word == "edit":
        yield Resource(verb, "PATCH", one)
    elif word == "delete":
        yield Resource(verb, "DELETE", one)
    else:
        yield Resource(verb, "GET" if looks else "POST", f"{one}/{word}")
