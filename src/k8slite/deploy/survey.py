"""The first look at every host, which changes nothing: log in, ask, judge. A shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from k8slite.deploy import bundle, checks, facts
from k8slite.deploy.bundle import Bundle, BundleError
from k8slite.deploy.checks import Needs, Seen
from k8slite.deploy.cluster import ClusterSpec, NodeSpec
from k8slite.deploy.facts import HostFacts
from k8slite.deploy.ssh import Host, Hosts, SshError
from k8slite.kit.clock import Clock

Say = Callable[[str], None]

#: Seconds that the look at one host may take.
_LOOK = 60.0


class Refused(Exception):
    """Nothing was changed, and these are all the reasons."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(slots=True)
class Bundles:
    runtime: Bundle
    etcd: Bundle | None = None


@dataclass(slots=True)
class Survey:
    """What was found, by address. ``unreachable``: address → why."""

    hosts: dict[str, Host] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, HostFacts]:
        return {address: seen.facts for address, seen in self.seen.items()}


async def look(hosts: Hosts, nodes: tuple[NodeSpec, ...], clock: Clock) -> Survey:
    """Log in everywhere and run the read-only script."""
    survey = Survey()
    unique = tuple({node.address: node for node in nodes}.values())

    async def one(address: str, answer: Host | SshError) -> None:
        if isinstance(answer, SshError):
            survey.unreachable[address] = str(answer)
            return
        began, wall = clock.monotonic(), clock.now()
        try:
            done = await answer.root(facts.SCRIPT, timeout=_LOOK, what="the look at the host")
            found = facts.parse(done.out)
        except (SshError, ValueError) as error:
            text = str(error)
            login = answer.node.login
            survey.unreachable[address] = text if text.startswith(login) else f"{login}: {text}"
            return
        survey.hosts[address] = answer
        survey.seen[address] = Seen(found, _skew(found.now, wall, clock.monotonic() - began))

    answers = await hosts.all(unique)
    await asyncio.gather(*(one(address, answer) for address, answer in answers.items()))
    return survey


def _skew(theirs: float, ours: float, took: float) -> float:
    """By how many seconds their clock is ahead, at least: they read it, in whole seconds, at some
    time while we waited."""
    ahead, behind = theirs - (ours + took), ours - (theirs + 1.0)
    return ahead if ahead > 0 else -behind if behind > 0 else 0.0


async def bundles(cache: Path, spec: ClusterSpec, say: Say) -> Bundles:
    """What is going to travel. Raises BundleError."""
    runtime = await asyncio.to_thread(bundle.runtime, cache, say)
    if spec.store != "etcd":
        return Bundles(runtime)
    return Bundles(runtime, await asyncio.to_thread(bundle.etcd, cache))


async def examine(
    hosts: Hosts, spec: ClusterSpec, cache: Path, clock: Clock, say: Say
) -> tuple[Survey, Bundles]:
    """Look at all hosts and judge them. Raises Refused with everything that is wrong."""
    survey, made = await asyncio.gather(
        look(hosts, spec.nodes, clock), bundles(cache, spec, say), return_exceptions=True
    )
    if isinstance(survey, BaseException):
        raise survey
    for host in survey.hosts.values():
        if host.fingerprint:
            say(f"... first login to {host.node.address}: its key is {host.fingerprint}")
    problems = [survey.unreachable[a] for a in survey.unreachable]
    if isinstance(made, BundleError):
        problems.append(f"this machine: {made}")
        needs = Needs(arch="")
    elif isinstance(made, BaseException):
        raise made
    else:
        needs = _needs(made)
    found = checks.check(spec, survey.seen, needs)
    for warning in found.warnings:
        say(f"... note: {warning}")
    problems += found.problems
    if problems or isinstance(made, BaseException):
        raise Refused(problems)
    return survey, made


def _needs(made: Bundles) -> Needs:
    both = [made.runtime, *([made.etcd] if made.etcd else [])]
    return Needs(
        arch=made.runtime.arch,
        libc=max((one.libc for one in both), key=lambda v: tuple(map(int, v.split(".")))),
        unpacked=sum(one.unpacked for one in both),
        digest=made.runtime.digest,
    )
