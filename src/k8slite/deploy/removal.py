"""Taking a cluster, or one node of it, off its hosts. A shell."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from k8slite.api.errors import NotFound
from k8slite.api.kinds import NODE, POD
from k8slite.client.http import HttpClient
from k8slite.deploy import checks, credentials
from k8slite.deploy.bundle import runtime
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.facts import HostFacts
from k8slite.deploy.rollout import Rollout, Site, Trouble, recorded_nodes, together
from k8slite.deploy.ssh import Hosts, SshError
from k8slite.deploy.steps import Step
from k8slite.deploy.survey import Bundles, Refused, Survey, look
from k8slite.kit.clock import Clock

Say = Callable[[str], None]

#: Seconds in which the pods of a node have to be gone before it is taken away regardless.
_DRAIN = 60.0


async def down(
    spec: ClusterSpec,
    hosts: Hosts,
    clock: Clock,
    say: Say,
    *,
    cache: Path,
    kubeconfig: Sequence[Path] = (),
) -> None:
    """Every host as it was found: those of the file and those that the masters know of.

    A host that cannot be reached does not keep the others. Raises Refused when a host is in another
    cluster (nothing is changed then), Trouble when some host could not be cleaned.
    """
    say("Bringing down cluster using provider: ubuntu")
    survey = await look(hosts, spec.nodes, clock)
    known = {node.address for node in spec.nodes}
    others = tuple(n for n in recorded_nodes(spec, survey) if n.address not in known)
    if others:
        more = await look(hosts, others, clock)
        survey.hosts |= more.hosts
        survey.seen |= more.seen
        survey.unreachable |= more.unreachable
    whole = spec.with_nodes((*spec.nodes, *others))
    strangers = checks.membership(whole, _recorded_only(survey))
    if strangers:
        raise Refused(strangers)
    failures = [
        f"{text}; it is left as it is: run down again when it is back"
        for text in survey.unreachable.values()
    ]
    failures += await _remove_all(whole, survey, clock, say, cache)
    for context in credentials.take_out(list(kubeconfig), [n.address for n in whole.masters]):
        say(f"... context {context} removed from the kubeconfig")
    if failures:
        raise Trouble("\n".join(failures))
    say("Done: every host is as it was found.")


def _recorded_only(survey: Survey) -> dict[str, HostFacts]:
    """Facts of the hosts that are in some cluster; the others have nothing to say here."""
    found = survey.facts.items()
    return {address: facts for address, facts in found if facts.record is not None}


async def _remove_all(
    spec: ClusterSpec, survey: Survey, clock: Clock, say: Say, cache: Path
) -> list[str]:
    """Clean every host that was reached; what failed."""
    failures: list[str] = []

    async def one(node: NodeSpec) -> None:
        host, facts = survey.hosts[node.address], survey.facts[node.address]
        step = Step(host, facts, clock, say)
        try:
            if facts.record and not facts.runtime:
                await step.send(Bundles(runtime(cache, say)))  # somebody deleted our programs
                await step.link(runtime(cache).digest)
            await step.remove()
        except SshError as error:
            failures.append(str(error))

    await together([one(node) for node in spec.nodes if node.address in survey.hosts])
    return failures


class Nodes:
    """One node more or less in a cluster that stands."""

    def __init__(
        self, rollout: Rollout, hosts: Hosts, clock: Clock, say: Say, *, file: Path
    ) -> None:
        self._rollout = rollout
        self._hosts = hosts
        self._clock = clock
        self._say = say
        self._file = file

    async def _whole(self) -> tuple[ClusterSpec, Survey]:
        """The spec with every node that the masters know of. Raises Refused."""
        spec = self._rollout.spec
        survey = await look(self._hosts, spec.masters, self._clock)
        if not any(facts.record for facts in survey.facts.values()):
            problems = list(survey.unreachable.values())
            raise Refused([*problems, "there is no cluster yet: `k8slite up` makes one"])
        known = {node.address for node in spec.nodes}
        recorded = recorded_nodes(spec, survey)
        added = [node for node in recorded if node.address not in known]
        # What the file lists and the cluster does not have yet is `up`'s business.
        there = {node.address for node in recorded}
        kept = [node for node in spec.nodes if node.address in there]
        return spec.with_nodes((*kept, *added)), survey

    async def add(self, node: NodeSpec) -> None:
        """Install one more node. Raises Refused, SshError, Trouble."""
        spec, _ = await self._whole()
        present = spec.node(node.address)
        if present is not None and present.roles != node.roles:
            raise Refused(
                [
                    f"{node.address} is in the cluster already, as {present.described}: "
                    "remove-node first"
                ]
            )
        if node.master and not present and spec.store == "sqlite":
            raise Refused(
                [f"{node.address} cannot be a master more: the embedded store serves one; see etcd"]
            )
        whole = spec if present else spec.with_nodes((*spec.nodes, node))
        self._rollout.spec = whole
        site = await self._rollout.site(joining=[] if present else [node])
        if node.master and not present and whole.store == "etcd":
            await self._etcd_member(site, spec, node)
        await self._rollout.converge(site)
        await self._rollout.finish(site)
        self._say(
            f"{node.login} is in the cluster. In {self._file}, add it to nodes and {node.roles} to "
            "roles."
        )

    async def _etcd_member(self, site: Site, spec: ClusterSpec, node: NodeSpec) -> None:
        """Tell etcd of the member that is going to start."""
        master = site.step(spec.masters[0].address)
        listing = await master.etcdctl(
            site.plans[master.node.address].etcd, "member", "list", "--write-out=json"
        )
        peer = f"https://{node.address}:2380"
        members = json.loads(listing).get("members") or []
        if not any(peer in (one.get("peerURLs") or ()) for one in members):
            await master.etcdctl(
                site.plans[master.node.address].etcd,
                "member", "add", node.address, f"--peer-urls={peer}",
            )  # fmt: skip

    async def remove(self, address: str) -> None:
        """Drain a node, take it out of the cluster and clean its host. Raises as ``add``."""
        spec, _ = await self._whole()
        node = spec.node(address)
        if node is None:
            there = ", ".join(one.address for one in spec.nodes)
            raise Refused([f"{address} is no node of this cluster (it has {there})"])
        if node.master and len(spec.masters) == 1:
            raise Refused([f"{address} is the only master: `k8slite down` takes the whole cluster"])
        survey = await look(self._hosts, (node,), self._clock)
        self._rollout.spec = spec.with_nodes([n for n in spec.nodes if n.address != address])
        site = await self._rollout.site()
        site = _without(site, address)
        async with self._rollout.client(site) as client:
            if node.minion:
                await self._drain(client, address)
            if node.master and spec.store == "etcd":
                await self._leave_etcd(site, address)
            await self._delete(client, address)
        for host_address, host in survey.hosts.items():
            await Step(host, survey.facts[host_address], self._clock, self._say).remove()
        await self._rollout.converge(site)
        for text in survey.unreachable.values():
            self._say(f"... note: {text}")
            self._say(
                f"... note: {address} could not be cleaned. "
                + (
                    "As a master it still holds the cluster's keys: do not connect it again before "
                    "k8slite is off it"
                    if node.master
                    else "The cluster does not let it in any more"
                )
            )
        self._say(f"{node.login} is out of the cluster. Take it out of {self._file} as well.")

    async def _drain(self, client: HttpClient, name: str) -> None:
        """No new pods for it, and those it has go; whoever made them makes them elsewhere."""
        try:
            await client.patch(NODE, name, "", {"spec": {"unschedulable": True}})
        except NotFound:
            return
        self._say(f"... {name}: cordoned")
        deadline = self._clock.monotonic() + _DRAIN
        asked: set[str] = set()
        while True:
            pods = (await client.list(POD, fields=f"spec.nodeName={name}")).items
            if not pods or self._clock.monotonic() > deadline:
                break
            for pod in pods:
                if pod.metadata.uid not in asked:
                    asked.add(pod.metadata.uid)
                    with contextlib.suppress(NotFound):
                        await client.delete(POD, pod.metadata.name, pod.metadata.namespace)
            await self._clock.sleep(0.2)
        rest = f", {len(pods)} left" if pods else ""
        self._say(f"... {name}: {len(asked)} pods moved away{rest}")

    async def _delete(self, client: HttpClient, name: str) -> None:
        try:
            await client.delete(NODE, name)
        except NotFound:
            return
        self._say(f"... {name}: taken out of the cluster")

    async def _leave_etcd(self, site: Site, address: str) -> None:
        master = site.step(site.spec.masters[0].address)
        etcd = site.plans[master.node.address].etcd
        members = json.loads(await master.etcdctl(etcd, "member", "list", "--write-out=json"))
        for member in members.get("members") or ():
            if f"https://{address}:2380" in (member.get("peerURLs") or ()):
                await master.etcdctl(etcd, "member", "remove", f"{member['ID']:x}")
                self._say(f"... {address}: taken out of etcd")


def _without(site: Site, address: str) -> Site:
    """The site whose hosts do not know of that node any more."""
    plans = {host: plan.without(address) for host, plan in site.plans.items()}
    return replace(site, plans=plans)


async def validate(rollout: Rollout, say: Say) -> None:
    """Look at file, hosts and the running cluster; changes nothing. Raises Refused, Trouble."""
    say("... calling verify-prereqs")
    site = await rollout.site()
    say(f"... {len(site.spec.nodes)} hosts are fit for their parts")
    if not site.stands:
        say("There is no cluster on them yet: `k8slite up -c` makes one.")
        return
    if outdated := site.outdated:
        names = ", ".join(node.address for node in outdated)
        say(f"... note: not what the file and this k8slite make of them: {names}")
    say("... calling validate-cluster")
    await rollout.check_running(site)
