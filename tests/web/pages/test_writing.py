"""How values are written on pages."""

from __future__ import annotations

import pytest

from rota.web.pages.writing import make_templates, parted, said


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


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("load/eu-west.nightly_2:all", "load/<wbr>eu-<wbr>west.<wbr>nightly_<wbr>2:<wbr>all"),
        ("--a--b-", "--<wbr>a--<wbr>b-"),
        ("invoices", "invoices"),
        ("a-<script>alert(1)</script>", "a-<wbr>&lt;script&gt;alert(1)&lt;/<wbr>script&gt;"),
        ("&lt;-\"'", "&amp;lt;-<wbr>&#34;&#39;"),
        (7, "7"),
        ("", ""),
    ],
)
def test_a_name_may_be_broken_between_its_parts_and_is_escaped_piece_by_piece(name, written):
    assert parted(name) == written
    assert make_templates().from_string("{{ name | parted }}").render(name=name) == written
