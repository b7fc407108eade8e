"""An alert by HTTP: one signed POST to an address that was judged.

Invariant: at most one request is sent, no redirect is followed, and of the answer nothing counts but its status and
when it asks to be tried again. The whole exchange has one deadline, however slowly an answer drips in; what
a name server takes is bounded by the job's time limit.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from typing import Self

from rota import __version__
from rota.alerts.address import Target, read_url, resolve
from rota.alerts.certificates import say_untrusted, trusting
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
    url: str,
    body: bytes,
    *,
    alert_id: str,
    secret: str | None,
    private: bool,
    ca: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> str:
    """Send ``body`` and say what was answered. ``ca`` is a file of certificates to trust instead of the system's.

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
    with _Deadline(timeout) as deadline:
        connection = _connect(target, private=private, ca=ca, deadline=deadline)
        try:
            connection.request("POST", target.path, body=body, headers=headers)
            answer = connection.getresponse()
            status, retry_after = answer.status, answer.getheader("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{where} did not answer: {deadline.say(error)}") from None
        finally:
            deadline.stop()
            connection.close()
    if deadline.has_passed:  # headers that were cut look like headers that ended
        raise Unreachable(f"{where} did not answer: not within {timeout:g} s")
    if 200 <= status < 300:
        return f"{where} answered {status}"
    if status == http.HTTPStatus.GONE:
        raise Refused(f"{where} answered 410: it wants no more alerts; take the channel away")
    hint = ", and redirects are not followed" if 300 <= status < 400 else ""
    raise Unreachable(f"{where} answered {status}{hint}", read_retry_after(retry_after))


class _Deadline:
    """Cuts a connection off when the time is over: a socket's own timeout begins again with each byte that comes."""

    def __init__(self, seconds: float) -> None:
        self.has_passed = False
        self._seconds = seconds
        self._ends_at = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Cut nothing from now on: a socket that is closed may be another's at once."""
        self._timer.cancel()
        self._timer.join()

    def guard(self, taken: socket.socket) -> None:
        """Cut ``taken`` off when the time is over; it is waited for no longer than that either."""
        self._socket = taken
        taken.settimeout(max(0.001, self._ends_at - time.monotonic()))

    def say(self, error: Exception) -> str:
        """Say why a connection broke."""
        return f"not within {self._seconds:g} s" if self.has_passed else _say(error)

    def _cut(self) -> None:
        self.has_passed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS too, beneath whoever reads it


def _connect(target: Target, *, private: bool, ca: str | None, deadline: _Deadline) -> http.client.HTTPConnection:
    """Connect to the first address that answers, of those that were judged."""
    context = trusting(ca) if target.scheme == "https" else None
    where = f"{target.host}:{target.port}"
    trouble = f"{where} cannot be reached: it has no address"
    for family, address in resolve(target, private=private):
        if deadline.has_passed:
            break
        taken = socket.socket(family, socket.SOCK_STREAM)
        try:
            deadline.guard(taken)
            taken.connect((address, target.port))
            connection = http.client.HTTPConnection(target.host, target.port)
            if context is not None:
                wrapped = context.wrap_socket(taken, server_hostname=target.host, do_handshake_on_connect=False)
                taken = wrapped
                deadline.guard(taken)
                wrapped.do_handshake()
            connection.sock = taken
        except ssl.SSLCertVerificationError as error:
            taken.close()
            trouble = say_untrusted(where, error)
            continue
        except OSError as error:
            taken.close()
            trouble = f"{where} cannot be reached: {deadline.say(error)}"
            continue
        return connection
    raise Unreachable(trouble)


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
