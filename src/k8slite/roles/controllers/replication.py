"""The replication controller: applies ``decide.replication``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from k8slite.api.errors import AlreadyExists, ApiError, Conflict, NotFound, UnknownOutcome
from k8slite.api.kinds import POD, REPLICATION_CONTROLLER
from k8slite.api.kinds.pod.types import Pod
from k8slite.api.kinds.replicationcontroller.types import ReplicationController
from k8slite.decide import replication
from k8slite.roles.controllers.expectations import EXPIRY, Expectations
from k8slite.roles.controllers.loop import Controller, Surroundings, Unsubscribe
from k8slite.roles.controllers.parallel import each, ramp
from k8slite.roles.controllers.selecting import Selectors, label_pairs, selected

#: A look costs in proportion to the pods; so long a pause for each of them, in seconds, keeps a
#: controller of thousands of pods from doing nothing else while they start.
PAUSE_PER_POD = 50e-6
#: Attempts at one creation whose answer was lost, or whose name was taken.
ATTEMPTS = 5
#: So many pods at once get an event each; more share one.
TOLD_SINGLY = 10
_OWNER = "controller"


class ReplicationLoop(Controller[str]):
    """Keys are controllers (``namespace/name``)."""

    name = "replication"
    kinds = (REPLICATION_CONTROLLER, POD)

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._controllers = self.informers.of(REPLICATION_CONTROLLER)
        self._pods = self.informers.of(POD)
        self._pods.index(_OWNER, _owner_or_labels)
        self._selectors = Selectors(self._controllers, lambda rc: rc.spec.selector)
        self._expected = Expectations(self._pods, self.clock)
        self._sizes: dict[str, int] = {}

    def subscribe(self) -> Iterable[Unsubscribe]:
        yield self._controllers.subscribe(self._on_controller)
        yield self._pods.subscribe(self._on_pod)

    def _on_controller(
        self, old: ReplicationController | None, new: ReplicationController | None
    ) -> None:
        found = new or old
        assert found is not None
        self.queue.add(found.key)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        self._expected.observe(old, new)
        keys = {key for pod in (old, new) if pod is not None for key in self._concerned(pod)}
        for key in keys:
            self.queue.add_after(key, PAUSE_PER_POD * self._sizes.get(key, 0))

    def _concerned(self, pod: Pod) -> Iterable[str]:
        owner = replication.controller_of(pod)
        if owner is None:
            return [rc.key for rc in self._selectors.of(pod)]
        if owner.kind != REPLICATION_CONTROLLER.kind:
            return []
        return [f"{pod.metadata.namespace}/{owner.name}"]

    async def converge(self, key: str) -> None:
        controller = self._controllers.get(key)
        if controller is None:
            self._sizes.pop(key, None)
            return
        uid = controller.metadata.uid
        pods = self._expected.view(uid, self._shown(controller))
        self._sizes[key] = len(pods)
        plan = replication.plan(controller, pods, self.clock.now())
        errors = [
            *await each(plan.adopt, lambda pod: self._own(replication.adopted(controller, pod))),
            *await each(plan.release, lambda pod: self._own(replication.released(controller, pod))),
            *await self._delete(controller, plan.delete),
            *await self._create(controller, plan.create),
        ]
        if errors or not (plan.create or plan.delete):
            # Otherwise what was done comes back as events, and the status is written once.
            await self._write_status(controller, plan)
        if plan.look_again is not None:
            self.queue.add_after(key, plan.look_again)
        if self._expected.pending(uid):
            self.queue.add_after(key, EXPIRY)
        if errors:
            raise next((e for e in errors if not isinstance(e, Conflict)), errors[0])

    def _shown(self, controller: ReplicationController) -> list[Pod]:
        """The controller's pods, and those that nobody owns but it selects."""
        owned = self._pods.by_index(_OWNER, controller.metadata.uid)
        namespace, selector = controller.metadata.namespace, controller.spec.selector
        return owned + selected(self._pods, namespace, selector, index=_OWNER)

    async def _own(self, pod: Pod) -> None:
        """Write who owns ``pod``, if it is still at the version we saw."""
        try:
            await self.client.update(pod)
        except NotFound:
            return

    async def _delete(
        self, controller: ReplicationController, pods: Iterable[Pod]
    ) -> list[ApiError]:
        gone: list[str] = []

        async def delete(pod: Pod) -> None:
            meta = pod.metadata
            try:
                await self.client.delete(POD, meta.name, meta.namespace, uid=meta.uid or None)
            except (NotFound, Conflict):  # gone, or another pod by now
                pass
            else:
                gone.append(meta.name)
            self._expected.deleted(pod)

        errors = await each(pods, delete)
        self._tell(controller, "SuccessfulDelete", "Deleted", gone)
        if errors:
            message = f"Error deleting: {errors[0].message}"
            self.recorder.event(controller, "FailedDelete", message, "Warning")
        return errors

    async def _create(self, controller: ReplicationController, count: int) -> list[ApiError]:
        made: list[str] = []
        errors = await ramp(range(count), lambda _: self._create_one(controller, made))
        self._tell(controller, "SuccessfulCreate", "Created", made)
        if errors:
            message = f"Error creating: {errors[0].message}"
            self.recorder.event(controller, "FailedCreate", message, "Warning")
        return errors

    def _tell(
        self, controller: ReplicationController, reason: str, verb: str, names: list[str]
    ) -> None:
        """An event for each pod, or one for all when they are many."""
        if len(names) > TOLD_SINGLY:
            message = f"{verb} {len(names)} pods, {min(names)} to {max(names)}"
            self.recorder.event(controller, reason, message)
            return
        for name in names:
            self.recorder.event(controller, reason, f"{verb} pod: {name}")

    async def _create_one(self, controller: ReplicationController, made: list[str]) -> None:
        """Create a replica. The name is ours, not the server's, so that a creation whose answer
        was lost can be asked for again without making two."""
        meta, lost = controller.metadata, False
        name = self._free_name(controller)
        for left in reversed(range(ATTEMPTS)):
            key = f"{meta.namespace}/{name}"
            body = replication.pod_from_template(controller, name)
            self._expected.asking(meta.uid, key)
            try:
                body = await self.client.create(body)
            except UnknownOutcome:
                lost = True
                if not left:
                    self._expected.created(key, body)
                    raise
                continue
            except AlreadyExists:
                if not lost:
                    self._expected.refused(key)
                    if not left:
                        raise
                    name = self._free_name(controller)
                    continue
                # Ours, from the attempt whose answer was lost.
            except BaseException:
                self._expected.refused(key)
                raise
            self._expected.created(key, body)
            made.append(name)
            return

    def _free_name(self, controller: ReplicationController) -> str:
        meta = controller.metadata
        while True:
            # The server cuts generated names at 63 characters, and so do we.
            name = f"{meta.name[:57]}-{self.clock.suffix()}"
            if self._pods.get(f"{meta.namespace}/{name}") is None:
                return name

    async def _write_status(
        self, controller: ReplicationController, plan: replication.Plan
    ) -> None:
        if plan.status == controller.status:
            return
        try:
            await self.client.update(
                msgspec.structs.replace(controller, status=plan.status), subresource="status"
            )
        except NotFound:
            return


def _owner_or_labels(pod: Pod) -> Iterable[str]:
    """A pod is filed under its controller, or, having none, under each of its labels."""
    owner = replication.controller_of(pod)
    return label_pairs(pod) if owner is None else (owner.uid,)
