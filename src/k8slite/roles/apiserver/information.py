"""Paths that are no objects: discovery, version, health, metrics, the list of paths."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping

from aiohttp.web_request import BaseRequest

from k8slite import __version__
from k8slite.api import discovery
from k8slite.api.errors import MethodNotAllowed, NotFound
from k8slite.api.paths import Target
from k8slite.api.scheme import Scheme
from k8slite.roles.apiserver import metrics as metrics_module
from k8slite.roles.apiserver.answers import Ready, of_object, of_text
from k8slite.roles.apiserver.documents import Documents
from k8slite.roles.apiserver.metrics import Metrics

#: The API level announced. kubectl minds a skew of more than one minor version only in
#: ``kubectl version``; libraries switch features by it: 1.30 is the middle of the kubectls in use
#: (1.27–1.33), knows WebSocket exec and bookmarks, and promises no list as a watch by default.
MAJOR, MINOR = "1", "30"

HEALTH = ("healthz", "readyz", "livez")

_AGGREGATED = "as=APIGroupDiscoveryList"


class Information:
    """Answers for every path outside the objects."""

    def __init__(
        self, scheme: Scheme, metrics: Metrics, health: Mapping[str, Callable[[], str]]
    ) -> None:
        self._scheme = scheme
        self._metrics = metrics
        self._health = health
        self._versions = {
            f"/api/{version}": discovery.api_resource_list(scheme, "", version)
            for version in discovery.CORE_VERSIONS
        }
        #: client-go before 1.26 looks for every version of the core group but v1 below /apis.
        self._misplaced = {
            f"/apis/{version}": self._versions[f"/api/{version}"]
            for version in discovery.CORE_VERSIONS
        }
        self._documents = Documents(scheme)
        for group, versions in discovery.announced(scheme).items():
            self._versions[f"/apis/{group}"] = discovery.api_group(group, versions)
            for version in versions:
                document = discovery.api_resource_list(scheme, group, version)
                self._versions[f"/apis/{group}/{version}"] = document

    async def answer(self, request: BaseRequest, target: Target) -> Ready:
        """Raises NotFound and MethodNotAllowed."""
        if target.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{target.method} is not served for {target.path[:200]}")
        path = target.path.rstrip("/") or "/"
        first = path.split("/", 2)[1]
        if first in HEALTH:
            return self._healthy(first, path, target)
        match path:
            case "/":
                return of_object({"paths": self.paths()})
            case "/version":
                return of_object(version())
            case "/metrics":
                return Ready(self._metrics.render(), content_type=metrics_module.CONTENT_TYPE)
            case "/api" | "/apis":
                return self._roots(request, path)
        if first == "openapi":
            return await self._documents.answer(request, path)
        document = self._versions.get(path) or self._misplaced.get(path)
        if document is None:
            raise NotFound(f"the server could not find the requested resource {path[:200]}")
        return of_object(document)

    def paths(self) -> list[str]:
        """Every path worth trying by hand."""
        checks = [f"/healthz/{name}" for name in ("ping", *self._health)]
        own = [
            "/api",
            "/apis",
            "/ca",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        return sorted((*own, *self._versions, *checks))

    def _roots(self, request: BaseRequest, path: str) -> Ready:
        accept = request.headers.get("Accept", "")
        for part in accept.split(","):
            if _AGGREGATED in part and "g=apidiscovery.k8s.io" in part:
                wanted = "v2" if "v=v2" in part and "v=v2beta1" not in part else "v2beta1"
                document = discovery.aggregated(self._scheme, core=path == "/api", version=wanted)
                content_type = (
                    f"application/json;g=apidiscovery.k8s.io;v={wanted};as=APIGroupDiscoveryList"
                )
                return of_object(document, content_type=content_type)
        if path == "/api":
            return of_object(discovery.api_versions(request.headers.get("Host", "")))
        return of_object(discovery.api_group_list(self._scheme))

    def _healthy(self, first: str, path: str, target: Target) -> Ready:
        """``/healthz`` and its like; ``/healthz/<check>``; ``?verbose`` names the checks."""
        _, _, only = path[1:].partition("/")
        checks: dict[str, Callable[[], str]] = {"ping": lambda: "", **self._health}
        if only:
            if only not in checks:
                raise NotFound(f"there is no check {only[:80]}: {', '.join(checks)}")
            checks = {only: checks[only]}
        if first == "livez":  # the process lives; whether its store does is readiness
            checks = {"ping": checks["ping"]} if "ping" in checks else checks
        faults = {name: fault for name, check in checks.items() if (fault := check())}
        if faults or "verbose" in target.query:
            lines = [
                f"[-]{name} failed: {faults[name]}" if name in faults else f"[+]{name} ok"
                for name in checks
            ]
            end = f"{first} check {'failed' if faults else 'passed'}"
            return of_text("\n".join((*lines, end, "")), status=500 if faults else 200)
        return of_text("ok")


def version() -> dict[str, str]:
    """``/version``; major and minor are digits alone."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": f"v{MAJOR}.{MINOR}.0+k8slite.{__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "compiler": platform.python_implementation().lower(),
        "platform": f"{sys.platform}/{machine}",
    }
