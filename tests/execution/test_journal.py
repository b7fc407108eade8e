"""The journal survives a power cut: what carries its final name has reached the disk, and so has the name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rota.execution import journal


def test_an_end_reaches_the_disk_before_it_gets_its_name_and_the_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / journal.JOURNAL_FOLDER).mkdir()
    steps: list[tuple[str, str, int]] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(("fsync", path.suffix or path.name, os.fstat(descriptor).st_size if path.is_file() else 0))

    def note_rename(source: str, target: str) -> None:
        rename(source, target)
        steps.append(("rename", Path(target).name, 0))

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)

    journal.write_end(str(tmp_path), "abc", b"frame")

    assert steps == [("fsync", ".tmp", 5), ("rename", "abc.end", 0), ("fsync", "journal", 0)]
    assert journal.read_end(str(tmp_path), "abc") == b"frame"


def test_a_disk_that_does_not_take_it_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / journal.JOURNAL_FOLDER).mkdir()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="No space"):
        journal.write_end(str(tmp_path), "abc", b"frame")

    assert list((tmp_path / journal.JOURNAL_FOLDER).iterdir()) == []


def test_what_another_worker_has_set_aside_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / journal.JOURNAL_FOLDER).mkdir()
    (tmp_path / journal.JOURNAL_FOLDER / "abc.end").write_bytes(b"no frame")

    journal.set_aside_end(str(tmp_path), "abc")
    journal.set_aside_end(str(tmp_path), "abc")

    assert journal.list_ends(str(tmp_path)) == []
