"""Text can be read in both themes: WCAG's AA, by the colours that the style sheet names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rota.web

RATIO_MIN = 4.5
CSS = (Path(rota.web.__file__).parent / "static/rota.css").read_text(encoding="utf-8")
PAIR = r"light-dark\((#\w{6}), (#\w{6})\)"
VARIABLES = {name: colours for name, *colours in re.findall(rf"--(\w+): {PAIR}", CSS)}
GROUNDS = ("back", "raised")
WRITTEN = ("text", "faint", "link", "good", "bad", "warn", "busy", "idle")
ON_CELLS = ("succeeded", "failed", "lost", "missed", "running", "claimed", "skipped", "cancelled", "ready", "waiting")


def colours_of(text: str) -> list[str]:
    """Return what a value is in light and in dark."""
    if variable := re.fullmatch(r"var\(--(\w+)\)", text):
        return VARIABLES[variable[1]]
    pair = re.fullmatch(PAIR, text)
    return list(pair.groups()) if pair else [text, text]


def declared(selector: str, name: str) -> list[str]:
    """Return the colours that the last rule for a selector gives."""
    found = [
        colours_of(value.strip())
        for selectors, rule in re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", CSS, flags=re.DOTALL))
        if selector in [one.strip() for one in selectors.split(",")]
        for value in re.findall(rf"(?:^|[;\s]){name}: ([^;]+)", rule)
    ]
    assert found, f"{selector} has no {name}"
    return found[-1]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ratio(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def too_faint(written: list[str], grounds: list[str]) -> list[str]:
    found = zip(("light", "dark"), written, grounds, strict=True)
    return [f"{theme}: {ratio(*two):.2f}" for theme, *two in found if ratio(*two) < RATIO_MIN]


def test_the_measure_is_that_of_wcag():
    assert ratio("#000000", "#ffffff") == pytest.approx(21)
    assert ratio("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_on_a_page_can_be_read(name, ground):
    assert too_faint(VARIABLES[name], VARIABLES[ground]) == []


@pytest.mark.parametrize("state", ON_CELLS)
def test_the_sign_on_a_cell_of_the_board_can_be_read(state):
    assert too_faint(declared(f"svg text.{state}", "fill"), declared(f"svg .cell.{state}", "fill")) == []


@pytest.mark.parametrize("number", range(16))
def test_the_sixteen_colours_of_a_terminal_can_be_read(number):
    written = declared(f".f{number}", "color")

    assert too_faint(written, VARIABLES["raised"]) == []
    assert too_faint(written, declared(".stderr", "background")) == []


@pytest.mark.parametrize("number", range(16))
def test_text_on_the_grounds_of_a_terminal_can_be_read(number):
    assert too_faint(VARIABLES["text"], declared(f".b{number}", "background")) == []


@pytest.mark.parametrize("level", range(1, 6))
def test_the_hours_of_the_forecast_can_be_read(level):
    written = declared(f".heat.l{level}", "color") if level == 5 else VARIABLES["text"]

    assert too_faint(written, declared(f".heat.l{level}", "background")) == []
