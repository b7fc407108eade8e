"""How values are written on pages."""

from __future__ import annotations

import pytest

from rota.web.pages.writing import said


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("its lease ended 2026-11-18T02:44:58.700000Z", "its lease ended 2026-11-18 02:44:58"),
        ("slot 2026-11-18T03:00:00Z (run 7)", "slot 2026-11-18 03:00:00 (run 7)"),
        ("period 2026-11-18T02 of 2026-11-18T02:44+01:00", "period 2026-11-18T02 of 2026-11-18T02:44+01:00"),
        (None, ""),
    ],
)
def test_the_moments_of_a_sentence_are_written_as_elsewhere_on_pages(text, written):
    assert said(text) == written
