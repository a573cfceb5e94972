"""The documents of OpenAPI, made when somebody first asks for them and kept as bytes.

Few clusters are ever asked, so nothing is even imported before. Making them takes a fifth of a
second, which a thread spends.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from aiohttp.web_request import BaseRequest

from k8slite.api import codec
from k8slite.api.errors import NotFound
from k8slite.api.scheme import Scheme
from k8slite.roles.apiserver.answers import JSON, Ready

_Made = dict[str, bytes]


class Documents:
    """Answers for ``/openapi/v2`` and ``/openapi/v3/…``."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self._made: dict[str, asyncio.Task[_Made]] = {}

    async def answer(self, request: BaseRequest, path: str) -> Ready:
        """Raises NotFound."""
        if path == "/openapi/v2":
            return await self._swagger(request)
        if path != "/openapi/v3" and not path.startswith("/openapi/v3/"):
            raise _no_path(path)
        made = await self._once("v3", self._make)
        body = made.get(path.removeprefix("/openapi/v3").lstrip("/"))
        if body is None:
            raise _no_path(path)
        return _answer(request, body, JSON)

    async def _swagger(self, request: BaseRequest) -> Ready:
        if "protobuf" in request.headers.get("Accept", ""):
            from k8slite.api.swagger import PROTOBUF

            made = await self._once("v2 protobuf", self._make_protobuf)
            return _answer(request, made[""], PROTOBUF)
        made = await self._once("v2", self._make_swagger)
        return _answer(request, made[""], JSON)

    async def _once(self, name: str, make: Callable[[], _Made]) -> _Made:
        """What ``make`` gives; those who ask while it is being made wait for the same."""
        if name not in self._made:
            self._made[name] = asyncio.create_task(asyncio.to_thread(make), name=f"openapi {name}")
        return await asyncio.shield(self._made[name])

    def _make(self) -> _Made:
        """Every document of version 3, by its path; the index is that of ""."""
        from k8slite.api import openapi

        found = {
            place: codec.encode(openapi.document(self._scheme, group, version))
            for place, (group, version) in openapi.group_versions(self._scheme).items()
        }
        return {"": codec.encode(openapi.index(found)), **found}

    def _make_swagger(self) -> _Made:
        from k8slite.api import swagger

        return {"": codec.encode(swagger.document(self._scheme))}

    def _make_protobuf(self) -> _Made:
        from k8slite.api import swagger

        return {"": swagger.protobuf(swagger.document(self._scheme))}


def _no_path(path: str) -> NotFound:
    return NotFound(f"the server could not find the requested resource {path[:200]}")


def _answer(request: BaseRequest, body: bytes, content_type: str) -> Ready:
    """kubectl keeps documents on its disk and asks whether they are still the same."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32].upper()}"'
    headers = (("ETag", tag), ("Vary", "Accept"))
    if tag in request.headers.get("If-None-Match", ""):
        return Ready(body, status=304, headers=headers, content_type=content_type)
    return Ready(body, headers=headers, content_type=content_type)
