"""An authority of certificates, made anew for the tests that need one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

CONFIG = """
[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


class Authority:
    """Signs certificates, and is known by ``ca``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "config").write_text(CONFIG)
        self._run("req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")

    @property
    def ca(self) -> str:
        return str(self._folder / "ca.pem")

    def _run(self, *words: str) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("no openssl to make certificates with")
        subprocess.run([openssl, *words], cwd=self._folder, check=True, capture_output=True)

    def context(self, name: str) -> ssl.SSLContext:
        """Return what a server shows: ``good``, for another ``name``, ``ended``, or ``unknown``, signed by itself."""
        host = "other.example.com" if name == "name" else "hooks.example.com"
        names = f"subjectAltName=DNS:{host}" + ("" if name == "name" else ",IP:127.0.0.1")
        of = ("-keyout", "own.key", "-subj", f"/CN={host}", "-addext", names)
        if name == "unknown":
            self._run("req", "-x509", *NEW_KEY, *of, "-out", "own.pem", "-days", "2")
        else:
            self._run("req", *NEW_KEY, *of, "-out", "own.csr")
            begin, end = ("20200101000000Z", "20200102000000Z") if name == "ended" else ("20200101000000Z", FAR)
            signed = ("ca", "-batch", "-config", "config", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", "own.csr")
            self._run(*signed, "-startdate", begin, "-enddate", end, "-notext", "-out", "own.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "own.pem", self._folder / "own.key")
        return context


NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
FAR = "20991231000000Z"
