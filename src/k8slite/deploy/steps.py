"""What is done with one host over its login: software, plan, removal. A shell."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from k8slite.deploy.bundle import Bundle
from k8slite.deploy.facts import CONFIG, DATA, PREFIX, HostFacts
from k8slite.deploy.plan import HostPlan
from k8slite.deploy.ssh import Failed, Host
from k8slite.deploy.survey import Bundles
from k8slite.deploy.units import LOGS
from k8slite.kit.clock import Clock

#: A program of ours on a host.
LAUNCHER = f"{PREFIX}/bin/k8slite"
_CHANGED = "changed:"
#: Seconds in which etcd has to be fit for a change of its members.
_SETTLING = 30.0

Say = Callable[[str], None]


class Step:
    """Speaks for one host: every line says its address."""

    def __init__(self, host: Host, facts: HostFacts, clock: Clock, say: Say) -> None:
        self.host = host
        self.node = host.node
        self.facts = facts
        self._clock = clock
        self._say = say

    def say(self, line: str) -> None:
        self._say(f"... {self.node.address}: {line}")

    # -- software -----------------------------------------------------------------------------

    async def send(self, bundles: Bundles) -> None:
        """The bundles that this host needs and does not have. Raises SshError."""
        wanted = [bundles.runtime]
        if self.node.master and bundles.etcd is not None:
            wanted.append(bundles.etcd)
        for one in wanted:
            if one.digest not in self.facts.runtimes:
                await self._send(one)

    async def _send(self, one: Bundle) -> None:
        began = self._clock.monotonic()
        archive = Path(one.archive)
        part = f"{PREFIX}/.{one.digest}"
        # Whole or not at all: what broke off is in a folder that nobody looks for.
        script = (
            f"set -e; umask 022; rm -rf {part}; mkdir -p {part}; "
            f"tar -xzf - -C {part} --no-same-owner; rm -rf {one.folder}; mv {part} {one.folder}"
        )
        what = f"copying {one.digest}"
        size = archive.stat().st_size
        progress = _Progress(size, self.say)
        await self.host.send(archive, script, what=what, progress=progress.sent)
        took = self._clock.monotonic() - began
        name = "etcd" if one.digest.startswith("etcd") else "k8slite"
        self.say(f"{name} copied ({size / 1e6:.0f} MB, {took:.1f} s)")

    # -- state --------------------------------------------------------------------------------

    async def apply(self, plan: HostPlan) -> list[str]:
        """Carry the plan out; what it changed. Raises SshError."""
        script = f"{_linking(plan.runtime)}; exec {PREFIX}/{plan.runtime}/k8slite host apply"
        done = await self.host.root(
            script, plan.encoded(), what="the installation", line=self._echo
        )
        last = done.out.strip().splitlines()[-1:] or [""]
        return [word for word in last[0].removeprefix(_CHANGED).strip().split(", ") if word]

    async def link(self, digest: str) -> None:
        """Make the bundle of this digest the host's k8slite."""
        await self.host.root(_linking(digest), what="linking k8slite")

    async def remove(self) -> None:
        """Take everything away. Raises SshError."""
        if self.facts.record is None and not self.facts.record_damaged:
            await self._sweep()
            return
        await self.host.root(f"{LAUNCHER} host remove", what="the removal", line=self._echo)
        await self._sweep()

    async def _sweep(self) -> None:
        """Our programs, and what a start that broke off may have left."""
        await self.host.root(f"rm -rf {PREFIX} {CONFIG} {LOGS}", what="removing files")
        self.say("as it was found")

    async def last_words(self) -> str:
        """The end of the agent's log."""
        script = (
            f"tail -n 4 {LOGS}/k8slite.log 2>/dev/null || "
            "journalctl -u k8slite -n 4 --no-pager -o cat 2>/dev/null"
        )
        done = await self.host.root(script, check=False)
        return done.out.strip()

    async def etcdctl(self, etcd: str, *words: str) -> str:
        """Run etcdctl of a master against its own member. Raises SshError.

        Members may only come and go while all of them have been in touch for some seconds.
        """
        deadline = self._clock.monotonic() + _SETTLING
        while True:
            try:
                return await self._etcdctl(etcd, *words)
            except Failed as failure:
                passing = "unhealthy cluster" in failure.said or "no leader" in failure.said
                if not passing or self._clock.monotonic() > deadline:
                    raise
            await self._clock.sleep(0.5)

    async def _etcdctl(self, etcd: str, *words: str) -> str:
        pki = f"{DATA}/pki"
        flags = [
            "--endpoints=https://127.0.0.1:2379", f"--cacert={pki}/etcd-ca.crt",
            f"--cert={pki}/etcd-client.crt", f"--key={pki}/etcd-client.key",
        ]  # fmt: skip
        command = shlex.join([f"{PREFIX}/{etcd}/etcdctl", *flags, *words])
        done = await self.host.root(f"ETCDCTL_API=3 {command}", what=f"etcdctl {words[0]}")
        return done.out

    def _echo(self, line: str) -> None:
        if line and not line.startswith(_CHANGED):
            self.say(line)


def _linking(digest: str) -> str:
    return (
        f"set -e; mkdir -p {PREFIX}/bin; ln -sfn {digest} {PREFIX}/current; "
        f"ln -sfn ../current/k8slite {LAUNCHER}"
    )


class _Progress:
    """Tells of a long copy at each quarter."""

    def __init__(self, size: int, say: Say) -> None:
        self._size = size
        self._say = say
        self._sent = 0
        self._told = 0

    def sent(self, count: int) -> None:
        self._sent += count
        quarter = 4 * self._sent // max(self._size, 1)
        if quarter > self._told and quarter < 4 and self._size > 400 << 20:
            self._say(f"copied {quarter * 25} %")
        self._told = max(self._told, quarter)
