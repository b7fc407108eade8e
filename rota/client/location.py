"""Where the database is, when nobody says so: the one rule, for every door.

``ROTA_DB``, or the file that ``ROTA_DB_FILE`` names, or SQLite in the user's state folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rota.errors import ConfigError


def database_url(environ: Mapping[str, str]) -> str:
    """Return the URL of the database. A folder that is needed for the default is made, for its owner only.

    Raises:
        ConfigError: ``ROTA_DB_FILE`` names a file that cannot be read or is empty, there is no home for the default, or
            this is the process of a job.
    """
    if url := environ.get("ROTA_DB", "").strip():
        return url
    if "ROTA_DB" in environ:
        raise ConfigError("ROTA_DB is set and empty: give it the URL of the database, or unset it")
    if name := environ.get("ROTA_DB_FILE", "").strip():
        return _read_url(Path(name))
    if environ.get("ROTA_RUN_ID"):
        # A job is not told where the database is, and the default would be another one, in which nobody looks.
        raise ConfigError("a job's process is not told the database: name it in the code, as in Rota(url)")
    return f"sqlite:///{state_folder(environ) / 'rota.db'}"


def _read_url(path: Path) -> str:
    try:
        url = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"ROTA_DB_FILE {str(path)!r} cannot be read: {reason}") from error
    if not url or "\n" in url:
        raise ConfigError(f"ROTA_DB_FILE {str(path)!r} must hold one line, the URL of the database")
    return url


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's state folder for Rota, made for its owner only: the default database, and what workers keep."""
    # The base directory specification: a value that is no absolute path is to be ignored.
    base = Path(environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        try:
            base = (Path(home) if (home := environ.get("HOME", "")) else Path.home()) / ".local" / "state"
        except RuntimeError as error:
            raise ConfigError("there is no home folder for the default database: set ROTA_DB") from error
    folder = base / "rota"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {str(folder)!r} cannot be made ({error.strerror}): set ROTA_DB") from error
    return folder
