"""A node knows the version of the zone data that it fires by, or says that it does not."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from pathlib import Path

import pytest
import tzdata

from rota.engine.zone_data import zone_data_version


@pytest.fixture(autouse=True)
def _same_path_afterwards() -> Iterator[None]:
    path = zoneinfo.TZPATH
    yield
    zoneinfo.reset_tzpath(to=path)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"tzdata.zi": "# version 2024a\n# This zic input file is in the public domain.\n"}, "2024a"),
        ({"+VERSION": "2023c\n"}, "2023c"),
        ({"tzdata.zi": "R d 1916 o - Jun 14 23s 1 S\n", "+VERSION": "2026b"}, "2026b"),
        ({"tzdata.zi": "# version unknown\n"}, None),
        ({"tzdata.zi": ""}, None),
        ({}, None),
    ],
)
def test_the_version_is_that_of_the_first_folder_that_has_zones(
    tmp_path: Path, files: dict[str, str], version: str | None
) -> None:
    empty, first, second = (tmp_path / name for name in ("empty", "first", "second"))
    for folder in (empty, first / "Etc", second / "Etc"):
        folder.mkdir(parents=True)
    (empty / "tzdata.zi").write_text("# version 2020a\n")
    (second / "tzdata.zi").write_text("# version 2021a\n")
    for folder in (first, second):
        (folder / "Etc" / "UTC").touch()
    for name, text in files.items():
        (first / name).write_text(text)

    zoneinfo.reset_tzpath(to=[str(folder) for folder in (empty, first, second)])

    assert zone_data_version() == version


def test_without_zones_of_the_system_it_is_that_of_the_package(tmp_path: Path) -> None:
    zoneinfo.reset_tzpath(to=[str(tmp_path)])

    assert zone_data_version() == tzdata.IANA_VERSION
