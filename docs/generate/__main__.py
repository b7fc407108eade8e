"""``python -m docs.generate``: write the pages."""

from __future__ import annotations

from docs.generate import write_pages

write_pages()
