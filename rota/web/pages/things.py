"""What people do about things that have a name: jobs, schedules, nodes, pools, calendars and backfills.

Invariant: what takes something away, or cannot be taken back, is asked about on a page of its own first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rota.errors import Invalid
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.writing import piece


def _any(_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ThingDeed:
    """One of them. With a ``question`` it is asked first; ``fits`` tells for what it is offered."""

    verb: str
    label: str
    done: str
    question: str = ""
    fits: Callable[[Any], bool] = _any
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ends_it: bool = False  # there is no page of it afterwards


ThingDeeds = Mapping[str, ThingDeed]


def is_in(state: str) -> Callable[[Any], bool]:
    """Tell of what shows a state whether it is in this one."""
    return lambda view: view["state"] == state


def add_deeds(kind: str, base: str, deeds: ThingDeeds) -> None:
    """Let forms below ``base`` do these to a thing of a ``kind``, which is named by a piece of the address."""

    def find(asked: Asked) -> ThingDeed:
        word = asked.piece("do")
        if word not in deeds:
            raise Invalid("do", word, f"choose from {', '.join(deeds)}")
        return deeds[word]

    @page(f"{base}/{{name}}/ask/{{do}}", "confirm.html")
    def ask_about_it(asked: Asked) -> Context:
        deed, name = find(asked), asked.piece("name")
        asked.check_may(deed.verb)
        return {
            "title": f"{deed.label} {kind} {name}?",
            "question": deed.question,
            "action": f"{base}/{piece(name)}/do/{asked.piece('do')}",
            "label": deed.label,
            "to": f"{base}/{piece(name)}",
            "fields": {},
        }

    @act(f"{base}/{{name}}/do/{{do}}")
    def do_it(asked: Asked) -> Done:
        deed, name = find(asked), asked.piece("name")
        asked.do(deed.verb, name, deed.parameters)
        return Done(f"{kind} {name} {deed.done}", base if deed.ends_it else f"{base}/{piece(name)}")

    assert ask_about_it
    assert do_it


def deeds_for(asked: Asked, deeds: ThingDeeds, view: Any) -> ThingDeeds:
    """Return those that are offered to whoever asks."""
    return {word: deed for word, deed in deeds.items() if asked.may(deed.verb) and deed.fits(view)}
