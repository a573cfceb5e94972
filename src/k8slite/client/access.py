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

    ``server`` may name several masters of one cluster, with commas between them. Raises BadRequest
    for a server that is no http or https URL.
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
        if not self.urls:
            raise BadRequest(f"{self.server!r} is no server; write http://HOST:PORT")
        for url in self.urls:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                good = False
            if not good:
                raise BadRequest(f"{self.server!r} is no server; write http://HOST:PORT")

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers as URLs without a closing slash; a bare ``host:port`` speaks HTTP."""
        return servers_of(self.server)

    @property
    def url(self) -> str:
        """The first server."""
        return self.urls[0]

    @property
    def host(self) -> str:
        """``host:port`` of the first server, for messages."""
        return netloc(self.url)

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
        if all(urlsplit(url).scheme != "https" for url in self.urls):
            return None
        try:
            context = ssl.create_default_context()
            if self.authority:
                context = ssl.create_default_context(cadata=self.authority.decode())
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self.identify(context)
        except (ssl.SSLError, ValueError) as error:
            raise self._unusable(error) from None
        return context

    def identify(self, context: ssl.SSLContext) -> None:
        """Make ``context`` show our certificate from now on. Raises BadRequest."""
        try:
            if self.certificate:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> BadRequest:
        return BadRequest(
            f"the certificates for {self.host} cannot be used: {error}; look at the kubeconfig"
        )


def servers_of(text: str) -> tuple[str, ...]:
    """Servers with commas between them, as URLs without a closing slash."""
    words = [word.strip() for word in text.split(",")]
    urls = [word if "://" in word else f"http://{word}" for word in words if word]
    return tuple(dict.fromkeys(url.rstrip("/") for url in urls))


def netloc(url: str) -> str:
    """``host:port`` of a URL."""
    return urlsplit(url).netloc


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL takes a certificate and its key from a file only; it lives for this call."""
    handle, name = tempfile.mkstemp(prefix="k8slite-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(name)
    finally:
        os.unlink(name)
