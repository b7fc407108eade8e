"""Whose certificates are trusted by what sends alerts, and what is said of one that is not."""

from __future__ import annotations

import ssl

from rota.alerts.refused import Unreachable


def trusting(ca: str | None) -> ssl.SSLContext:
    """Return what looks at certificates and the names in them: by those in the file ``ca``, or the system's.

    Raises:
        Unreachable: the file cannot be read, or holds none.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # SSLError is one
        raise Unreachable(f"the certificates in {ca} cannot be read: {error.strerror or error}") from None


def say_untrusted(where: str, error: ssl.SSLCertVerificationError) -> str:
    """Say that a certificate is not trusted, and why."""
    return f"{where} shows a certificate that is not trusted, and nothing was sent: {error.verify_message}"
