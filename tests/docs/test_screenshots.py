"""The pictures of the documentation: each page has its three, and none is of a page that is gone."""

from __future__ import annotations

from docs.screenshots import FOLDER, pictures_of, shown_pages


def test_every_page_has_a_picture_in_light_in_dark_and_on_a_phone() -> None:
    missing = [file.name for path in shown_pages() for file in pictures_of(path).values() if not file.is_file()]

    assert missing == [], "take them with `make screenshots`"


def test_each_picture_is_of_one_page_that_is_there() -> None:
    named = [file for path in shown_pages() for file in pictures_of(path).values()]

    assert len(set(named)) == len(named)
    assert [file.name for file in FOLDER.glob("*.png") if file not in named] == []
