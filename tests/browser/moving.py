"""How a test lets a page go on: its clock is moved, and what the page asks its server for is awaited."""

from __future__ import annotations

from re import Pattern

import pytest
from playwright.sync_api import Locator, Page, expect

MOVES_MAX = 60
MOVE_MILLISECONDS = 5000  # whatever looks again by itself does so within
ANSWER_MILLISECONDS = 500  # for what was asked for; then the clock is moved again

with_and_without_script = pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])


def move_until(page: Page, found: Locator, text: str | Pattern[str]) -> None:
    """Move the clock of a page until something says this."""
    for _ in range(MOVES_MAX):
        page.clock.fast_forward(MOVE_MILLISECONDS)
        try:
            expect(found).to_have_text(text, timeout=ANSWER_MILLISECONDS)
        except AssertionError:
            continue
        return
    expect(found).to_have_text(text)
