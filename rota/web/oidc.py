"""The log-in by an OpenID provider: the authorization code flow, with PKCE, state and nonce.

Invariant: nobody is believed to be somebody but by an ID token that the provider of the settings has signed, for this
client, for the very browser that has asked, and a moment ago. What a browser is to come back with is kept in a cookie
of its own, so that it may come back to any web server that shares the settings. Needs the extra ``oidc``. Blocks: to be
called in a thread.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from rota.errors import Invalid
from rota.model.access import is_loopback
from rota.model.oidc import Provider, role_of, user_of
from rota.model.roles import Role
from rota.web.pages.forms import is_ours

log = logging.getLogger("rota.web")

ANSWER_SECONDS_MAX = 5.0  # of the provider, for each of at most four requests
ANSWER_BYTES_MAX = 2**20
TO_LENGTH_MAX = 1000  # of the page that somebody wanted: browsers drop cookies of more than 4096 bytes
KEPT_SECONDS = 3600.0  # what the provider says of itself
KEYS_SECONDS_MIN = 60.0  # between two looks for keys that are not known
LEEWAY_SECONDS = 60  # between its clock and ours
# Signatures of which the provider alone has the key: `none` has no signature, and that of HS256 is known to clients.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})

AWAY = "the log-in of your organization does not answer: try again in a minute"
BROKEN = "the log-in of your organization answers what cannot be used: an administrator finds the reason in the log"
NOT_BEGUN = "this log-in was not begun in this browser, or too long ago, or is over: begin again"
NOT_LET_IN = "your organization did not let you in"
NOT_BELIEVED = "what the log-in of your organization said is refused: begin again; the reason is in the log"
EXPIRED = "what the log-in of your organization said was over: begin again, and if it stays so, two clocks differ"
FOR_ANOTHER = "what the log-in of your organization said was meant for another application: tell an administrator"
NO_NAME = "your organization does not say by which name you are known here: the reason is in the log"
NO_ROLE = "nothing here is for you: none of your groups has a role in Rota; ask an administrator"


class NotLetIn(Exception):
    """Somebody is not let in; the text may be shown to them. ``name`` is theirs, where the provider has proved it."""

    def __init__(self, status: int, text: str, *, name: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.name = name


@dataclass(frozen=True, slots=True)
class Known:
    """Whom the provider has identified, what they may do, and to which page they wanted."""

    name: str
    role: Role
    to: str


@dataclass(frozen=True, slots=True)
class _Begun:
    """What a browser is to come back with."""

    state: str
    nonce: str
    verifier: str
    to: str

    def pack(self) -> str:
        text = json.dumps([self.state, self.nonce, self.verifier, self.to])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def unpack(cls, cookie: str) -> _Begun:
        """Raises: NotLetIn: it is none of ours."""
        try:
            found: Any = json.loads(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)))
            made: Any = cls(*found)
        except (ValueError, TypeError, RecursionError):
            raise NotLetIn(400, NOT_BEGUN) from None
        if not all(isinstance(one, str) and one for one in (made.state, made.nonce, made.verifier, made.to)):
            raise NotLetIn(400, NOT_BEGUN)
        return cls(made.state, made.nonce, made.verifier, made.to)


class OpenIdProvider:
    """Sends people to the provider of the settings, and finds out who they are when they come back."""

    def __init__(self, provider: Provider, secret: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.provider = provider
        self._secret = secret
        self._clock = clock
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] | None = None
        self._metadata_at = 0.0
        self._keys: Any = None
        self._keys_at = 0.0

    def begin(self, to: str) -> tuple[str, str]:
        """Return where to send a browser that wants to go on to ``to``, and the cookie to come back with.

        Raises:
            NotLetIn: the provider does not answer.
        """
        if len(to) > TO_LENGTH_MAX:
            to = "/"
        metadata = self._describe()
        begun = _Begun(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), to)
        with self._client(metadata) as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=begun.state,
                nonce=begun.nonce,
                code_verifier=begun.verifier,
            )
        return str(url), begun.pack()

    def finish(self, cookie: str, given: Mapping[str, str]) -> Known:
        """Return who it is that comes back with ``cookie`` and the query string ``given``.

        Raises:
            NotLetIn: nobody who may come in.
        """
        begun = _Begun.unpack(cookie)
        if not hmac.compare_digest(begun.state.encode(), given.get("state", "").encode()):
            raise NotLetIn(400, NOT_BEGUN)
        if given.get("iss", self.provider.issuer) != self.provider.issuer:  # RFC 9207
            raise _refused("its answer names another issuer")
        if "error" in given:
            log.warning("the OpenID provider let somebody not in: %s", _plain(given["error"]))
            raise NotLetIn(403, NOT_LET_IN)
        if not given.get("code"):
            raise NotLetIn(400, NOT_BEGUN)
        metadata = self._describe()
        token = self._redeem(metadata, given["code"], begun)
        claims = self._check(metadata, token, begun)
        try:
            name = user_of(self.provider, claims)
        except Invalid as error:
            log.warning("a log-in by the OpenID provider was refused: %s", error)
            raise NotLetIn(403, NO_NAME) from None
        role = role_of(self.provider, claims)
        if role is None:
            raise NotLetIn(403, NO_ROLE, name=name)
        return Known(name, role, begun.to if is_ours(begun.to) else "/")

    def _client(self, metadata: Mapping[str, Any]) -> Any:
        known = metadata.get("token_endpoint_auth_methods_supported")
        method = "none" if self._secret is None else "client_secret_basic"
        if self._secret is not None and isinstance(known, list) and method not in known:
            method = "client_secret_post"
        make: Any = OAuth2Client
        return make(
            client_id=self.provider.client_id,
            client_secret=self._secret,
            scope=" ".join(self.provider.scopes),
            redirect_uri=self.provider.redirect_url,
            code_challenge_method="S256",
            token_endpoint_auth_method=method,
            timeout=ANSWER_SECONDS_MAX,
            follow_redirects=False,
        )

    def _redeem(self, metadata: Mapping[str, Any], code: str, begun: _Begun) -> Mapping[str, Any]:
        try:
            with self._client(metadata) as client:
                token = client.fetch_token(metadata["token_endpoint"], code=code, code_verifier=begun.verifier)
        except OAuthError as error:  # such as a code that was used already
            raise _refused(f"it does not take the code: {_plain(error.error)}") from None
        except httpx2.HTTPError as error:
            raise _away(error) from None
        except ValueError:
            raise _broken("its answer to the code is no JSON") from None
        found = cast("dict[str, Any]", token if isinstance(token, dict) else {})
        if not isinstance(found.get("id_token"), str):
            raise _broken("there is no id_token in its answer to the code")
        return found

    def _check(self, metadata: Mapping[str, Any], token: Mapping[str, Any], begun: _Begun) -> Mapping[str, Any]:
        """Return what an ID token says, once it is known to be the provider's, for us, for this browser, and of now."""
        said = metadata.get("id_token_signing_alg_values_supported")
        supported = cast("list[Any]", said) if isinstance(said, list) else ALGORITHMS
        algorithms = sorted(one for one in ALGORITHMS if one in supported)
        text = str(token["id_token"])
        wanted = {
            "iss": {"essential": True, "value": self.provider.issuer},
            "aud": {"essential": True, "value": self.provider.client_id},
            "nonce": {"essential": True, "value": begun.nonce},
        }
        known = {"nonce": begun.nonce, "client_id": self.provider.client_id, "access_token": token.get("access_token")}
        check: Any = CodeIDToken
        try:
            try:
                found = jwt.decode(text, self._key_set(metadata), algorithms=algorithms)
            except InvalidKeyIdError:  # it has another key since
                found = jwt.decode(text, self._key_set(metadata, anew=True), algorithms=algorithms)
            check(found.claims, found.header, wanted, known).validate(leeway=LEEWAY_SECONDS)
        except ExpiredTokenError:
            log.warning("a log-in by the OpenID provider was refused: its ID token has expired")
            raise NotLetIn(401, EXPIRED) from None
        except InvalidClaimError as error:
            refused = _refused(f"its ID token: {_plain(error)}")
            raise NotLetIn(401, FOR_ANOTHER) if getattr(error, "claim", None) == "aud" else refused from None
        except (JoseError, ValueError, TypeError, KeyError) as error:  # whatever somebody has written there
            raise _refused(f"its ID token: {type(error).__name__}") from None
        return found.claims

    def _describe(self) -> dict[str, Any]:
        """Return what the provider says of itself, or has said within the hour."""
        with self._lock:
            kept, now = self._metadata, self._clock()
            if kept is not None and now - self._metadata_at < KEPT_SECONDS:
                return kept
        found = self._get(f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.provider.issuer:
            raise _broken("its discovery document names another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(found.get(name)):
                raise _broken(f"{name} of its discovery document is no https address")
        with self._lock:
            self._metadata, self._metadata_at = found, now
        return found

    def _key_set(self, metadata: Mapping[str, Any], *, anew: bool = False) -> Any:
        """Return its keys, as kept; with ``anew`` those of now, once a minute at most."""
        with self._lock:
            kept, age = self._keys, self._clock() - self._keys_at
        if kept is not None and age < (KEYS_SECONDS_MIN if anew else KEPT_SECONDS):
            return kept
        found = self._get(metadata["jwks_uri"])
        try:
            made: Any = KeySet.import_key_set(found)  # pyright: ignore[reportArgumentType] - checked there
        except (JoseError, ValueError, TypeError, KeyError):
            raise _broken("its keys are no JWKS") from None
        with self._lock:
            self._keys, self._keys_at = made, self._clock()
        return made

    def _get(self, url: str) -> dict[str, Any]:
        try:
            answer = httpx2.get(url, timeout=ANSWER_SECONDS_MAX, follow_redirects=False)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise _away(error) from None
        try:
            found: Any = json.loads(answer.content) if len(answer.content) <= ANSWER_BYTES_MAX else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _broken(f"{urlsplit(url).path} is no JSON object")
        return cast("dict[str, Any]", found)


def _away(error: Exception) -> NotLetIn:
    log.warning("the OpenID provider does not answer: %s", type(error).__name__)
    return NotLetIn(503, AWAY)


def _broken(why: str) -> NotLetIn:
    log.warning("the OpenID provider cannot be used: %s", why)
    return NotLetIn(502, BROKEN)


def _refused(why: str) -> NotLetIn:
    log.warning("a log-in by the OpenID provider was refused: %s", why)
    return NotLetIn(401, NOT_BELIEVED)


def _plain(said: object) -> str:
    """Write what others say into the log: one line, and not all of it."""
    return "".join(sign for sign in str(said)[:100] if sign.isprintable())


def _is_safe(url: object) -> bool:
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )
