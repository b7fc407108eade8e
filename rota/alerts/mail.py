"""An alert by e-mail.

Invariant: each value becomes one header of one line, whatever stands in it: line breaks are taken out before, and the
library refuses what is left of them.
"""

from __future__ import annotations

import email.utils
import re
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP

from rota.alerts.certificates import say_untrusted, trusting
from rota.alerts.refused import Refused, Unreachable

TIMEOUT_SECONDS = 10.0
SUBJECT_LENGTH_MAX = 200

_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Server:
    """What takes mail."""

    host: str
    port: int
    tls: str = "starttls"  # tls, starttls, none
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sender: str = "rota@localhost"
    ca: str | None = None  # a file of certificates to trust instead of the system's


def make_message(sender: str, to: Sequence[str], subject: str, text: str, alert_id: str) -> EmailMessage:
    """Make a mail. The id of an alert is its own, so that one which comes twice is seen to be the same."""
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = _BREAKS.sub(" ", subject)[:SUBJECT_LENGTH_MAX]
    message["Date"] = email.utils.localtime()
    token = re.sub(r"[^A-Za-z0-9.]+", ".", alert_id)
    message["Message-ID"] = f"<rota.{token}@{sender.rpartition('@')[2] or 'localhost'}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message


def send_mail(server: Server, to: Sequence[str], subject: str, text: str, alert_id: str) -> str:
    """Send a mail and say who took it.

    Raises:
        Refused: the server refuses it for good, or has no TLS.
        Unreachable: it does not answer, or refuses it for now.
    """
    where = f"{server.host}:{server.port}"
    message = make_message(server.sender, to, subject, text, alert_id)
    try:
        with _connect(server) as client:
            if server.tls == "starttls":
                client.starttls(context=trusting(server.ca))
            if server.user is not None:
                client.login(server.user, server.password or "")
            refused = client.send_message(message, server.sender, list(to))
    except smtplib.SMTPNotSupportedError as error:
        raise Refused(f"{where} does not do what the settings ask for: {error}") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        said = f"{where} takes mail for none of {', '.join(to)}: {', '.join(map(str, codes))}"
        raise (Refused if all(code >= 500 for code in codes) else Unreachable)(said) from None
    except smtplib.SMTPResponseException as error:
        # What it says may repeat what it was told.
        said = f"{where} answered {error.smtp_code}"
        raise (Refused if error.smtp_code >= 550 else Unreachable)(said) from None
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(say_untrusted(where, error)) from None
    except (OSError, smtplib.SMTPException) as error:
        raise Unreachable(f"{where} did not take it: {type(error).__name__}: {_first_line(error)}") from None
    return f"{where} took it" + (f", but not for {', '.join(refused)}" if refused else "")


def _connect(server: Server) -> smtplib.SMTP:
    if server.tls == "tls":
        context = trusting(server.ca)
        return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_SECONDS, context=context)
    return smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
