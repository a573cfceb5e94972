"""How to reach an API server, and as whom."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from urllib.parse import urlsplit

from k8slite.api.errors import BadRequest

DEFAULT_SERVER = "http://localhost:8080"


@dataclass(frozen=True, slots=True)
class Access:
    """A server and the credentials for it. Certificates and keys are PEM bytes.

    Raises BadRequest for a server that is no http or https URL.
    """

    server: str = DEFAULT_SERVER
    token: str = ""
    username: str = ""
    password: str = ""
    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    insecure: bool = False  # do not verify the server's certificate
    tls_name: str = ""  # the name expected in it, when not the URL's

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise BadRequest(f"{self.server!r} is no server; write http://HOST:PORT")

    @property
    def url(self) -> str:
        """The server as a URL without a closing slash; a bare ``host:port`` speaks HTTP."""
        server = self.server if "://" in self.server else f"http://{self.server}"
        return server.rstrip("/")

    @property
    def host(self) -> str:
        """``host:port``, for messages."""
        return urlsplit(self.url).netloc

    def authorization(self) -> str:
        """The Authorization header, or ""."""
        if self.token:
            return f"Bearer {self.token}"
        if self.username:
            pair = f"{self.username}:{self.password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return ""

    def tls(self) -> ssl.SSLContext | None:
        """None for plain HTTP. Raises BadRequest for certificates that cannot be used."""
        if urlsplit(self.url).scheme != "https":
            return None
        try:
            context = ssl.create_default_context()
            if self.authority:
                context = ssl.create_default_context(cadata=self.authority.decode())
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise BadRequest(
                f"the certificates for {self.host} cannot be used: {error}; look at the kubeconfig"
            ) from None
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL takes a certificate and its key from a file only; it lives for this call."""
    handle, name = tempfile.mkstemp(prefix="k8slite-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(name)
    finally:
        os.unlink(name)
