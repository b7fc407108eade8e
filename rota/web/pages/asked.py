"""What a page is asked for, and how it asks verbs.

Invariant: viewers cost the database as much as one: what was looked at is kept for a moment, for whoever looks at the
same. What somebody does here is seen at once: it ends what is kept.
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
from rota.web.problems import Refusal
from rota.web.trust import Identity

KEPT_SECONDS = 1.0
KEPT_MAX = 50
_NONE: Mapping[str, Any] = {}


class _Kept:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until = 0.0
        self.view: Any = None


class Looks:
    """What was looked at within the last second. One thread asks, others that want the same wait for it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def get(self, key: str, look: Callable[[], Any], seconds: float | None = None) -> Any:
        """Return what ``look`` returns, or has returned a moment ago."""
        with self._lock:
            now = self._clock()
            # What is over is let go, so that views do not pile up; what is being looked at is not over.
            self._kept = {other: one for other, one in self._kept.items() if one.until > now or one.until == 0.0}
            kept = self._kept.setdefault(key, _Kept())
            if len(self._kept) > KEPT_MAX:
                del self._kept[next(iter(self._kept))]
        with kept.lock:
            now = self._clock()
            if now >= kept.until:
                kept.view = look()
                kept.until = now + (KEPT_SECONDS if seconds is None else seconds)
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

    def look(
        self, word: str, target: str | None = None, parameters: Mapping[str, Any] = _NONE, *, seconds: float = 0.0
    ) -> Any:
        """Return what a verb that only looks answers, or has answered a second (or ``seconds``) ago. Do not change it.

        Raises:
            RotaError: as the verb.
            Refusal: whoever asks may not.
        """
        verb = self._allowed(word)
        key = json.dumps([word, target, sorted(parameters.items())], default=str)
        return self.looks.get(
            key, lambda: verb.run(self.rota, target, parameters), max(seconds, KEPT_SECONDS) if seconds else None
        )

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
        return self.looks.get("now", lambda: self.rota.database.read(now_of))

    def _allowed(self, word: str) -> Verb:
        verb = find_verb(word)
        if not self.identity.may(verb):
            rule = f"{verb.name} wants the role {verb.role}; {self.identity.name} is {self.identity.role}"
            raise Refusal(403, "forbidden", rule)
        return verb
