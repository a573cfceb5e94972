"""A cluster from a file: brought up, changed, renewed. A shell.

Nothing is remembered here: what a cluster is, its hosts tell. So everything may be run again, from
anywhere, whether the run before ended or broke off.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k8slite.api.errors import ApiError
from k8slite.api.kinds import COMPONENT_STATUS, NODE
from k8slite.client.http import HttpClient
from k8slite.deploy import checks, credentials, report
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.credentials import Admin
from k8slite.deploy.plan import HostPlan, Ingredients, Shared, plans
from k8slite.deploy.ssh import Hosts, SshError
from k8slite.deploy.steps import Step
from k8slite.deploy.survey import Bundles, Refused, Survey, examine
from k8slite.kit.clock import Clock

Say = Callable[[str], None]

#: Seconds in which a cluster has to be Ready, and a node after its agent was started again.
PATIENCE = 120.0
HTTP_PORT = 8080


class Trouble(Exception):
    """It broke half-way; the message says where, and that the same may be run again."""


@dataclass(slots=True)
class Site:
    """A cluster that was looked at: its hosts, and what they shall be."""

    spec: ClusterSpec
    survey: Survey
    bundles: Bundles
    plans: dict[str, HostPlan]
    admin: Admin
    steps: dict[str, Step]
    recorded: tuple[NodeSpec, ...] = ()
    stands: bool = False  # some of it was there before

    def step(self, address: str) -> Step:
        return self.steps[address]

    @property
    def outdated(self) -> list[NodeSpec]:
        """Nodes that are not what they shall be, masters first."""
        nodes = sorted(self.spec.nodes, key=lambda node: not node.master)
        return [node for node in nodes if not self._done(node.address)]

    def _done(self, address: str) -> bool:
        facts, plan = self.survey.facts[address], self.plans[address]
        return facts.done == plan.digest and facts.ours_running and facts.runtime == plan.runtime


class Rollout:
    """Works on the cluster of ``spec``; ``kubeconfig`` are the files to merge its context into."""

    def __init__(
        self,
        spec: ClusterSpec,
        hosts: Hosts,
        clock: Clock,
        say: Say,
        *,
        cache: Path,
        kubeconfig: Sequence[Path] = (),
    ) -> None:
        self.spec = spec
        self._hosts = hosts
        self._clock = clock
        self._say = say
        self._cache = cache
        self._kubeconfig = list(kubeconfig)

    # -- looking ------------------------------------------------------------------------------

    async def site(self, joining: Sequence[NodeSpec] = ()) -> Site:
        """Look at every host and say what it shall be; ``joining`` come to a cluster that stands.

        Raises Refused, SshError. Changes nothing.
        """
        survey, bundles = await examine(self._hosts, self.spec, self._cache, self._clock, self._say)
        identity = checks.identity(self.spec, survey.facts)
        shared = await self._shared(survey) if identity else None
        stands = shared is not None
        shared = shared or credentials.make(self._clock)
        recorded = recorded_nodes(self.spec, survey)
        masters = [node.address for node in self.spec.masters]
        known = {node.address for node in recorded}
        made = Ingredients(
            cluster=identity or credentials.new_identity(),
            runtime=bundles.runtime.digest,
            etcd=bundles.etcd.digest if bundles.etcd else "",
            shared=shared,
            token=credentials.join_token(shared, self._clock),
            installer={address: _installer(survey, address, recorded) for address in survey.hosts},
            recorded=recorded,
            joining=frozenset(
                node.address for node in joining if node.master and node.address not in known
            ),
        )
        admin = credentials.admin(shared, masters, self._clock)
        steps = {
            address: Step(host, survey.facts[address], self._clock, self._say)
            for address, host in survey.hosts.items()
        }
        return Site(
            self.spec, survey, bundles, plans(self.spec, made), admin, steps, recorded, stands
        )

    async def _shared(self, survey: Survey) -> Shared | None:
        """What the masters have in common, from the first that has it."""
        for node in self.spec.masters:
            if survey.facts[node.address].record is None:
                continue
            done = await survey.hosts[node.address].root(credentials.SCRIPT, check=False)
            if found := credentials.parse(done.out, self._clock):
                return found
        return None

    # -- up -----------------------------------------------------------------------------------

    async def up(self) -> None:
        """Make the cluster what the file says. Raises Refused, SshError, Trouble."""
        self._say("Starting cluster using provider: ubuntu")
        self._say("... calling verify-prereqs")
        site = await self.site()
        self._say("... calling kube-up")
        self._strangers(site)
        await self.converge(site)
        await self.finish(site)

    async def upgrade(self) -> None:
        """The k8slite of this machine on every node, one after another; pods go on running."""
        self._say("... calling verify-prereqs")
        site = await self.site()
        if not site.stands:
            raise Refused(["there is no cluster to upgrade: `k8slite up` makes one"])
        self._say(f"... upgrading to {site.bundles.runtime.digest}")
        await self.converge(site)
        await self.finish(site)

    async def converge(self, site: Site) -> None:
        """Whatever hosts are not what they shall be become it."""
        outdated = site.outdated
        if not outdated:
            self._say("... every host is as it shall be already: nothing to change")
            return
        facts = site.survey.facts
        fresh = [node for node in outdated if facts[node.address].record is None]
        for node in outdated:
            verb = "Deploying" if node in fresh else "Updating"
            self._say(f"{verb} {node.described} on machine {node.address}")
        await together([site.step(n.address).send(site.bundles) for n in outdated])
        if not site.stands or not await self._answers(site):
            await together([self._apply(site, node) for node in outdated])
            return
        # New members first: etcd may be waiting for them.
        await together([self._apply(site, node) for node in fresh])
        # Pods and API go on: what runs is renewed one after another, masters first.
        for node in outdated:
            if node not in fresh:
                await self._renew(site, node)

    async def _answers(self, site: Site) -> bool:
        """Is there a running cluster that one should not stop as a whole?"""
        try:
            async with self.client(site) as client:
                await client.list(NODE)
        except ApiError:
            return False
        return True

    async def _apply(self, site: Site, node: NodeSpec) -> list[str]:
        return await site.step(node.address).apply(site.plans[node.address])

    async def _renew(self, site: Site, node: NodeSpec) -> None:
        changed = await self._apply(site, node)
        if any("started" in what for what in changed):
            async with self.client(site) as client:
                await self._until_ready(site, client, [node])

    # -- looking at the result ----------------------------------------------------------------

    def client(self, site: Site) -> HttpClient:
        return HttpClient(site.admin.access, timeout=10.0)

    async def finish(self, site: Site) -> None:
        """Wait for all of it, and close with the article's lines."""
        self._say("Validating master")
        async with self.client(site) as client:
            await self._until_ready(site, client, site.spec.nodes)
            for node in site.spec.nodes:
                self._say(f"Validating {node.login}")
            nodes = await client.list(NODE)
            components = await client.list(COMPONENT_STATUS)
        master = site.spec.masters[0].address
        closing = report.closing(
            nodes.items, components.items, master, HTTP_PORT, self._clock.now()
        )
        self._say(closing.rstrip("\n"))
        if self._kubeconfig:
            path, context, written = credentials.merge_into(self._kubeconfig, site.admin)
            verb = "is in" if not written else "was written to"
            self._say(f"\nThe context {context} {verb} {path}. Try:")
            self._say(f"  k8slite ctl get services,minions -s http://{master}:{HTTP_PORT}")
            self._say("  kubectl get nodes")

    async def check_running(self, site: Site) -> None:
        """The running cluster as it is now. Raises Trouble for what is not well in it."""
        async with self.client(site) as client:
            missing, stage = await self._missing(client, site.spec.nodes)
            if stage:
                await self._tell_why(site, missing)
                raise Trouble(f"the cluster is not well: it waits for {stage}")
        await self.finish(site)

    async def _until_ready(self, site: Site, client: HttpClient, nodes: Sequence[NodeSpec]) -> None:
        """Until the API answers, its parts are healthy and these nodes are Ready. Raises Trouble
        with what the hosts themselves say."""
        began = self._clock.monotonic()
        said = ""
        while True:
            missing, stage = await self._missing(client, nodes)
            if not stage:
                return
            if stage != said and self._clock.monotonic() - began > 3.0:
                self._say(f"... waiting for {stage}")
                said = stage
            if self._clock.monotonic() - began > PATIENCE:
                await self._tell_why(site, missing or list(site.spec.masters))
                raise Trouble(
                    f"gave up waiting for {stage} after {PATIENCE:.0f} s: mend it and run the same "
                    "again, or `k8slite down`"
                )
            await self._clock.sleep(0.1)

    async def _missing(
        self, client: HttpClient, nodes: Sequence[NodeSpec]
    ) -> tuple[list[NodeSpec], str]:
        """Which of them are not Ready, and what one waits for; "" when for nothing."""
        try:
            found = {node.metadata.name: node for node in (await client.list(NODE)).items}
            unwell = [
                component.metadata.name
                for component in (await client.list(COMPONENT_STATUS)).items
                if any(one.status != "True" for one in component.conditions)
            ]
        except ApiError as error:
            return [], f"the API ({error})"
        missing = [
            node
            for node in nodes
            if node.minion
            and not (node.address in found and report.node_is_ready(found[node.address]))
        ]
        if missing:
            first = missing[0].address
            why = report.why_not_ready(found[first]) if first in found else "not registered yet"
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return missing, f"node {first}{others} to be Ready{f': {why}' if why else ''}"
        return [], f"{', '.join(unwell)} to be healthy" if unwell else ""

    async def _tell_why(self, site: Site, nodes: Sequence[NodeSpec]) -> None:
        for node in nodes[:3]:
            try:
                words = await site.step(node.address).last_words()
            except SshError as error:
                words = str(error)
            for line in words.splitlines():
                site.step(node.address).say(line)

    def _strangers(self, site: Site) -> None:
        listed = {node.address for node in site.spec.nodes}
        for node in site.recorded:
            if node.address not in listed:
                self._say(
                    f"... note: {node.login} is in the cluster and not in the file: put it in, or "
                    "run k8slite remove-node"
                )


def _installer(survey: Survey, address: str, recorded: Sequence[NodeSpec]) -> str:
    """Our address as that host sees it; where we are one of the nodes, which are served anyway,
    the one that installed before stays."""
    ours = survey.hosts[address].seen_from
    nodes = {*survey.hosts, *(node.address for node in recorded)}
    if not ours or ours in nodes or ipaddress.ip_address(ours).is_loopback:
        record = survey.facts[address].record
        return record.installer if record else ""
    return ours


def recorded_nodes(spec: ClusterSpec, survey: Survey) -> tuple[NodeSpec, ...]:
    """All nodes that the cluster has by the word of its masters."""
    for node in spec.masters:
        seen = survey.seen.get(node.address)
        if seen and seen.facts.record:
            return tuple(
                NodeSpec(one.get("user", ""), one["address"], one["roles"])
                for one in seen.facts.record.nodes
                if one.get("address") and one.get("roles") in ("a", "i", "ai")
            )
    return ()


async def together(work: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """All of them to their end, then the first failure."""
    results = await asyncio.gather(*work, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if not failures:
        return
    for failure in failures:
        if not isinstance(failure, SshError):
            raise failure
    raise Trouble(
        "\n".join(str(failure) for failure in failures)
        + "\nMend it and run the same again, or undo all with `k8slite down`."
    )


def with_node(spec: ClusterSpec, node: NodeSpec) -> ClusterSpec:
    """The spec with this node in it, in the place of another at its address."""
    others = [one for one in spec.nodes if one.address != node.address]
    return replace(spec, nodes=(*others, node))
