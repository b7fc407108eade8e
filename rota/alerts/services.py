"""An alert by one of the many services that apprise knows: chats, telephones, push messages.

Where apprise connects to is its own decision: the addresses of such a channel are not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rota.alerts.refused import Refused, Unreachable


def notify(urls: Sequence[str], title: str, text: str) -> str:
    """Tell all of ``urls``.

    Raises:
        Refused: apprise is not installed, or does not know a URL. The URL is not shown: it holds a secret.
        Unreachable: one of them was not told.
    """
    try:
        import apprise  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Refused("apprise is not installed where this worker runs: pip install 'rota[apprise]'") from None
    sender: Any = apprise.Apprise()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    for number, url in enumerate(urls, 1):
        if not sender.add(url):
            raise Refused(f"apprise does not know URL {number} of {len(urls)} of this channel")
    if not sender.notify(title=title, body=text):
        raise Unreachable(f"apprise could not tell all of the {len(urls)} URLs of this channel")
    return f"apprise told {len(urls)}"
