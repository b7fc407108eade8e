"""The files that pages load: one style, one program, one picture. Each has its content's hash in its address."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).parent.parent / "static"
KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}
_HASH_BYTES = 8


class Static:
    """All of them, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._answers: dict[str, tuple[bytes, str]] = {}
        self._addresses: dict[str, str] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix in KINDS:
                content = file.read_bytes()
                mark = hashlib.blake2b(content, digest_size=_HASH_BYTES).hexdigest()
                self._addresses[file.name] = f"/static/{mark}/{file.name}"
                self._answers[f"{mark}/{file.name}"] = (content, KINDS[file.suffix])

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return self._addresses[name]

    def answer(self, mark: str, name: str) -> Response | None:
        """Return what an address is answered with; None: there is no such file, or its content is another one."""
        found = self._answers.get(f"{mark}/{name}")
        return None if found is None else Response(found[0], 200, HEADERS, found[1])
