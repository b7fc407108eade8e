"""A small OpenID provider, which answers over HTTP: other people's service, as a test wants it to be."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT_ID = "rota"
CLIENT_SECRET = "a secret of the client"


@functools.cache  # to find primes takes a while
def new_key(name: str, of: str = "the provider") -> RSAKey:
    """Return the key of a name, which is another one for each that it is ``of``."""
    assert of
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig", "alg": "RS256"})


class Provider:
    """What it says and does may be changed between requests."""

    def __init__(self) -> None:
        self.key = new_key("first")
        self.claims: dict[str, Any] = {}  # other claims than usual; None leaves one out
        self.description: dict[str, Any] = {}
        self.status = 200  # of all but the page where somebody logs in
        self.sign = self._sign
        self.asked: list[str] = []  # the paths of all requests
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def log_in(self, address: str) -> str:
        """Do what its page does for somebody who has logged in there; return where their browser is sent."""
        given = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert given["response_type"] == "code"
        assert given["client_id"] == CLIENT_ID
        assert given["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self._codes[code] = given
        return f"{given['redirect_uri']}?{urlencode({'code': code, 'state': given['state']})}"

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def describe(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
        } | self.description

    def redeem(self, fields: dict[str, str], authorization: str) -> dict[str, Any]:
        begun = self._codes.pop(fields.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET.replace(' ', '+')}".encode()).decode()
        plain = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if authorization not in {f"Basic {basic}", f"Basic {plain}"}:
            return {"error": "invalid_client"}
        if begun is None or fields.get("redirect_uri") != begun["redirect_uri"]:
            return {"error": "invalid_grant"}
        digest = hashlib.sha256(fields.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != begun["code_challenge"]:
            return {"error": "invalid_grant"}
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer, "sub": "4711", "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": begun["nonce"],
            "preferred_username": "ann", "groups": ["staff", "ops"],
        } | self.claims  # fmt: skip
        return {
            "access_token": "an access token",
            "token_type": "Bearer",
            "id_token": self.sign({name: value for name, value in claims.items() if value is not None}),
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/keys":
                    self._answer(KeySet([provider.key]).as_dict(private=False))
                elif self.path == "/.well-known/openid-configuration":
                    self._answer(provider.describe())
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                fields = {name: values[0] for name, values in parse_qs(body).items()}
                found = provider.redeem(fields, self.headers.get("authorization", ""))
                self._answer(found, 400 if "error" in found else 200)

            def _answer(self, view: dict[str, Any], status: int = 200) -> None:
                provider.asked.append(self.path)
                body = json.dumps(view).encode()
                self.send_response(provider.status if provider.status != 200 else status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
                pass

        return Handler
