"""The local registry of a site without the Internet: Debian's docker-registry, filled without one.

Images are pushed by its HTTP API, not by an engine: engines refuse a plain-HTTP registry until
DOCKER_OPTS name it as an ``--insecure-registry``, and that is for a test to show.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import subprocess
import tarfile
from typing import Any

from tests.lab.docker_host import inside
from tests.lab.host import Host

_CONFIG = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ':5000'}
log: {level: warn}
"""
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """A registry at ``host``:5000, by the name that every machine of the lab knows."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = f"{host.name}:5000"

    def start(self) -> None:
        self.host.path("/etc/registry.yml").write_text(_CONFIG)
        self.host.serve("registry", "docker-registry", "serve", "/etc/registry.yml")
        self.host.until(self._answers, "serves a registry")

    def push(self, source: Host, image: str) -> str:
        """Copy an image of ``source``'s engine in; the name under which it can be pulled."""
        saved = subprocess.run(
            ["docker", "-H", source.docker_url, "save", image], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

            def read(name: str) -> bytes:
                found = archive.extractfile(name)
                assert found is not None
                return found.read()

            (entry,) = json.loads(read("manifest.json"))
            config = read(entry["Config"])
            layers = [gzip.compress(read(name), 1, mtime=0) for name in entry["Layers"]]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _blob("application/vnd.docker.container.image.v1+json", config),
            "layers": [
                _blob("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)
                for layer in layers
            ],
        }
        name, _, tag = image.partition(":")
        with inside(self.host.namespace):
            for blob in (config, *layers):
                self._upload(name, blob)
            path = f"/v2/{name}/manifests/{tag or 'latest'}"
            self._ask("PUT", path, json.dumps(manifest).encode(), {"Content-Type": _MANIFEST})
        return f"{self.name}/{image}"

    def _answers(self) -> bool:
        try:
            with inside(self.host.namespace):
                self._ask("GET", "/v2/")
        except OSError:
            return False
        return True

    def _upload(self, name: str, blob: bytes) -> None:
        where = self._ask("POST", f"/v2/{name}/blobs/uploads/")["Location"]
        path = where.removeprefix(f"http://{self.host.address}:5000")
        mark = "&" if "?" in path else "?"
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{path}{mark}digest={_digest(blob)}", blob, headers)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Any:
        connection = http.client.HTTPConnection(self.host.address, 5000, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
            return answer.headers
        finally:
            connection.close()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _blob(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}
