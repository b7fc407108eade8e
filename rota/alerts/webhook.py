"""An alert by HTTP: one signed POST to an address that was judged.

Invariant: at most one request is sent, no redirect is followed, and of the answer nothing counts but its status and
when it asks to be tried again. Each wait for the other side is bounded here, and all of them by the job's time limit.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import socket
import ssl
import time

from rota import __version__
from rota.alerts.address import Target, read_url, resolve
from rota.alerts.refused import Refused, Unreachable

TIMEOUT_SECONDS = 10.0
RETRY_AFTER_SECONDS_MAX = 3600.0
ID_HEADER = "Rota-Id"
TIMESTAMP_HEADER = "Rota-Timestamp"
SIGNATURE_HEADER = "Rota-Signature"


def sign(secret: str, alert_id: str, timestamp: int, body: bytes) -> str:
    """Sign a request: ``v1=`` and the HMAC-SHA256 of id, timestamp and body, with dots between them."""
    signed = f"{alert_id}.{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def post(
    url: str, body: bytes, *, alert_id: str, secret: str | None, private: bool, timeout: float = TIMEOUT_SECONDS
) -> str:
    """Send ``body`` and say what was answered.

    Raises:
        Refused: the receiver wants no more (410), or the address is not public.
        Unreachable: anything else than 2xx was answered, or nothing.
    """
    target = read_url("webhook", url)
    timestamp = int(time.time())
    headers = {
        "Host": target.host_header,
        "Content-Type": "application/json",
        "User-Agent": f"rota/{__version__}",
        ID_HEADER: alert_id,
        TIMESTAMP_HEADER: str(timestamp),
        "Connection": "close",
    }
    if secret is not None:
        headers[SIGNATURE_HEADER] = sign(secret, alert_id, timestamp, body)
    where = f"{target.host}:{target.port}"
    connection = _connect(target, private=private, timeout=timeout)
    try:
        connection.request("POST", target.path, body=body, headers=headers)
        answer = connection.getresponse()
        status, retry_after = answer.status, answer.getheader("Retry-After")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{where} did not answer: {_say(error)}") from None
    finally:
        connection.close()
    if 200 <= status < 300:
        return f"{where} answered {status}"
    if status == http.HTTPStatus.GONE:
        raise Refused(f"{where} answered 410: it wants no more alerts; take the channel away")
    hint = ", and redirects are not followed" if 300 <= status < 400 else ""
    raise Unreachable(f"{where} answered {status}{hint}", read_retry_after(retry_after))


def _connect(target: Target, *, private: bool, timeout: float) -> http.client.HTTPConnection:
    """Connect to the first address that answers, of those that were judged."""
    trouble = "it has no address"
    for family, address in resolve(target, private=private):
        raw = socket.socket(family, socket.SOCK_STREAM)
        try:
            raw.settimeout(timeout)
            raw.connect((address, target.port))
            connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
            connection.sock = raw
            if target.scheme == "https":
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(raw, server_hostname=target.host)
        except OSError as error:
            raw.close()
            trouble = _say(error)
            continue
        return connection
    raise Unreachable(f"{target.host}:{target.port} cannot be reached: {trouble}")


def _say(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def read_retry_after(value: str | None) -> float | None:
    """Read when to try again: seconds, or a date; within what is reasonable. None: it does not say."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal() and len(text) < 10:
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 1.0), RETRY_AFTER_SECONDS_MAX)
