"""``rolling-update``: the steps of ``decide.rolling``, one after another, narrated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from k8slite.api import printing
from k8slite.api.errors import BadRequest, NotFound
from k8slite.api.kinds import POD, REPLICATION_CONTROLLER, SCHEME
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.api.meta import DeleteOptions
from k8slite.api.selectors import format_labels
from k8slite.api.words import kind_of
from k8slite.cli.ctl import documents, waiting
from k8slite.cli.ctl.call import Call
from k8slite.cli.ctl.flags import Output
from k8slite.cli.ctl.output import show
from k8slite.cli.ctl.reading import named
from k8slite.cli.ctl.removing import seen
from k8slite.cli.ctl.running import all_ready
from k8slite.cli.ctl.writing import remove, resize, send
from k8slite.decide import rolling
from k8slite.decide.rolling import DESIRED

Raw = dict[str, Any]
_RC = REPLICATION_CONTROLLER


async def rolling_update(
    call: Call,
    names: Annotated[
        list[str], typer.Argument(metavar="OLD [NEW]", help="The controller to replace.")
    ],
    filename: Annotated[
        str, typer.Option("--filename", "-f", help="File with the new controller.")
    ] = "",
    image: Annotated[
        str, typer.Option("--image", help="The same controller with another image.")
    ] = "",
    container: Annotated[
        str, typer.Option("--container", help="Whose image, if there are several containers.")
    ] = "",
    deployment_label_key: Annotated[
        str, typer.Option("--deployment-label-key", help="Label that tells the two apart.")
    ] = "deployment",
    update_period: Annotated[
        float, typer.Option("--update-period", help="Seconds between two pods.")
    ] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds that one pod may take; 0: any time.")
    ] = 300,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the old controller.")
    ] = False,
    output: Output = "",
) -> None:
    """Replace a controller's pods one by one: rolling-update web --image=web:2."""
    form = printing.parse_format(output)
    if bool(filename) == bool(image):
        raise BadRequest("rolling-update: give either -f FILE or --image=IMAGE")
    old_name, new_name = _names(names)
    old = await named(call, _RC, old_name, call.namespace)
    if filename:
        new = _from_file(call, filename)
        rolling.require_updatable(old, new)
        final = new["metadata"]["name"]
    else:
        old = await _distinguish(call, old, deployment_label_key)
        new = rolling.with_image(
            old, image, name=new_name, container=container, key=deployment_label_key
        )
        final = new_name or old_name
    update = _Update(call, update_period, timeout)
    if rollback:
        new_there = await named(call, _RC, new["metadata"]["name"], call.namespace)
        await update.roll(
            new_there,
            old,
            desired=int(
                old["metadata"].get("annotations", {}).get(DESIRED, old["spec"].get("replicas", 1))
            ),
        )
        final = old_name
    else:
        await update.roll(old, new)
        if final != new["metadata"]["name"]:
            await update.rename(new["metadata"]["name"], final)
    raw = await named(call, _RC, final, call.namespace)
    show(call, form, _RC, raw, success=f"{_RC.plural}/{final}")


def _names(names: list[str]) -> tuple[str, str]:
    """``OLD``, ``OLD NEW``, ``rc OLD`` or ``rc/OLD``. Raises BadRequest."""
    words = list(names)
    if len(words) > 1 and SCHEME.word(words[0]) is _RC:
        words = words[1:]
    if "/" in words[0]:
        word, _, words[0] = words[0].partition("/")
        if kind_of(word, SCHEME) is not _RC:
            raise BadRequest(f"rolling-update replaces an rc, no {word}")
    if len(words) > 2:
        raise BadRequest("rolling-update: name the old controller, and the new one at most")
    return words[0], words[1] if len(words) > 1 else ""


def _from_file(call: Call, filename: str) -> Raw:
    found = documents.read([filename])
    if len(found) != 1:
        raise BadRequest(f"{filename}: expected one ReplicationController, found {len(found)}")
    found[0].namespace(call.namespace, call.given.wanted.namespace)
    return found[0].modern()


async def _distinguish(call: Call, old: Raw, key: str) -> Raw:
    """Give an old controller and its pods the label that will tell them from the new ones.

    First the template (pods to come), then the pods there are, then the selector: at no moment
    does the controller lose sight of a pod of its own.
    """
    name, spec = old["metadata"]["name"], old["spec"]
    if key in (spec.get("selector") or {}):
        return old
    digest = rolling.digest_of(spec["template"])
    template: Raw = {"metadata": {"labels": {key: digest}}}
    await _merge(call, _RC, name, {"spec": {"template": template}})
    selector = format_labels(spec.get("selector"))
    for pod in (await call.client.list(POD, call.namespace, labels=selector)).items:
        await _merge(call, POD, pod.metadata.name, {"metadata": {"labels": {key: digest}}})
    return await _merge(call, _RC, name, {"spec": {"selector": {key: digest}}})


async def _merge(call: Call, kind: Any, name: str, body: Raw) -> Raw:
    from k8slite.client.http import MERGE_PATCH

    return await send(call, "PATCH", kind, call.namespace, name, body, content_type=MERGE_PATCH)


class _Update:
    """One rolling update: ``period`` and ``timeout`` in seconds."""

    def __init__(self, call: Call, period: float, timeout: float) -> None:
        self._call = call
        self._period = period
        self._timeout = timeout

    async def roll(self, old: Raw, new: Raw, desired: int = 0) -> None:
        """Until ``new`` has all the pods and ``old`` is gone."""
        call, old_name, new_name = self._call, old["metadata"]["name"], new["metadata"]["name"]
        there = await self._ensure(old, new)
        annotations = there["metadata"].get("annotations") or {}
        desired = desired or int(annotations.get(DESIRED) or old["spec"].get("replicas", 1))
        left, made = old["spec"].get("replicas", 1), there["spec"].get("replicas", 0)
        while not isinstance(step := rolling.next_step(left, made, desired), rolling.Done):
            if isinstance(step, rolling.Grow):
                made = step.replicas
                call.say(f"Updating {old_name} replicas: {left}, {new_name} replicas: {made}")
                await resize(call, new_name, call.namespace, made)
                await all_ready(call, new_name, made, seconds=self._timeout)
            else:
                left = step.replicas
                call.say(f"Updating {old_name} replicas: {left}, {new_name} replicas: {made}")
                await resize(call, old_name, call.namespace, left)
                await self._shrunk(old_name, left)
            await call.clock.sleep(self._period)
        call.say(f"Update succeeded. Deleting {old_name}")
        await remove(call, _RC, old_name, call.namespace, _background(), seconds=self._timeout)

    async def _ensure(self, old: Raw, new: Raw) -> Raw:
        """The new controller, created with no pods, or as an earlier call left it."""
        name = new["metadata"]["name"]
        try:
            return await named(self._call, _RC, name, self._call.namespace)
        except NotFound:
            pass
        desired = new["spec"].get("replicas") or old["spec"].get("replicas", 1)
        annotations = {DESIRED: str(desired), **(new["metadata"].get("annotations") or {})}
        empty = {
            **new,
            "metadata": {**new["metadata"], "annotations": annotations},
            "spec": {**new["spec"], "replicas": 0},
        }
        self._call.say(f"Creating {name}")
        return await send(self._call, "POST", _RC, self._call.namespace, "", empty)

    async def _shrunk(self, name: str, replicas: int) -> None:
        def done(rc: ReplicationController | None) -> bool:
            return rc is None or (seen(rc) and rc.status.replicas <= replicas)

        def tell(rc: ReplicationController | None) -> str:
            return f"{name}: {rc.status.replicas if rc else 0} pods, {replicas} to stay"

        await waiting.until(
            self._call, _RC, self._call.namespace, name, done, tell, seconds=self._timeout
        )

    async def rename(self, name: str, final: str) -> None:
        """A controller's pods pass to another of the same selector and another name."""
        call = self._call
        call.say(f"Renaming {name} to {final}")
        document = await named(call, _RC, name, call.namespace)
        orphan = DeleteOptions(propagation_policy="Orphan")
        await remove(call, _RC, name, call.namespace, orphan, seconds=self._timeout)
        await send(call, "POST", _RC, call.namespace, "", rolling.renamed(document, final))


def _background() -> DeleteOptions:
    return DeleteOptions(propagation_policy="Background")
