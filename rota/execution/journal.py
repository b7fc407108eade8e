"""Ends that nobody has taken yet, on disk: one file per claim, in the worker's folder.

Invariant: a file that carries its final name is whole and has reached the disk. A guardian writes it when no worker
listens, or has not acknowledged within a second; the worker delivers what it finds and then removes it.
"""

from __future__ import annotations

import os

from rota import crash

JOURNAL_FOLDER = "journal"
SUFFIX = ".end"
TEMPORARY = ".tmp"


def journal_path(folder: str, claim_id: str) -> str:
    """Name the file of a claim."""
    return f"{folder}/{JOURNAL_FOLDER}/{claim_id}{SUFFIX}"


def write_end(folder: str, claim_id: str, frame: bytes) -> None:
    """Keep an end for good: after this returns, a crash of the machine does not lose it.

    Raises:
        OSError: it is not kept, the disk may be full.
    """
    path = journal_path(folder, claim_id)
    temporary = f"{path}.{os.getpid()}{TEMPORARY}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(descriptor, view) :]
            crash.at("journal.written")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
    crash.at("journal.kept")
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sweep_unfinished(folder: str) -> None:
    """Remove what processes have left that died writing an end: nobody has been told that it was kept."""
    for name in os.listdir(f"{folder}/{JOURNAL_FOLDER}"):
        pid = name.removesuffix(TEMPORARY).rpartition(".")[2]
        if name.endswith(TEMPORARY) and not os.path.exists(f"/proc/{pid}"):
            try:
                os.unlink(f"{folder}/{JOURNAL_FOLDER}/{name}")
            except FileNotFoundError:
                pass  # another worker of this folder was quicker


def list_ends(folder: str) -> list[str]:
    """List the claims whose end is kept."""
    names = sorted(os.listdir(f"{folder}/{JOURNAL_FOLDER}"))
    return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


def read_end(folder: str, claim_id: str) -> bytes | None:
    """Give the frame kept for a claim; None when there is none."""
    try:
        with open(journal_path(folder, claim_id), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def forget_end(folder: str, claim_id: str) -> None:
    """Remove what is kept for a claim, if anything."""
    try:
        os.unlink(journal_path(folder, claim_id))
    except FileNotFoundError:
        pass


def set_aside_end(folder: str, claim_id: str) -> None:
    """Rename a file that cannot be read, so that a person may look at it and it is not tried again."""
    path = journal_path(folder, claim_id)
    try:
        os.rename(path, path + ".unreadable")
    except FileNotFoundError:
        pass  # another worker of this folder was quicker
