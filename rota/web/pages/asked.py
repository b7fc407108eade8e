"""What a page is asked for, and how it asks verbs.

Invariant: viewers cost the database as much as one: what was looked at is kept for a moment, for whoever looks at the
same, and for a page that renews itself as long as one viewer waits between two looks. What somebody does here is seen
at once: it ends what is kept.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rota.client import Rota
from rota.store.database import now_of
from rota.verbs.table import find_verb
from rota.verbs.verb import Verb
from rota.web.openapi import Describe, nothing_known
from rota.web.pages.later import Later
from rota.web.problems import Refusal
from rota.web.trust import Identity

KEPT_SECONDS = 1.0
KEPT_MAX = 50
_NONE: Mapping[str, Any] = {}


class _Kept:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.at: float | None = None  # when it was looked at; None: it is being looked at
        self.seconds = 0.0  # how long it is kept at most
        self.view: Any = None

    def is_fresh(self, now: float, seconds: float) -> bool:
        return self.at is not None and now < self.at + seconds


class Looks:
    """What was looked at a moment ago. One thread asks, others that want the same wait for it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self.later = Later(clock=clock)

    def get(self, key: str, look: Callable[[], Any], seconds: float) -> Any:
        """Return what ``look`` returns, or has returned less than ``seconds`` ago."""
        with self._lock:
            now = self._clock()
            # What is over is let go, so that views do not pile up; what is being looked at is not over.
            self._kept = {
                other: one for other, one in self._kept.items() if one.at is None or one.is_fresh(now, one.seconds)
            }
            kept = self._kept.setdefault(key, _Kept())
            kept.seconds = max(kept.seconds, seconds)
            if len(self._kept) > KEPT_MAX:
                del self._kept[next(iter(self._kept))]
        with kept.lock:
            if not kept.is_fresh(self._clock(), seconds):
                began = self._clock()
                kept.view = look()
                kept.at = began
            return kept.view

    def forget(self) -> None:
        """Look anew from now on."""
        with self._lock:
            self._kept = {}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a page, or of a form."""

    rota: Rota
    looks: Looks
    identity: Identity
    path: str  # as it stands in the address
    pieces: Mapping[str, str] = field(default_factory=dict[str, str])
    given: Sequence[tuple[str, str]] = ()  # the query string of a page, or the fields of a form
    describe: Describe = nothing_known  # what the parameters of verbs are
    live_seconds: float = 0.0  # of a page that renews itself: after how long it does; 0: somebody has opened it

    def piece(self, name: str) -> str:
        """Return a piece of the path, decoded."""
        return self.pieces[name]

    def word(self, name: str) -> str:
        """Return what was given by this name, without spaces around it; an empty text when nothing was."""
        return next((value.strip() for found, value in self.given if found == name), "")

    def words(self, name: str) -> list[str]:
        """Return all that was given by this name, without what is empty."""
        return [value.strip() for found, value in self.given if found == name and value.strip()]

    def text(self, name: str) -> str:
        """Return what was given by this name as it is; an empty text when nothing was."""
        return next((value for found, value in self.given if found == name), "")

    def may(self, word: str) -> bool:
        """Tell whether whoever asks may use a verb; what they may not is not offered to them."""
        return self.identity.may(find_verb(word))

    def check_may(self, word: str) -> None:
        """Check that whoever asks may use a verb, for a page that is there to use it.

        Raises:
            Refusal: they may not.
        """
        self._allowed(word)

    def look(self, word: str, target: str | None = None, parameters: Mapping[str, Any] = _NONE) -> Any:
        """Return what a verb that only looks answers, or has answered a moment ago. Do not change it.

        Raises:
            RotaError: as the verb.
            Refusal: whoever asks may not.
        """
        verb = self._allowed(word)
        key = _key_of(word, target, parameters)
        return self.looks.get(key, lambda: verb.run(self.rota, target, parameters), self.kept_seconds())

    def look_later(self, word: str, parameters: Mapping[str, Any], seconds: float) -> Any | None:
        """Return what a verb that takes its time has answered about ``seconds`` ago; None: it is being asked.

        Raises:
            RotaError: as the verb.
            Refusal: whoever asks may not.
        """
        verb = self._allowed(word)
        key = _key_of(word, None, parameters)
        return self.looks.later.get(key, lambda: verb.run(self.rota, None, parameters), seconds)

    def kept_seconds(self) -> float:
        """Return how old may be what is shown."""
        return max(KEPT_SECONDS, self.live_seconds)

    def do(self, word: str, target: str | None = None, parameters: Mapping[str, Any] = _NONE) -> Any:
        """Let a verb act, and return what it answers.

        Raises:
            RotaError: as the verb.
            Refusal: whoever asks may not.
        """
        verb = self._allowed(word)
        try:
            return verb.run(self.rota, target, parameters)
        finally:
            self.looks.forget()

    def now(self) -> datetime:
        """Return the database's now."""
        return self.looks.get("now", lambda: self.rota.database.read(now_of), self.kept_seconds())

    def _allowed(self, word: str) -> Verb:
        verb = find_verb(word)
        if not self.identity.may(verb):
            rule = f"{verb.name} wants the role {verb.role}; {self.identity.name} is {self.identity.role}"
            raise Refusal(403, "forbidden", rule)
        return verb


def _key_of(word: str, target: str | None, parameters: Mapping[str, Any]) -> str:
    return json.dumps([word, target, sorted(parameters.items())], default=str)
