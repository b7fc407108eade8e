"""The protocols, searched to the last state: with all their guards nothing breaks, without any one something does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.model.protocol import GUARDS, INVARIANTS, MODELS, Guard, Model, search, without

ROTA = Path(__file__).parents[2] / "rota"


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_with_all_guards_every_invariant_holds_and_every_state_leads_to_an_end(model: Model) -> None:
    found = search(model)

    assert found.broken is None, "; ".join(found.trace)
    assert found.stuck == 0


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "_"))
def test_without_a_guard_its_invariant_breaks(guard: Guard) -> None:
    found = without(guard)

    assert found.broken == guard.breaks, "the guard is not needed, or the model lacks what it is for"
    assert found.trace


def test_every_invariant_is_kept_by_some_guard_or_by_the_search_itself() -> None:
    assert {guard.breaks for guard in GUARDS} | {"I7"} == set(INVARIANTS)


def test_what_the_guards_name_in_the_code_is_there() -> None:
    named = {word for guard in GUARDS for word in re.findall(r"\b[A-Z]{4,}(?:_[A-Z]+)+\b", guard.where)}
    named |= {word for guard in GUARDS for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", guard.where)}
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROTA.rglob("*.py"))

    assert "APPLY_MOVES" in named
    assert [word for word in sorted(named - {"CLOCK_BOOTTIME"}) if not re.search(rf"\b{word}\b", source)] == []
